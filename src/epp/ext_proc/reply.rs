//! Decisions and refusals -> ext_proc messages. PURE.
//!
//! Only headers that change are sent; every routing header a client could have set and
//! that is not ours is removed on every request.
#![deny(clippy::disallowed_methods)]

use bytes::Bytes;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

use super::mode::BodyMode;
use super::wire::{
    Answer, BodyMutation, CommonAnswer, CommonResponse, HeaderMutation, HeaderValue,
    HeaderValueOption, HttpStatus, HttpTrailers, ImmediateResponse, OVERWRITE_IF_EXISTS_OR_ADD,
    ProcessingMode, ProcessingResponse, StreamedBodyResponse,
};
use crate::contract;
use crate::openai;
use crate::openai::api::Api;
use crate::scheduling::decision::NoEndpoint;

/// Envoy refuses messages of 64 KiB and more.
pub const CHUNK_BYTES: usize = 62_000;
/// When a client that met a bound may come back, in seconds.
const RETRY_AFTER_SECONDS: &str = "1";

/// Where a request goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Routed {
    /// `ip:port` of the decode endpoint.
    pub destination: String,
    /// `ip:port` of the prefill endpoint.
    pub prefiller: Option<String>,
    /// An id for a request that came without.
    pub new_request_id: Option<String>,
}

/// Which rule or bound a request met.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Reason {
    /// The body is larger than `--max-body-bytes`.
    BodyTooLarge,
    /// The body did not end within `--body-timeout`.
    BodyTimeout,
    /// Bodies of all requests together fill `--body-budget-bytes`.
    BodyBudget,
    /// The body is compressed.
    BodyEncoded,
    /// No endpoint can serve it.
    NoEndpoint,
}

impl Reason {
    /// The word in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::BodyTooLarge => "body-too-large",
            Self::BodyTimeout => "body-timeout",
            Self::BodyBudget => "body-budget",
            Self::BodyEncoded => "body-encoded",
            Self::NoEndpoint => "no-endpoint",
        }
    }
}

/// An answer the EPP gives itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Which rule it met.
    pub reason: Reason,
    /// What the client is told.
    pub message: String,
}

impl Refusal {
    /// The body is larger than the EPP holds.
    pub fn too_large(limit_bytes: usize) -> Self {
        Self {
            status: 413,
            reason: Reason::BodyTooLarge,
            message: format!(
                "the request body is larger than {limit_bytes} bytes (--max-body-bytes of the \
                 endpoint picker)"
            ),
        }
    }

    /// The body did not come to its end in time.
    pub fn body_timeout() -> Self {
        Self {
            status: 408,
            reason: Reason::BodyTimeout,
            message: "the request body did not end in time (--body-timeout of the endpoint \
                      picker)"
                .to_owned(),
        }
    }

    /// There is no room for the body now.
    pub fn over_budget() -> Self {
        Self {
            status: 503,
            reason: Reason::BodyBudget,
            message: "too many request bytes are held at the moment (--body-budget-bytes of \
                      the endpoint picker); try again"
                .to_owned(),
        }
    }

    /// The body is compressed.
    pub fn encoded() -> Self {
        Self {
            status: 415,
            reason: Reason::BodyEncoded,
            message: "compressed request bodies are not read: send it without \
                      content-encoding"
                .to_owned(),
        }
    }

    /// Nobody can serve it.
    pub fn no_endpoint(error: NoEndpoint) -> Self {
        Self {
            status: 503,
            reason: Reason::NoEndpoint,
            message: error.to_string(),
        }
    }
}

/// Headers as they came, nothing removed: for streams that are not ours to decide.
pub(super) fn unchanged_headers() -> ProcessingResponse {
    answer(Answer::RequestHeaders(CommonAnswer { response: None }))
}

/// Routing headers removed; the decision follows with the body.
pub(super) fn strip_headers() -> ProcessingResponse {
    let mutation = HeaderMutation {
        set_headers: Vec::new(),
        remove_headers: removed_but(&[]),
    };
    answer(Answer::RequestHeaders(common(CommonResponse {
        header_mutation: Some(mutation),
        ..CommonResponse::default()
    })))
}

/// The decision, in answer to the headers.
pub(super) fn routed_headers(routed: &Routed) -> ProcessingResponse {
    with_decision(Answer::RequestHeaders(common(mutation_of(routed))), routed)
}

/// The decision, in answer to a body that goes on as it came.
pub(super) fn routed_body(routed: &Routed) -> ProcessingResponse {
    with_decision(Answer::RequestBody(common(mutation_of(routed))), routed)
}

fn with_decision(with: Answer, routed: &Routed) -> ProcessingResponse {
    // Gateways read the header or the metadata: both say the same.
    let of = |key: &str, kind| Struct {
        fields: [(key.to_owned(), Value { kind: Some(kind) })].into(),
    };
    let inner = of(
        contract::HEADER_DESTINATION,
        Kind::StringValue(routed.destination.clone()),
    );
    ProcessingResponse {
        dynamic_metadata: Some(of(contract::METADATA_LB, Kind::StructValue(inner))),
        ..answer(with)
    }
}

