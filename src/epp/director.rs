//! One request, from what the session holds to where it goes: parse -> gather what is known
//! -> schedule -> count. IO-free but for the tokens it may ask an engine for; takes no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::datastore::{Datastore, Entry, InFlight, Snapshot};
use super::decisions::{Decisions, Record};
use super::knowledge::{Knowledge, PromptBlocks};
use super::metrics::Metrics;
use super::respond::{Refusal, Routed};
use super::session::{self, Session};
use crate::openai;
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
    metrics: Metrics,
    /// Whose turn it is among equals.
    rotation: AtomicUsize,
    /// Ids for requests that come without; unique with the process's own prefix.
    ids: AtomicUsize,
    id_prefix: String,
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
        metrics: Metrics,
        id_prefix: String,
    ) -> Arc<Self> {
        let (rotation, ids) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self {
            settings,
            datastore,
            knowledge,
            decisions,
            metrics,
            rotation,
            ids,
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
        let mut read = self.read(session).await;
        // Nothing is awaited from here on: what the decision sees is what there is now.
        let endpoints = self.datastore.snapshot();
        let decided = self.choose(&endpoints, &mut read);
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
                    read.request.session,
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
                table = decision.table(),
                "decided"
            );
        }
        self.decisions.keep(Record {
            at_unix_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as u64),
            request_id: id.unwrap_or_default().to_owned(),
            model: read.model,
            session: read.request.session,
            prompt_chars: read.prompt.chars,
            prompt_tokens: read.prompt.tokens.as_ref().map(|tokens| tokens.len()),
            tokens_from: read.prompt.tokens_from,
            outcome,
        });
        let routed = result?;
        let guard = guard.expect("a decision was made, so its endpoints are counted");
        Ok((routed, guard))
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

    /// What the decision depends on. Only bodies of the OpenAI API are read.
    async fn read(&self, session: &Session) -> Read {
        let headers = session.headers();
        let mut read = Read {
            request: request::Request {
                prompt_chars: 0,
                session: session::session_header(headers, &self.settings.session.headers)
                    .filter(|_| self.settings.uses_sessions())
                    .map(hash),
                subset: session.subset().map(<[_]>::to_vec),
            },
            model: String::new(),
            prompt: PromptBlocks::none("no-body"),
        };
        if let Some(body) = session.body()
            && session::may_be_json(headers)
        {
            let parsed = openai::request::Request::read(session::api(headers), body, true);
            let model = parsed.model().unwrap_or_default();
            let engine = self.any_engine();
            read.prompt = self.knowledge.prompt(&parsed, body, &model, engine).await;
            read.request.prompt_chars = read.prompt.chars;
            read.model = model.into_owned();
        }
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

/// A session's name may be a credential (`authorization`): only this leaves the function.
fn hash(name: &str) -> u64 {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(name.as_bytes());
    digest
        .iter()
        .take(8)
        .fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}
