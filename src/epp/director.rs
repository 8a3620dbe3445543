//! One request, from what its stream holds to where it goes: read -> gather what is known
//! -> schedule -> count. IO-free but for the tokens it may ask an engine for; takes no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;

use super::datastore::{Datastore, Entry, InFlight, Snapshot};
use super::decisions::{Considered, Decisions, Record};
use super::ext_proc::head::{BodyUse, Head};
use super::ext_proc::held::Held;
use super::ext_proc::mode::Body;
use super::ext_proc::reply::{Refusal, Routed};
use super::ext_proc::stream::Question;
use super::knowledge::{Knowledge, PromptBlocks};
use super::metrics::EppMetrics;
use super::session_key::SessionKeys;
use crate::kv::tokenize::CallerThread;
use crate::openai::api::Api;
use crate::openai::request::{NotOneTransfer, Request};
use crate::scheduling::decision::NoEndpoint;
use crate::scheduling::endpoint::{Candidate, Role};
use crate::scheduling::{Decision, Pipeline, RequestFacts, Scratch};

/// How often a decision is made anew because another request was faster. Each round some
/// request gets its place, so a few are enough to spread a burst.
const ROUNDS: usize = 4;

/// What this process is told apart by.
#[derive(Debug)]
pub struct Names {
    /// Keys of session names.
    pub session_keys: SessionKeys,
    /// In front of the ids of requests that come without one.
    pub id_prefix: String,
    /// Where the turns among equal endpoints begin: another place in each replica.
    pub first_turn: u64,
}

/// Decides for all streams; shared by them.
pub struct Director {
    pipeline: Arc<Pipeline>,
    datastore: Datastore,
    knowledge: Knowledge,
    /// Where decisions are kept for people to look at; `None` keeps none.
    decisions: Option<Decisions>,
    metrics: EppMetrics,
    session_keys: SessionKeys,
    /// Whose turn it is among equals, and what random pickers draw from.
    turns: AtomicU64,
    /// Ids for requests that come without; unique with the process's own prefix.
    ids: AtomicUsize,
    id_prefix: String,
}

/// A decision that was made: counts the request as in flight until dropped.
#[derive(Debug)]
pub struct Decided {
    decision: Decision,
    _in_flight: InFlight,
}

/// A request, read.
struct Read {
    request: RequestFacts,
    prompt: PromptRead,
}

/// What the body of a request says.
struct PromptRead {
    model: String,
    blocks: PromptBlocks,
    /// Whether one transfer of KV cache can serve the request, or why not.
    one_transfer: Result<(), NotOneTransfer>,
}

impl PromptRead {
    fn none(reason: &'static str) -> Self {
        Self {
            model: String::new(),
            blocks: PromptBlocks::none(reason),
            one_transfer: Err(NotOneTransfer::NotGenerating),
        }
    }
}

/// Bodies from this size on are read on a thread of their own, beside those that answer the
/// gateway.
const HEAVY_BYTES: usize = 256 << 10;

impl Director {
    /// A director over these endpoints.
    pub fn new(
        pipeline: Arc<Pipeline>,
        datastore: Datastore,
        knowledge: Knowledge,
        decisions: Option<Decisions>,
        metrics: EppMetrics,
        names: Names,
    ) -> Arc<Self> {
        let Names {
            session_keys,
            id_prefix,
            first_turn,
        } = names;
        Arc::new(Self {
            pipeline,
            datastore,
            knowledge,
            decisions,
            metrics,
            session_keys,
            turns: AtomicU64::new(first_turn),
            ids: AtomicUsize::new(0),
            id_prefix,
        })
    }

    /// Decides one request. What is returned beside the answer counts it as in flight until
    /// it is dropped; it is taken before this returns, so the next decision sees it.
    ///
    /// # Errors
    /// The answer for the client, when no endpoint can serve it.
    pub async fn decide(
        self: &Arc<Self>,
        question: &Question<'_>,
    ) -> Result<(Routed, Decided), Refusal> {
        let started = Instant::now();
        let read = self.read(question).await;
        let result = self.route(question.head, read);
        let status = result
            .as_ref()
            .map_or_else(|refusal| refusal.status, |_| 200);
        self.metrics.decided(started.elapsed(), status);
        result
    }

    /// Remembers that the endpoint of a decision will hold a prompt which began to pass after
    /// it was made.
    pub async fn learn(self: &Arc<Self>, head: &Head, body: &Held, decided: &Decided) {
        let question = Question {
            head,
            body: Body::Cut(body),
            subset: None,
        };
        let mut read = self.read(&question).await;
        let endpoints = self.datastore.snapshot();
        let (chosen, blocks) = (&decided.decision, &mut read.prompt.blocks);
        self.knowledge
            .chosen(chosen, &endpoints, blocks, None, Instant::now());
    }

