//! Bodies: made of bytes, or read into bytes within a limit, a time and the process's budget.
//! IO.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use crate::telemetry::budget::{Budget, Lease};

/// A body of a request or response, streamed or whole.
pub type Body = BoxBody<Bytes, hyper::Error>;

/// The first allocation for a body that comes in pieces.
const FIRST_BYTES: usize = 16 << 10;

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
    #[error("the body is larger than {limit} bytes (--max-body-bytes)")]
    TooLarge {
        /// Most bytes allowed.
        limit: usize,
    },
    /// Other bodies fill the process's budget.
    #[error(
        "the bodies being read fill the budget of {total} bytes (--body-budget-bytes): try again"
    )]
    NoBudget {
        /// Bytes of the budget.
        total: usize,
    },
    /// It did not end in time.
    #[error("the body did not end within {after:?} (--body-timeout)")]
    TimedOut {
        /// The time it had.
        after: Duration,
    },
    /// The connection broke.
    #[error("the body ended early")]
    Broken(#[from] hyper::Error),
}

/// Bounds of one body.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Most bytes.
    pub limit: usize,
    /// Longest time from now to its end.
    pub timeout: Duration,
    /// Where its bytes are counted for as long as any of them is held.
    pub budget: Budget,
}

/// Reads a body to its end; trailers are dropped. The bytes, and every slice of them, keep
/// their lease on the budget.
///
/// # Errors
/// When one of the bounds bites, or the connection breaks before the end.
pub async fn read(body: Incoming, bounds: &Bounds) -> Result<Bytes, ReadError> {
    // A declared length is believed when it is too large: nothing needs to be read.
    if body.size_hint().lower() > bounds.limit as u64 {
        let limit = bounds.limit;
        return Err(ReadError::TooLarge { limit });
    }
    let after = bounds.timeout;
    tokio::time::timeout(after, collect(body, bounds))
        .await
        .unwrap_or(Err(ReadError::TimedOut { after }))
}

async fn collect(mut body: Incoming, bounds: &Bounds) -> Result<Bytes, ReadError> {
    let no_budget = || ReadError::NoBudget {
        total: bounds.budget.total(),
    };
    let lease = bounds.budget.try_take(0).ok_or_else(no_budget)?;
    let declared = body.size_hint().exact().map(|bytes| bytes as usize);
    let mut held = Held {
        bytes: Vec::new(),
        lease,
    };
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        // Most bodies come in one piece, which is then not copied.
        if declared == Some(data.len()) {
            let lease = bounds.budget.try_take(data.len()).ok_or_else(no_budget)?;
            return Ok(Bytes::from_owner(Held { bytes: data, lease }));
        }
        let bytes = held.bytes.len() + data.len();
        if bytes > bounds.limit {
            let limit = bounds.limit;
            return Err(ReadError::TooLarge { limit });
        }
        // Only what has come is leased: who announces much and sends little holds little.
        if bytes > held.bytes.capacity() {
            let most = declared.unwrap_or(bounds.limit).max(bytes);
            let capacity = bytes
                .max(held.bytes.capacity() * 2)
                .max(FIRST_BYTES)
                .min(most);
            if !held.lease.grow_to(capacity) {
                return Err(no_budget());
            }
            held.bytes.reserve_exact(capacity - held.bytes.len());
        }
        held.bytes.extend_from_slice(&data);
    }
    Ok(Bytes::from_owner(held))
}

/// Bytes and the lease on them.
struct Held<T> {
    bytes: T,
    /// Also what has been leased while the bytes were still growing.
    lease: Lease,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// An edited text: slices of the text it was made from, and what was put between them. Cloning
/// and sending it copies nothing of the original.
#[derive(Clone, Debug, Default)]
pub struct Edited(Vec<Bytes>);

impl Edited {
    /// The pieces that `write` gives, most of which are slices of `original`.
    pub fn of(original: &Bytes, write: impl FnOnce(&mut dyn FnMut(&[u8]))) -> Self {
        let mut pieces = Pieces {
            original,
            done: Vec::new(),
            own: Vec::new(),
        };
        write(&mut |piece| pieces.push(piece));
        pieces.flush();
        Self(pieces.done)
    }
}

impl From<Bytes> for Edited {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}

impl From<Edited> for Body {
    fn from(edited: Edited) -> Self {
        Sending(edited.0.into())
            .map_err(|never: Infallible| match never {})
            .boxed()
    }
}

/// Sorts what is written into slices of the original and the rest.
struct Pieces<'a> {
    original: &'a Bytes,
    done: Vec<Bytes>,
    own: Vec<u8>,
}

/// Shorter slices are copied: a slice costs more than that.
const SLICE_BYTES: usize = 256;

impl Pieces<'_> {
    fn push(&mut self, piece: &[u8]) {
        let all = self.original.as_ptr_range();
        let inside = all.start <= piece.as_ptr() && piece.as_ptr_range().end <= all.end;
        if inside && piece.len() >= SLICE_BYTES {
            self.flush();
            self.done.push(self.original.slice_ref(piece));
        } else {
            self.own.extend_from_slice(piece);
        }
    }

    fn flush(&mut self) {
        if !self.own.is_empty() {
            self.done.push(std::mem::take(&mut self.own).into());
        }
    }
}

/// An [`Edited`] on its way, its length known.
struct Sending(VecDeque<Bytes>);

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|bytes| bytes.len() as u64).sum())
    }
}

/// A body that keeps something until it has been sent or given up.
pub fn keeping<T: Send + Sync + Unpin + 'static>(body: Body, kept: T) -> Body {
    Keeping { body, _kept: kept }.boxed()
}

struct Keeping<T> {
    body: Body,
    /// Only there to be dropped with the body.
    _kept: T,
}

impl<T: Unpin> HttpBody for Keeping<T> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edited_text_shares_the_original_s_bytes() {
        let original = Bytes::from("x".repeat(1000));
        let edited = Edited::of(&original, |piece| {
            piece(&original[..500]);
            piece(b"<new>");
            piece(&original[..3]);
            piece(&original[500..]);
        });
        let own: usize = edited
            .0
            .iter()
            .filter(|piece| !(original.as_ptr_range().contains(&piece.as_ptr())))
            .map(Bytes::len)
            .sum();
        assert_eq!((own, edited.0.len()), (8, 3));
        let whole = edited.0.concat();
        assert_eq!(
            whole,
            [&original[..500], b"<new>xxx", &original[500..]].concat()
        );
    }
}