fn mutation_of(routed: &Routed) -> CommonResponse {
    let mut set = vec![(contract::HEADER_DESTINATION, routed.destination.clone())];
    if let Some(prefiller) = &routed.prefiller {
        set.push((contract::HEADER_PREFILLER, prefiller.clone()));
        set.push((
            contract::HEADER_PREFILLER_URL,
            format!("http://{prefiller}"),
        ));
    }
    if let Some(id) = &routed.new_request_id {
        set.push((contract::HEADER_REQUEST_ID, id.clone()));
    }
    let names: Vec<&str> = set.iter().map(|(name, _)| *name).collect();
    let remove_headers = removed_but(&names);
    let set_headers = set
        .into_iter()
        .map(|(key, value)| option(key, value))
        .collect();
    CommonResponse {
        header_mutation: Some(HeaderMutation {
            set_headers,
            remove_headers,
        }),
        // A route may match on the headers we set.
        clear_route_cache: true,
        ..CommonResponse::default()
    }
}

fn removed_but(set: &[&str]) -> Vec<String> {
    contract::ROUTING_HEADERS
        .iter()
        .filter(|name| !set.contains(name))
        .map(|name| (*name).to_owned())
        .collect()
}

fn option(key: &str, value: impl Into<Bytes>) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            raw_value: value.into(),
            ..HeaderValue::default()
        }),
        append_action: OVERWRITE_IF_EXISTS_OR_ADD,
    }
}

/// Asks the gateway to send the body this way. It does so only where its filter allows it.
pub(super) fn send_body_as(mode: BodyMode) -> ProcessingMode {
    ProcessingMode {
        request_body_mode: mode.number(),
        ..ProcessingMode::default()
    }
}

/// One chunk of the request's body back to the gateway; at most [`CHUNK_BYTES`].
pub(super) fn request_chunk(body: Bytes, end_of_stream: bool) -> ProcessingResponse {
    answer(Answer::RequestBody(streamed(body, end_of_stream)))
}

/// A chunk of any size back by `chunk`, in pieces that the gateway takes.
pub(super) fn pieces(
    mut body: Bytes,
    ends: bool,
    chunk: fn(Bytes, bool) -> ProcessingResponse,
) -> impl Iterator<Item = ProcessingResponse> {
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let piece = body.split_to(body.len().min(CHUNK_BYTES));
        done = body.is_empty();
        Some(chunk(piece, ends && done))
    })
}

fn streamed(body: Bytes, end_of_stream: bool) -> CommonAnswer {
    common(CommonResponse {
        body_mutation: Some(BodyMutation {
            streamed_response: Some(StreamedBodyResponse {
                body,
                end_of_stream,
            }),
        }),
        ..CommonResponse::default()
    })
}

/// A chunk that goes on as it came, where the gateway kept it.
pub(super) fn unchanged_body() -> ProcessingResponse {
    answer(Answer::RequestBody(CommonAnswer { response: None }))
}

/// Trailers as they came.
pub(super) fn request_trailers() -> ProcessingResponse {
    answer(Answer::RequestTrailers(HttpTrailers {}))
}

/// Response headers as they came.
pub(super) fn response_headers() -> ProcessingResponse {
    answer(Answer::ResponseHeaders(CommonAnswer { response: None }))
}

/// A response chunk back to a gateway that handed it over.
pub(super) fn response_chunk(body: Bytes, end_of_stream: bool) -> ProcessingResponse {
    answer(Answer::ResponseBody(streamed(body, end_of_stream)))
}

/// A response chunk as it came, where the gateway kept it.
pub(super) fn unchanged_response_body() -> ProcessingResponse {
    answer(Answer::ResponseBody(CommonAnswer { response: None }))
}

/// Response trailers as they came.
pub(super) fn response_trailers() -> ProcessingResponse {
    answer(Answer::ResponseTrailers(HttpTrailers {}))
}

/// The EPP's own answer to the client, in the error form of the API it asked.
pub(super) fn refuse(refusal: &Refusal, api: Option<Api>) -> ProcessingResponse {
    let mut set = vec![option("content-type", "application/json")];
    match refusal.reason {
        Reason::NoEndpoint => set.push(option(
            contract::HEADER_DROPPED_REASON,
            "rejected-no-endpoints",
        )),
        Reason::BodyBudget => set.push(option("retry-after", RETRY_AFTER_SECONDS)),
        Reason::BodyTooLarge | Reason::BodyTimeout | Reason::BodyEncoded => {}
    }
    let body = openai::error::body_for(api, refusal.status, &refusal.message);
    answer(Answer::Immediate(ImmediateResponse {
        status: Some(HttpStatus {
            code: i32::from(refusal.status),
        }),
        headers: Some(HeaderMutation {
            set_headers: set,
            remove_headers: Vec::new(),
        }),
        body: body.to_string().into(),
        details: format!("epp_{}", refusal.reason.label()),
    }))
}

fn common(response: CommonResponse) -> CommonAnswer {
    CommonAnswer {
        response: Some(response),
    }
}

fn answer(answer: Answer) -> ProcessingResponse {
    ProcessingResponse {
        answer: Some(answer),
        ..ProcessingResponse::default()
    }
}
