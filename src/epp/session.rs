//! The state machine of one ext_proc stream: messages in, replies and questions out. PURE.
//!
//! Gateways differ in how they send bodies; the mode is what `protocol_config` of the
//! first message says, or full duplex where it says nothing. Whatever follows the first
//! end of stream is ignored: Envoy from 1.35 on can send it twice
//! (<https://github.com/envoyproxy/envoy/issues/46237>).
#![deny(clippy::disallowed_methods)]

use envoy_types::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Message;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse,
};

use super::respond::{self, Refusal, Routed};
use crate::contract;
use crate::openai::api::Api;
use crate::scheduling::request::Allowed;

/// How the gateway sends request bodies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BodyMode {
    /// Headers only.
    None,
    /// Chunks, each answered at once.
    Streamed,
    /// The whole body in one message, after the headers were answered.
    Buffered,
    /// The same, cut at a limit.
    BufferedPartial,
    /// Chunks; headers and body are answered when the EPP is ready.
    FullDuplex,
}

impl BodyMode {
    /// Reads Envoy's name of the mode.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "NONE" => Self::None,
            "STREAMED" => Self::Streamed,
            "BUFFERED" => Self::Buffered,
            "BUFFERED_PARTIAL" => Self::BufferedPartial,
            "FULL_DUPLEX_STREAMED" => Self::FullDuplex,
            _ => return None,
        })
    }

    fn of(mode: i32) -> Self {
        match BodySendMode::try_from(mode) {
            Ok(BodySendMode::Streamed) => Self::Streamed,
            Ok(BodySendMode::Buffered) => Self::Buffered,
            Ok(BodySendMode::BufferedPartial) => Self::BufferedPartial,
            Ok(BodySendMode::FullDuplexStreamed) => Self::FullDuplex,
            Ok(_) | Err(_) => Self::None,
        }
    }
}

/// What the session wants done.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Send this to the gateway.
    Send(Box<ProcessingResponse>),
    /// Decide, then call [`Session::decided`].
    Decide,
    /// The stream belongs to somebody else's filter: count it.
    Skipped,
}

/// Request headers, names in lower case.
#[derive(Clone, Debug, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// No headers yet.
    Start,
    /// Headers are here; the body is coming.
    Collecting,
    /// The director is asked.
    Deciding,
    /// The request is answered; only the response phase is left.
    Answered,
    /// Somebody else's filter: change nothing.
    Passive,
}

/// One stream.
#[derive(Debug)]
pub struct Session {
    managed: Option<BodyMode>,
    body_limit: usize,
    mode: BodyMode,
    response_mode: BodyMode,
    state: State,
    headers: Headers,
    has_body: bool,
    body: Vec<u8>,
    body_ended: bool,
    trailers: bool,
    subset: Option<Vec<Allowed>>,
    /// The gateway said how it sends bodies.
    mode_is_told: bool,
}

impl Session {
    /// A stream that has not begun. `managed` is the mode of the filter the operator put
    /// into the gateway for this EPP: streams of another mode are answered with no change.
    pub fn new(managed: Option<BodyMode>, body_limit: usize) -> Self {
        Self {
            managed,
            body_limit,
            mode: BodyMode::FullDuplex,
            response_mode: BodyMode::None,
            state: State::Start,
            headers: Headers::default(),
            has_body: false,
            body: Vec::new(),
            body_ended: false,
            trailers: false,
            subset: None,
            mode_is_told: false,
        }
    }

    /// True while headers wait for a body of which it is not told whether it comes at all:
    /// call [`Session::no_body_came`] when it does not, or the gateway waits for ever.
    pub fn waits_in_doubt(&self) -> bool {
        self.state == State::Collecting && !self.mode_is_told && self.body.is_empty()
    }

    /// Decides on headers alone, since no body came in time. One that comes later was held
    /// back for the answer to the headers, and goes on as it came.
    pub fn no_body_came(&mut self) -> Vec<Effect> {
        if !self.waits_in_doubt() {
            return Vec::new();
        }
        self.mode = BodyMode::None;
        self.state = State::Deciding;
        vec![Effect::Decide]
    }

    /// Request headers.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The request body, when it was seen whole.
    pub fn body(&self) -> Option<&[u8]> {
        self.has_body.then_some(self.body.as_slice())
    }

    /// Endpoints the gateway allows.
    pub fn subset(&self) -> Option<&[Allowed]> {
        self.subset.as_deref()
    }

    /// Takes one message.
    pub fn handle(&mut self, request: ProcessingRequest) -> Vec<Effect> {
        if let Some(config) = &request.protocol_config {
            self.mode = BodyMode::of(config.request_body_mode);
            self.response_mode = BodyMode::of(config.response_body_mode);
            self.mode_is_told = true;
        }
        if let Some(subset) = request.metadata_context.as_ref().and_then(respond::subset) {
            self.subset = Some(subset);
        }
        let explicit = request.protocol_config.is_some();
        match request.request {
            Some(Message::RequestHeaders(headers)) => self.request_headers(headers, explicit),
            Some(Message::RequestBody(body)) => self.request_body(body),
            Some(Message::RequestTrailers(_)) => self.request_trailers(),
            Some(Message::ResponseHeaders(_)) => send(respond::response_headers()),
            Some(Message::ResponseBody(body)) => send(respond::response_body(
                body,
                self.response_mode == BodyMode::FullDuplex,
            )),
            Some(Message::ResponseTrailers(_)) => send(respond::response_trailers()),
            None => Vec::new(),
        }
    }

