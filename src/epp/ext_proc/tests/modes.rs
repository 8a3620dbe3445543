//! Each body mode by itself.

use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;

use super::messages::{
    Asked, DESTINATION, Driven, body, chat, common, config, handed_back, headers, mutation,
    set_header, status, trailers,
};
use crate::contract;
use crate::epp::ext_proc::mode::{BodyMode, Waits};
use crate::epp::ext_proc::stream::Stream;

const DUPLEX: i32 = 4;

fn driven() -> Driven {
    Driven::new(Stream::new(None, 1 << 20))
}

fn begun(mode: i32) -> Driven {
    let mut driven = driven();
    driven.take(&headers(&chat(&[]), Some(config(mode, 0, false)), false));
    driven
}

#[test]
fn full_duplex_answers_headers_first_then_the_whole_body() {
    let mut driven = begun(DUPLEX);
    assert!(driven.take(&body(b"{\"a\":", false)).is_empty());
    let replies = driven.take(&body(b"1}", true));
    assert_eq!(driven.asked, [Asked::Whole(b"{\"a\":1}".to_vec())]);
    assert_eq!(
        set_header(&replies[0], contract::HEADER_DESTINATION).as_deref(),
        Some(DESTINATION)
    );
    assert_eq!(handed_back(&replies[1]), Some((&b"{\"a\":1}"[..], true)));
}

#[test]
fn trailers_end_a_full_duplex_body() {
    let mut driven = begun(DUPLEX);
    driven.take(&body(b"x", false));
    let replies = driven.take(&trailers());
    assert_eq!(handed_back(&replies[1]), Some((&b"x"[..], false)));
    assert!(matches!(
        replies[2].response,
        Some(Response::RequestTrailers(_))
    ));
}

#[test]
fn a_body_that_carries_no_prompt_goes_on_as_it_comes() {
    let mut driven = driven();
    let mut upload = chat(&[("content-length", "9999999999")]);
    upload[1].1 = "/v1/files".to_owned();
    let replies = driven.take(&headers(&upload, Some(config(DUPLEX, 0, false)), false));
    assert_eq!(driven.asked, [Asked::Unseen]);
    assert_eq!(replies.len(), 1);
    let replies = driven.take(&body(&vec![b'x'; 100_000], false));
    assert_eq!(
        replies.len(),
        2,
        "at once, in pieces that the gateway takes"
    );
    assert_eq!(driven.stream.held_bytes(), 0);
}