    /// Nothing is awaited here: what the decision sees is what there is now.
    fn route(&self, head: &Head, read: Read) -> Result<(Routed, Decided), Refusal> {
        let Read {
            request,
            mut prompt,
        } = read;
        let endpoints = self.datastore.snapshot();
        let session = request.session;
        let candidates =
            self.knowledge
                .candidates(&endpoints, &mut prompt.blocks, session, Instant::now());
        let mut considered = Considered {
            pipeline: Arc::clone(&self.pipeline),
            request,
            candidates,
            turn: self.turns.fetch_add(1, Ordering::Relaxed),
        };
        let decided = choose(&endpoints, &mut considered);
        let new_id = head.request_id().is_none().then(|| self.new_id());
        let id = head.request_id().or(new_id.as_deref()).unwrap_or_default();
        if let Ok((decision, _)) = &decided {
            tracing::debug!(
                request_id = id,
                decode = %decision.decode,
                prefill = decision.prefill.map(tracing::field::display),
                not_one_transfer = prompt.one_transfer.err().map(NotOneTransfer::label),
                table = considered.table(),
                "decided"
            );
        }
        if let Some(decisions) = &self.decisions {
            decisions.keep(Record {
                at_unix_ms: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_millis() as u64),
                request_id: id.to_owned(),
                model: prompt.model,
                tokens_from: prompt.blocks.tokens_from,
                considered,
                outcome: match &decided {
                    Ok((decision, _)) => Ok(*decision),
                    Err(error) => Err(error.to_string()),
                },
            });
        }
        let (decision, in_flight) = decided.map_err(Refusal::no_endpoint)?;
        self.metrics.chosen(&decision);
        let now = Instant::now();
        self.knowledge
            .chosen(&decision, &endpoints, &mut prompt.blocks, session, now);
        let routed = Routed {
            destination: decision.decode.to_string(),
            prefiller: decision.prefill.map(|endpoint| endpoint.to_string()),
            new_request_id: new_id,
        };
        let decided = Decided {
            decision,
            _in_flight: in_flight,
        };
        Ok((routed, decided))
    }

    /// What the decision depends on. Nothing of it is refused: the engine judges.
    async fn read(self: &Arc<Self>, question: &Question<'_>) -> Read {
        let head = question.head;
        let affinity = self.pipeline.session_affinity();
        let session = affinity.and_then(|affinity| head.session(&affinity.headers));
        let mut request = RequestFacts {
            session: session.map(|name| self.session_keys.of(name)),
            subset: question.subset.map(<[_]>::to_vec),
            ..RequestFacts::default()
        };
        let prompt = self.read_body(head, question.body).await;
        request.prompt_chars = prompt.blocks.chars;
        request.prompt_tokens = prompt.blocks.tokens.as_ref().map(|tokens| tokens.len());
        request.one_transfer = prompt.one_transfer.is_ok();
        Read { request, prompt }
    }

    async fn read_body(self: &Arc<Self>, head: &Head, body: Body<'_>) -> PromptRead {
        let BodyUse::Read(api) = head.body_use() else {
            return PromptRead::none("no-prompt");
        };
        let (body, whole) = match body {
            Body::Whole(body) => (body.contiguous(), true),
            Body::Cut(body) => (body.contiguous(), false),
            Body::Unseen => return PromptRead::none("no-body"),
        };
        if body.len() < HEAVY_BYTES {
            let caller = CallerThread::Async;
            return self.read_prompt(api, &body, whole, caller).await;
        }
        let (this, runtime) = (Arc::clone(self), Handle::current());
        let read = tokio::task::spawn_blocking(move || {
            let caller = CallerThread::Blocking;
            runtime.block_on(this.read_prompt(api, &body, whole, caller))
        });
        read.await
            .unwrap_or_else(|_| PromptRead::none("reading-failed"))
    }

    async fn read_prompt(
        &self,
        api: Option<Api>,
        body: &[u8],
        whole: bool,
        caller: CallerThread,
    ) -> PromptRead {
        let request = Request::read(api, body, whole);
        let model = request.model().unwrap_or_default();
        let wants_tokens = self.knowledge.tokenizers.is_some();
        let engine = wants_tokens.then(|| self.any_engine()).flatten();
        let blocks = self
            .knowledge
            .prompt(&request, body, &model, engine, caller)
            .await;
        PromptRead {
            blocks,
            one_transfer: request.one_transfer(),
            model: model.into_owned(),
        }
    }

    /// A ready engine that can be asked about tokens, in turn.
    fn any_engine(&self) -> Option<std::net::SocketAddr> {
        let endpoints = self.datastore.snapshot();
        let ready: Vec<_> = endpoints
            .iter()
            .filter(|entry| entry.endpoint.ready && entry.endpoint.role.serves(Role::Decode))
            .collect();
        let turn = self.turns.load(Ordering::Relaxed) as usize;
        let entry = ready.get(turn % ready.len().max(1))?;
        Some(entry.endpoint.id.0)
    }

    fn new_id(&self) -> String {
        let count = self.ids.fetch_add(1, Ordering::Relaxed);
        format!("{}-{count:x}", self.id_prefix)
    }
}

/// Schedules, and counts the request at the endpoints before anyone else decides by the
/// same numbers; decides anew when somebody did.
fn choose(
    endpoints: &Snapshot,
    considered: &mut Considered,
) -> Result<(Decision, InFlight), NoEndpoint> {
    let mut scratch = Scratch::default();
    for _ in 1..ROUNDS {
        let decision = considered.decide(&mut scratch)?;
        let seen = decision.endpoints().filter_map(|id| {
            let mut candidates = considered.candidates.iter();
            let candidate = candidates.find(|candidate| candidate.id == id)?;
            Some((id, candidate.signals.in_flight))
        });
        if let Some(guard) = Datastore::track(endpoints, seen) {
            return Ok((decision, guard));
        }
        refresh(&mut considered.candidates, endpoints);
    }
    let decision = considered.decide(&mut scratch)?;
    let guard = Datastore::track_anyway(endpoints, decision.endpoints());
    Ok((decision, guard))
}

/// Brings the counts of the candidates up to date.
fn refresh(candidates: &mut [Candidate], endpoints: &[Entry]) {
    for candidate in candidates {
        if let Some(entry) = endpoints
            .iter()
            .find(|entry| entry.endpoint.id == candidate.id)
        {
            candidate.signals.in_flight = entry.in_flight();
        }
    }
}
