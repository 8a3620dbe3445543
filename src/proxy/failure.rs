//! What went wrong -> the answer the client gets, in the form OpenAI clients read. PURE but
//! for a log line.

use std::error::Error;
use std::io::ErrorKind;

use http::{HeaderValue, Response, StatusCode, header};

use super::body::{self, Body};
use crate::openai;

/// An error answer of the sidecar itself.
pub fn answer(status: StatusCode, message: &str) -> Response<Body> {
    let text = openai::error::body(status.as_u16(), message).to_string();
    let mut response = Response::new(body::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// The answer where the engine gave none.
pub fn no_engine(error: &hyper_util::client::legacy::Error) -> Response<Body> {
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
    answer(status, message)
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

/// An error and its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
