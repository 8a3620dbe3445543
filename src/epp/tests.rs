//! What a gateway sees: sessions in every body mode, header hygiene, flags.

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Message;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    CommonResponse, HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest, ProcessingResponse,
    ProtocolConfiguration,
};
use proptest::prelude::*;

use super::respond::{CHUNK_BYTES, Refusal, Routed};
use super::session::{BodyMode, Effect, Session};
use crate::contract;

const FDS: i32 = 4;
const BUFFERED: i32 = 2;
const STREAMED: i32 = 1;
const NONE: i32 = 0;

fn headers(mode: Option<i32>, end_of_stream: bool) -> ProcessingRequest {
    let header = |key: &str, value: &str| HeaderValue {
        key: key.to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    };
    let map = HeaderMap {
        headers: vec![
            header(":path", "/v1/chat/completions"),
            header("X-Session-Id", "s"),
        ],
    };
    ProcessingRequest {
        request: Some(Message::RequestHeaders(HttpHeaders {
            headers: Some(map),
            end_of_stream,
            ..HttpHeaders::default()
        })),
        protocol_config: mode.map(|request_body_mode| ProtocolConfiguration {
            request_body_mode,
            ..ProtocolConfiguration::default()
        }),
        ..ProcessingRequest::default()
    }
}

fn body(bytes: &[u8], end_of_stream: bool) -> ProcessingRequest {
    let body = HttpBody {
        body: bytes.to_vec(),
        end_of_stream,
        ..HttpBody::default()
    };
    ProcessingRequest {
        request: Some(Message::RequestBody(body)),
        ..ProcessingRequest::default()
    }
}

fn trailers() -> ProcessingRequest {
    ProcessingRequest {
        request: Some(Message::RequestTrailers(HttpTrailers::default())),
        ..ProcessingRequest::default()
    }
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "the shape of the director's answer"
)]
fn routed() -> Result<Routed, Refusal> {
    Ok(Routed {
        destination: "10.0.0.1:8000".to_owned(),
        prefiller: None,
        new_request_id: None,
    })
}

/// Runs a whole stream, answering every question; gives the replies and the decisions' bodies.
fn drive(
    session: &mut Session,
    messages: Vec<ProcessingRequest>,
) -> (Vec<ProcessingResponse>, Vec<Option<Vec<u8>>>) {
    let (mut replies, mut decisions) = (Vec::new(), Vec::new());
    for message in messages {
        for effect in session.handle(message) {
            match effect {
                Effect::Send(reply) => replies.push(*reply),
                Effect::Skipped => {}
                Effect::Decide => {
                    decisions.push(session.body().map(<[u8]>::to_vec));
                    for effect in session.decided(&routed()) {
                        if let Effect::Send(reply) = effect {
                            replies.push(*reply);
                        }
                    }
                }
            }
        }
    }
    (replies, decisions)
}

fn session() -> Session {
    Session::new(None, 1 << 20)
}

fn common(reply: &ProcessingResponse) -> Option<&CommonResponse> {
    match reply.response.as_ref()? {
        Response::RequestHeaders(headers) => headers.response.as_ref(),
        Response::RequestBody(body) => body.response.as_ref(),
        _ => None,
    }
}

fn destination(reply: &ProcessingResponse) -> Option<String> {
    let mutation = common(reply)?.header_mutation.as_ref()?;
    let option = mutation.set_headers.iter().find_map(|option| {
        option
            .header
            .as_ref()
            .filter(|header| header.key == contract::HEADER_DESTINATION)
    })?;
    Some(String::from_utf8(option.raw_value.clone()).unwrap())
}

fn echoed(replies: &[ProcessingResponse]) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    let mut ends = 0;
    for reply in replies {
        let mutation = common(reply)
            .and_then(|c| c.body_mutation.as_ref())
            .and_then(|m| m.mutation.as_ref());
        if let Some(Mutation::StreamedResponse(chunk)) = mutation {
            assert!(chunk.body.len() <= CHUNK_BYTES);
            bytes.extend_from_slice(&chunk.body);
            ends += usize::from(chunk.end_of_stream);
        }
    }
    (bytes, ends)
}

#[test]
fn full_duplex_answers_headers_first_then_the_whole_body() {
    let (replies, decisions) = drive(
        &mut session(),
        vec![
            headers(Some(FDS), false),
            body(b"{\"a\":", false),
            body(b"1}", true),
        ],
    );
    assert_eq!(decisions, [Some(b"{\"a\":1}".to_vec())]);
    assert_eq!(destination(&replies[0]).as_deref(), Some("10.0.0.1:8000"));
    assert_eq!(echoed(&replies[1..]), (b"{\"a\":1}".to_vec(), 1));
}

