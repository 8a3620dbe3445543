//! A model of Envoy's side of the protocol, and one property over all body modes: whatever
//! the body, its chunks, trailers, double ends and the order of request and response, the
//! gateway gets exactly the replies it waits for, and the engine gets the request unchanged
//! but for the headers.
//!
//! The rules are those of Envoy's documentation of the filter
//! (<https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/ext_proc_filter>),
//! written without a look at the EPP's own code.

use std::collections::VecDeque;

use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Message;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest, ProcessingResponse,
};
use proptest::prelude::*;

use super::messages::{self, DESTINATION, Driven, chat, config, handed_back, mutation, status};
use crate::contract;
use crate::epp::ext_proc::mode::Waits;
use crate::epp::ext_proc::stream::Stream;

const NONE: i32 = 0;
const STREAMED: i32 = 1;
const BUFFERED: i32 = 2;
const PARTIAL: i32 = 3;
const DUPLEX: i32 = 4;

/// One request through one filter.
#[derive(Clone, Debug)]
struct Case {
    mode: i32,
    response_mode: i32,
    /// The first message says the modes.
    tells: bool,
    does_not_wait: bool,
    allows_override: bool,
    chunks: Vec<Vec<u8>>,
    trailers: bool,
    /// The end of the body is sent twice, as Envoy does at times.
    ends_twice: bool,
    /// Most bytes that the gateway holds itself.
    buffer_bytes: usize,
    response_chunks: Vec<Vec<u8>>,
    path: &'static str,
    method: &'static str,
}

/// What the engine got.
#[derive(Debug, Default)]
struct Engine {
    headers_sent: bool,
    destination: Option<String>,
    /// Headers a client must not set, as they reach the engine.
    forged: Vec<&'static str>,
    body: Vec<u8>,
    ended: bool,
    trailers: bool,
}

struct Gateway {
    epp: Driven,
    replies: VecDeque<ProcessingResponse>,
    engine: Engine,
    answered_by_epp: Option<i32>,
    mode: i32,
    case: Case,
}

impl Gateway {
    fn new(case: Case) -> Self {
        let engine = Engine {
            forged: contract::ROUTING_HEADERS.to_vec(),
            ..Engine::default()
        };
        Self {
            epp: Driven::new(Stream::new(None, 4 << 20)),
            replies: VecDeque::new(),
            engine,
            answered_by_epp: None,
            mode: case.mode,
            case,
        }
    }

    fn send(&mut self, message: &ProcessingRequest) {
        let replies = self.epp.take(message);
        self.replies.extend(replies);
    }

    /// The next reply. When there is none, time passes; when that brings none, the request
    /// hangs.
    fn wait(&mut self, wanted: &str) -> ProcessingResponse {
        if self.replies.is_empty() && self.epp.stream.waits() != Waits::No {
            let replies = self.epp.give_up();
            self.replies.extend(replies);
        }
        self.replies
            .pop_front()
            .unwrap_or_else(|| panic!("hangs: waits for {wanted} in {:?}", self.case))
    }

    fn spurious(&self, reply: &ProcessingResponse) -> ! {
        panic!("spurious {reply:?} in {:?}", self.case)
    }

    /// Applies a reply to the headers, which the gateway still has.
    fn mutate(&mut self, reply: &ProcessingResponse) {
        assert!(!self.engine.headers_sent);
        let Some(mutation) = mutation(reply) else {
            return;
        };
        self.engine.forged.retain(|name| {
            !mutation
                .remove_headers
                .iter()
                .any(|removed| removed == name)
        });
        for option in &mutation.set_headers {
            let header = option.header.as_ref().unwrap();
            self.engine.forged.retain(|name| header.key != *name);
            if header.key == contract::HEADER_DESTINATION {
                let value = String::from_utf8(header.raw_value.clone()).unwrap();
                let lb = format!("{:?}", reply.dynamic_metadata);
                assert!(lb.contains(&value), "header and metadata agree");
                self.engine.destination = Some(value);
            }
        }
    }

