//! One request, from what its stream holds to where it goes: read -> gather what is known
//! -> schedule -> count. IO-free but for the tokens it may ask an engine for; takes no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::datastore::{Datastore, Entry, InFlight, Snapshot};
use super::decisions::{Decisions, Record};
use super::knowledge::{Knowledge, PromptBlocks};
use super::ext_proc::head::{BodyUse, Head};
use super::ext_proc::held::Held;
use super::ext_proc::mode::Body;
use super::ext_proc::reply::{Refusal, Routed};
use super::ext_proc::stream::Question;
use super::metrics::EppMetrics;
use super::session_key::SessionKeys;
use crate::openai::request::Request;
use crate::scheduling::config::Settings;
use crate::scheduling::decision::NoEndpoint;
use crate::scheduling::endpoint::{Candidate, Role};
use crate::scheduling::{Decision, request, schedule};

/// How often a decision is made anew because another request was faster. Each round some
/// request gets its place, so a few are enough to spread a burst.
const ROUNDS: usize = 4;

/// Decides for all streams; shared by them.
pub struct Director {
    settings: Settings,
    datastore: Datastore,
    knowledge: Knowledge,
    decisions: Decisions,
    metrics: EppMetrics,
    session_keys: SessionKeys,
    /// Whose turn it is among equals.
    rotation: AtomicUsize,
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
    request: request::Request,
    model: String,
    prompt: PromptBlocks,
}

