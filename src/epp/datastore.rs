//! Discovered endpoints, readable without a lock: one writer replaces the whole snapshot,
//! readers keep the one they began with.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::scheduling::endpoint::{Candidate, EndpointId, Role};

/// What discovery knows about one endpoint.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Discovered {
    /// Which endpoint.
    pub id: EndpointId,
    /// Name of its pod.
    pub pod: String,
    /// What it may be used for.
    pub role: Role,
    /// Its pod is ready and not going away.
    pub ready: bool,
}

/// One endpoint and what is in flight to it.
#[derive(Debug)]
struct Entry {
    endpoint: Discovered,
    in_flight: Arc<AtomicU64>,
}

/// All endpoints; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Datastore {
    snapshot: Arc<ArcSwap<Vec<Entry>>>,
    synced: Arc<AtomicBool>,
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
    }

    /// Says that discovery has seen everything once.
    pub fn set_synced(&self) {
        self.synced.store(true, Ordering::Release);
    }

    /// True once discovery has seen everything.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// The candidates of a decision that begins now.
    pub fn candidates(&self) -> Vec<Candidate> {
        self.snapshot
            .load()
            .iter()
            .map(|entry| Candidate {
                id: entry.endpoint.id,
                role: entry.endpoint.role,
                ready: entry.endpoint.ready,
                in_flight: entry.in_flight.load(Ordering::Acquire),
                // No index feeds these yet: cold everywhere.
                cached_blocks: 0,
                prefix_blocks: 0,
            })
            .collect()
    }

    /// Counts a request at its endpoints, from now until the guard is dropped.
    pub fn track(&self, endpoints: impl IntoIterator<Item = EndpointId>) -> InFlight {
        let snapshot = self.snapshot.load();
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
        let in_flight: u64 = snapshot
            .iter()
            .map(|e| e.in_flight.load(Ordering::Acquire))
            .sum();
        (ready, snapshot.len() as i64 - ready, in_flight as i64)
    }
}