    fn headers_reply(&mut self) -> bool {
        let reply = self.wait("an answer to the headers");
        if let Some(status) = status(&reply) {
            self.answered_by_epp = Some(status);
            return false;
        }
        let Some(Response::RequestHeaders(_)) = &reply.response else {
            self.spurious(&reply)
        };
        assert!(handed_back(&reply).is_none());
        self.mutate(&reply);
        if let (Some(to), true) = (&reply.mode_override, self.case.allows_override) {
            self.mode = to.request_body_mode;
        }
        true
    }

    /// The answer to a body message whose bytes the gateway kept.
    fn kept_body_reply(&mut self, headers_are_here: bool) -> bool {
        let reply = self.wait("an answer to the body");
        if let Some(status) = status(&reply) {
            self.answered_by_epp = Some(status);
            return false;
        }
        let Some(Response::RequestBody(_)) = &reply.response else {
            self.spurious(&reply)
        };
        assert!(handed_back(&reply).is_none(), "the gateway has the body");
        if headers_are_here {
            self.mutate(&reply);
        }
        true
    }

    fn message(bytes: &[u8], end_of_stream: bool) -> ProcessingRequest {
        messages::body(bytes, end_of_stream)
    }

    /// The request's side. False when the EPP answered in the engine's place.
    fn request(&mut self) -> bool {
        let case = self.case.clone();
        let all: Vec<u8> = case.chunks.concat();
        let no_body = case.chunks.is_empty() && !case.trailers;
        let pairs: Vec<(String, String)> = chat(&[])
            .into_iter()
            .map(|(key, value)| match key.as_str() {
                ":path" => (key, case.path.to_owned()),
                ":method" => (key, case.method.to_owned()),
                _ => (key, value),
            })
            .collect();
        let said = config(case.mode, case.response_mode, case.does_not_wait);
        let said = case.tells.then_some(said);
        self.send(&messages::headers(&pairs, said, no_body));
        let unasked = case.mode == STREAMED && case.does_not_wait && !no_body;
        if case.mode == DUPLEX && !no_body {
            return self.duplex(&all);
        }
        if unasked {
            return self.streamed_without_waiting();
        }
        if !self.headers_reply() {
            return false;
        }
        if !no_body {
            let answered = match self.mode {
                NONE => true,
                STREAMED => self.streamed(),
                BUFFERED | PARTIAL => self.buffered(&all),
                other => panic!("mode {other}"),
            };
            if !answered {
                return false;
            }
        }
        self.engine.headers_sent = true;
        self.engine.body = all;
        self.engine.ended = true;
        self.engine.trailers = case.trailers;
        true
    }

    fn chunks(&self) -> Vec<(Vec<u8>, bool)> {
        let count = self.case.chunks.len();
        let mut chunks: Vec<_> = self.case.chunks.iter().cloned().enumerate().collect();
        if chunks.is_empty() && !self.case.trailers {
            chunks.push((0, Vec::new()));
        }
        chunks
            .into_iter()
            .map(|(index, chunk)| (chunk, index + 1 >= count && !self.case.trailers))
            .collect()
    }

    fn buffered(&mut self, all: &[u8]) -> bool {
        // The whole in one message, even when trailers follow; cut where only a part fits.
        let fits = self.mode == BUFFERED || all.len() <= self.case.buffer_bytes;
        let shown = if fits {
            all
        } else {
            &all[..self.case.buffer_bytes]
        };
        self.send(&Self::message(shown, fits));
        self.kept_body_reply(true) && self.trailers_reply()
    }

    fn trailers_reply(&mut self) -> bool {
        if self.case.trailers {
            self.send(&messages::trailers());
            let reply = self.wait("an answer to the trailers");
            if !matches!(reply.response, Some(Response::RequestTrailers(_))) {
                self.spurious(&reply);
            }
        }
        true
    }

    fn streamed(&mut self) -> bool {
        self.engine.headers_sent = true;
        for (chunk, last) in self.chunks() {
            self.send(&Self::message(&chunk, last));
            if !self.kept_body_reply(false) {
                return false;
            }
        }
        self.trailers_reply()
    }

