//! What goes wrong on purpose: settings of `/sim/faults` -> a verdict per request. PURE.
#![deny(clippy::disallowed_methods)]

use serde::{Deserialize, Serialize};

use super::events::Oddity;

/// The body of `POST /sim/faults`. What is absent stays as it is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Answers with an error.
    pub fail: Option<Fail>,
    /// Never answers.
    pub hang: Option<Pick>,
    /// Closes the connection within an answer.
    pub disconnect: Option<Disconnect>,
    /// Makes every step this many times as long.
    pub slow_factor: Option<f64>,
    /// Spoils `/metrics`.
    pub metrics: Option<MetricsPage>,
    /// What `/health` answers.
    pub health_status: Option<u16>,
    /// Spoils KV events. Not kept: each is done once or until cleared.
    pub events: Option<EventFaults>,
}

/// Which requests are meant.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pick {
    /// The next ones.
    pub next: u64,
    /// And of the others, this share, 0 to 100.
    pub percent: f64,
}

/// An error answer.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Fail {
    /// Which requests.
    #[serde(flatten)]
    pub pick: Pick,
    /// The status.
    pub status: u16,
    /// The message.
    pub message: String,
}

impl Default for Fail {
    fn default() -> Self {
        Self {
            pick: Pick::default(),
            status: 503,
            message: "a fault was asked for".to_owned(),
        }
    }
}

/// An answer that breaks off.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Disconnect {
    /// Which requests.
    #[serde(flatten)]
    pub pick: Pick,
    /// Events that are sent before.
    pub after: usize,
}

/// A page that is no page.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricsPage {
    /// Some 64 MiB of lines.
    Huge,
    /// Nothing.
    Empty,
    /// No text.
    Binary,
    /// Status 500.
    Error,
    /// Never.
    Hang,
}

/// What happens to KV events.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventFaults {
    /// Loses the next batches; their numbers are used up, and they can be replayed.
    pub drop_next: Option<u64>,
    /// True loses every batch, false ends that.
    pub stop: Option<bool>,
    /// True starts with number 0 again.
    pub reset_sequence: bool,
    /// Publishes odd batches, in this order.
    pub publish: Vec<Oddity>,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is answered.
    Serve,
    /// It is refused.
    Fail(u16, String),
    /// It gets no answer.
    Hang,
    /// Its answer breaks off after so many events.
    Disconnect(usize),
}

/// The faults in force.
#[derive(Debug, Default)]
pub struct Faults {
    settings: Settings,
    applied: u64,
    draws: u64,
}

impl Faults {
    /// Takes in new settings.
    pub fn set(&mut self, new: Settings) {
        let kept = &mut self.settings;
        kept.fail = new.fail.or(kept.fail.take());
        kept.hang = new.hang.or(kept.hang);
        kept.disconnect = new.disconnect.or(kept.disconnect);
        kept.slow_factor = new.slow_factor.or(kept.slow_factor);
        kept.metrics = new.metrics.or(kept.metrics);
        kept.health_status = new.health_status.or(kept.health_status);
    }

    /// Ends all of them.
    pub fn clear(&mut self) {
        self.settings = Settings::default();
    }

    /// The settings in force: what `GET /sim/faults` shows, with the number of requests that
    /// were spoilt so far.
    pub fn shown(&self) -> serde_json::Value {
        serde_json::json!({"settings": self.settings, "spoilt_requests": self.applied})
    }

    /// Spoils `/metrics`.
    pub fn metrics(&self) -> Option<MetricsPage> {
        self.settings.metrics
    }

    /// What `/health` answers.
    pub fn health_status(&self) -> Option<u16> {
        self.settings.health_status
    }

    /// Decides on the next request.
    pub fn verdict(&mut self) -> Verdict {
        let draw = self.draw();
        let Settings {
            fail,
            hang,
            disconnect,
            ..
        } = &mut self.settings;
        let verdict = if let Some(fail) = fail.as_mut().filter(|fail| fail.pick.any())
            && fail.pick.takes(draw)
        {
            Verdict::Fail(fail.status, fail.message.clone())
        } else if hang.as_mut().is_some_and(|pick| pick.takes(draw)) {
            Verdict::Hang
        } else if let Some(disconnect) = disconnect
            && disconnect.pick.takes(draw)
        {
            Verdict::Disconnect(disconnect.after)
        } else {
            return Verdict::Serve;
        };
        self.applied += 1;
        verdict
    }

    /// From 0 to 100, the same series in every run (SplitMix64).
    fn draw(&mut self) -> f64 {
        self.draws += 1;
        let mut z = self.draws.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 40) as f64 * 100.0 / (1_u64 << 24) as f64
    }
}

impl Pick {
    fn any(self) -> bool {
        self.next > 0 || self.percent > 0.0
    }

    fn takes(&mut self, draw: f64) -> bool {
        if self.next > 0 {
            self.next -= 1;
            return true;
        }
        draw < self.percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(json: &str) -> Faults {
        let mut faults = Faults::default();
        faults.set(serde_json::from_str(json).unwrap());
        faults
    }

    #[test]
    fn the_next_requests_fail_and_then_no_more() {
        let mut faults = faults(r#"{"fail":{"next":2,"status":429}}"#);
        assert!(matches!(faults.verdict(), Verdict::Fail(429, _)));
        assert!(matches!(faults.verdict(), Verdict::Fail(429, _)));
        assert_eq!(faults.verdict(), Verdict::Serve);
        assert_eq!(faults.shown()["spoilt_requests"], 2);
    }

    #[test]
    fn a_share_of_requests_fails_in_every_run_alike() {
        let run = || {
            let mut faults = faults(r#"{"hang":{"percent":30}}"#);
            (0..1000)
                .map(|_| faults.verdict() == Verdict::Hang)
                .collect::<Vec<_>>()
        };
        let hung = run().iter().filter(|hung| **hung).count();
        assert!((250..350).contains(&hung), "{hung}");
        assert_eq!(run(), run());
    }

    #[test]
    fn what_is_not_said_stays_and_clearing_ends_all() {
        let mut faults = faults(r#"{"health_status":500}"#);
        faults.set(serde_json::from_str(r#"{"disconnect":{"next":1,"after":3}}"#).unwrap());
        assert_eq!(faults.health_status(), Some(500));
        assert_eq!(faults.verdict(), Verdict::Disconnect(3));
        faults.clear();
        assert_eq!(faults.health_status(), None);
        assert!(serde_json::from_str::<Settings>(r#"{"fial":{}}"#).is_err());
    }
}