#[test]
fn an_upgrade_is_decided_on_its_headers() {
    let mut driven = driven();
    let upgrade = [
        (":method", "GET"),
        (":path", "/v1/realtime"),
        ("upgrade", "websocket"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let replies = driven.take(&headers(&upgrade, Some(config(DUPLEX, 0, false)), false));
    assert!(set_header(&replies[0], contract::HEADER_DESTINATION).is_some());
}

#[test]
fn a_cut_body_is_decided_on_and_let_go() {
    let mut driven = begun(3);
    let replies = driven.take(&body(b"{\"model\":\"m\",\"messages\":[{\"ro", false));
    assert!(matches!(driven.asked[..], [Asked::Cut(_)]));
    assert!(set_header(&replies[0], contract::HEADER_DESTINATION).is_some());
    assert!(common(&replies[0]).unwrap().body_mutation.is_none());
}

#[test]
fn an_empty_buffered_body_is_answered_as_a_body() {
    for mode in [2, 3] {
        let mut driven = begun(mode);
        let replies = driven.take(&body(b"", true));
        assert_eq!(driven.asked, [Asked::Whole(Vec::new())]);
        assert!(matches!(
            replies[0].response,
            Some(Response::RequestBody(_))
        ));
    }
}

#[test]
fn streamed_sees_what_comes_unasked() {
    let mut driven = driven();
    let said = Some(config(1, 0, true));
    assert!(driven.take(&headers(&chat(&[]), said, false)).is_empty());
    assert!(driven.take(&body(b"ab", false)).is_empty());
    let replies = driven.take(&body(b"c", true));
    assert_eq!(driven.asked, [Asked::Whole(b"abc".to_vec())]);
    assert_eq!(
        replies.len(),
        3,
        "the headers' answer and one for each chunk"
    );
    assert!(set_header(&replies[0], contract::HEADER_DESTINATION).is_some());
    assert!(common(&replies[1]).is_none() && common(&replies[2]).is_none());
}

#[test]
fn streamed_does_not_wait_for_more_than_a_gateway_holds() {
    let mut driven = driven();
    driven.take(&headers(&chat(&[]), Some(config(1, 0, true)), false));
    let replies = driven.take(&body(&vec![b'x'; 100_000], false));
    assert!(matches!(driven.asked[..], [Asked::Cut(_)]));
    assert_eq!(replies.len(), 2);
    let mut slow = super::modes::driven();
    slow.take(&headers(&chat(&[]), Some(config(1, 0, true)), false));
    slow.take(&body(b"x", false));
    assert_eq!(slow.stream.waits(), Waits::ForABody);
    assert_eq!(slow.give_up().len(), 2);
    assert_eq!(slow.asked, [Asked::Cut(b"x".to_vec())]);
}

#[test]
fn what_passes_after_a_decision_is_learned() {
    let mut driven = begun(1);
    assert_eq!(driven.asked, [Asked::Unseen]);
    driven.take(&body(b"ab", false));
    driven.take(&body(b"c", true));
    driven.take(&body(b"again", true));
    assert_eq!(driven.learned, [b"abc".to_vec()]);
}

#[test]
fn a_gateway_of_headers_only_is_asked_for_the_body_and_decided_anew_when_it_sends_it() {
    let mut driven = driven();
    let first = driven.take(&headers(&chat(&[]), Some(config(0, 0, false)), false));
    assert_eq!(
        first[0].mode_override.as_ref().unwrap().request_body_mode,
        3
    );
    let again = driven.take(&body(b"{}", true));
    assert_eq!(driven.asked, [Asked::Unseen, Asked::Whole(b"{}".to_vec())]);
    assert!(set_header(&again[0], contract::HEADER_DESTINATION).is_some());
    let mut empty = super::modes::driven();
    let only = empty.take(&headers(&chat(&[]), Some(config(0, 0, false)), true));
    assert!(
        only[0].mode_override.is_none(),
        "there is no body to ask for"
    );
}

#[test]
fn a_gateway_that_does_not_say_its_mode_is_answered_though_no_body_comes() {
    let mut driven = driven();
    assert!(driven.take(&headers(&chat(&[]), None, false)).is_empty());
    assert_eq!(driven.stream.waits(), Waits::ForABody);
    let replies = driven.give_up();
    assert!(set_header(&replies[0], contract::HEADER_DESTINATION).is_some());
    assert!(driven.give_up().is_empty(), "once");
    // A body that was held back for this answer goes on as it came.
    let replies = driven.take(&body(b"late", true));
    assert!(matches!(
        replies[0].response,
        Some(Response::RequestBody(ref body)) if body.response.is_none()
    ));
}

#[test]
fn a_stream_of_somebody_elses_filter_is_left_as_it_is() {
    let mut driven = Driven::new(Stream::new(Some(BodyMode::FullDuplex), 1 << 20));
    let replies = driven.take(&headers(&chat(&[]), Some(config(0, 0, false)), false));
    assert!(driven.asked.is_empty());
    assert_eq!((replies.len(), driven.skipped), (1, 1));
    assert!(common(&replies[0]).is_none(), "nothing is set or removed");
    let mut duplex = Driven::new(Stream::new(Some(BodyMode::None), 1 << 20));
    duplex.take(&headers(&chat(&[]), Some(config(DUPLEX, 0, false)), false));
    let replies = duplex.take(&body(b"x", true));
    assert_eq!(handed_back(&replies[0]), Some((&b"x"[..], true)));
    assert!(duplex.take(&body(b"", true)).is_empty(), "ended");
}

#[test]
fn every_routing_header_a_client_could_set_is_set_or_removed() {
    let mut driven = driven();
    let replies = driven.take(&headers(&chat(&[]), Some(config(DUPLEX, 0, false)), true));
    let removed = &mutation(&replies[0]).unwrap().remove_headers;
    for name in contract::ROUTING_HEADERS {
        let set = set_header(&replies[0], name).is_some();
        let removed = removed.iter().any(|removed| removed == name);
        assert!(set != removed, "{name}: set {set}, removed {removed}");
    }
    let metadata = format!("{:?}", replies[0].dynamic_metadata);
    assert!(metadata.contains("envoy.lb") && metadata.contains(DESTINATION));
}

#[test]
fn compressed_bodies_are_told_so() {
    for mode in 0..=DUPLEX {
        let mut driven = driven();
        let gzip = chat(&[("content-encoding", "gzip")]);
        let replies = driven.take(&headers(&gzip, Some(config(mode, 0, false)), false));
        assert_eq!(status(&replies[0]), Some(415));
        assert_eq!((replies.len(), driven.refused), (1, vec!["body-encoded"]));
    }
}
