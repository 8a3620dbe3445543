//! `FULL_DUPLEX_STREAMED`: the gateway hands the body over and waits for whatever comes back:
//! hold, decide, release. PURE.
#![deny(clippy::disallowed_methods)]

use super::super::held::Held;
use super::super::reply::{self, Refusal, Routed};
use super::super::stream::Effects;
use super::super::wire::HttpBody;
use super::{Body, Waits};

/// What ended the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    LastChunk,
    Trailers,
}

#[derive(Debug)]
enum State {
    Collecting { body: Held },
    Deciding { body: Held, end: End },
    Answered,
}

#[derive(Debug)]
pub(in super::super) struct FullDuplex {
    state: State,
    /// The gateway said that this is its mode.
    told: bool,
}

impl FullDuplex {
    pub(in super::super) fn begin(told: bool) -> Self {
        Self {
            state: State::Collecting {
                body: Held::default(),
            },
            told,
        }
    }

    pub(super) fn body(&mut self, message: HttpBody, limit_bytes: usize, out: &mut Effects) {
        let State::Collecting { body } = &mut self.state else {
            // Envoy from 1.35 on can send an end twice:
            // <https://github.com/envoyproxy/envoy/issues/46237>
            return;
        };
        if body.len() + message.body.len() > limit_bytes {
            self.state = State::Answered;
            return out.refuse(&Refusal::too_large(limit_bytes));
        }
        body.push(message.body);
        if message.end_of_stream {
            self.decide(End::LastChunk, out);
        } else {
            // A body came before the headers were answered: no other mode does that.
            self.told = true;
        }
    }

    pub(super) fn trailers(&mut self, out: &mut Effects) {
        if matches!(self.state, State::Collecting { .. }) {
            self.decide(End::Trailers, out);
        }
    }

    fn decide(&mut self, end: End, out: &mut Effects) {
        if let State::Collecting { body } = &mut self.state {
            let body = std::mem::take(body);
            self.state = State::Deciding { body, end };
            out.decide();
        }
    }

    pub(super) fn question(&self) -> Option<Body<'_>> {
        match &self.state {
            State::Deciding { body, .. } => Some(Body::Whole(body)),
            State::Collecting { .. } | State::Answered => None,
        }
    }

    pub(super) fn decided(&mut self, routed: &Routed, out: &mut Effects) {
        let State::Deciding { body, end } = std::mem::replace(&mut self.state, State::Answered)
        else {
            return;
        };
        out.send(reply::routed_headers(routed));
        let mut pieces = body.into_pieces(reply::CHUNK_BYTES);
        if pieces.is_empty() && end == End::LastChunk {
            pieces.push(bytes::Bytes::new());
        }
        let last = pieces.len().saturating_sub(1);
        for (index, piece) in pieces.into_iter().enumerate() {
            let ends = index == last && end == End::LastChunk;
            out.send(reply::request_chunk(piece, ends));
        }
        if end == End::Trailers {
            out.trailers();
        }
    }

    pub(super) fn is_answered(&self) -> bool {
        matches!(self.state, State::Answered)
    }

    pub(super) fn held_bytes(&self) -> usize {
        match &self.state {
            State::Collecting { body } | State::Deciding { body, .. } => body.len(),
            State::Answered => 0,
        }
    }

    pub(super) fn waits(&self) -> Waits {
        match &self.state {
            State::Collecting { .. } if self.told => Waits::ForTheBodysEnd,
            State::Collecting { .. } => Waits::ForABody,
            State::Deciding { .. } | State::Answered => Waits::No,
        }
    }
}
