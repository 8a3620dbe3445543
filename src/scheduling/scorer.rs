//! Scorers: how much a candidate is to be preferred, from 0 to 1. PURE.

use super::config::ScorerKind;
use super::endpoint::Candidate;
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
pub fn score(kind: ScorerKind, request: &Request, candidates: &[Candidate]) -> Vec<Score> {
    match kind {
        ScorerKind::Load => load(candidates),
        ScorerKind::Session => session(request, candidates),
        ScorerKind::Prefix => share(request, candidates, |candidate| candidate.prefix_blocks),
        ScorerKind::KvCache => share(request, candidates, |candidate| candidate.cached_blocks),
    }
}

/// 1 for the least loaded, 0 for the most, in proportion between; all 1 when equal.
fn load(candidates: &[Candidate]) -> Vec<Score> {
    let loads = || candidates.iter().map(|candidate| candidate.in_flight);
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

/// 1 for the endpoint that rendezvous hashing gives the session, 0 for the others; all 0
/// without a session. Adding an endpoint moves only the sessions that move to it.
fn session(request: &Request, candidates: &[Candidate]) -> Vec<Score> {
    let Some(session) = request.session else {
        return vec![Score::default(); candidates.len()];
    };
    let rank = |candidate: &Candidate| mix(session, &candidate.id.to_string());
    let home = candidates
        .iter()
        .max_by_key(|candidate| rank(candidate))
        .map(|home| home.id);
    candidates
        .iter()
        .map(|candidate| Score::new(f64::from(u8::from(Some(candidate.id) == home))))
        .collect()
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

/// The share of the prompt that is there already.
fn share(request: &Request, candidates: &[Candidate], blocks: fn(&Candidate) -> u32) -> Vec<Score> {
    let total = f64::from(request.prompt_blocks);
    candidates
        .iter()
        .map(|candidate| {
            Score::new(if total == 0.0 {
                0.0
            } else {
                f64::from(blocks(candidate)) / total
            })
        })
        .collect()
}
