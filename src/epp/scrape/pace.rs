//! How scrapes of one endpoint went -> when the next one is due. PURE; randomness is an
//! argument.

#![deny(clippy::disallowed_methods)]

use std::time::Duration;

/// Bounds of scraping.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Between scrapes of an endpoint that works or changes.
    pub fast: Duration,
    /// Between scrapes of an endpoint that has had nothing to do for a while.
    pub idle: Duration,
    /// Longest wait between scrapes of an endpoint that fails.
    pub backoff: Duration,
    /// Longest time of one scrape, connecting included.
    pub timeout: Duration,
    /// Scrapes at one time, over all endpoints.
    pub concurrent: usize,
    /// Longest page, in bytes.
    pub max_page_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // What this EPP sends is counted without a scrape; a page costs as much CPU as
            // deciding several requests.
            fast: Duration::from_secs(1),
            idle: Duration::from_secs(4),
            backoff: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            concurrent: 32,
            max_page_bytes: 4 << 20,
        }
    }
}

impl Limits {
    /// These limits with another wait between scrapes of an endpoint that works.
    pub fn every(self, fast: Duration) -> Self {
        Self {
            fast,
            idle: self.idle.max(fast),
            ..self
        }
    }

    /// The age at which a load is no longer told: an idle endpoint whose scrape takes as long
    /// as it may is still known, and one that has missed a scrape is not.
    pub fn stale(&self) -> Duration {
        self.idle + self.timeout
    }
}

/// Pace of one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    wait: Duration,
    failures: u32,
}

impl Pace {
    /// The pace of an endpoint not scraped yet: fast.
    pub fn new(limits: &Limits) -> Self {
        Self {
            wait: limits.fast,
            failures: 0,
        }
    }

    /// After a scrape that said something. `active` is an endpoint that has requests or
    /// whose load changed; without it the waits double up to the idle one.
    pub fn succeeded(&mut self, limits: &Limits, active: bool) -> Duration {
        let recovered = std::mem::take(&mut self.failures) > 0;
        self.wait = if active || recovered {
            limits.fast
        } else {
            (self.wait * 2).min(limits.idle)
        };
        self.wait
    }

    /// After a scrape that said nothing: the waits double with every failure in a row.
    pub fn failed(&mut self, limits: &Limits) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.wait = limits.fast;
        limits.fast.saturating_mul(factor).min(limits.backoff)
    }

    /// The endpoint was given work: it is active again.
    pub fn nudged(&mut self, limits: &Limits) {
        self.wait = limits.fast;
    }

    /// True while the endpoint fails.
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

/// Shortens a wait by up to a fifth, so that endpoints found together are not scraped
/// together for ever. Never lengthens it: staleness counts on the longest wait.
pub fn jitter(wait: Duration, random: u64) -> Duration {
    let part = (random >> 40) as f64 / f64::from(1_u32 << 24);
    wait.mul_f64(1.0 - part / 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_works_is_scraped_fast_and_an_idle_one_ever_more_slowly() {
        let limits = Limits::default();
        let mut pace = Pace::new(&limits);
        assert_eq!(pace.succeeded(&limits, true), limits.fast);
        let waits: Vec<u128> = (0..7)
            .map(|_| pace.succeeded(&limits, false).as_millis())
            .collect();
        assert_eq!(waits, [2000, 4000, 4000, 4000, 4000, 4000, 4000]);
        pace.nudged(&limits);
        assert_eq!(pace.succeeded(&limits, false).as_millis(), 2000);
        assert_eq!(pace.succeeded(&limits, true), limits.fast);
    }

    #[test]
    fn an_endpoint_that_fails_is_left_alone_for_longer_and_comes_back_fast() {
        let limits = Limits::default();
        let mut pace = Pace::new(&limits);
        let waits: Vec<u128> = (0..8).map(|_| pace.failed(&limits).as_millis()).collect();
        assert_eq!(waits, [2000, 4000, 5000, 5000, 5000, 5000, 5000, 5000]);
        for _ in 0..100 {
            assert_eq!(pace.failed(&limits), limits.backoff);
        }
        assert!(pace.is_failing());
        assert_eq!(pace.succeeded(&limits, false), limits.fast);
        assert!(!pace.is_failing());
    }

    #[test]
    fn jitter_shortens_a_wait_by_a_fifth_at_most() {
        let wait = Duration::from_secs(2);
        for random in [0, 1, u64::MAX / 3, u64::MAX] {
            let jittered = jitter(wait, random);
            assert!(
                jittered <= wait && jittered >= wait.mul_f64(0.8),
                "{jittered:?}"
            );
        }
        assert_ne!(jitter(wait, 0), jitter(wait, u64::MAX));
    }
}
