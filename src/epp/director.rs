//! One request, from what the session holds to where it goes: parse -> schedule. IO-free
//! but for the counters it moves; takes no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::datastore::{Datastore, InFlight};
use super::metrics::Metrics;
use super::respond::{Refusal, Routed};
use super::session::{self, Session};
use crate::openai;
use crate::scheduling::config::Settings;
use crate::scheduling::{Decision, request, schedule};

/// Decides for all streams; shared by them.
#[derive(Debug)]
pub struct Director {
    settings: Settings,
    datastore: Datastore,
    metrics: Metrics,
    /// Whose turn it is among equals.
    rotation: AtomicUsize,
    /// Ids for requests that come without; unique with the process's own prefix.
    ids: AtomicUsize,
    id_prefix: String,
}

impl Director {
    /// A director over these endpoints.
    pub fn new(
        settings: Settings,
        datastore: Datastore,
        metrics: Metrics,
        id_prefix: String,
    ) -> Arc<Self> {
        let (rotation, ids) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self {
            settings,
            datastore,
            metrics,
            rotation,
            ids,
            id_prefix,
        })
    }

    /// Decides one request. The guard counts it as in flight until its stream ends; it is
    /// taken before this returns, so the next decision sees it.
    pub fn decide(&self, session: &Session) -> (Result<Routed, Refusal>, Option<InFlight>) {
        let started = Instant::now();
        let result = self.route(session);
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

    fn route(&self, session: &Session) -> Result<(Routed, InFlight), Refusal> {
        let request = self.read(session)?;
        let candidates = self.datastore.candidates();
        let turn = self.rotation.fetch_add(1, Ordering::Relaxed);
        let decision =
            schedule(&self.settings, &request, &candidates, turn).map_err(Refusal::no_endpoint)?;
        let guard = self
            .datastore
            .track([decision.decode].into_iter().chain(decision.prefill));
        let routed = self.routed(session, &decision);
        tracing::debug!(
            request_id = session::request_id(session.headers()).or(routed.new_request_id.as_deref()),
            decode = %decision.decode,
            prefill = decision.prefill.map(tracing::field::display),
            explain = ?decision.explain,
            "decided"
        );
        Ok((routed, guard))
    }

    /// What the decision depends on. Only bodies of the OpenAI API are read.
    fn read(&self, session: &Session) -> Result<request::Request, Refusal> {
        let headers = session.headers();
        let mut prompt_bytes = 0;
        if let Some(body) = session.body()
            && session::path(headers).starts_with("/v1/")
        {
            let parsed =
                openai::request::Request::parse(body).map_err(|e| Refusal::bad_request(&e))?;
            parsed
                .model()
                .map_err(|error| Refusal::bad_request(&error))?;
            prompt_bytes = parsed.prompt_bytes();
        }
        Ok(request::Request {
            prompt_bytes,
            prompt_blocks: 0,
            session: session::session_header(headers, &self.settings.session.headers).map(hash),
            subset: session.subset().map(<[_]>::to_vec),
        })
    }

    fn routed(&self, session: &Session, decision: &Decision) -> Routed {
        let new_request_id = session::request_id(session.headers()).is_none().then(|| {
            format!(
                "{}-{:x}",
                self.id_prefix,
                self.ids.fetch_add(1, Ordering::Relaxed)
            )
        });
        Routed {
            destination: decision.decode.to_string(),
            prefiller: decision.prefill.map(|endpoint| endpoint.to_string()),
            new_request_id,
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
