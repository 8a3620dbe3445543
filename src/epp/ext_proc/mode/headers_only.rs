//! Decides on headers; the body goes on as it comes. PURE.
#![deny(clippy::disallowed_methods)]

use super::super::held::Held;
use super::super::reply::{self, Routed};
use super::super::stream::Effects;
use super::super::wire::HttpBody;
use super::{Body, BodyMode};

/// Most bytes of a passing body that are kept to learn its prefix from.
const LEARN_BYTES: usize = 64 << 10;

/// What happens to body messages once the headers are answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in super::super) enum After {
    /// None is expected.
    Nothing,
    /// Each is let go with an empty answer, where the gateway kept it.
    Unchanged,
    /// The same, and its beginning is remembered: the endpoint will hold that prefix.
    Learn,
    /// Each is given back.
    Echo,
    /// None is expected, unless the gateway lets us ask for the body: then it is decided anew.
    AskForBody,
}

#[derive(Debug)]
enum State {
    Deciding,
    Answered,
    DecidingAgain { body: Held, whole: bool },
    Passing { body: Held },
    Ended,
}

#[derive(Debug)]
pub(in super::super) struct HeadersOnly {
    after: After,
    state: State,
}

impl HeadersOnly {
    /// The headers came.
    pub(in super::super) fn begin(after: After, out: &mut Effects) -> Self {
        out.decide();
        Self {
            after,
            state: State::Deciding,
        }
    }

    /// A request that was answered by us: nothing more is said to it.
    pub(in super::super) fn over() -> Self {
        Self {
            after: After::Nothing,
            state: State::Ended,
        }
    }

    pub(super) fn body(&mut self, message: HttpBody, limit_bytes: usize, out: &mut Effects) {
        let last = message.end_of_stream;
        match (self.after, &mut self.state) {
            // Envoy from 1.35 on can send an end twice.
            (_, State::Ended) | (After::Nothing, _) => return,
            (After::AskForBody, State::Answered) if message.body.len() <= limit_bytes => {
                let mut body = Held::default();
                body.push(message.body);
                self.state = State::DecidingAgain { body, whole: last };
                return out.decide();
            }
            (After::Learn, State::Answered) => {
                let mut body = Held::default();
                body.push(message.body.slice(..message.body.len().min(LEARN_BYTES)));
                self.state = State::Passing { body };
                out.send(reply::unchanged_body());
            }
            (_, State::Passing { body }) => {
                let room = LEARN_BYTES - body.len();
                body.push(message.body.slice(..message.body.len().min(room)));
                out.send(reply::unchanged_body());
            }
            (After::Echo, _) => {
                for piece in reply::pieces(message.body, last, reply::request_chunk) {
                    out.send(piece);
                }
            }
            _ => out.send(reply::unchanged_body()),
        }
        if last {
            self.end(out);
        }
    }

    fn end(&mut self, out: &mut Effects) {
        if let State::Passing { body } = std::mem::replace(&mut self.state, State::Ended) {
            out.learn(body);
        }
    }

    pub(super) fn trailers(&mut self, out: &mut Effects) {
        if matches!(self.state, State::Ended) && self.after == After::Nothing {
            return;
        }
        self.end(out);
        out.trailers();
    }

    pub(super) fn question(&self) -> Option<Body<'_>> {
        match &self.state {
            State::Deciding => Some(Body::Unseen),
            State::DecidingAgain { body, whole: true } => Some(Body::Whole(body)),
            State::DecidingAgain { body, whole: false } => Some(Body::Cut(body)),
            State::Answered | State::Passing { .. } | State::Ended => None,
        }
    }

    pub(super) fn decided(&mut self, routed: &Routed, out: &mut Effects) {
        match self.state {
            State::Deciding => {
                let mut answer = reply::routed_headers(routed);
                if self.after == After::AskForBody {
                    answer.mode_override = Some(reply::send_body_as(BodyMode::BufferedPartial));
                }
                out.send(answer);
                self.state = State::Answered;
            }
            State::DecidingAgain { .. } => {
                out.send(reply::routed_body(routed));
                self.state = State::Ended;
            }
            State::Answered | State::Passing { .. } | State::Ended => {}
        }
    }

    pub(super) fn is_answered(&self) -> bool {
        !matches!(self.state, State::Deciding | State::DecidingAgain { .. })
    }
}
