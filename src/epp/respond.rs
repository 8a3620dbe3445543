//! Decisions and refusals -> ext_proc messages, and the few readings of ext_proc types the
//! session needs. PURE.
//!
//! Only headers that change are sent; every routing header a client could have set and
//! that is not ours is removed on every request.
#![deny(clippy::disallowed_methods)]

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{
    HeaderMap, HeaderValue, HeaderValueOption, Metadata,
};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpBody,
    ImmediateResponse, ProcessingResponse, StreamedBodyResponse, TrailersResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};

use crate::contract;
use crate::openai;
use crate::scheduling::decision::NoEndpoint;
use crate::scheduling::request::Allowed;

/// Envoy refuses messages of 64 KiB and more.
pub const CHUNK_BYTES: usize = 62_000;

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

/// An answer the EPP gives itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// What the client is told.
    pub message: String,
    /// Value of the header that says why.
    pub dropped_reason: Option<&'static str>,
}

impl Refusal {
    /// The body is larger than the EPP holds.
    pub fn too_large(limit_bytes: usize) -> Self {
        let message = format!("request body is larger than {limit_bytes} bytes");
        Self {
            status: 413,
            message,
            dropped_reason: None,
        }
    }

    /// Nobody can serve it.
    pub fn no_endpoint(error: NoEndpoint) -> Self {
        Self {
            status: 503,
            message: error.to_string(),
            dropped_reason: Some("rejected-no-endpoints"),
        }
    }
}

/// Header names in lower case and their values, whichever field they came in.
pub fn headers(map: Option<HeaderMap>) -> Vec<(String, String)> {
    map.map(|map| map.headers)
        .unwrap_or_default()
        .into_iter()
        .map(|header| {
            let value = if header.raw_value.is_empty() {
                header.value
            } else {
                String::from_utf8_lossy(&header.raw_value).into_owned()
            };
            (header.key.to_ascii_lowercase(), value)
        })
        .collect()
}

