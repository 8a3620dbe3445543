//! Scorers: how much a candidate is to be preferred, from 0 to 1. PURE, and without an
//! allocation: each score is handed to the caller as it is made.

use std::net::IpAddr;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::endpoint::{Candidate, EndpointId, Signals};
use super::profile::Kept;
use super::request::RequestFacts;

/// A preference: finite and from 0 to 1, by construction.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Score(f64);

impl Score {
    /// Clamps into range; what is not a number is 0.
    pub fn new(value: f64) -> Self {
        Self(if value.is_nan() {
            0.0
        } else {
            value.clamp(0.0, 1.0)
        })
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

/// A scorer.
#[derive(Clone, Debug, PartialEq)]
pub enum Scorer {
    /// 1 for the least loaded, 0 for the most, in proportion between. Load is what this EPP
    /// has in flight or what the engine says when that is more: the environment's load scorer.
    LeastLoad,
    /// The same by requests waiting.
    Queue,
    /// The same by requests running.
    RunningRequests,
    /// Share of the KV cache that is free.
    KvUtilization,
    /// 0.5 where nothing waits, down to 0 where as much as the threshold does; upstream never
    /// gives more than a half.
    LoadAware {
        /// Requests waiting from which on the score is 0; at least 1.
        queue_threshold: u64,
    },
    /// 1 for idle endpoints; the busy ones by what this EPP has in flight there.
    ActiveRequests {
        /// Requests in flight up to which an endpoint counts as idle.
        idle_threshold: u64,
        /// What a busy endpoint gets at most, from 0 to 1.
        max_busy_score: f64,
    },
    /// Share of the prompt that this EPP has sent there before.
    PrefixCache(MatchLength),
    /// Share of the prompt that the engine's KV cache holds, as its events tell.
    PreciseCache(MatchLength),
    /// 1 for the session's home, 0 for the others; all 0 without a session.
    SessionAffinity(SessionAffinity),
}

/// How much the length of a match counts beside the share of the prompt that it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatchLength {
    /// From 0, only the share counts, to 1, only the length does.
    pub weight: f64,
    /// Tokens from which on a match is as long as any.
    pub scale_tokens: u32,
}

impl Default for MatchLength {
    fn default() -> Self {
        Self {
            weight: 0.0,
            scale_tokens: 8192,
        }
    }
}

/// How sessions are recognised and kept together.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SessionAffinity {
    /// Headers looked at, in order, in lower case; the first one present names the session.
    pub headers: Vec<String>,
    /// How long a session stays with an endpoint after its last request.
    pub sticky: Duration,
    /// Requests waiting at an engine from which on it is saturated and its sessions move.
    pub queue_threshold: u64,
}

impl Scorer {
    /// The type's name in configurations and explanations.
    pub fn name(&self) -> &'static str {
        match self {
            Self::LeastLoad => "least-load-scorer",
            Self::Queue => "queue-scorer",
            Self::RunningRequests => "running-requests-size-scorer",
            Self::KvUtilization => "kv-cache-utilization-scorer",
            Self::LoadAware { .. } => "load-aware-scorer",
            Self::ActiveRequests { .. } => "active-request-scorer",
            Self::PrefixCache(_) => "prefix-cache-scorer",
            Self::PreciseCache(_) => "precise-prefix-cache-scorer",
            Self::SessionAffinity(_) => "session-affinity-scorer",
        }
    }

    /// Scores every candidate, in their order.
    pub(super) fn score(&self, request: &RequestFacts, kept: Kept<'_>, mut put: impl FnMut(Score)) {
        match self {
            Self::LeastLoad => least(kept, Signals::load, put),
            Self::Queue => least(kept, Signals::waiting, put),
            Self::RunningRequests => least(kept, Signals::running, put),
            // Of an engine that says nothing, nothing is known: neither better nor worse.
            Self::KvUtilization => each(
                kept,
                |signals| signals.engine.map_or(0.5, |engine| 1.0 - engine.kv_usage),
                put,
            ),
            Self::LoadAware { queue_threshold } => {
                let limit = *queue_threshold;
                let share = |signals: &Signals| signals.waiting().min(limit) as f64 / limit as f64;
                each(kept, |signals| 0.5 * (1.0 - share(signals)), put);
            }
            Self::ActiveRequests {
                idle_threshold,
                max_busy_score,
            } => {
                let counts = kept.iter().map(|candidate| candidate.signals.in_flight);
                let most = counts.max().unwrap_or(0);
                let busy = |count| (most - count) as f64 / most as f64 * max_busy_score;
                let idle = |signals: &Signals| signals.in_flight <= *idle_threshold;
                let score = |signals: &Signals| {
                    if idle(signals) {
                        1.0
                    } else {
                        busy(signals.in_flight)
                    }
                };
                each(kept, score, put);
            }
            Self::PrefixCache(length) => {
                let tokens = request.tokens() as f64;
                each(kept, |signals| length.blend(signals.prefix, tokens), put);
            }
            Self::PreciseCache(length) => {
                let tokens = request.tokens() as f64;
                each(kept, |signals| length.blend(signals.hit(), tokens), put);
            }
            Self::SessionAffinity(affinity) => {
                let home = request
                    .session
                    .and_then(|session| affinity.home(session, kept));
                for candidate in kept.iter() {
                    put(Score::new(f64::from(u8::from(Some(candidate.id) == home))));
                }
            }
        }
    }
}

