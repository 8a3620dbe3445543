//! Bodies: made of bytes, or read into bytes up to a bound. IO.

use std::convert::Infallible;

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};

/// A body of a request or response, streamed or whole.
pub type Body = BoxBody<Bytes, hyper::Error>;

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed()
}

/// Why a body was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It has more bytes than allowed.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// Most bytes allowed.
        limit: usize,
    },
    /// The connection broke.
    #[error("the body ended early")]
    Broken(#[from] hyper::Error),
}

/// Reads a body of at most `limit` bytes; trailers are dropped.
///
/// # Errors
/// When it is larger, or the connection breaks before its end.
pub async fn read(mut body: Incoming, limit: usize) -> Result<Bytes, ReadError> {
    let too_large = Err(ReadError::TooLarge { limit });
    // A declared length is believed when it is too large: nothing needs to be read.
    if body.size_hint().lower() > limit as u64 {
        return too_large;
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if first.len() + rest.len() + data.len() > limit {
            return too_large;
        }
        // Most bodies come in one piece, which is then not copied.
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() {
        first
    } else {
        rest.freeze()
    })
}
