//! Body modes of ext_proc: one type each, which owns what it holds. PURE.
//!
//! | Mode | Headers are answered | The decision sees | It is told in |
//! |---|---|---|---|
//! | `NONE` | at once | headers; the body too where the gateway lets us change its mode | the answer to the headers, and again in that to the body |
//! | `STREAMED` | at once | headers; the part of the body that comes unasked, where the gateway sends it without waiting | the answer to the headers |
//! | `BUFFERED`, `BUFFERED_PARTIAL` | at once, with no decision | the body, whole or cut | the answer to the body |
//! | `FULL_DUPLEX_STREAMED` | with the decision | the body | the answer to the headers; the body follows |
#![deny(clippy::disallowed_methods)]

mod buffered;
mod full_duplex;
mod headers_only;
mod streamed;

pub(super) use buffered::Buffered;
pub(super) use full_duplex::FullDuplex;
pub(super) use headers_only::{After, HeadersOnly};
pub(super) use streamed::Streamed;

use super::held::Held;
use super::reply::{Refusal, Routed};
use super::stream::Effects;
use super::wire::HttpBody;

/// How a gateway sends bodies.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum BodyMode {
    /// Headers only.
    None,
    /// Chunks, each answered by itself.
    Streamed,
    /// The whole body in one message, after the headers were answered.
    Buffered,
    /// The same, cut at the gateway's limit.
    BufferedPartial,
    /// Chunks; headers and body are answered when the EPP is ready.
    FullDuplex,
}

impl BodyMode {
    /// Every mode with Envoy's name and number for it.
    pub const ALL: [(Self, &'static str, i32); 5] = [
        (Self::None, "NONE", 0),
        (Self::Streamed, "STREAMED", 1),
        (Self::Buffered, "BUFFERED", 2),
        (Self::BufferedPartial, "BUFFERED_PARTIAL", 3),
        (Self::FullDuplex, "FULL_DUPLEX_STREAMED", 4),
    ];

    /// Reads Envoy's name of the mode.
    pub fn parse(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find_map(|(mode, known, _)| (known == name).then_some(mode))
    }

    /// Reads Envoy's number; an unknown one is a mode of which nothing is expected.
    pub(super) fn of(number: i32) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find_map(|(mode, _, known)| (known == number).then_some(mode))
            .unwrap_or(Self::None)
    }

    /// Envoy's number.
    pub fn number(self) -> i32 {
        let mut all = Self::ALL.into_iter();
        all.find_map(|(mode, _, number)| (mode == self).then_some(number))
            .expect("every mode is in the table")
    }
}

/// The body that a decision may look at.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// All of it.
    Whole(&'a Held),
    /// Its beginning.
    Cut(&'a Held),
    /// Nothing: it does not matter, or does not come before the decision.
    Unseen,
}

/// One request in one of the modes.
#[derive(Debug)]
pub(super) enum Mode {
    HeadersOnly(HeadersOnly),
    Streamed(Streamed),
    Buffered(Buffered),
    FullDuplex(FullDuplex),
}

impl Mode {
    /// A message of the request's body.
    pub(super) fn body(&mut self, message: HttpBody, limit_bytes: usize, out: &mut Effects) {
        match self {
            Self::HeadersOnly(mode) => mode.body(message, limit_bytes, out),
            Self::Streamed(mode) => mode.body(message, out),
            Self::Buffered(mode) => mode.body(message, limit_bytes, out),
            Self::FullDuplex(mode) => mode.body(message, limit_bytes, out),
        }
    }

    /// The request's trailers: its end.
    pub(super) fn trailers(&mut self, out: &mut Effects) {
        match self {
            Self::HeadersOnly(mode) => mode.trailers(out),
            Self::Streamed(mode) => mode.trailers(out),
            Self::Buffered(_) => out.trailers(),
            Self::FullDuplex(mode) => mode.trailers(out),
        }
    }

    /// The body to decide on; `None` where no decision is asked for.
    pub(super) fn question(&self) -> Option<Body<'_>> {
        match self {
            Self::HeadersOnly(mode) => mode.question(),
            Self::Streamed(mode) => mode.question(),
            Self::Buffered(mode) => mode.question(),
            Self::FullDuplex(mode) => mode.question(),
        }
    }

    /// Takes the decision.
    pub(super) fn decided(&mut self, outcome: &Result<Routed, Refusal>, out: &mut Effects) {
        let routed = match outcome {
            Ok(routed) => routed,
            Err(refusal) => return self.refuse(refusal, out),
        };
        match self {
            Self::HeadersOnly(mode) => mode.decided(routed, out),
            Self::Streamed(mode) => mode.decided(routed, out),
            Self::Buffered(mode) => mode.decided(routed, out),
            Self::FullDuplex(mode) => mode.decided(routed, out),
        }
    }

    /// Answers the request itself, unless it was answered: whatever is held is dropped.
    pub(super) fn refuse(&mut self, refusal: &Refusal, out: &mut Effects) {
        if self.is_answered() {
            return;
        }
        out.refuse(refusal);
        *self = Self::HeadersOnly(HeadersOnly::over());
    }

    /// True once the decision has been told.
    pub(super) fn is_answered(&self) -> bool {
        match self {
            Self::HeadersOnly(mode) => mode.is_answered(),
            Self::Streamed(mode) => mode.is_answered(),
            Self::Buffered(mode) => mode.is_answered(),
            Self::FullDuplex(mode) => mode.is_answered(),
        }
    }

    /// Bytes of the body held for a decision.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::FullDuplex(mode) => mode.held_bytes(),
            Self::HeadersOnly(_) | Self::Streamed(_) | Self::Buffered(_) => match self.question() {
                Some(Body::Whole(body) | Body::Cut(body)) => body.len(),
                Some(Body::Unseen) | None => 0,
            },
        }
    }

    /// What the stream waits for before it can decide.
    pub(super) fn waits(&self) -> Waits {
        match self {
            Self::HeadersOnly(_) => Waits::No,
            Self::Streamed(mode) => mode.waits(),
            // The gateway holds that body, and bounds it.
            Self::Buffered(_) => Waits::No,
            Self::FullDuplex(mode) => mode.waits(),
        }
    }

    /// What was waited for did not come in time.
    pub(super) fn give_up(&mut self, out: &mut Effects) {
        match self {
            Self::Streamed(mode) => mode.give_up(out),
            Self::FullDuplex(mode) if mode.waits() == Waits::ForABody => {
                // A body that comes later was held back for the answer to the headers, and
                // goes on as it came.
                *self = Self::HeadersOnly(HeadersOnly::begin(After::Unchanged, out));
            }
            Self::FullDuplex(_) => self.refuse(&Refusal::body_timeout(), out),
            Self::HeadersOnly(_) | Self::Buffered(_) => {}
        }
    }
}

/// What a stream waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Waits {
    /// Nothing that is held back for it.
    No,
    /// The gateway did not say whether a body comes before the headers are answered: a short
    /// wait, then the headers alone decide.
    ForABody,
    /// The rest of a body that the gateway sends as the client does.
    ForTheBodysEnd,
}
