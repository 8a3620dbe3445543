//! `BUFFERED` and `BUFFERED_PARTIAL`: the headers are answered first, then the gateway sends
//! the body in one message and waits for the decision. PURE.
#![deny(clippy::disallowed_methods)]

use super::super::held::Held;
use super::super::reply::{self, Refusal, Routed};
use super::super::stream::Effects;
use super::super::wire::HttpBody;
use super::Body;

#[derive(Debug)]
enum State {
    /// The headers were let go without a decision.
    Waiting,
    Deciding {
        body: Held,
        whole: bool,
    },
    Answered,
}

#[derive(Debug)]
pub(in super::super) struct Buffered {
    state: State,
    /// `BUFFERED_PARTIAL`: a message that is not the body's end is its beginning.
    partial: bool,
}

impl Buffered {
    pub(in super::super) fn begin(partial: bool, out: &mut Effects) -> Self {
        out.send(reply::strip_headers());
        Self {
            state: State::Waiting,
            partial,
        }
    }

    pub(super) fn body(&mut self, message: HttpBody, limit_bytes: usize, out: &mut Effects) {
        if !matches!(self.state, State::Waiting) {
            return;
        }
        let whole = message.end_of_stream || !self.partial;
        let mut chunk = message.body;
        if chunk.len() > limit_bytes {
            if whole {
                self.state = State::Answered;
                return out.refuse(&Refusal::too_large(limit_bytes));
            }
            chunk.truncate(limit_bytes);
        }
        let mut body = Held::default();
        body.push(chunk);
        self.state = State::Deciding { body, whole };
        out.decide();
    }

    pub(super) fn question(&self) -> Option<Body<'_>> {
        match &self.state {
            State::Deciding { body, whole: true } => Some(Body::Whole(body)),
            State::Deciding { body, whole: false } => Some(Body::Cut(body)),
            State::Waiting | State::Answered => None,
        }
    }

    pub(super) fn decided(&mut self, routed: &Routed, out: &mut Effects) {
        // The gateway still has the body: an answer of another kind, or none, would hold it.
        out.send(reply::routed_body(routed));
        self.state = State::Answered;
    }

    pub(super) fn is_answered(&self) -> bool {
        matches!(self.state, State::Answered)
    }
}