    fn request_headers(&mut self, message: HttpHeaders, explicit: bool) -> Vec<Effect> {
        if self.state != State::Start {
            return Vec::new();
        }
        self.headers = Headers(respond::headers(message.headers));
        if explicit && self.managed.is_some_and(|managed| managed != self.mode) {
            self.state = State::Passive;
            return vec![
                Effect::Skipped,
                Effect::Send(Box::new(respond::unchanged_headers())),
            ];
        }
        if message.end_of_stream {
            self.body_ended = true;
            self.state = State::Deciding;
            return vec![Effect::Decide];
        }
        match self.mode {
            BodyMode::FullDuplex => {
                self.state = State::Collecting;
                Vec::new()
            }
            // The body comes only after this answer; the decision follows with it.
            BodyMode::Buffered | BodyMode::BufferedPartial => {
                self.state = State::Collecting;
                send(respond::strip_headers())
            }
            BodyMode::Streamed | BodyMode::None => {
                self.state = State::Deciding;
                vec![Effect::Decide]
            }
        }
    }

    fn request_body(&mut self, message: HttpBody) -> Vec<Effect> {
        if self.state == State::Passive {
            return self.passive_body(message);
        }
        if self.body_ended {
            return Vec::new();
        }
        self.body_ended = message.end_of_stream;
        match self.mode {
            // Decided on headers: each chunk goes on as it came.
            BodyMode::Streamed | BodyMode::None => return send(respond::unchanged_body()),
            BodyMode::Buffered | BodyMode::BufferedPartial => self.body_ended = true,
            BodyMode::FullDuplex => {}
        }
        if self.state != State::Collecting {
            return Vec::new();
        }
        if self.body.len() + message.body.len() > self.body_limit {
            self.state = State::Answered;
            self.body_ended = true;
            self.body = Vec::new();
            return send(respond::refuse(&Refusal::too_large(self.body_limit)));
        }
        if self.body.is_empty() {
            self.body = message.body;
        } else {
            self.body.extend_from_slice(&message.body);
        }
        if !self.body_ended {
            return Vec::new();
        }
        // A body cut by the gateway is not JSON that could be read.
        self.has_body = self.mode != BodyMode::BufferedPartial || !self.body.is_empty();
        self.state = State::Deciding;
        vec![Effect::Decide]
    }

    fn request_trailers(&mut self) -> Vec<Effect> {
        if self.state == State::Collecting && self.mode == BodyMode::FullDuplex {
            // Trailers end the stream in place of the last chunk.
            self.trailers = true;
            self.body_ended = true;
            self.has_body = true;
            self.state = State::Deciding;
            return vec![Effect::Decide];
        }
        send(respond::request_trailers())
    }

    fn passive_body(&mut self, message: HttpBody) -> Vec<Effect> {
        if self.body_ended {
            return Vec::new();
        }
        self.body_ended = message.end_of_stream;
        send(if self.mode == BodyMode::FullDuplex {
            respond::echo_body(message)
        } else {
            respond::unchanged_body()
        })
    }

    /// Takes the director's answer.
    pub fn decided(&mut self, outcome: &Result<Routed, Refusal>) -> Vec<Effect> {
        if self.state != State::Deciding {
            return Vec::new();
        }
        self.state = State::Answered;
        let routed = match outcome {
            Ok(routed) => routed,
            Err(refusal) => return send(respond::refuse(refusal)),
        };
        if !self.has_body {
            return send(respond::routed_headers(routed));
        }
        let body = std::mem::take(&mut self.body);
        match self.mode {
            BodyMode::FullDuplex => {
                let mut effects = send(respond::routed_headers(routed));
                effects.extend(
                    respond::body_chunks(&body, !self.trailers)
                        .into_iter()
                        .map(|chunk| Effect::Send(Box::new(chunk))),
                );
                if self.trailers {
                    effects.extend(send(respond::request_trailers()));
                }
                effects
            }
            _ => send(respond::routed_body(routed)),
        }
    }
}

/// The header that names the session, if one of `names` is present; the first that is.
pub fn session_header<'a>(headers: &'a Headers, names: &[String]) -> Option<&'a str> {
    names
        .iter()
        .find_map(|name| headers.get(name))
        .filter(|value| !value.is_empty())
}

/// Path of the request without its query.
pub fn path(headers: &Headers) -> &str {
    headers
        .get(":path")
        .unwrap_or_default()
        .split('?')
        .next()
        .unwrap_or_default()
}

/// True when the body may be the JSON of an OpenAI request: files are uploaded under the
/// same paths in other types.
pub fn may_be_json(headers: &Headers) -> bool {
    path(headers).starts_with("/v1/")
        && headers
            .get("content-type")
            .is_none_or(|kind| kind.to_ascii_lowercase().contains("json"))
}

/// The API that the path belongs to.
pub fn api(headers: &Headers) -> Option<Api> {
    Api::of(path(headers))
}

/// The request's id, if the client or the gateway gave one.
pub fn request_id(headers: &Headers) -> Option<&str> {
    headers.get(contract::HEADER_REQUEST_ID)
}

fn send(response: ProcessingResponse) -> Vec<Effect> {
    vec![Effect::Send(Box::new(response))]
}