    /// Chunks go out as long as the gateway has room for those that are not answered.
    fn streamed_without_waiting(&mut self) -> bool {
        let mut waiting: VecDeque<(Vec<u8>, bool)> = self.chunks().into();
        let (mut unanswered, mut held) = (0, 0);
        while let Some((chunk, last)) = waiting.front() {
            if held + chunk.len() > self.case.buffer_bytes && held > 0 {
                break;
            }
            held += chunk.len();
            unanswered += 1;
            self.send(&Self::message(&chunk.clone(), *last));
            waiting.pop_front();
        }
        if waiting.is_empty() && self.case.trailers {
            self.send(&messages::trailers());
        }
        if !self.headers_reply() {
            return false;
        }
        self.engine.headers_sent = true;
        for _ in 0..unanswered {
            if !self.kept_body_reply(false) {
                return false;
            }
        }
        let trailers_out = waiting.is_empty() && self.case.trailers;
        for (chunk, last) in waiting {
            self.send(&Self::message(&chunk, last));
            if !self.kept_body_reply(false) {
                return false;
            }
        }
        if trailers_out {
            let reply = self.wait("an answer to the trailers");
            assert!(matches!(reply.response, Some(Response::RequestTrailers(_))));
        } else {
            self.trailers_reply();
        }
        self.engine.body = self.case.chunks.concat();
        self.engine.ended = true;
        self.engine.trailers = self.case.trailers;
        true
    }

    /// The EPP is handed the body and hands back what it wants the engine to get.
    fn duplex(&mut self, all: &[u8]) -> bool {
        for (chunk, last) in self.chunks() {
            self.send(&Self::message(&chunk, last));
        }
        if self.case.trailers {
            self.send(&messages::trailers());
        } else if self.case.ends_twice {
            self.send(&Self::message(b"", true));
        }
        if !self.headers_reply() {
            return false;
        }
        self.engine.headers_sent = true;
        while !self.engine.ended {
            let reply = self.wait("the body");
            if let Some((bytes, last)) = handed_back(&reply) {
                assert!(bytes.len() < 64 << 10, "Envoy refuses larger ones");
                assert!(!self.engine.trailers, "a chunk after the trailers");
                self.engine.body.extend_from_slice(bytes);
                self.engine.ended = last;
            } else if matches!(reply.response, Some(Response::RequestTrailers(_))) {
                self.engine.trailers = true;
                self.engine.ended = true;
            } else {
                self.spurious(&reply);
            }
        }
        assert_eq!(self.engine.body, all);
        true
    }

