//! What is measured, and the middle of several samples. PURE.

use std::str::FromStr;

use serde_json::{Value, json};

/// Prompts of one length at one rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Characters of a prompt.
    pub(super) chars: usize,
    /// Requests a second.
    pub(super) rate: u32,
}

impl FromStr for Row {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = || {
            let (chars, rate) = text.split_once(':')?;
            let (chars, rate) = (chars.parse().ok()?, rate.parse().ok()?);
            (rate > 0).then_some(Self { chars, rate })
        };
        read().ok_or_else(|| format!("{text:?}: write characters:requests-a-second"))
    }
}

/// One measurement of one EPP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// CPU milliseconds of the EPP for each request, with what it uses when idle.
    pub(super) cpu_ms: f64,
    /// CPU milliseconds that Envoy spends more than without an EPP.
    pub(super) envoy_ms: f64,
    /// Median latency through the EPP.
    pub(super) p50_ms: f64,
    /// The same of the slowest hundredth.
    pub(super) p99_ms: f64,
    /// Both without an EPP, in the same round.
    pub(super) plain_p50_ms: f64,
    pub(super) plain_p99_ms: f64,
    /// Answers with 200.
    pub(super) ok: usize,
    /// Requests.
    pub(super) sent: usize,
    /// The most that a request was sent too late: the client was starved.
    pub(super) late_ms: f64,
    /// Resident memory after it.
    pub(super) rss_mib: f64,
}

/// All measurements of one EPP.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    pub(super) samples: Vec<Sample>,
}

impl Measured {
    fn sorted(&self, of: fn(&Sample) -> f64) -> Vec<f64> {
        let mut values: Vec<f64> = self.samples.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    /// The least.
    pub(super) fn min(&self, of: fn(&Sample) -> f64) -> f64 {
        self.sorted(of).first().copied().unwrap_or(f64::NAN)
    }

    /// The most.
    pub(super) fn max(&self, of: fn(&Sample) -> f64) -> f64 {
        self.sorted(of).last().copied().unwrap_or(f64::NAN)
    }

    /// The middle one.
    pub(super) fn median(&self, of: fn(&Sample) -> f64) -> f64 {
        middle(&self.sorted(of))
    }

    /// What the EPP adds to a latency: the best round against the best without it, and the
    /// middle of the differences in one round. Noise only ever adds, so the first is the one
    /// that a busy machine spoils least.
    pub(super) fn added(&self, of: fn(&Sample) -> f64, plain: fn(&Sample) -> f64) -> (f64, f64) {
        let best = self.min(of) - self.min(plain);
        let mut each: Vec<f64> = self
            .samples
            .iter()
            .map(|sample| of(sample) - plain(sample))
            .collect();
        each.sort_by(f64::total_cmp);
        (best, middle(&each))
    }

    /// What it adds to the median.
    pub(super) fn added_p50(&self) -> (f64, f64) {
        self.added(|s| s.p50_ms, |s| s.plain_p50_ms)
    }

    /// What it adds to the slowest hundredth.
    pub(super) fn added_p99(&self) -> (f64, f64) {
        self.added(|s| s.p99_ms, |s| s.plain_p99_ms)
    }

    /// Answers with 200, and requests.
    pub(super) fn counts(&self) -> (usize, usize) {
        self.samples.iter().fold((0, 0), |(ok, sent), sample| {
            (ok + sample.ok, sent + sample.sent)
        })
    }

    /// Everything, for programs.
    pub(super) fn json(&self) -> Value {
        let (ok, sent) = self.counts();
        let both = |of: fn(&Sample) -> f64| json!({"min": self.min(of), "median": self.median(of)});
        let pair = |(best, median): (f64, f64)| json!({"best": best, "median": median});
        json!({
            "ok": ok, "of": sent,
            "cpu_ms": both(|sample| sample.cpu_ms),
            "envoy_extra_cpu_ms": both(|sample| sample.envoy_ms),
            "added_p50_ms": pair(self.added_p50()),
            "added_p99_ms": pair(self.added_p99()),
            "p50_ms": both(|sample| sample.p50_ms),
            "plain_p50_ms": both(|sample| sample.plain_p50_ms),
            "late_ms_max": self.max(|sample| sample.late_ms),
            "rss_mib_max": self.max(|sample| sample.rss_mib),
            "cpu_ms_all": self.samples.iter().map(|sample| sample.cpu_ms).collect::<Vec<_>>(),
        })
    }
}

/// The middle value of sorted ones; between the two middle ones of an even number.
fn middle(values: &[f64]) -> f64 {
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}
