//! Numbers -> lines of Prometheus text. PURE.

use std::fmt::Write as _;

/// Observations in buckets.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    bounds: Vec<f64>,
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    pub(super) fn new(bounds: &[f64]) -> Self {
        Self {
            counts: vec![0; bounds.len() + 1],
            bounds: bounds.to_vec(),
            sum: 0.0,
        }
    }

    pub(super) fn observe(&mut self, value: f64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at] += 1;
        self.sum += value;
    }
}

/// The text so far. Writing to a String cannot fail.
pub(super) struct Page {
    pub(super) out: String,
    pub(super) labels: String,
}

impl Page {
    pub(super) fn head(&mut self, kind: &str, name: &str) {
        let _ = writeln!(
            self.out,
            "# HELP {name} See vLLM's documentation.\n# TYPE {name} {kind}"
        );
    }

    pub(super) fn line(&mut self, name: &str, labels: &str, value: f64) {
        let _ = writeln!(self.out, "{name}{{{labels}}} {value:?}");
    }

    pub(super) fn one(&mut self, kind: &str, name: &str, value: impl IntoNumber) {
        self.head(kind, name);
        let labels = std::mem::take(&mut self.labels);
        self.line(name, &labels, value.number());
        self.labels = labels;
    }

    pub(super) fn histogram(&mut self, name: &str, histogram: &Histogram) {
        self.head("histogram", name);
        let mut below = 0;
        let bounds = histogram.bounds.iter().map(|bound| format!("{bound:?}"));
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&histogram.counts) {
            below += count;
            let labels = &self.labels;
            let _ = writeln!(
                self.out,
                "{name}_bucket{{{labels},le=\"{bound}\"}} {below:?}.0"
            );
        }
        let labels = &self.labels;
        let _ = writeln!(
            self.out,
            "{name}_count{{{labels}}} {below:?}.0\n{name}_sum{{{labels}}} {:?}",
            histogram.sum
        );
    }
}

pub(super) trait IntoNumber {
    fn number(self) -> f64;
}

impl IntoNumber for f64 {
    fn number(self) -> f64 {
        self
    }
}

impl IntoNumber for usize {
    fn number(self) -> f64 {
        self as f64
    }
}

pub(super) fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// vLLM's buckets for token counts: 1, 2, 5, 10, … up to `most`.
pub(super) fn one_two_five(most: usize) -> Vec<f64> {
    let decades = (0..10).map(|exponent| 10_usize.pow(exponent));
    decades
        .flat_map(|decade| [decade, 2 * decade, 5 * decade])
        .take_while(|bound| *bound <= most)
        .map(|bound| bound as f64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_count_what_is_at_most_their_bound() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 9.0] {
            histogram.observe(value);
        }
        assert_eq!(histogram.counts, [2, 1, 1]);
        assert_eq!(one_two_five(60), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
    }
}
