//! What the EPP counts. Label values come from closed sets.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::ext_proc::reply::Reason;
use crate::scheduling::Decision;

/// How a request was answered.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct StatusLabel {
    /// 200 for a decision, else the status of the refusal.
    pub status: u32,
}

/// Which rule a request met.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct ReasonLabel {
    /// A word of [`Reason`].
    pub reason: &'static str,
}

/// Whether endpoints are ready.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct ReadyLabel {
    /// `true` or `false`.
    pub ready: &'static str,
}

/// What was decided about prefill.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct PrefillLabel {
    /// A word of [`crate::scheduling::decision::PrefillBecause`].
    pub because: &'static str,
}

/// The EPP's metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct EppMetrics {
    requests: Family<StatusLabel, Counter>,
    seconds: Histogram,
    prefill: Family<PrefillLabel, Counter>,
    refusals: Family<ReasonLabel, Counter>,
    skipped: Counter,
    streams_refused: Counter,
    streams: Gauge,
    endpoints: Family<ReadyLabel, Gauge>,
    in_flight: Gauge,
}

impl EppMetrics {
    /// Registers every metric.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            seconds: Histogram::new([
                1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 2.5e-2, 0.1,
            ]),
            prefill: Family::default(),
            refusals: Family::default(),
            skipped: Counter::default(),
            streams_refused: Counter::default(),
            streams: Gauge::default(),
            endpoints: Family::default(),
            in_flight: Gauge::default(),
        };
        let registry = registry.sub_registry_with_prefix("llm_d_epp");
        registry.register(
            "requests",
            "Requests decided, by answer",
            metrics.requests.clone(),
        );
        registry.register(
            "decision_seconds",
            "Time of one decision",
            metrics.seconds.clone(),
        );
        registry.register(
            "prefill_decisions",
            "Decisions by whether the prompt is computed on a prefill endpoint, and why",
            metrics.prefill.clone(),
        );
        registry.register(
            "refusals",
            "Requests that the EPP answered itself, by rule",
            metrics.refusals.clone(),
        );
        registry.register(
            "refused_streams",
            "Streams ended at once because too many were open",
            metrics.streams_refused.clone(),
        );
        registry.register(
            "skipped_streams",
            "Streams of another body mode than the managed filter's, answered with no change",
            metrics.skipped.clone(),
        );
        registry.register("streams", "Open ext_proc streams", metrics.streams.clone());
        registry.register(
            "endpoints",
            "Discovered endpoints",
            metrics.endpoints.clone(),
        );
        registry.register(
            "in_flight_requests",
            "Requests sent and not ended",
            metrics.in_flight.clone(),
        );
        registry.register(
            "build",
            "Version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        metrics
    }

    /// Counts one decision.
    pub fn decided(&self, took: Duration, status: u16) {
        self.requests
            .get_or_create(&StatusLabel {
                status: u32::from(status),
            })
            .inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// Counts what was decided about prefill.
    pub fn chosen(&self, decision: &Decision) {
        let because = decision.prefill_because.as_str();
        self.prefill.get_or_create(&PrefillLabel { because }).inc();
    }

    /// Counts one request that met a rule or bound.
    pub fn refused(&self, reason: Reason) {
        let reason = reason.label();
        self.refusals.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts one stream too many.
    pub fn stream_refused(&self) {
        self.streams_refused.inc();
    }

    /// Counts one stream of somebody else's filter.
    pub fn skipped(&self) {
        self.skipped.inc();
    }

    /// Streams opened minus closed.
    pub fn stream_opened(&self, by: i64) {
        self.streams.inc_by(by);
    }

    /// Says what there is.
    pub fn observed(&self, (ready, other, in_flight): (i64, i64, i64)) {
        self.endpoints
            .get_or_create(&ReadyLabel { ready: "true" })
            .set(ready);
        self.endpoints
            .get_or_create(&ReadyLabel { ready: "false" })
            .set(other);
        self.in_flight.set(in_flight);
    }
}
