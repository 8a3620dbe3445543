//! Scorers: how much a candidate is to be preferred, from 0 to 1. PURE.

use super::config::{ScorerKind, Settings};
use super::endpoint::{Candidate, EndpointId};
use super::request::Request;

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

/// Scores every candidate, in their order.
pub fn score(
    kind: ScorerKind,
    settings: &Settings,
    request: &Request,
    candidates: &[Candidate],
) -> Vec<Score> {
    let each = |of: fn(&Candidate) -> f64| {
        candidates
            .iter()
            .map(|candidate| Score::new(of(candidate)))
            .collect()
    };
    match kind {
        ScorerKind::Load => load(candidates),
        ScorerKind::Session => session(settings.queue_threshold, request, candidates),
        ScorerKind::Prefix => each(|candidate| candidate.prefix),
        ScorerKind::KvCache => each(Candidate::hit),
    }
}

/// 1 for the least loaded, 0 for the most, in proportion between; all 1 when equal.
fn load(candidates: &[Candidate]) -> Vec<Score> {
    let loads = || candidates.iter().map(Candidate::load);
    let (Some(least), Some(most)) = (loads().min(), loads().max()) else {
        return Vec::new();
    };
    let span = (most - least) as f64;
    loads()
        .map(|load| {
            Score::new(if span == 0.0 {
                1.0
            } else {
                (most - load) as f64 / span
            })
        })
        .collect()
}

/// 1 for the session's home, 0 for the others; all 0 without a session.
fn session(queue_threshold: u64, request: &Request, candidates: &[Candidate]) -> Vec<Score> {
    let home = request
        .session
        .and_then(|session| home(queue_threshold, session, candidates));
    candidates
        .iter()
        .map(|candidate| Score::new(f64::from(u8::from(Some(candidate.id) == home))))
        .collect()
}

/// Sessions an endpoint may have above its equal share before new ones go to the next:
/// rendezvous hashing alone is uneven while sessions are few. Bounded loads:
/// <https://arxiv.org/abs/1608.01350>.
const SHARE_SLACK: f64 = 1.25;

/// Where a session belongs: the endpoint it is bound to, unless that is saturated; else the
/// first in the session's own order of endpoints that is neither saturated nor has more
/// sessions than its share. Every replica of the EPP computes the same order, and an
/// endpoint that comes or goes moves only the sessions that move to or from it.
fn home(queue_threshold: u64, session: u64, candidates: &[Candidate]) -> Option<EndpointId> {
    let calm = |candidate: &&Candidate| !candidate.is_saturated(queue_threshold);
    if let Some(bound) = candidates.iter().filter(calm).find(|c| c.bound) {
        return Some(bound.id);
    }
    let all: u64 = candidates.iter().map(|candidate| candidate.sessions).sum();
    let share = (SHARE_SLACK * (all + 1) as f64 / candidates.len().max(1) as f64).ceil() as u64;
    let rank = |candidate: &&Candidate| mix(session, &candidate.id.to_string());
    candidates
        .iter()
        .filter(calm)
        .filter(|candidate| candidate.sessions < share)
        .max_by_key(rank)
        .or_else(|| candidates.iter().max_by_key(rank))
        .map(|home| home.id)
}

/// FNV-1a over the endpoint, seeded by the session: stable across replicas and restarts,
/// which `std`'s hasher does not promise.
fn mix(seed: u64, text: &str) -> u64 {
    let mut hash = seed ^ 0xcbf2_9ce4_8422_2325;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    // The last bytes of addresses differ least; spread them over all bits.
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}
