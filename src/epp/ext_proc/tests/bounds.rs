//! Bounds of one stream: each is told with its own status, and nothing is kept.

use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;

use super::messages::{Driven, body, chat, config, headers, status};
use crate::contract;
use crate::epp::ext_proc::mode::Waits;
use crate::epp::ext_proc::reply::Refusal;
use crate::epp::ext_proc::stream::Stream;
use crate::scheduling::decision::NoEndpoint;

const DUPLEX: i32 = 4;

fn begun(limit_bytes: usize, more: &[(&str, &str)]) -> (Driven, Vec<Option<i32>>) {
    let mut driven = Driven::new(Stream::new(None, limit_bytes));
    let replies = driven.take(&headers(&chat(more), Some(config(DUPLEX, 0, false)), false));
    let statuses = replies.iter().map(status).collect();
    (driven, statuses)
}

#[test]
fn a_body_beyond_the_limit_is_refused_and_not_kept() {
    let (mut driven, _) = begun(4, &[]);
    let replies = driven.take(&body(b"12345", false));
    assert_eq!(status(&replies[0]), Some(413));
    assert!(driven.take(&body(b"6", true)).is_empty());
    assert_eq!(driven.stream.held_bytes(), 0);
    assert_eq!(driven.refused, ["body-too-large"]);
}

#[test]
fn an_announced_length_is_refused_before_anything_comes() {
    let (driven, statuses) = begun(1000, &[("content-length", "1073741824")]);
    assert_eq!(statuses, [Some(413)]);
    assert_eq!(driven.refused, ["body-too-large"]);
    assert_eq!(begun(1000, &[("content-length", "1000")]).1, []);
}

#[test]
fn a_refusal_has_the_error_form_of_the_api() {
    for (path, form) in [
        ("/v1/chat/completions", r#"{"error":{"#),
        ("/v1/messages", r#"{"type":"error","#),
    ] {
        let mut head = chat(&[("content-length", "1073741824")]);
        head[1].1 = path.to_owned();
        let mut driven = Driven::new(Stream::new(None, 1000));
        let replies = driven.take(&headers(&head, Some(config(DUPLEX, 0, false)), false));
        let Some(Response::ImmediateResponse(answer)) = &replies[0].response else {
            panic!("{path}: {replies:?}");
        };
        let body = String::from_utf8_lossy(&answer.body);
        assert!(body.starts_with(form), "{path}: {body}");
    }
}

#[test]
fn a_body_that_does_not_end_is_refused() {
    let (mut driven, _) = begun(1000, &[]);
    driven.take(&body(b"x", false));
    assert_eq!(driven.stream.waits(), Waits::ForTheBodysEnd);
    let replies = driven.give_up();
    assert_eq!(status(&replies[0]), Some(408));
    assert_eq!(driven.stream.held_bytes(), 0);
    assert_eq!(driven.stream.waits(), Waits::No);
}

#[test]
fn a_spent_budget_says_when_to_come_back() {
    let (mut driven, _) = begun(1000, &[]);
    driven.take(&body(b"x", false));
    let replies = driven.refuse(&Refusal::over_budget());
    assert_eq!(status(&replies[0]), Some(503));
    assert!(format!("{:?}", replies[0]).contains("retry-after"));
    assert!(driven.refuse(&Refusal::over_budget()).is_empty(), "once");
}

#[test]
fn an_empty_pool_is_a_503_with_its_reason() {
    let (mut driven, _) = begun(1000, &[]);
    driven.outcome = Err(Refusal::no_endpoint(NoEndpoint::PoolEmpty));
    let replies = driven.take(&body(b"{}", true));
    assert_eq!(status(&replies[0]), Some(503));
    let text = format!("{:?}", replies[0]);
    assert!(text.contains(contract::HEADER_DROPPED_REASON), "{text}");
    assert_eq!(driven.refused, ["no-endpoint"]);
}
