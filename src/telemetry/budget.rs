//! One bound on the memory that untrusted peers can fill, for the whole process: whoever holds
//! bytes of a peer holds a lease on them, and where none is left the peer is told to come back
//! later. No IO but the atomic counters; knows nothing of what the bytes are.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// So many bytes for everybody together; cheap to clone, clones share the bytes.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    total: usize,
    used: AtomicUsize,
    refused: AtomicU64,
}

impl Budget {
    /// A budget of this many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Inner {
            total: bytes,
            used: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// A lease on this many bytes, given back when it is dropped. `None` when they are not
    /// left, which is counted. A lease of 0 bytes is always given.
    #[must_use]
    pub fn try_take(&self, bytes: usize) -> Option<Lease> {
        self.add(bytes).then(|| Lease {
            budget: self.clone(),
            bytes,
        })
    }

    /// Bytes of the whole budget.
    pub fn total(&self) -> usize {
        self.0.total
    }

    /// Bytes leased now; never more than [`Budget::total`].
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// How often bytes were asked for that were not left.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Registers `body_budget_bytes`, `body_budget_used_bytes` and `body_budget_refused_total`
    /// under the registry's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    fn add(&self, bytes: usize) -> bool {
        // Nothing is read or written because of the counter, so no order is needed with it.
        let taken = self
            .0
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= self.0.total)
            });
        if taken.is_err() {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Collector for Budget {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let bytes = |value: usize| ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        bytes(self.total()).encode(encoder.encode_descriptor(
            "body_budget",
            "Most bytes of bodies held at once by this process",
            Some(&Unit::Bytes),
            MetricType::Gauge,
        )?)?;
        bytes(self.used()).encode(encoder.encode_descriptor(
            "body_budget_used",
            "Bytes of bodies held now",
            Some(&Unit::Bytes),
            MetricType::Gauge,
        )?)?;
        ConstCounter::new(self.refused()).encode(encoder.encode_descriptor(
            "body_budget_refused",
            "Bodies that were not held because the budget was spent",
            None,
            MetricType::Counter,
        )?)
    }
}

/// Some bytes of a [`Budget`]; dropped, they are free again.
#[derive(Debug)]
#[must_use]
pub struct Lease {
    budget: Budget,
    bytes: usize,
}

impl Lease {
    /// The bytes it is for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes so many more. False, and nothing taken, when they are not left.
    #[must_use]
    pub fn grow(&mut self, more: usize) -> bool {
        let grown = self.budget.add(more);
        if grown {
            self.bytes += more;
        }
        grown
    }

    /// Makes it a lease on at least this many bytes. False, and nothing taken, when they are
    /// not left.
    #[must_use]
    pub fn grow_to(&mut self, bytes: usize) -> bool {
        bytes <= self.bytes || self.grow(bytes - self.bytes)
    }

    /// Gives back all but this many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        if bytes < self.bytes {
            self.budget.give_back(self.bytes - bytes);
            self.bytes = bytes;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_share_the_bytes_and_give_them_back() {
        let budget = Budget::new(100);
        let mut one = budget.try_take(60).unwrap();
        assert!(budget.try_take(41).is_none());
        let two = budget.clone().try_take(30).unwrap();
        assert_eq!((budget.used(), budget.refused()), (90, 1));
        assert!(!one.grow(11) && one.grow(10));
        assert_eq!((one.bytes(), budget.used()), (70, 100));
        assert!(budget.try_take(0).is_some() && budget.try_take(1).is_none());
        drop(two);
        assert!(one.grow_to(5) && one.grow_to(100) && !one.grow_to(101));
        one.shrink_to(40);
        one.shrink_to(50);
        assert_eq!((one.bytes(), budget.used()), (40, 40));
        drop(one);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_peer_that_announces_more_than_there_is_memory_gets_no_lease() {
        let budget = Budget::new(usize::MAX);
        let mut held = budget.try_take(1).unwrap();
        assert!(budget.try_take(usize::MAX).is_none() && !held.grow(usize::MAX));
        assert_eq!((budget.used(), held.bytes()), (1, 1));
    }

    #[test]
    fn many_threads_never_hold_more_than_there_is() {
        let budget = Budget::new(1000);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for size in 0..2000 {
                        let lease = budget.try_take(size % 400);
                        assert!(budget.used() <= 1000);
                        drop(lease);
                    }
                });
            }
        });
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_metrics_page_says_how_much_is_left() {
        let (budget, mut registry) = (Budget::new(10), Registry::with_prefix("llm_d_test"));
        budget.register(&mut registry);
        let _held = budget.try_take(7).unwrap();
        assert!(budget.try_take(4).is_none());
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        for line in [
            "llm_d_test_body_budget_bytes 10",
            "llm_d_test_body_budget_used_bytes 7",
            "llm_d_test_body_budget_refused_total 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
    }
}
