//! Durations -> a Prometheus histogram that many threads add to without a lock. No IO, no
//! clock; knows nothing of what is timed.
//!
//! The metrics library's own histogram holds a mutex while it counts, which the request path
//! must not take. Here a scrape that reads while others count may see one count and not yet
//! its share of the sum, which the next scrape sees.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// A histogram in seconds; cheap to clone, clones count together.
#[derive(Clone, Debug)]
pub struct DurationHistogram(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Upper bounds, ascending; each belongs to its bucket.
    bounds: Vec<Duration>,
    /// One for each bound, and one for what is above all of them.
    counts: Vec<AtomicU64>,
    sum_nanoseconds: AtomicU64,
}

impl DurationHistogram {
    /// A histogram with these upper bounds, in any order, and one bucket above them.
    pub fn new(bounds: impl IntoIterator<Item = Duration>) -> Self {
        let mut bounds: Vec<Duration> = bounds.into_iter().collect();
        bounds.sort_unstable();
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Inner {
            bounds,
            counts,
            sum_nanoseconds: AtomicU64::new(0),
        }))
    }

    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let bucket = self.0.bounds.partition_point(|bound| *bound < took);
        // Nothing is read or written because of these counts, so no order is needed.
        self.0.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0
            .sum_nanoseconds
            .fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl EncodeMetric for DurationHistogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let bounds = self.0.bounds.iter().map(Duration::as_secs_f64);
        let counts = self.0.counts.iter();
        let buckets: Vec<(f64, u64)> = bounds
            .chain([f64::INFINITY])
            .zip(counts.map(|count| count.load(Ordering::Relaxed)))
            .collect();
        let sum = Duration::from_nanos(self.0.sum_nanoseconds.load(Ordering::Relaxed));
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for DurationHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn threads_count_together_and_a_page_reads_as_a_histogram() {
        let bounds = [Duration::from_millis(5), Duration::from_millis(1)];
        let histogram = DurationHistogram::new(bounds);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        histogram.observe(Duration::from_millis(1));
                        histogram.observe(Duration::from_millis(2));
                        histogram.observe(Duration::from_millis(7));
                    }
                });
            }
        });
        let mut registry = Registry::default();
        registry.register("took_seconds", "Time", histogram);
        let mut page = String::new();
        encode(&mut page, &registry).unwrap();
        for line in [
            "took_seconds_sum 20.0",
            "took_seconds_count 6000",
            r#"took_seconds_bucket{le="0.001"} 2000"#,
            r#"took_seconds_bucket{le="0.005"} 4000"#,
            r#"took_seconds_bucket{le="+Inf"} 6000"#,
        ] {
            assert!(page.lines().any(|found| found == line), "{line}: {page}");
        }
    }
}
