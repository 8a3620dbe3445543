//! What went wrong -> the answer the client gets, in the form that clients of its API read.
//! PURE but for a log line.

use std::error::Error;
use std::io::ErrorKind;

use http::{HeaderValue, Response, StatusCode, header};

use super::body::{self, Body};
use super::reason::Refusal;
use crate::openai;
use crate::openai::api::Api;
use crate::telemetry::error_chain::chain;

/// An error answer of the sidecar itself.
pub fn answer(api: Option<Api>, status: StatusCode, message: &str) -> Response<Body> {
    let text = openai::error::body_for(api, status.as_u16(), message).to_string();
    let mut response = Response::new(body::full(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
        // What would have been understood (RFC 9110, 12.5.3).
        let identity = HeaderValue::from_static("identity");
        headers.insert(header::ACCEPT_ENCODING, identity);
    }
    response
}

/// The answer to a request that the sidecar refuses.
pub fn refusal(api: Option<Api>, reason: Refusal, message: &str) -> Response<Body> {
    answer(api, reason.status(), message)
}

/// The answer where the engine gave none.
pub fn no_engine(api: Option<Api>, error: &hyper_util::client::legacy::Error) -> Response<Body> {
    let (status, message) = if is_unreachable(error) {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the model server is not reachable",
        )
    } else {
        (
            StatusCode::BAD_GATEWAY,
            "the model server broke the connection",
        )
    };
    tracing::warn!(error = chain(error), %status, "request failed");
    answer(api, status, message)
}

/// True when no connection came about.
pub fn is_unreachable(error: &hyper_util::client::legacy::Error) -> bool {
    error.is_connect() || io_kind(error) == Some(ErrorKind::ConnectionRefused)
}

fn io_kind(error: &dyn Error) -> Option<ErrorKind> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}
