//! What the EPP counts. Label values come from closed sets.
//!
//! A family looks its series up under a lock, so what the request path counts for every
//! request is looked up once, here.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::ext_proc::reply::Reason;
use crate::scheduling::Decision;
use crate::scheduling::decision::PrefillBecause;
use crate::telemetry::histogram::DurationHistogram;

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

/// The status under which a decision is counted.
const ROUTED: u32 = 200;

/// The EPP's metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct EppMetrics {
    requests: Family<StatusLabel, Counter>,
    /// The series of `requests` for a decision.
    routed: Counter,
    seconds: DurationHistogram,
    prefill: Family<PrefillLabel, Counter>,
    /// The series of `prefill`, in the order of [`PrefillBecause::ALL`].
    prefill_because: [Counter; PrefillBecause::ALL.len()],
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
        let requests: Family<StatusLabel, Counter> = Family::default();
        let prefill: Family<PrefillLabel, Counter> = Family::default();
        let metrics = Self {
            routed: requests.get_or_create_owned(&StatusLabel { status: ROUTED }),
            requests,
            seconds: DurationHistogram::new(
                [10, 25, 50, 100, 250, 500, 1_000, 5_000, 25_000, 100_000]
                    .map(Duration::from_micros),
            ),
            prefill_because: PrefillBecause::ALL.map(|because| {
                let because = because.as_str();
                prefill.get_or_create_owned(&PrefillLabel { because })
            }),
            prefill,
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
        match u32::from(status) {
            ROUTED => self.routed.inc(),
            status => self.requests.get_or_create(&StatusLabel { status }).inc(),
        };
        self.seconds.observe(took);
    }

    /// Counts what was decided about prefill.
    pub fn chosen(&self, decision: &Decision) {
        self.prefill_because[decision.prefill_because as usize].inc();
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

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::scheduling::endpoint::EndpointId;

    #[test]
    fn each_decision_is_counted_under_its_own_word() {
        for because in PrefillBecause::ALL {
            let mut registry = Registry::default();
            let metrics = EppMetrics::register(&mut registry);
            metrics.chosen(&Decision {
                decode: EndpointId(([127, 0, 0, 1], 1).into()),
                prefill: None,
                prefill_because: because,
            });
            let mut page = String::new();
            encode(&mut page, &registry).unwrap();
            let counted: Vec<_> = page
                .lines()
                .filter(|line| line.contains("prefill_decisions_total{") && line.ends_with(" 1"))
                .collect();
            let because = because.as_str();
            let series = format!(r#"llm_d_epp_prefill_decisions_total{{because="{because}"}} 1"#);
            assert_eq!(counted, [series]);
        }
    }
}
