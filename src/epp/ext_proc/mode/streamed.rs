//! `STREAMED` from a gateway that does not wait for the answer to the headers: what comes of
//! the body meanwhile is seen, then all of it is let go. PURE.
#![deny(clippy::disallowed_methods)]

use super::super::held::Held;
use super::super::reply::{self, Routed};
use super::super::stream::Effects;
use super::super::wire::HttpBody;
use super::{Body, Waits};

/// Most bytes waited for: a gateway stops to read from the client when its own buffer is
/// full, and would wait for us as we for it.
const HOLD_BYTES: usize = 64 << 10;

#[derive(Debug)]
enum State {
    /// Headers and so many chunks wait for their answers.
    Holding,
    Deciding {
        whole: bool,
    },
    Answered,
    Ended,
}

#[derive(Debug)]
pub(in super::super) struct Streamed {
    state: State,
    body: Held,
    /// Messages that wait for an answer after that to the headers.
    unanswered: usize,
    trailers: bool,
    ended: bool,
}

impl Streamed {
    pub(in super::super) fn begin() -> Self {
        Self {
            state: State::Holding,
            body: Held::default(),
            unanswered: 0,
            trailers: false,
            ended: false,
        }
    }

    pub(super) fn body(&mut self, message: HttpBody, out: &mut Effects) {
        if self.ended {
            return;
        }
        self.ended = message.end_of_stream;
        match self.state {
            State::Holding => {
                let room = HOLD_BYTES - self.body.len().min(HOLD_BYTES);
                let seen = message.body.len() <= room;
                self.body
                    .push(message.body.slice(..message.body.len().min(room)));
                self.unanswered += 1;
                if self.ended || !seen {
                    self.decide(self.ended && seen, out);
                }
            }
            State::Deciding { .. } => self.unanswered += 1,
            State::Answered => {
                out.send(reply::unchanged_body());
                if self.ended {
                    self.state = State::Ended;
                }
            }
            State::Ended => {}
        }
    }

    pub(super) fn trailers(&mut self, out: &mut Effects) {
        if matches!(self.state, State::Holding) {
            self.trailers = true;
            self.ended = true;
            return self.decide(true, out);
        }
        self.ended = true;
        out.trailers();
    }

    fn decide(&mut self, whole: bool, out: &mut Effects) {
        self.state = State::Deciding { whole };
        out.decide();
    }

    pub(super) fn question(&self) -> Option<Body<'_>> {
        match self.state {
            State::Deciding { whole: true } => Some(Body::Whole(&self.body)),
            State::Deciding { whole: false } if self.body.is_empty() => Some(Body::Unseen),
            State::Deciding { whole: false } => Some(Body::Cut(&self.body)),
            State::Holding | State::Answered | State::Ended => None,
        }
    }

    pub(super) fn decided(&mut self, routed: &Routed, out: &mut Effects) {
        out.send(reply::routed_headers(routed));
        for _ in 0..std::mem::take(&mut self.unanswered) {
            out.send(reply::unchanged_body());
        }
        if self.trailers {
            out.trailers();
        }
        self.body = Held::default();
        self.state = if self.ended {
            State::Ended
        } else {
            State::Answered
        };
    }

    pub(super) fn is_answered(&self) -> bool {
        matches!(self.state, State::Answered | State::Ended)
    }

    pub(super) fn waits(&self) -> Waits {
        match self.state {
            State::Holding => Waits::ForABody,
            _ => Waits::No,
        }
    }

    pub(super) fn give_up(&mut self, out: &mut Effects) {
        if matches!(self.state, State::Holding) {
            self.decide(false, out);
        }
    }
}
