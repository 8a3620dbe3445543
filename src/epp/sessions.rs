//! Sessions -> the endpoints they stay with, shared by all replicas of the EPP.
//!
//! ```text
//! decision: binding -> bind -> table                             readers take no lock
//!                        changes -> queue -> share -> Redis Stream -> share of other replicas -> merge -> table
//! ```
//!
//! The table is pure; this hands it to requests, counts, and passes changes on. Redis is never
//! waited for on a request's way, and without Redis everything but the sharing works.

pub mod binding;
pub mod metrics;
pub mod share;
pub mod table;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

pub use self::binding::{Bind, Bound, Change, Limits, Merge, SessionHash, Swept, UnixMillis};
pub use self::metrics::Metrics;
pub use self::table::Table;

use crate::scheduling::endpoint::EndpointId;
use crate::telemetry::shutdown::Shutdown;

/// Changes that may wait for Redis.
const QUEUE: usize = 8192;

/// The session bindings; cheap to clone.
#[derive(Clone, Debug)]
pub struct Sessions {
    table: Arc<Table>,
    metrics: Metrics,
    changes: Option<mpsc::Sender<Change>>,
    crowded: Arc<Notify>,
}

/// Changes of bindings, to be shared by [`share::run`].
#[derive(Debug)]
pub struct Changes(mpsc::Receiver<Change>);

/// Now, as replicas share it.
pub fn unix_now() -> UnixMillis {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    UnixMillis(since.as_millis() as u64)
}

impl Sessions {
    /// Bindings of this replica alone.
    pub fn new(limits: Limits, metrics: Metrics) -> Self {
        Self {
            table: Arc::new(Table::new(limits)),
            metrics,
            changes: None,
            crowded: Arc::default(),
        }
    }

    /// Bindings that are to be shared; the second value goes to [`share::run`].
    pub fn shared(limits: Limits, metrics: Metrics) -> (Self, Changes) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut sessions = Self::new(limits, metrics);
        sessions.changes = Some(sender);
        (sessions, Changes(receiver))
    }

    /// The endpoint the session is bound to. Asking is no use of the binding.
    pub fn get(&self, session: SessionHash, now: UnixMillis) -> Option<EndpointId> {
        self.table.get(session, now).map(|bound| bound.endpoint)
    }

    /// As [`Sessions::get`], with the pod the session was bound to.
    pub fn binding(&self, session: SessionHash, now: UnixMillis) -> Option<Bound> {
        self.table.get(session, now)
    }

    /// Binds the session to where its request goes. One that is bound there already is used.
    pub fn bind(
        &self,
        session: SessionHash,
        endpoint: EndpointId,
        pod_uid: u64,
        now: UnixMillis,
    ) -> Bind {
        let bound = Bound { endpoint, pod_uid };
        let (bind, change, evicted) = self.table.bind(session, bound, now);
        self.metrics.bound(bind);
        self.metrics.event("evicted", evicted);
        self.tell(change);
        self.make_room();
        bind
    }

    /// Forgets the bindings to an endpoint whose pod is gone. Looks at every binding: not for
    /// a request's way.
    pub fn forget_endpoint(&self, endpoint: EndpointId) -> usize {
        let gone = self.table.forget_endpoint(endpoint);
        self.metrics.event("forgotten", gone);
        gone
    }

    /// Forgets the bindings to other pods that had this endpoint's address before. Looks at
    /// every binding: not for a request's way.
    pub fn forget_predecessors(&self, endpoint: EndpointId, pod_uid: u64) -> usize {
        let gone = self.table.forget_predecessors(Bound { endpoint, pod_uid });
        self.metrics.event("forgotten", gone);
        gone
    }

    /// Sessions bound to the endpoint, those included that expired since the last sweep.
    pub fn count(&self, endpoint: EndpointId) -> u64 {
        self.table.count(endpoint)
    }

    /// Sessions bound to any endpoint.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True when no session is bound.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Takes a binding of another replica.
    pub fn merge(&self, change: &Change, now: UnixMillis) -> Merge {
        let (merge, evicted) = self.table.merge(change, now);
        self.metrics.merged(merge);
        self.metrics.event("evicted", evicted);
        self.make_room();
        merge
    }

    /// Removes expired bindings, makes room before the table is full and keeps the gauge
    /// right, until shutdown.
    ///
    /// # Errors
    /// None but a panic of the table.
    pub async fn maintain(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let every = self.table.limits().sticky / 16;
        let every = every.clamp(Duration::from_millis(100), Duration::from_secs(10));
        let mut ticks = tokio::time::interval(every);
        loop {
            tokio::select! {
                () = shutdown.requested() => return Ok(()),
                _ = ticks.tick() => {}
                () = self.crowded.notified() => {}
            }
            let table = Arc::clone(&self.table);
            let swept = tokio::task::spawn_blocking(move || table.sweep(unix_now())).await?;
            self.metrics.event("expired", swept.expired);
            self.metrics.event("evicted", swept.evicted);
            self.metrics.observed(self.table.len());
        }
    }

    fn make_room(&self) {
        if self.table.is_crowded() {
            self.crowded.notify_one();
        }
    }

    /// Full means that Redis is slow or away: the binding is told at its next refresh.
    fn tell(&self, change: Option<Change>) {
        if let (Some(change), Some(changes)) = (change, &self.changes)
            && changes.try_send(change).is_err()
        {
            self.metrics.not_queued();
        }
    }
}

#[cfg(test)]
mod tests;
