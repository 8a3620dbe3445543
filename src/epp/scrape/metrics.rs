//! What scraping counts. Label values come from closed sets.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::fetch::Failure;
use crate::telemetry::histogram::DurationHistogram;

/// How a scrape ended.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct OutcomeLabel {
    /// `ok` or the name of a [`Failure`].
    pub outcome: &'static str,
}

/// Metrics of scraping; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    scrapes: Family<OutcomeLabel, Counter>,
    seconds: DurationHistogram,
    endpoints: Gauge,
    long_lines: Counter,
    waits: Counter,
}

impl Metrics {
    /// Registers every metric.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            scrapes: Family::default(),
            seconds: DurationHistogram::new(
                [
                    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
                    1_000_000,
                ]
                .map(Duration::from_micros),
            ),
            endpoints: Gauge::default(),
            long_lines: Counter::default(),
            waits: Counter::default(),
        };
        let registry = registry.sub_registry_with_prefix("llm_d_epp");
        registry.register(
            "scrapes",
            "Scrapes of model servers, by outcome",
            metrics.scrapes.clone(),
        );
        registry.register(
            "scrape_seconds",
            "Time of one scrape",
            metrics.seconds.clone(),
        );
        registry.register(
            "scraped_endpoints",
            "Endpoints that are scraped",
            metrics.endpoints.clone(),
        );
        registry.register(
            "scrape_long_lines",
            "Lines of metrics pages passed over because they were too long",
            metrics.long_lines.clone(),
        );
        registry.register(
            "scrape_waits",
            "Scrapes that waited because as many as may run at one time did",
            metrics.waits.clone(),
        );
        metrics
    }

    /// Counts one scrape.
    pub(super) fn scraped(&self, took: Duration, failure: Option<&Failure>) {
        let outcome = failure.map_or("ok", Failure::name);
        self.scrapes.get_or_create(&OutcomeLabel { outcome }).inc();
        self.seconds.observe(took);
    }

    /// Scrapes that ended this way.
    pub fn count(&self, outcome: &'static str) -> u64 {
        self.scrapes.get_or_create(&OutcomeLabel { outcome }).get()
    }

    /// Scrapes that waited for others to end.
    pub fn waits(&self) -> u64 {
        self.waits.get()
    }

    pub(super) fn endpoints(&self, endpoints: usize) {
        self.endpoints.set(endpoints as i64);
    }

    pub(super) fn long_lines(&self, lines: u64) {
        self.long_lines.inc_by(lines);
    }

    pub(super) fn waited(&self) {
        self.waits.inc();
    }
}