#[test]
fn a_gateway_that_does_not_say_its_mode_is_taken_for_full_duplex() {
    let (replies, decisions) = drive(&mut session(), vec![headers(None, false), body(b"x", true)]);
    assert_eq!((replies.len(), decisions.len()), (2, 1));
}

#[test]
fn a_second_end_of_stream_is_ignored() {
    let messages = vec![
        headers(Some(FDS), false),
        body(b"x", true),
        body(b"", true),
        body(b"y", true),
    ];
    let (replies, decisions) = drive(&mut session(), messages);
    assert_eq!((replies.len(), decisions.len()), (2, 1));
}

#[test]
fn trailers_end_a_full_duplex_body() {
    let (replies, decisions) = drive(
        &mut session(),
        vec![headers(Some(FDS), false), body(b"x", false), trailers()],
    );
    assert_eq!(decisions.len(), 1);
    assert_eq!(echoed(&replies), (b"x".to_vec(), 0));
    assert!(matches!(
        replies.last().unwrap().response,
        Some(Response::RequestTrailers(_))
    ));
}

#[test]
fn buffered_strips_first_and_decides_with_the_body() {
    let (replies, decisions) = drive(
        &mut session(),
        vec![headers(Some(BUFFERED), false), body(b"{}", true)],
    );
    assert_eq!(decisions, [Some(b"{}".to_vec())]);
    assert_eq!(destination(&replies[0]), None);
    assert!(
        common(&replies[0])
            .unwrap()
            .header_mutation
            .as_ref()
            .unwrap()
            .remove_headers
            .contains(&contract::HEADER_DESTINATION.to_owned())
    );
    assert!(destination(&replies[1]).is_some());
    assert!(common(&replies[1]).unwrap().body_mutation.is_none());
}

#[test]
fn headers_only_and_streamed_decide_on_headers() {
    for mode in [NONE, STREAMED] {
        let (replies, decisions) = drive(&mut session(), vec![headers(Some(mode), false)]);
        assert_eq!(decisions, [None]);
        assert!(destination(&replies[0]).is_some());
    }
    let (replies, _) = drive(
        &mut session(),
        vec![
            headers(Some(STREAMED), false),
            body(b"a", false),
            body(b"b", true),
        ],
    );
    assert_eq!(replies.len(), 3);
}

#[test]
fn a_stream_of_somebody_elses_filter_is_left_as_it_is() {
    let mut session = Session::new(Some(BodyMode::FullDuplex), 1 << 20);
    let (replies, decisions) = drive(&mut session, vec![headers(Some(NONE), false)]);
    assert!(decisions.is_empty());
    assert_eq!(replies.len(), 1);
    assert!(
        common(&replies[0]).is_none(),
        "nothing is set and nothing removed"
    );
}

#[test]
fn a_body_beyond_the_limit_is_refused_and_not_kept() {
    let mut session = Session::new(None, 4);
    let (replies, decisions) = drive(
        &mut session,
        vec![
            headers(Some(FDS), false),
            body(b"12345", false),
            body(b"6", true),
        ],
    );
    assert!(decisions.is_empty());
    let Some(Response::ImmediateResponse(answer)) = &replies[0].response else {
        panic!("{replies:?}")
    };
    assert_eq!(answer.status.as_ref().unwrap().code, 413);
    assert_eq!(replies.len(), 1);
}

#[test]
fn every_routing_header_a_client_could_set_is_set_or_removed() {
    let (replies, _) = drive(&mut session(), vec![headers(Some(FDS), true)]);
    let mutation = common(&replies[0])
        .unwrap()
        .header_mutation
        .as_ref()
        .unwrap();
    for name in contract::ROUTING_HEADERS {
        let set = mutation
            .set_headers
            .iter()
            .any(|o| o.header.as_ref().unwrap().key == *name);
        let removed = mutation
            .remove_headers
            .iter()
            .any(|removed| removed == name);
        assert!(set != removed, "{name}: set {set}, removed {removed}");
    }
}

#[test]
fn header_and_metadata_name_the_same_endpoint() {
    let (replies, _) = drive(&mut session(), vec![headers(Some(FDS), true)]);
    let metadata = format!("{:?}", replies[0].dynamic_metadata);
    assert!(
        metadata.contains("envoy.lb") && metadata.contains("10.0.0.1:8000"),
        "{metadata}"
    );
}