impl Director {
    /// A director over these endpoints.
    pub fn new(
        settings: Settings,
        datastore: Datastore,
        knowledge: Knowledge,
        decisions: Decisions,
        metrics: EppMetrics,
        session_keys: SessionKeys,
        id_prefix: String,
    ) -> Arc<Self> {
        let (rotation, ids) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self {
            settings,
            datastore,
            knowledge,
            decisions,
            metrics,
            session_keys,
            rotation,
            ids,
            id_prefix,
        })
    }

    /// Decides one request. What is returned beside the answer counts it as in flight until
    /// it is dropped; it is taken before this returns, so the next decision sees it.
    ///
    /// # Errors
    /// The answer for the client, when no endpoint can serve it.
    pub async fn decide(&self, question: &Question<'_>) -> Result<(Routed, Decided), Refusal> {
        let started = Instant::now();
        let mut read = self.read(question).await;
        let result = self.route(question.head, &mut read);
        let status = result.as_ref().map_or_else(|refusal| refusal.status, |_| 200);
        self.metrics.decided(started.elapsed(), status);
        result
    }

    /// Remembers that the endpoint of a decision will hold a prompt which began to pass after
    /// it was made.
    pub async fn learn(&self, head: &Head, body: &Held, decided: &Decided) {
        let question = Question {
            head,
            body: Body::Cut(body),
            subset: None,
        };
        let mut read = self.read(&question).await;
        let endpoints = self.datastore.snapshot();
        let chosen = &decided.decision;
        self.knowledge
            .chosen(chosen, &endpoints, &mut read.prompt, None, Instant::now());
    }

    /// Nothing is awaited here: what the decision sees is what there is now.
    fn route(&self, head: &Head, read: &mut Read) -> Result<(Routed, Decided), Refusal> {
        let endpoints = self.datastore.snapshot();
        let decided = self.choose(&endpoints, read);
        let new_id = head.request_id().is_none().then(|| self.new_id());
        let id = head.request_id().or(new_id.as_deref()).unwrap_or_default();
        let outcome = match &decided {
            Ok((decision, _)) => Ok(decision.clone()),
            Err(error) => Err(error.to_string()),
        };
        self.decisions.keep(Record {
            at_unix_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as u64),
            request_id: id.to_owned(),
            model: std::mem::take(&mut read.model),
            session: read.request.session,
            prompt_chars: read.prompt.chars,
            prompt_tokens: read.prompt.tokens.as_ref().map(|tokens| tokens.len()),
            tokens_from: read.prompt.tokens_from,
            outcome,
        });
        let (decision, in_flight) = decided.map_err(Refusal::no_endpoint)?;
        self.metrics.chosen(&decision);
        tracing::debug!(
            request_id = id,
            decode = %decision.decode,
            prefill = decision.prefill.map(tracing::field::display),
            prefill_because = decision.prefill_because.as_str(),
            "decided"
        );
        let session = read.request.session;
        let now = Instant::now();
        self.knowledge
            .chosen(&decision, &endpoints, &mut read.prompt, session, now);
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

    /// Schedules, and counts the request at the endpoints before anyone else decides by the
    /// same numbers; decides anew when somebody did.
    fn choose(
        &self,
        endpoints: &Snapshot,
        read: &mut Read,
    ) -> Result<(Decision, InFlight), NoEndpoint> {
        let turn = self.rotation.fetch_add(1, Ordering::Relaxed);
        let mut candidates = self.knowledge.candidates(
            endpoints,
            &mut read.prompt,
            read.request.session,
            Instant::now(),
        );
        for _ in 1..ROUNDS {
            let decision = schedule(&self.settings, &read.request, &candidates, turn)?;
            let seen: Vec<_> = decision
                .endpoints()
                .filter_map(|id| {
                    let candidate = candidates.iter().find(|candidate| candidate.id == id)?;
                    Some((id, candidate.in_flight))
                })
                .collect();
            if let Some(guard) = Datastore::track(endpoints, seen) {
                return Ok((decision, guard));
            }
            refresh(&mut candidates, endpoints);
        }
        let decision = schedule(&self.settings, &read.request, &candidates, turn)?;
        let guard = Datastore::track_anyway(endpoints, decision.endpoints());
        Ok((decision, guard))
    }

    /// What the decision depends on. Nothing of it is refused: the engine judges.
    async fn read(&self, question: &Question<'_>) -> Read {
        let head = question.head;
        let session = head
            .session(&self.settings.session.headers)
            .filter(|_| self.settings.uses_sessions())
            .map(|name| self.session_keys.of(name));
        let mut read = Read {
            request: request::Request {
                prompt_chars: 0,
                session,
                subset: question.subset.map(<[_]>::to_vec),
            },
            model: String::new(),
            prompt: PromptBlocks::none("no-body"),
        };
        let BodyUse::Read(api) = head.body_use() else {
            return read;
        };
        let (body, whole) = match question.body {
            Body::Whole(body) => (body.contiguous(), true),
            Body::Cut(body) => (body.contiguous(), false),
            Body::Unseen => return read,
        };
        let parsed = Request::read(api, &body, whole);
        read.model = parsed.model().unwrap_or_default().into_owned();
        let engine = self.any_engine();
        let model = &read.model;
        read.prompt = self.knowledge.prompt(&parsed, &body, model, engine).await;
        read.request.prompt_chars = read.prompt.chars;
        read
    }

    /// A ready engine that can be asked about tokens, in turn.
    fn any_engine(&self) -> Option<std::net::SocketAddr> {
        let endpoints = self.datastore.snapshot();
        let ready: Vec<_> = endpoints
            .iter()
            .filter(|entry| entry.endpoint.ready && entry.endpoint.role.serves(Role::Decode))
            .collect();
        let turn = self.rotation.load(Ordering::Relaxed);
        let entry = ready.get(turn % ready.len().max(1))?;
        Some(entry.endpoint.id.0)
    }

    fn new_id(&self) -> String {
        let count = self.ids.fetch_add(1, Ordering::Relaxed);
        format!("{}-{count:x}", self.id_prefix)
    }
}

/// Brings the counts of the candidates up to date.
fn refresh(candidates: &mut [Candidate], endpoints: &[Entry]) {
    for candidate in candidates {
        if let Some(entry) = endpoints
            .iter()
            .find(|entry| entry.endpoint.id == candidate.id)
        {
            candidate.in_flight = entry.in_flight();
        }
    }
}
