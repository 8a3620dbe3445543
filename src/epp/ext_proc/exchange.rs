//! One stream of a gateway: its messages through the state machine and the director to its
//! replies. IO, and nothing else.
//!
//! There is no task and no queue of its own: the connection polls for the next reply, and
//! that reads the next message.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status, Streaming};

use super::held::Held;
use super::mode::{Body, BodyMode, Waits};
use super::reply::Refusal;
use super::stream::{Effect, Effects, Stream};
use super::wire::{ProcessingRequest, ProcessingResponse};
use crate::epp::director::{Decided, Director};
use crate::epp::metrics::EppMetrics;
use crate::telemetry::budget::{Budget, Lease};

/// How long headers wait for a body when the gateway does not say whether one comes; below
/// the 200 ms that Envoy waits for an answer by default.
const BODY_IN_DOUBT: Duration = Duration::from_millis(100);
/// How long a stream may be open before its first message.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

/// Bounds of streams.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Mode of the filter the operator manages for this EPP.
    pub managed: Option<BodyMode>,
    /// The largest body of one request.
    pub max_body_bytes: usize,
    /// From a request's headers to the end of its body.
    pub body_timeout: Duration,
    /// Bytes of all bodies held at one time.
    pub budget: Budget,
    /// Streams open at one time.
    pub max_streams: usize,
}

/// What all streams share; cheap to clone.
#[derive(Clone)]
pub struct Exchanges {
    director: Arc<Director>,
    metrics: EppMetrics,
    bounds: Arc<Bounds>,
    open: Arc<AtomicUsize>,
}

impl Exchanges {
    /// Streams decided by this director.
    pub fn new(director: Arc<Director>, metrics: EppMetrics, bounds: Bounds) -> Self {
        Self {
            director,
            metrics,
            bounds: bounds.into(),
            open: Arc::default(),
        }
    }

    /// The bounds.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Begins a stream.
    ///
    /// # Errors
    /// When too many are open: the gateway then goes on without the EPP, if it may.
    pub fn begin(&self, messages: Streaming<ProcessingRequest>) -> Result<Exchange, Status> {
        let open = Open::new(self);
        if open.before >= self.bounds.max_streams {
            self.metrics.stream_refused();
            return Err(Status::resource_exhausted("too many streams are open"));
        }
        let nothing = self.bounds.budget.try_take(0);
        Ok(Exchange {
            messages,
            stream: Stream::new(self.bounds.managed, self.bounds.max_body_bytes),
            effects: Effects::default(),
            lease: nothing.expect("a lease on nothing is always given"),
            decided: None,
            deadline: None,
            begun: false,
            over: false,
            shared: self.clone(),
            _open: open,
        })
    }
}

/// One stream.
pub struct Exchange {
    messages: Streaming<ProcessingRequest>,
    stream: Stream,
    effects: Effects,
    lease: Lease,
    /// Counts the request as in flight until the stream ends, for whatever reason.
    decided: Option<Decided>,
    /// When what the stream waits for must have come.
    deadline: Option<(Waits, Instant)>,
    /// A message came.
    begun: bool,
    /// The request was refused.
    over: bool,
    shared: Exchanges,
    _open: Open,
}

impl Exchange {
    /// The next reply; `None` when the gateway has ended the stream.
    pub async fn next(&mut self) -> Option<Result<ProcessingResponse, Status>> {
        loop {
            while let Some(effect) = self.effects.pop() {
                match effect {
                    Effect::Send(reply) => return Some(Ok(reply)),
                    Effect::Decide => self.decide().await,
                    Effect::Learn(body) => self.learn(&body).await,
                    Effect::Skipped => self.shared.metrics.skipped(),
                    Effect::Refused(reason) => {
                        self.shared.metrics.refused(reason);
                        self.over = true;
                    }
                }
            }
            // The request has its answer: a gateway ends the stream by itself, others may not.
            if self.over {
                return None;
            }
            match self.message().await {
                Next::Message(message) => {
                    self.begun = true;
                    self.stream.handle(*message, &mut self.effects);
                }
                Next::TimedOut => self.stream.give_up(&mut self.effects),
                Next::Ended => return None,
                Next::Failed(status) => {
                    if let Some(refusal) = self.refusal(&status) {
                        self.stream.refuse(&refusal, &mut self.effects);
                    }
                    // A request that has its decision keeps it, and loses only its stream.
                    if self.effects.is_empty() {
                        return Some(Err(status));
                    }
                }
            }
            self.count_held();
        }
    }

