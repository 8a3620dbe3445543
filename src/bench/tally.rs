//! Readings of every pod's counters -> how much each pod did since the baseline. PURE.
//!
//! Pods come, go and restart while a test runs: a counter that fell began anew from zero,
//! a pod that was not there at the baseline counts from zero, and a pod that can no longer
//! be read keeps what it had.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use super::exposition::Counters;

/// One pod's counters at one time; `None` when they could not be read.
pub type Readings = BTreeMap<String, Option<Counters>>;

/// What one pod did since the baseline.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Pod {
    /// The sum of all increases.
    pub since: Counters,
    /// How often the counters began anew.
    pub restarts: u32,
    /// Not there at the baseline.
    pub appeared: bool,
    /// The last reading failed.
    pub lost: bool,
    last: Counters,
}

/// All pods since the baseline.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pods: BTreeMap<String, Pod>,
}

impl Tally {
    /// Starts from these counters.
    pub fn new(baseline: impl IntoIterator<Item = (String, Counters)>) -> Self {
        let pods = baseline
            .into_iter()
            .map(|(name, last)| {
                let pod = Pod {
                    last,
                    ..Pod::default()
                };
                (name, pod)
            })
            .collect();
        Self { pods }
    }

    /// Takes a reading of all pods that are there now; returns the pods that looked up
    /// tokens since the reading before.
    pub fn read(&mut self, readings: &Readings) -> Vec<String> {
        let mut active = Vec::new();
        for (name, reading) in readings {
            let Some(now) = *reading else {
                if let Some(pod) = self.pods.get_mut(name) {
                    pod.lost = true;
                }
                continue;
            };
            let pod = self.pods.entry(name.clone()).or_insert_with(|| Pod {
                appeared: true,
                ..Pod::default()
            });
            pod.lost = false;
            if now.query_tokens < pod.last.query_tokens || now.hit_tokens < pod.last.hit_tokens {
                pod.restarts += 1;
                pod.last = Counters::default();
            }
            let increase = Counters {
                query_tokens: now.query_tokens - pod.last.query_tokens,
                hit_tokens: now.hit_tokens - pod.last.hit_tokens,
            };
            pod.last = now;
            pod.since += increase;
            if increase.query_tokens > 0 {
                active.push(name.clone());
            }
        }
        for (name, pod) in &mut self.pods {
            pod.lost |= !readings.contains_key(name);
        }
        active
    }

    /// Sums over all pods.
    pub fn totals(&self) -> Counters {
        self.pods
            .values()
            .fold(Counters::default(), |sum, pod| sum + pod.since)
    }

    /// Every pod ever seen.
    pub fn pods(&self) -> &BTreeMap<String, Pod> {
        &self.pods
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(query_tokens: u64, hit_tokens: u64) -> Counters {
        Counters {
            query_tokens,
            hit_tokens,
        }
    }

    fn readings(list: &[(&str, Option<Counters>)]) -> Readings {
        list.iter()
            .map(|(name, reading)| ((*name).to_owned(), *reading))
            .collect()
    }

    fn from(list: &[(&str, Counters)]) -> Tally {
        Tally::new(list.iter().map(|(name, at)| ((*name).to_owned(), *at)))
    }

    #[test]
    fn only_what_came_after_the_baseline_counts() {
        let mut tally = from(&[("a", counters(1000, 900)), ("b", counters(50, 0))]);
        let active = tally.read(&readings(&[
            ("a", Some(counters(1158, 1044))),
            ("b", Some(counters(50, 0))),
        ]));
        assert_eq!(active, ["a"]);
        assert_eq!(tally.totals(), counters(158, 144));
    }

    #[test]
    fn a_restarted_engine_keeps_what_it_had_and_counts_on_from_zero() {
        let mut tally = from(&[("a", counters(100, 80))]);
        tally.read(&readings(&[("a", Some(counters(200, 160)))]));
        tally.read(&readings(&[("a", Some(counters(30, 0)))]));
        assert_eq!(tally.totals(), counters(130, 80));
        assert_eq!(tally.pods()["a"].restarts, 1);
    }

    #[test]
    fn a_pod_that_took_anothers_place_counts_from_zero_and_the_lost_one_stays() {
        let mut tally = from(&[("old", counters(100, 80))]);
        tally.read(&readings(&[("old", Some(counters(150, 120)))]));
        tally.read(&readings(&[("new", Some(counters(20, 0)))]));
        assert_eq!(tally.totals(), counters(70, 40));
        assert!(tally.pods()["old"].lost && tally.pods()["new"].appeared);
    }

    #[test]
    fn a_pod_that_answers_again_is_no_longer_lost() {
        let mut tally = from(&[("a", counters(0, 0))]);
        tally.read(&readings(&[("a", None)]));
        assert!(tally.pods()["a"].lost);
        tally.read(&readings(&[("a", Some(counters(5, 0)))]));
        assert!(!tally.pods()["a"].lost);
        assert_eq!(tally.totals().query_tokens, 5);
    }
}
