//! Discovered endpoints, readable without a lock: one writer replaces the whole snapshot,
//! readers keep the one they began with.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use crate::scheduling::endpoint::{EndpointId, Labels, Role};

/// What discovery knows about one endpoint.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Discovered {
    /// Which endpoint.
    pub id: EndpointId,
    /// Name of its pod.
    pub pod: String,
    /// The pod's uid: an address may be given to another pod later.
    pub pod_uid: String,
    /// What it may be used for.
    pub role: Role,
    /// The pod's labels.
    pub labels: Arc<Labels>,
    /// Its pod is ready and not going away.
    pub ready: bool,
}

/// One endpoint and what is in flight to it.
#[derive(Debug)]
pub struct Entry {
    /// What discovery knows.
    pub endpoint: Discovered,
    in_flight: Arc<AtomicU64>,
}

impl Entry {
    /// Requests sent there that have not ended.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Acquire)
    }
}

/// The endpoints of one moment.
pub type Snapshot = Guard<Arc<Vec<Entry>>>;

/// All endpoints; cheap to clone.
#[derive(Clone, Debug)]
pub struct Datastore {
    snapshot: Arc<ArcSwap<Vec<Entry>>>,
    synced: Arc<AtomicBool>,
    changes: watch::Sender<()>,
}

impl Default for Datastore {
    fn default() -> Self {
        Self {
            snapshot: Arc::default(),
            synced: Arc::default(),
            changes: watch::Sender::new(()),
        }
    }
}

/// Counts one request as in flight until dropped.
#[derive(Debug)]
pub struct InFlight(Vec<Arc<AtomicU64>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        for count in &self.0 {
            count.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Datastore {
    /// Replaces the endpoints. Counts of endpoints that stay are kept.
    pub fn replace(&self, endpoints: Vec<Discovered>) {
        let before = self.snapshot.load();
        let counts: HashMap<EndpointId, &Arc<AtomicU64>> = before
            .iter()
            .map(|entry| (entry.endpoint.id, &entry.in_flight))
            .collect();
        let entries = endpoints
            .into_iter()
            .map(|endpoint| {
                let in_flight = counts.get(&endpoint.id).map(|count| Arc::clone(count));
                Entry {
                    in_flight: in_flight.unwrap_or_default(),
                    endpoint,
                }
            })
            .collect();
        self.snapshot.store(Arc::new(entries));
        self.changes.send_replace(());
    }

    /// Tells of every replacement of the endpoints.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Says that discovery has seen everything once.
    pub fn set_synced(&self) {
        self.synced.store(true, Ordering::Release);
        self.changes.send_replace(());
    }

    /// Resolves once discovery has seen everything.
    pub async fn until_synced(&self) {
        let mut changes = self.changes.subscribe();
        while !self.is_synced() {
            // The sender lives as long as this datastore.
            let _ = changes.changed().await;
        }
    }

    /// True once discovery has seen everything.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// The endpoints as they are now.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.load()
    }

    /// Counts a request at its endpoints, from now until the guard is dropped, if each still
    /// has as much in flight as the decision saw. `None` when another request was faster: the
    /// decision is stale, and to keep it would send a burst of requests to one endpoint.
    pub fn track(
        snapshot: &Snapshot,
        endpoints: impl IntoIterator<Item = (EndpointId, u64)>,
    ) -> Option<InFlight> {
        let mut counted = InFlight(Vec::new());
        for (id, seen) in endpoints {
            let Some(entry) = snapshot.iter().find(|entry| entry.endpoint.id == id) else {
                continue;
            };
            let swapped = entry.in_flight.compare_exchange(
                seen,
                seen + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            // What was counted so far is taken back by the guard.
            swapped.ok()?;
            counted.0.push(Arc::clone(&entry.in_flight));
        }
        Some(counted)
    }

    /// Counts a request at its endpoints whatever else happens there.
    pub fn track_anyway(
        snapshot: &Snapshot,
        endpoints: impl IntoIterator<Item = EndpointId>,
    ) -> InFlight {
        let counts: Vec<_> = endpoints
            .into_iter()
            .filter_map(|id| snapshot.iter().find(|entry| entry.endpoint.id == id))
            .map(|entry| Arc::clone(&entry.in_flight))
            .collect();
        for count in &counts {
            count.fetch_add(1, Ordering::AcqRel);
        }
        InFlight(counts)
    }

    /// Ready and other endpoints, and requests in flight.
    pub fn totals(&self) -> (i64, i64, i64) {
        let snapshot = self.snapshot.load();
        let ready = snapshot.iter().filter(|entry| entry.endpoint.ready).count() as i64;
        let in_flight: u64 = snapshot.iter().map(Entry::in_flight).sum();
        (ready, snapshot.len() as i64 - ready, in_flight as i64)
    }
}
