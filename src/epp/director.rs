//! One request, from what the session holds to where it goes: parse -> gather what is known
//! -> schedule -> count. IO-free but for the tokens it may ask an engine for; takes no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::datastore::{Datastore, Entry, InFlight, Snapshot};
use super::decisions::{Considered, Decisions, Record};
use super::knowledge::{Knowledge, PromptBlocks};
use super::metrics::Metrics;
use super::respond::{Refusal, Routed};
use super::session::{self, Session};
use crate::openai;
use crate::scheduling::decision::NoEndpoint;
use crate::scheduling::endpoint::{Candidate, Role};
use crate::scheduling::{Decision, Pipeline, RequestFacts, Scratch};

/// How often a decision is made anew because another request was faster. Each round some
/// request gets its place, so a few are enough to spread a burst.
const ROUNDS: usize = 4;

/// Decides for all streams; shared by them.
pub struct Director {
    pipeline: Arc<Pipeline>,
    datastore: Datastore,
    knowledge: Knowledge,
    decisions: Decisions,
    metrics: Metrics,
    /// Whose turn it is among equals, and what random pickers draw from.
    turns: AtomicU64,
    /// Ids for requests that come without; unique with the process's own prefix.
    ids: AtomicUsize,
    id_prefix: String,
}

/// A request, read.
struct Read {
    request: RequestFacts,
    model: String,
    prompt: PromptBlocks,
}

impl Director {
    /// A director over these endpoints. Turns begin at `first_turn`: replicas that begin at
    /// different ones do not pick alike.
    pub fn new(
        pipeline: Arc<Pipeline>,
        datastore: Datastore,
        knowledge: Knowledge,
        decisions: Decisions,
        metrics: Metrics,
        id_prefix: String,
        first_turn: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            pipeline,
            datastore,
            knowledge,
            decisions,
            metrics,
            turns: AtomicU64::new(first_turn),
            ids: AtomicUsize::new(0),
            id_prefix,
        })
    }

    /// Decides one request. The guard counts it as in flight until its stream ends; it is
    /// taken before this returns, so the next decision sees it.
    pub async fn decide(&self, session: &Session) -> (Result<Routed, Refusal>, Option<InFlight>) {
        let started = Instant::now();
        let result = self.route(session).await;
        self.metrics.decided(
            started.elapsed(),
            result
                .as_ref()
                .map_or_else(|refusal| refusal.status, |_| 200),
        );
        match result {
            Ok((routed, guard)) => (Ok(routed), Some(guard)),
            Err(refusal) => (Err(refusal), None),
        }
    }

    async fn route(&self, session: &Session) -> Result<(Routed, InFlight), Refusal> {
        let mut read = self.read(session).await?;
        // Nothing is awaited from here on: what the decision sees is what there is now.
        let endpoints = self.datastore.snapshot();
        let candidates = self.knowledge.candidates(
            &endpoints,
            &mut read.prompt,
            read.request.session,
            Instant::now(),
        );
        let mut considered = Considered {
            pipeline: Arc::clone(&self.pipeline),
            request: read.request,
            candidates,
            turn: self.turns.fetch_add(1, Ordering::Relaxed),
        };
        let decided = choose(&endpoints, &mut considered);
        let new_id = session::request_id(session.headers())
            .is_none()
            .then(|| self.new_id());
        let id = session::request_id(session.headers()).or(new_id.as_deref());
        let result = match &decided {
            Ok((decision, _)) => {
                self.metrics.chosen(decision);
                let now = Instant::now();
                self.knowledge.chosen(
                    decision,
                    &endpoints,
                    &mut read.prompt,
                    considered.request.session,
                    now,
                );
                Ok(Routed {
                    destination: decision.decode.to_string(),
                    prefiller: decision.prefill.map(|endpoint| endpoint.to_string()),
                    new_request_id: new_id.clone(),
                })
            }
            Err(error) => Err(Refusal::no_endpoint(*error)),
        };
        let (outcome, guard) = match decided {
            Ok((decision, guard)) => (Ok(decision), Some(guard)),
            Err(error) => (Err(error.to_string()), None),
        };
        if let Ok(decision) = &outcome {
            tracing::debug!(
                request_id = id,
                decode = %decision.decode,
                prefill = decision.prefill.map(tracing::field::display),
                table = considered.table(),
                "decided"
            );
        }
        self.decisions.keep(Record {
            at_unix_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as u64),
            request_id: id.unwrap_or_default().to_owned(),
            model: read.model,
            tokens_from: read.prompt.tokens_from,
            considered,
            outcome,
        });
        let routed = result?;
        let guard = guard.expect("a decision was made, so its endpoints are counted");
        Ok((routed, guard))
    }

    /// What the decision depends on. Only bodies of the OpenAI API are read.
    async fn read(&self, session: &Session) -> Result<Read, Refusal> {
        let headers = session.headers();
        let mut read = Read {
            request: RequestFacts {
                session: self
                    .pipeline
                    .session_affinity()
                    .and_then(|affinity| session::session_header(headers, &affinity.headers))
                    .map(hash),
                subset: session.subset().map(<[_]>::to_vec),
                ..RequestFacts::default()
            },
            model: String::new(),
            prompt: PromptBlocks::none("no-body"),
        };
        if let Some(body) = session.body()
            && session::may_be_json(headers)
        {
            let parsed =
                openai::request::Request::parse(body).map_err(|e| Refusal::bad_request(&e))?;
            let model = parsed
                .model()
                .map_err(|error| Refusal::bad_request(&error))?;
            let engine = self.any_engine();
            read.prompt = self.knowledge.prompt(&parsed, body, &model, engine).await;
            read.request.prompt_chars = read.prompt.chars;
            read.request.prompt_tokens = read.prompt.tokens.as_ref().map(|tokens| tokens.len());
            read.request.one_transfer = true;
            read.model = model.into_owned();
        }
        Ok(read)
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

/// A session's name may be a credential (`authorization`): only this leaves the function.
fn hash(name: &str) -> u64 {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(name.as_bytes());
    digest
        .iter()
        .take(8)
        .fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}
