//! What the sidecar counts. Label values come from closed sets.
//!
//! A family looks its series up under a lock, so those that every request counts in are looked
//! up once, here.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::reason::{Fallback, Leg, Outcome, Refusal};
use crate::telemetry::histogram::DurationHistogram;

/// Labels of `requests`.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct LegLabels {
    leg: &'static str,
    outcome: &'static str,
}

/// Label of everything that is counted by reason.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct ReasonLabel {
    reason: &'static str,
}

type ByReason = Family<ReasonLabel, Counter>;

/// The sidecar's metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<LegLabels, Counter>,
    /// The series of `requests`, in the order of [`Leg::ALL`] and [`Outcome::ALL`].
    legs: [[Counter; Outcome::ALL.len()]; Leg::ALL.len()],
    fallbacks: ByReason,
    ineligible: ByReason,
    refusals: ByReason,
    prefill_seconds: DurationHistogram,
    stripped: Counter,
    usage_skipped: Counter,
    connections: Gauge,
    connections_refused: Counter,
    requests_open: Gauge,
    upgrades_open: Gauge,
    service_addresses: Gauge,
    service_failures: Counter,
}

impl Metrics {
    /// Registers every metric.
    pub fn register(registry: &mut Registry) -> Self {
        let requests: Family<LegLabels, Counter> = Family::default();
        let metrics = Self {
            legs: Leg::ALL.map(|leg| {
                Outcome::ALL.map(|outcome| {
                    let (leg, outcome) = (leg.word(), outcome.word());
                    requests.get_or_create_owned(&LegLabels { leg, outcome })
                })
            }),
            requests,
            fallbacks: Family::default(),
            ineligible: Family::default(),
            refusals: Family::default(),
            prefill_seconds: DurationHistogram::new(
                [
                    5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000,
                ]
                .map(Duration::from_millis),
            ),
            stripped: Counter::default(),
            usage_skipped: Counter::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            requests_open: Gauge::default(),
            upgrades_open: Gauge::default(),
            service_addresses: Gauge::default(),
            service_failures: Counter::default(),
        };
        let registry = registry.sub_registry_with_prefix("llm_d_proxy");
        metrics.register_requests(registry);
        metrics.register_connections(registry);
        registry.register(
            "build",
            "Version",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        metrics
    }

    fn register_requests(&self, registry: &mut Registry) {
        registry.register(
            "requests",
            "Requests sent, by leg and outcome",
            self.requests.clone(),
        );
        registry.register(
            "fallbacks",
            "Prompts computed by the decode engine although a prefill endpoint was named, by reason",
            self.fallbacks.clone(),
        );
        registry.register(
            "prefill_ineligible",
            "Requests that named a prefill endpoint and that one transfer cannot serve, by reason",
            self.ineligible.clone(),
        );
        registry.register(
            "refusals",
            "Requests refused by the sidecar itself, by reason",
            self.refusals.clone(),
        );
        registry.register(
            "prefill_seconds",
            "Time of one successful prefill leg",
            self.prefill_seconds.clone(),
        );
        registry.register(
            "kv_transfer_params_stripped",
            "Requests whose client set KV transfer parameters, which were removed",
            self.stripped.clone(),
        );
        registry.register(
            "usage_rewrites_skipped",
            "Answers, or lines of them, too large to have their cached token count corrected",
            self.usage_skipped.clone(),
        );
    }

    fn register_connections(&self, registry: &mut Registry) {
        registry.register(
            "connections",
            "Connections of clients open now",
            self.connections.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections closed at once because --max-connections were open",
            self.connections_refused.clone(),
        );
        registry.register(
            "requests_open",
            "Requests open now, to the end of their answers",
            self.requests_open.clone(),
        );
        registry.register(
            "upgrades_open",
            "WebSockets open now",
            self.upgrades_open.clone(),
        );
        registry.register(
            "prefill_service_addresses",
            "Addresses that --prefill-service has now",
            self.service_addresses.clone(),
        );
        registry.register(
            "prefill_service_failures",
            "Look-ups of --prefill-service that failed",
            self.service_failures.clone(),
        );
    }

    /// Begins counting one request of this leg.
    pub fn begin(&self, leg: Leg) -> Open<'_> {
        Open {
            metrics: self,
            leg,
            ended: false,
        }
    }

    /// Counts one prompt that stayed with the decode engine.
    pub fn fell_back(&self, reason: Fallback) {
        count(&self.fallbacks, reason.word());
    }

    /// Counts one request that no single transfer can serve; the reason is of a closed set.
    pub fn ineligible(&self, reason: &'static str) {
        count(&self.ineligible, reason);
    }

    /// Counts one refused request.
    pub fn refused(&self, reason: Refusal) {
        count(&self.refusals, reason.word());
    }

    /// Records one successful prefill.
    pub fn prefilled(&self, took: Duration) {
        self.prefill_seconds.observe(took);
    }

    /// Counts one request with KV transfer parameters of the client's.
    pub fn stripped(&self) {
        self.stripped.inc();
    }

    /// Counts answers and lines left as they are because of their size.
    pub fn usage_skipped(&self, count: u64) {
        self.usage_skipped.inc_by(count);
    }

    /// One connection more, until the value is dropped.
    pub fn connection(&self) -> Counted {
        Counted::new(&self.connections)
    }

    /// One request more, until the value is dropped.
    pub fn request(&self) -> Counted {
        Counted::new(&self.requests_open)
    }

    /// One WebSocket more, until the value is dropped.
    pub fn upgrade(&self) -> Counted {
        Counted::new(&self.upgrades_open)
    }

    /// Counts one connection that was closed at once.
    pub fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// Says what a look-up of the prefill Service came to.
    pub fn looked_up(&self, addresses: usize, failed: bool) {
        self.service_addresses.set(addresses as i64);
        self.service_failures.inc_by(u64::from(failed));
    }

    fn ended(&self, leg: Leg, outcome: Outcome) {
        self.legs[leg as usize][outcome as usize].inc();
    }
}

fn count(family: &ByReason, reason: &'static str) {
    family.get_or_create(&ReasonLabel { reason }).inc();
}

/// Something that is open and counted while it is.
#[derive(Debug)]
#[must_use]
pub struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A request on its way; dropped without an end it counts as cancelled.
#[derive(Debug)]
#[must_use]
pub struct Open<'a> {
    metrics: &'a Metrics,
    leg: Leg,
    ended: bool,
}

impl Open<'_> {
    /// Says how it ended.
    pub fn end(mut self, outcome: Outcome) {
        self.ended = true;
        self.metrics.ended(self.leg, outcome);
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.metrics.ended(self.leg, Outcome::Cancelled);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn each_leg_and_outcome_is_counted_under_its_own_words() {
        for leg in Leg::ALL {
            for outcome in Outcome::ALL {
                let mut registry = Registry::default();
                let metrics = Metrics::register(&mut registry);
                metrics.begin(leg).end(outcome);
                let mut page = String::new();
                encode(&mut page, &registry).unwrap();
                let (leg, outcome) = (leg.word(), outcome.word());
                let counted: Vec<_> = page
                    .lines()
                    .filter(|line| line.contains("_requests_total{") && line.ends_with(" 1"))
                    .collect();
                let series =
                    format!(r#"llm_d_proxy_requests_total{{leg="{leg}",outcome="{outcome}"}} 1"#);
                assert_eq!(counted, [series]);
            }
        }
    }
}