impl MatchLength {
    fn blend(&self, share: f64, prompt_tokens: f64) -> f64 {
        if self.weight == 0.0 {
            return share;
        }
        let length = (share * prompt_tokens / f64::from(self.scale_tokens)).min(1.0);
        self.weight * length * length + (1.0 - self.weight) * share
    }
}

/// What each one's own signals say.
fn each(kept: Kept<'_>, of: impl Fn(&Signals) -> f64, mut put: impl FnMut(Score)) {
    for candidate in kept.iter() {
        put(Score::new(of(&candidate.signals)));
    }
}

/// 1 for those with least, 0 for those with most, in proportion between; all 1 when equal.
fn least(kept: Kept<'_>, of: impl Fn(&Signals) -> u64, mut put: impl FnMut(Score)) {
    let (mut min, mut max) = (u64::MAX, 0);
    for candidate in kept.iter() {
        let value = of(&candidate.signals);
        min = min.min(value);
        max = max.max(value);
    }
    let span = max.saturating_sub(min) as f64;
    for candidate in kept.iter() {
        let value = of(&candidate.signals);
        put(Score::new(if span == 0.0 {
            1.0
        } else {
            (max - value) as f64 / span
        }));
    }
}

/// Sessions an endpoint may have above its equal share before new ones go to the next:
/// rendezvous hashing alone is uneven while sessions are few. Bounded loads:
/// <https://arxiv.org/abs/1608.01350>.
const SHARE_SLACK: f64 = 1.25;

impl SessionAffinity {
    /// Where a session belongs: the endpoint it is bound to, unless that is saturated; else the
    /// first in the session's own order of endpoints that is neither saturated nor has more
    /// sessions than its share. Every replica of the EPP computes the same order, and an
    /// endpoint that comes or goes moves only the sessions that move to or from it.
    fn home(&self, session: u64, kept: Kept<'_>) -> Option<EndpointId> {
        let calm = |candidate: &Candidate| candidate.signals.waiting() < self.queue_threshold;
        let all: u64 = kept
            .iter()
            .map(|candidate| candidate.signals.sessions)
            .sum();
        let share = (SHARE_SLACK * (all + 1) as f64 / kept.len().max(1) as f64).ceil() as u64;
        let claim = |candidate: &Candidate| match candidate.signals {
            Signals { bound: true, .. } if calm(candidate) => Claim::Bound,
            Signals { sessions, .. } if sessions < share && calm(candidate) => Claim::Room,
            _ => Claim::None,
        };
        let best = kept.iter().map(claim).max()?;
        kept.iter()
            .filter(|candidate| claim(candidate) == best)
            .max_by_key(|candidate| rank(session, candidate.id))
            .map(|home| home.id)
    }
}

/// What an endpoint has going for it as a session's home, the strongest last.
#[derive(Eq, Ord, PartialEq, PartialOrd)]
enum Claim {
    None,
    Room,
    Bound,
}

/// An endpoint's place in an order that the seed gives: the same in every replica and after
/// every restart, which `std`'s hasher does not promise.
pub(super) fn rank(seed: u64, id: EndpointId) -> u64 {
    let port = id.0.port().to_be_bytes();
    match id.0.ip() {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            xxh3_64_with_seed(&[a, b, c, d, port[0], port[1]], seed)
        }
        IpAddr::V6(address) => {
            let mut bytes = [0; 18];
            bytes[..16].copy_from_slice(&address.octets());
            bytes[16..].copy_from_slice(&port);
            xxh3_64_with_seed(&bytes, seed)
        }
    }
}
