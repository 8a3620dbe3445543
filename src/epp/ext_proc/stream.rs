//! One ext_proc stream: messages of a gateway in, replies and questions out. PURE.
//!
//! ```text
//! Start -> headers -> Mode: hold -> decide -> release      (one type per body mode)
//!                  -> Passive: another filter's stream, nothing is changed
//! response phase, at any time: everything goes on as it came
//! ```
#![deny(clippy::disallowed_methods)]

use prost_types::value::Kind;

use super::head::{BodyUse, Head};
use super::held::Held;
use super::mode::{
    After, Body, BodyMode, Buffered, FullDuplex, HeadersOnly, Mode, Streamed, Waits,
};
use super::reply::{self, Refusal, Routed};
use super::wire::{Event, HttpBody, HttpHeaders, Metadata, ProcessingRequest, ProcessingResponse};
use crate::contract;
use crate::openai::api::Api;
use crate::scheduling::request::Allowed;

/// What the stream wants done, in order.
#[derive(Debug)]
pub enum Effect {
    /// Send this to the gateway.
    Send(ProcessingResponse),
    /// Answer [`Stream::question`] with [`Stream::decided`].
    Decide,
    /// This began a request whose decision did not see it: its endpoint will hold it.
    Learn(Held),
    /// The stream belongs to somebody else's filter: count it.
    Skipped,
    /// A refusal was sent: count it.
    Refused(reply::Reason),
}

/// Effects that were not carried out yet.
#[derive(Debug, Default)]
pub struct Effects {
    queue: std::collections::VecDeque<Effect>,
    /// The API that was asked: refusals have its form.
    api: Option<Api>,
}

impl Effects {
    /// The next one.
    pub fn pop(&mut self) -> Option<Effect> {
        self.queue.pop_front()
    }

    /// True when nothing is left to carry out.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn send(&mut self, reply: ProcessingResponse) {
        self.queue.push_back(Effect::Send(reply));
    }

    pub(super) fn decide(&mut self) {
        self.queue.push_back(Effect::Decide);
    }

    pub(super) fn learn(&mut self, body: Held) {
        self.queue.push_back(Effect::Learn(body));
    }

    pub(super) fn trailers(&mut self) {
        self.send(reply::request_trailers());
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        self.send(reply::refuse(refusal, self.api));
        self.queue.push_back(Effect::Refused(refusal.reason));
    }
}

/// What a decision may look at.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The request's head.
    pub head: &'a Head,
    /// Its body, as far as it is here.
    pub body: Body<'a>,
    /// Endpoints the gateway allows; `None` allows all.
    pub subset: Option<&'a [Allowed]>,
}

#[derive(Debug)]
enum Phase {
    /// No request headers yet; a stream may also begin in the response phase.
    Start,
    Active(Mode),
    /// Somebody else's filter: change nothing.
    Passive {
        hands_over: bool,
        ended: bool,
    },
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    managed: Option<BodyMode>,
    body_limit_bytes: usize,
    phase: Phase,
    head: Head,
    subset: Option<Vec<Allowed>>,
    /// What the first message said, whichever it was.
    request_mode: Option<BodyMode>,
    response_mode: BodyMode,
    response_ended: bool,
}

impl Stream {
    /// A stream that has not begun. `managed` is the mode of the filter the operator put
    /// into the gateway for this EPP: streams of another mode are answered with no change.
    pub fn new(managed: Option<BodyMode>, body_limit_bytes: usize) -> Self {
        Self {
            managed,
            body_limit_bytes,
            phase: Phase::Start,
            head: Head::default(),
            subset: None,
            request_mode: None,
            response_mode: BodyMode::None,
            response_ended: false,
        }
    }