/// The gateway's subset hint: a list, or a comma-separated text. What cannot be read
/// allows nothing.
pub fn subset(metadata: &Metadata) -> Option<Vec<Allowed>> {
    let hint = metadata.filter_metadata.get(contract::METADATA_SUBSET)?;
    let value = hint.fields.get(contract::METADATA_SUBSET_KEY)?;
    Some(match value.kind.as_ref()? {
        Kind::StringValue(text) => text.split(',').filter_map(Allowed::parse).collect(),
        Kind::ListValue(list) => list
            .values
            .iter()
            .filter_map(|value| match &value.kind {
                Some(Kind::StringValue(text)) => Allowed::parse(text),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    })
}

/// Headers as they came, nothing removed: for streams that are not ours to decide.
pub fn unchanged_headers() -> ProcessingResponse {
    reply(Response::RequestHeaders(HeadersResponse { response: None }))
}

/// Routing headers removed; the decision follows with the body.
pub fn strip_headers() -> ProcessingResponse {
    let mutation = HeaderMutation {
        set_headers: Vec::new(),
        remove_headers: contract::ROUTING_HEADERS
            .iter()
            .map(|name| (*name).to_owned())
            .collect(),
    };
    let response = CommonResponse {
        header_mutation: Some(mutation),
        ..CommonResponse::default()
    };
    reply(Response::RequestHeaders(HeadersResponse {
        response: Some(response),
    }))
}

/// The decision, in answer to the headers.
pub fn routed_headers(routed: &Routed) -> ProcessingResponse {
    let response = HeadersResponse {
        response: Some(common(routed)),
    };
    decided(Response::RequestHeaders(response), routed)
}

/// The decision, in answer to a buffered body that goes on as it came.
pub fn routed_body(routed: &Routed) -> ProcessingResponse {
    let response = BodyResponse {
        response: Some(common(routed)),
    };
    decided(Response::RequestBody(response), routed)
}

fn decided(response: Response, routed: &Routed) -> ProcessingResponse {
    // Gateways read the header or the metadata: both say the same.
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let of = |key: &str, value| Struct {
        fields: [(key.to_owned(), value)].into(),
    };
    let inner = of(contract::HEADER_DESTINATION, text(&routed.destination));
    let metadata = of(
        contract::METADATA_LB,
        Value {
            kind: Some(Kind::StructValue(inner)),
        },
    );
    ProcessingResponse {
        dynamic_metadata: Some(metadata),
        ..reply(response)
    }
}

fn common(routed: &Routed) -> CommonResponse {
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
    let remove = contract::ROUTING_HEADERS
        .iter()
        .filter(|name| !set.iter().any(|(key, _)| key == *name))
        .map(|name| (*name).to_owned())
        .collect();
    let mutation = HeaderMutation {
        set_headers: set
            .into_iter()
            .map(|(key, value)| option(key, value))
            .collect(),
        remove_headers: remove,
    };
    CommonResponse {
        header_mutation: Some(mutation),
        // A route may match on the headers we set.
        clear_route_cache: true,
        ..CommonResponse::default()
    }
}

fn option(key: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            raw_value: value.into_bytes(),
            ..HeaderValue::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

/// The whole body back to the gateway, in pieces it takes.
pub fn body_chunks(body: &[u8], ends_stream: bool) -> Vec<ProcessingResponse> {
    let pieces: Vec<&[u8]> = if body.is_empty() {
        vec![&[]]
    } else {
        body.chunks(CHUNK_BYTES).collect()
    };
    let last = pieces.len() - 1;
    pieces
        .into_iter()
        .enumerate()
        .map(|(index, piece)| streamed(piece.to_vec(), ends_stream && index == last))
        .collect()
}

/// One chunk back as it came.
pub fn echo_body(body: HttpBody) -> ProcessingResponse {
    streamed(body.body, body.end_of_stream)
}

fn streamed(body: Vec<u8>, end_of_stream: bool) -> ProcessingResponse {
    reply(Response::RequestBody(BodyResponse {
        response: Some(stream_chunk(body, end_of_stream)),
    }))
}

fn stream_chunk(body: Vec<u8>, end_of_stream: bool) -> CommonResponse {
    let streamed = StreamedBodyResponse {
        body,
        end_of_stream,
        ..StreamedBodyResponse::default()
    };
    let mutation = BodyMutation {
        mutation: Some(Mutation::StreamedResponse(streamed)),
    };
    CommonResponse {
        body_mutation: Some(mutation),
        ..CommonResponse::default()
    }
}

/// A chunk that goes on as it came, where the gateway kept it.
pub fn unchanged_body() -> ProcessingResponse {
    reply(Response::RequestBody(BodyResponse { response: None }))
}

/// Trailers as they came.
pub fn request_trailers() -> ProcessingResponse {
    reply(Response::RequestTrailers(TrailersResponse {
        header_mutation: None,
    }))
}

/// Response headers as they came.
pub fn response_headers() -> ProcessingResponse {
    reply(Response::ResponseHeaders(HeadersResponse {
        response: None,
    }))
}

/// A response chunk as it came; echoed where the gateway handed it over.
pub fn response_body(body: HttpBody, full_duplex: bool) -> ProcessingResponse {
    let response = full_duplex.then(|| stream_chunk(body.body, body.end_of_stream));
    reply(Response::ResponseBody(BodyResponse { response }))
}

/// Response trailers as they came.
pub fn response_trailers() -> ProcessingResponse {
    reply(Response::ResponseTrailers(TrailersResponse {
        header_mutation: None,
    }))
}

/// The EPP's own answer to the client.
pub fn refuse(refusal: &Refusal) -> ProcessingResponse {
    let mut set = vec![option("content-type", "application/json".to_owned())];
    if let Some(reason) = refusal.dropped_reason {
        set.push(option(contract::HEADER_DROPPED_REASON, reason.to_owned()));
    }
    let body = openai::error::body(refusal.status, &refusal.message);
    reply(Response::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus {
            code: i32::from(refusal.status),
        }),
        headers: Some(HeaderMutation {
            set_headers: set,
            remove_headers: Vec::new(),
        }),
        body: body.to_string().into_bytes(),
        details: "epp_refused".to_owned(),
        ..ImmediateResponse::default()
    }))
}

fn reply(response: Response) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(response),
        ..ProcessingResponse::default()
    }
}