#[test]
fn flags_of_every_generation_are_understood() {
    use clap::Parser as _;
    for line in [
        "epp -poolName p -poolNamespace n -v 4 --zap-encoder json -grpcPort 9002 -grpcHealthPort 9003",
        "epp --poolName p --poolNamespace n -v=4 --grpcPort=9002",
        "epp --pool-name p --pool-namespace n --grpc-port 9002 --secure-serving=false --v=1",
    ] {
        let (args, ignored) = super::cli::normalize(line.split(' ').map(str::to_owned).collect());
        let args = super::cli::Args::try_parse_from(args).unwrap();
        assert_eq!(
            (args.pool_name.as_deref(), args.pool_namespace.as_deref()),
            (Some("p"), Some("n"))
        );
        assert_eq!(args.grpc_port, 9002);
        assert!(!ignored.is_empty());
    }
}

#[test]
fn a_gateway_that_does_not_say_its_mode_is_answered_though_no_body_comes() {
    let mut session = session();
    let (replies, decisions) = drive(&mut session, vec![headers(None, false)]);
    assert!(replies.is_empty() && decisions.is_empty());
    assert!(session.waits_in_doubt());
    assert_eq!(session.no_body_came(), [Effect::Decide]);
    assert_eq!(session.no_body_came(), [], "asked once");
    let effects = session.decided(&routed());
    let Some(Effect::Send(reply)) = effects.first() else {
        panic!("no answer to the headers: {effects:?}");
    };
    assert!(destination(reply).is_some());
    // A body that was held back for this answer goes on as it came.
    let (replies, decisions) = drive(&mut session, vec![body(b"late", true)]);
    assert!(decisions.is_empty());
    assert!(matches!(
        replies[0].response,
        Some(Response::RequestBody(ref body)) if body.response.is_none()
    ));
}

#[test]
fn a_gateway_that_says_its_mode_is_waited_for() {
    for mode in [FDS, BUFFERED] {
        let mut session = session();
        drive(&mut session, vec![headers(Some(mode), false)]);
        assert!(!session.waits_in_doubt());
    }
}

#[test]
fn an_empty_pool_is_a_503_with_its_reason() {
    let refusal = Refusal::no_endpoint(crate::scheduling::decision::NoEndpoint::PoolEmpty);
    let mut session = session();
    drive(&mut session, vec![]);
    session.handle(headers(Some(NONE), false));
    let effects = session.decided(&Err(refusal));
    let [Effect::Send(reply)] = effects.as_slice() else {
        panic!("{effects:?}");
    };
    let Some(Response::ImmediateResponse(answer)) = &reply.response else {
        panic!("{reply:?}");
    };
    assert_eq!(answer.status.as_ref().map(|status| status.code), Some(503));
    let set = &answer.headers.as_ref().unwrap().set_headers;
    assert!(set.iter().any(|option| {
        let header = option.header.as_ref().unwrap();
        header.key == contract::HEADER_DROPPED_REASON
            && header.raw_value == b"rejected-no-endpoints"
    }));
    assert!(String::from_utf8_lossy(&answer.body).contains("failed to find endpoint candidates"));
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_answer(bytes in prop::collection::vec(any::<u8>(), 0..200_000), cuts in prop::collection::vec(0.0..1.0_f64, 0..8)) {
        let mut at: Vec<usize> = cuts.iter().map(|cut| (cut * bytes.len() as f64) as usize).collect();
        at.push(bytes.len());
        at.sort_unstable();
        let mut messages = vec![headers(Some(FDS), false)];
        let mut from = 0;
        for (index, to) in at.iter().enumerate() {
            messages.push(body(&bytes[from..*to], index + 1 == at.len()));
            from = *to;
        }
        let (replies, decisions) = drive(&mut session(), messages);
        prop_assert_eq!(decisions.len(), 1);
        prop_assert_eq!(echoed(&replies), (bytes, 1));
    }

    #[test]
    fn no_order_of_messages_makes_a_session_panic(kinds in prop::collection::vec((0_u8..5, any::<bool>(), 0_i32..6), 0..12)) {
        let messages = kinds.into_iter().map(|(kind, end, mode)| match kind {
            0 => headers(Some(mode), end),
            1 => headers(None, end),
            2 => trailers(),
            _ => body(b"abc", end),
        }).collect();
        drive(&mut session(), messages);
    }
}
