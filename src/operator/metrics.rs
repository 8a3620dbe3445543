//! What the operator counts, under names Prometheus scrapes. IO-free: atomics only.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// How a reconcile ended. All values come from closed sets, so series stay bounded.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct ResultLabel {
    /// `ok`, or the reason of the error.
    pub result: &'static str,
}

/// What was written to the API server.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct WriteLabel {
    /// `apply`, `delete`, `status`, `event`.
    pub verb: &'static str,
    /// Kind of the object.
    pub kind: &'static str,
}

/// The operator's metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Reconciles by result.
    pub reconciles: Family<ResultLabel, Counter>,
    /// Seconds a reconcile took.
    pub reconcile_seconds: Histogram,
    /// Writes to the API server.
    pub writes: Family<WriteLabel, Counter>,
    /// 1 while this replica acts.
    pub leader: Gauge,
}

impl Metrics {
    /// Registers every metric.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Family::default(),
            reconcile_seconds: Histogram::new([
                0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
            ]),
            writes: Family::default(),
            leader: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("llm_d_operator");
        registry.register(
            "reconciles",
            "Reconciles by result",
            metrics.reconciles.clone(),
        );
        registry.register(
            "reconcile_seconds",
            "Time one reconcile took",
            metrics.reconcile_seconds.clone(),
        );
        registry.register(
            "api_writes",
            "Writes to the API server; zero while nothing changes",
            metrics.writes.clone(),
        );
        registry.register(
            "leader",
            "1 while this replica acts",
            metrics.leader.clone(),
        );
        metrics
    }

    /// Counts one write.
    pub fn wrote(&self, verb: &'static str, kind: &'static str) {
        self.writes.get_or_create(&WriteLabel { verb, kind }).inc();
    }
}
