//! What sessions count. Label values come from closed sets.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::binding::{Bind, Merge};
use crate::telemetry::histogram::DurationHistogram;

/// What happened to a binding or an entry.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct EventLabel {
    /// One of the names in this file.
    pub event: &'static str,
}

/// Which of the two connections to Redis.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct LinkLabel {
    /// `read` or `write`.
    pub link: &'static str,
}

/// Metrics of sessions; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    bindings: Gauge,
    events: Family<EventLabel, Counter>,
    entries: Family<EventLabel, Counter>,
    up: Family<LinkLabel, Gauge>,
    errors: Family<LinkLabel, Counter>,
    flushed: Counter,
    dropped: Counter,
    lag: DurationHistogram,
}

impl Metrics {
    /// Registers every metric.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            bindings: Gauge::default(),
            events: Family::default(),
            entries: Family::default(),
            up: Family::default(),
            errors: Family::default(),
            flushed: Counter::default(),
            dropped: Counter::default(),
            lag: DurationHistogram::new(
                [1, 5, 25, 100, 250, 500, 1_000, 5_000, 30_000].map(Duration::from_millis),
            ),
        };
        let registry = registry.sub_registry_with_prefix("llm_d_epp_session");
        registry.register(
            "bindings",
            "Sessions bound to an endpoint",
            metrics.bindings.clone(),
        );
        registry.register(
            "binding_events",
            "Bindings bound, moved, refused, evicted (the table was full), expired, forgotten (the pod is gone)",
            metrics.events.clone(),
        );
        registry.register(
            "shared_entries",
            "Bindings read from Redis, by what became of them",
            metrics.entries.clone(),
        );
        registry.register(
            "redis_up",
            "1 while the connection to Redis works",
            metrics.up.clone(),
        );
        registry.register(
            "redis_errors",
            "Failed attempts to use Redis",
            metrics.errors.clone(),
        );
        registry.register(
            "flushed",
            "Bindings written to Redis",
            metrics.flushed.clone(),
        );
        registry.register(
            "unshared",
            "Bindings not written to Redis because its queue was full",
            metrics.dropped.clone(),
        );
        registry.register(
            "share_lag_seconds",
            "Age of another replica's binding when it was read",
            metrics.lag.clone(),
        );
        metrics
    }

    /// Events of one kind so far.
    pub fn events(&self, event: &'static str) -> u64 {
        self.events.get_or_create(&EventLabel { event }).get()
    }

    /// Entries read so far that ended like this.
    pub fn entries(&self, event: &'static str) -> u64 {
        self.entries.get_or_create(&EventLabel { event }).get()
    }

    /// Bindings written to Redis.
    pub fn flushed(&self) -> u64 {
        self.flushed.get()
    }

    /// Bindings that were not written because the queue was full.
    pub fn unshared(&self) -> u64 {
        self.dropped.get()
    }

    /// True while that connection to Redis works.
    pub fn is_up(&self, link: &'static str) -> bool {
        self.up.get_or_create(&LinkLabel { link }).get() == 1
    }

    /// Failed attempts on that connection to Redis.
    pub fn errors(&self, link: &'static str) -> u64 {
        self.errors.get_or_create(&LinkLabel { link }).get()
    }

    pub(super) fn bound(&self, bind: Bind) {
        match bind {
            Bind::New => self.event("bound", 1),
            Bind::Moved => self.event("moved", 1),
            Bind::Refused => self.event("refused", 1),
            Bind::Kept => {}
        }
    }

    pub(super) fn event(&self, event: &'static str, by: usize) {
        if by > 0 {
            let counter = self.events.get_or_create(&EventLabel { event });
            counter.inc_by(by as u64);
        }
    }

    pub(super) fn merged(&self, merge: Merge) {
        self.entry(match merge {
            Merge::New | Merge::Moved | Merge::Refreshed => "merged",
            Merge::Older => "older",
            Merge::Expired => "expired",
            Merge::Ahead => "ahead",
            Merge::Refused => "refused",
        });
    }

    /// Counts an entry: `own`, `malformed` or what a merge gave.
    pub(super) fn entry(&self, event: &'static str) {
        self.entries.get_or_create(&EventLabel { event }).inc();
    }

    pub(super) fn observed(&self, bindings: usize) {
        self.bindings.set(bindings as i64);
    }

    pub(super) fn up(&self, link: &'static str, up: bool) {
        let label = LinkLabel { link };
        self.up.get_or_create(&label).set(i64::from(up));
        if !up {
            self.errors.get_or_create(&label).inc();
        }
    }

    pub(super) fn wrote(&self, bindings: usize) {
        self.flushed.inc_by(bindings as u64);
    }

    pub(super) fn not_queued(&self) {
        self.dropped.inc();
    }

    pub(super) fn lag(&self, milliseconds: u64) {
        self.lag.observe(Duration::from_millis(milliseconds));
    }
}