    /// Takes one message.
    pub fn handle(&mut self, message: ProcessingRequest, out: &mut Effects) {
        let config = message.protocol_config;
        if let Some(config) = &config {
            self.request_mode = Some(BodyMode::of(config.request_body_mode));
            self.response_mode = BodyMode::of(config.response_body_mode);
        }
        if let Some(subset) = message.metadata_context.as_ref().and_then(subset) {
            self.subset = Some(subset);
        }
        match message.event {
            Some(Event::RequestHeaders(headers)) => {
                let told = config.map(|config| Told {
                    mode: BodyMode::of(config.request_body_mode),
                    does_not_wait: config.send_body_without_waiting_for_header_response,
                });
                self.request_headers(headers, told, out);
            }
            Some(Event::RequestBody(body)) => self.request_body(body, out),
            Some(Event::RequestTrailers(_)) => match &mut self.phase {
                Phase::Active(mode) => mode.trailers(out),
                Phase::Passive { ended, .. } => {
                    *ended = true;
                    out.trailers();
                }
                Phase::Start => out.trailers(),
            },
            Some(Event::ResponseHeaders(_)) => out.send(reply::response_headers()),
            Some(Event::ResponseBody(body)) => self.response_body(body, out),
            Some(Event::ResponseTrailers(_)) => out.send(reply::response_trailers()),
            None => {}
        }
    }

    fn request_headers(&mut self, message: HttpHeaders, told: Option<Told>, out: &mut Effects) {
        if !matches!(self.phase, Phase::Start) {
            return;
        }
        self.head = Head::new(message.headers);
        out.api = Api::of(self.head.path());
        let mode = told.map_or(BodyMode::FullDuplex, |told| told.mode);
        if told.is_some() && self.managed.is_some_and(|managed| managed != mode) {
            self.phase = Phase::Passive {
                hands_over: mode == BodyMode::FullDuplex,
                ended: message.end_of_stream,
            };
            out.queue.push_back(Effect::Skipped);
            return out.send(reply::unchanged_headers());
        }
        let body_use = match self.head.body_use() {
            _ if message.end_of_stream => BodyUse::Pass,
            // Of a gateway that does not say its mode, only a body that comes unasked tells
            // whether it must be handed back.
            BodyUse::Pass if told.is_none() => BodyUse::Read(None),
            body_use => body_use,
        };
        let refusal = match body_use {
            BodyUse::Encoded => Some(Refusal::encoded()),
            BodyUse::Read(_) => self.announced_too_large(),
            BodyUse::Pass => None,
        };
        if let Some(refusal) = refusal {
            self.phase = Phase::Active(Mode::HeadersOnly(HeadersOnly::over()));
            return out.refuse(&refusal);
        }
        let waits = told.is_none_or(|told| !told.does_not_wait);
        let begun = match (mode, body_use) {
            (_, BodyUse::Pass | BodyUse::Encoded) => {
                Mode::HeadersOnly(HeadersOnly::begin(after(mode, message.end_of_stream), out))
            }
            (BodyMode::None, _) => Mode::HeadersOnly(HeadersOnly::begin(After::AskForBody, out)),
            (BodyMode::Streamed, _) if waits => {
                Mode::HeadersOnly(HeadersOnly::begin(After::Learn, out))
            }
            (BodyMode::Streamed, _) => Mode::Streamed(Streamed::begin()),
            (BodyMode::Buffered, _) => Mode::Buffered(Buffered::begin(false, out)),
            (BodyMode::BufferedPartial, _) => Mode::Buffered(Buffered::begin(true, out)),
            (BodyMode::FullDuplex, _) => Mode::FullDuplex(FullDuplex::begin(told.is_some())),
        };
        self.phase = Phase::Active(begun);
    }

    fn announced_too_large(&self) -> Option<Refusal> {
        let announced = self.head.content_length()?;
        (announced > self.body_limit_bytes as u64)
            .then(|| Refusal::too_large(self.body_limit_bytes))
    }