    async fn message(&mut self) -> Next {
        let waits = self.stream.waits();
        let limit = match waits {
            Waits::No if self.begun => return self.messages.message().await.into(),
            Waits::No => FIRST_MESSAGE,
            Waits::ForABody => BODY_IN_DOUBT,
            Waits::ForTheBodysEnd => self.shared.bounds.body_timeout,
        };
        // One deadline for the whole wait: each chunk does not begin a new one.
        let deadline = match self.deadline {
            Some((of, at)) if of == waits => at,
            _ => Instant::now() + limit,
        };
        self.deadline = Some((waits, deadline));
        match timeout_at(deadline, self.messages.message()).await {
            Ok(message) => message.into(),
            Err(_) if waits == Waits::No => {
                Next::Failed(Status::deadline_exceeded("no message came on this stream"))
            }
            Err(_) => Next::TimedOut,
        }
    }

    /// Bytes are here already when they are counted; a stream that finds no room for them
    /// gives them up.
    fn count_held(&mut self) {
        let held = self.stream.held_bytes();
        if held < self.lease.bytes() {
            self.lease.shrink_to(held);
        } else if !self.lease.grow_to(held) {
            self.stream
                .refuse(&Refusal::over_budget(), &mut self.effects);
            self.lease.shrink_to(0);
        }
    }

    /// What a client is told of a message that met a bound before it was whole. As the
    /// error of a stream it would reach the client as the gateway's own 500.
    fn refusal(&self, status: &Status) -> Option<Refusal> {
        match status.code() {
            Code::ResourceExhausted => Some(Refusal::over_budget()),
            // What the gRPC library says of a message above its limit.
            Code::OutOfRange => Some(Refusal::too_large(self.shared.bounds.max_body_bytes)),
            _ => None,
        }
    }

    async fn decide(&mut self) {
        let Some(question) = self.stream.question() else {
            return;
        };
        // A body that came in pieces is joined to be read.
        let joined = match question.body {
            Body::Whole(body) | Body::Cut(body) => body.joined_bytes(),
            Body::Unseen => 0,
        };
        let outcome = match self.shared.bounds.budget.try_take(joined) {
            Some(_copy) => self.shared.director.decide(&question).await,
            None => Err(Refusal::over_budget()),
        };
        let outcome = outcome.map(|(routed, decided)| {
            // An earlier decision on the same request no longer counts.
            self.decided = Some(decided);
            routed
        });
        self.stream.decided(&outcome, &mut self.effects);
        self.count_held();
    }

    async fn learn(&self, body: &Held) {
        if let Some(decided) = &self.decided {
            let head = self.stream.head();
            self.shared.director.learn(head, body, decided).await;
        }
    }
}

/// What came of the wait for a message.
enum Next {
    Message(Box<ProcessingRequest>),
    TimedOut,
    Ended,
    Failed(Status),
}

impl From<Result<Option<ProcessingRequest>, Status>> for Next {
    fn from(message: Result<Option<ProcessingRequest>, Status>) -> Self {
        match message {
            Ok(Some(message)) => Self::Message(Box::new(message)),
            Ok(None) => Self::Ended,
            Err(status) => Self::Failed(status),
        }
    }
}

/// Counts a stream as open until dropped.
struct Open {
    count: Arc<AtomicUsize>,
    metrics: EppMetrics,
    /// Streams that were open before.
    before: usize,
}

impl Open {
    fn new(of: &Exchanges) -> Self {
        of.metrics.stream_opened(1);
        Self {
            before: of.open.fetch_add(1, Ordering::Relaxed),
            count: Arc::clone(&of.open),
            metrics: of.metrics.clone(),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.metrics.stream_opened(-1);
    }
}
