//! The bytes of one gRPC stream -> the same bytes, as long as the process has room for the
//! message they belong to. IO only in what it wraps.
//!
//! The gRPC library keeps a message until it is complete, and believes the length its peer
//! announces: without this, peers that never finish could fill the memory in a place where
//! nobody counts.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use crate::telemetry::budget::{Budget, Lease};

/// Messages of up to this size need no room of their own: a gateway's chunks.
const FREE_BYTES: usize = 64 << 10;
/// In front of each message: one byte that says whether it is compressed, four of its length.
const PREFIX_BYTES: usize = 5;

/// A request body that takes bytes of a budget for each large message while it comes.
#[derive(Debug)]
pub struct Metered<B> {
    inner: B,
    budget: Budget,
    /// A larger message is refused by the gRPC library as soon as its length is known.
    largest_bytes: usize,
    frames: Frames,
    lease: Option<Lease>,
    /// No room was left for the message that has begun.
    over: bool,
}

/// Where in the sequence of messages a stream is.
#[derive(Debug, Default)]
struct Frames {
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// Bytes of the message that are still to come.
    missing: usize,
}

impl Frames {
    /// Follows the bytes; the largest message that is begun and not complete after them.
    fn follow(&mut self, mut data: &[u8]) -> usize {
        loop {
            let body = data.len().min(self.missing);
            data.advance(body);
            self.missing -= body;
            if data.is_empty() {
                return self.missing;
            }
            let more = data.len().min(PREFIX_BYTES - self.prefix_bytes);
            self.prefix[self.prefix_bytes..self.prefix_bytes + more].copy_from_slice(&data[..more]);
            self.prefix_bytes += more;
            data.advance(more);
            if self.prefix_bytes == PREFIX_BYTES {
                let [_, a, b, c, d] = self.prefix;
                self.missing = u32::from_be_bytes([a, b, c, d]) as usize;
                self.prefix_bytes = 0;
            }
            if data.is_empty() {
                return self.missing;
            }
        }
    }
}

impl<B> Metered<B> {
    /// Meters the body of one stream whose messages have at most so many bytes.
    pub fn new(inner: B, budget: Budget, largest_bytes: usize) -> Self {
        Self {
            inner,
            budget,
            largest_bytes,
            frames: Frames::default(),
            lease: None,
            over: false,
        }
    }

    fn take(&mut self, data: &[u8]) {
        let missing = self.frames.follow(data);
        if missing <= FREE_BYTES || missing > self.largest_bytes {
            self.lease = None;
        } else if self.lease.is_none() {
            self.lease = self.budget.try_take(missing);
            self.over = self.lease.is_none();
        }
    }
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // The bytes that brought the message's beginning went on: complete messages may stand
        // before it.
        if self.over {
            return Poll::Ready(Some(Err(Status::resource_exhausted(
                "too many request bytes are held at the moment",
            ))));
        }
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        polled.map(|frame| {
            let frame = frame?.map_err(|error| Status::from_error(error.into()));
            if let Some(data) = frame.as_ref().ok().and_then(Frame::data_ref) {
                self.take(data);
            }
            Some(frame)
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Vec<u8> {
        let mut all = vec![0];
        all.extend_from_slice(&(bytes as u32).to_be_bytes());
        all.resize(PREFIX_BYTES + bytes, 7);
        all
    }

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let all: Vec<u8> = [0, 3, 200, 1].into_iter().flat_map(message).collect();
        for size in 1..all.len() {
            let mut frames = Frames::default();
            for piece in all.chunks(size) {
                frames.follow(piece);
            }
            assert_eq!((frames.missing, frames.prefix_bytes), (0, 0), "{size}");
        }
    }

    #[test]
    fn a_message_that_never_ends_takes_room_and_gives_it_back() {
        let budget = Budget::new(1 << 20);
        let mut one = Metered::new((), budget.clone(), 1 << 20);
        let announced = message(700_000);
        one.take(&announced[..10]);
        assert!(!one.over);
        assert_eq!(budget.used(), 700_000 - 5);
        let mut other = Metered::new((), budget.clone(), 1 << 20);
        other.take(&announced[..10]);
        assert!(other.over, "no room for both");
        let mut small = Metered::new((), budget.clone(), 1 << 20);
        small.take(&message(60_000)[..10]);
        one.take(&announced[10..]);
        assert_eq!(budget.used(), 0);
        let mut gone = Metered::new((), budget.clone(), 1 << 20);
        gone.take(&announced[..10]);
        drop(gone);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_message_above_the_limit_is_left_to_the_limit() {
        let budget = Budget::new(1000);
        let mut large = Metered::new((), budget.clone(), 200_000);
        large.take(&message(200_006)[..10]);
        assert!(!large.over, "to come back later would not help");
        let mut other = Metered::new((), budget, 200_000);
        other.take(&message(200_000)[..10]);
        assert!(other.over);
    }
}