    fn request_body(&mut self, message: HttpBody, out: &mut Effects) {
        match &mut self.phase {
            Phase::Active(mode) => mode.body(message, self.body_limit_bytes, out),
            Phase::Passive { ended, .. } if *ended => {}
            Phase::Passive { hands_over, ended } => {
                *ended = message.end_of_stream;
                if *hands_over {
                    let ends = message.end_of_stream;
                    for piece in reply::pieces(message.body, ends, reply::request_chunk) {
                        out.send(piece);
                    }
                } else {
                    out.send(reply::unchanged_body());
                }
            }
            // A filter that does not send headers: nothing can be decided.
            Phase::Start => {
                let hands_over = self.request_mode == Some(BodyMode::FullDuplex);
                self.phase = Phase::Passive {
                    hands_over,
                    ended: false,
                };
                self.request_body(message, out);
            }
        }
    }

    fn response_body(&mut self, message: HttpBody, out: &mut Effects) {
        if self.response_ended {
            return;
        }
        let ends = message.end_of_stream;
        self.response_ended = ends;
        if self.response_mode == BodyMode::FullDuplex {
            for piece in reply::pieces(message.body, ends, reply::response_chunk) {
                out.send(piece);
            }
        } else {
            out.send(reply::unchanged_response_body());
        }
    }

    /// What is to be decided; `None` while nothing is.
    pub fn question(&self) -> Option<Question<'_>> {
        let Phase::Active(mode) = &self.phase else {
            return None;
        };
        mode.question().map(|body| Question {
            head: &self.head,
            body,
            subset: self.subset.as_deref(),
        })
    }

    /// Takes the director's answer; ignored while nothing is asked.
    pub fn decided(&mut self, outcome: &Result<Routed, Refusal>, out: &mut Effects) {
        if let Phase::Active(mode) = &mut self.phase
            && mode.question().is_some()
        {
            mode.decided(outcome, out);
        }
    }

    /// Answers the request itself, unless it was answered; what is held of it is dropped.
    pub fn refuse(&mut self, refusal: &Refusal, out: &mut Effects) {
        match &mut self.phase {
            Phase::Active(mode) => mode.refuse(refusal, out),
            Phase::Start => {
                self.phase = Phase::Active(Mode::HeadersOnly(HeadersOnly::over()));
                out.refuse(refusal);
            }
            Phase::Passive { .. } => {}
        }
    }

    /// What the stream waits for.
    pub fn waits(&self) -> Waits {
        match &self.phase {
            Phase::Active(mode) => mode.waits(),
            Phase::Start | Phase::Passive { .. } => Waits::No,
        }
    }

    /// What [`Stream::waits`] says did not come in time.
    pub fn give_up(&mut self, out: &mut Effects) {
        if let Phase::Active(mode) = &mut self.phase {
            mode.give_up(out);
        }
    }

    /// Bytes of the body that are held for a decision.
    pub fn held_bytes(&self) -> usize {
        match &self.phase {
            Phase::Active(mode) => mode.held_bytes(),
            Phase::Start | Phase::Passive { .. } => 0,
        }
    }

    /// The request's head.
    pub fn head(&self) -> &Head {
        &self.head
    }
}

/// What the gateway said of itself.
#[derive(Clone, Copy, Debug)]
struct Told {
    mode: BodyMode,
    does_not_wait: bool,
}

/// What happens to a body that no decision waits for.
fn after(mode: BodyMode, ended: bool) -> After {
    match mode {
        _ if ended => After::Nothing,
        BodyMode::FullDuplex => After::Echo,
        BodyMode::None | BodyMode::Streamed | BodyMode::Buffered | BodyMode::BufferedPartial => {
            After::Unchanged
        }
    }
}

/// The gateway's subset hint: a list, or a comma-separated text. What cannot be read
/// allows nothing.
fn subset(metadata: &Metadata) -> Option<Vec<Allowed>> {
    let hint = metadata.filter_metadata.get(contract::METADATA_SUBSET)?;
    let value = hint.fields.get(contract::METADATA_SUBSET_KEY)?;
    Some(match value.kind.as_ref()? {
        Kind::StringValue(text) => text.split(',').filter_map(Allowed::parse).collect(),
        Kind::ListValue(list) => list
            .values
            .iter()
            .filter_map(|value| match &value.kind {
                Some(Kind::StringValue(text)) => Allowed::parse(text),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    })
}