    fn response(&mut self) {
        let case = self.case.clone();
        self.send(&messages::request(Message::ResponseHeaders(HttpHeaders {
            headers: Some(messages::header_map(&[(":status", "200")])),
            ..HttpHeaders::default()
        })));
        let reply = self.wait("an answer to the response's headers");
        assert!(matches!(reply.response, Some(Response::ResponseHeaders(_))));
        if case.response_mode == NONE {
            return;
        }
        let mut back = Vec::new();
        for (index, chunk) in case.response_chunks.iter().enumerate() {
            let last = index + 1 == case.response_chunks.len();
            self.send(&messages::request(Message::ResponseBody(HttpBody {
                body: chunk.clone(),
                end_of_stream: last,
                ..HttpBody::default()
            })));
            loop {
                let reply = self.wait("an answer to a chunk of the response");
                assert!(matches!(reply.response, Some(Response::ResponseBody(_))));
                let handed = handed_back(&reply);
                assert_eq!(handed.is_some(), case.response_mode == DUPLEX);
                let Some((bytes, ends)) = handed else { break };
                assert!(bytes.len() < 64 << 10, "Envoy refuses larger ones");
                back.extend_from_slice(bytes);
                if self.replies.is_empty() {
                    assert_eq!(ends, last);
                    break;
                }
                assert!(!ends);
            }
        }
        if case.response_mode == DUPLEX {
            assert_eq!(back, case.response_chunks.concat());
        }
        self.send(&messages::request(Message::ResponseTrailers(
            HttpTrailers::default(),
        )));
        let reply = self.wait("an answer to the response's trailers");
        assert!(matches!(
            reply.response,
            Some(Response::ResponseTrailers(_))
        ));
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let chunk = prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 1..40),
        (1_usize..200_000).prop_map(|len| vec![b'x'; len]),
    ];
    let paths = prop_oneof![
        3 => Just(("POST", "/v1/chat/completions")),
        1 => Just(("POST", "/v1/files")),
        1 => Just(("GET", "/v1/models")),
    ];
    let flags = any::<(bool, bool, bool, bool)>();
    (
        (NONE..=DUPLEX, NONE..=DUPLEX),
        flags,
        prop::collection::vec(chunk.clone(), 0..6),
        any::<bool>(),
        1_usize..300_000,
        prop::collection::vec(chunk, 1..4),
        paths,
    )
        .prop_map(
            |(modes, flags, chunks, trailers, buffer_bytes, response_chunks, path)| {
                let (mode, response_mode) = modes;
                let (tells, does_not_wait, allows_override, ends_twice) = flags;
                Case {
                    mode,
                    response_mode,
                    // Gateways that do not say it are older than the last mode, and wait for
                    // the answer to the headers.
                    tells: tells || mode == DUPLEX || does_not_wait,
                    does_not_wait,
                    allows_override,
                    chunks,
                    trailers,
                    ends_twice,
                    buffer_bytes,
                    response_chunks,
                    path: path.1,
                    method: path.0,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn every_mode_gets_the_replies_it_waits_for(case in cases()) {
        let mut gateway = Gateway::new(case);
        prop_assert!(gateway.request(), "answered with {:?}", gateway.answered_by_epp);
        let engine = &gateway.engine;
        prop_assert_eq!(engine.destination.as_deref(), Some(DESTINATION));
        prop_assert!(
            engine.forged.is_empty(),
            "reach the engine as the client sent them: {:?}", engine.forged
        );
        prop_assert_eq!(&engine.body, &gateway.case.chunks.concat());
        prop_assert_eq!(engine.trailers, gateway.case.trailers);
        if gateway.case.tells {
            gateway.response();
        }
        prop_assert!(gateway.replies.is_empty(), "nobody waits for {:?}", gateway.replies);
    }

    #[test]
    fn a_stream_may_begin_with_the_response(case in cases()) {
        let mut gateway = Gateway::new(Case { response_mode: BUFFERED, ..case });
        gateway.response_only();
    }

    #[test]
    fn no_order_of_messages_makes_a_stream_panic(
        kinds in prop::collection::vec((0_u8..9, any::<bool>(), 0_i32..7), 0..16)
    ) {
        let mut driven = Driven::new(Stream::new(None, 100));
        for (kind, end, mode) in kinds {
            let said = Some(config(mode, mode, end));
            match kind {
                0 => { driven.take(&messages::headers(&chat(&[]), said, end)); }
                1 => { driven.take(&messages::headers(&chat(&[]), None, end)); }
                2 => { driven.take(&messages::trailers()); }
                3 => { driven.give_up(); }
                4 => {
                    driven.take(&messages::request(Message::ResponseBody(HttpBody::default())));
                }
                5 => { driven.take(&ProcessingRequest::default()); }
                _ => { driven.take(&messages::body(&[b'x'; 40], end)); }
            }
        }
    }
}

impl Gateway {
    fn response_only(&mut self) {
        let said = config(self.case.mode, self.case.response_mode, false);
        let mut first = messages::request(Message::ResponseHeaders(HttpHeaders::default()));
        first.protocol_config = Some(said);
        self.send(&first);
        let reply = self.wait("an answer to the response's headers");
        assert!(matches!(reply.response, Some(Response::ResponseHeaders(_))));
        self.response();
    }
}
