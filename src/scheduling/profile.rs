//! One profile: filters, weighted scorers, picker. PURE.
//!
//! Candidates stay where they are; who is still in is a list of places. Both it and the totals
//! live in scratch space that is used again, so a decision allocates nothing per candidate.

use super::decision::{NoEndpoint, Row};
use super::endpoint::Candidate;
use super::filter::Gate;
use super::pipeline::Profile;
use super::request::RequestFacts;

/// Space that decisions share, one after another.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Places in the candidates of those still in.
    kept: Vec<u32>,
    /// Their totals, in the same order.
    totals: Vec<f64>,
    ties: Vec<u32>,
}

/// Those still in.
#[derive(Clone, Copy)]
pub(super) struct Kept<'a> {
    candidates: &'a [Candidate],
    places: &'a [u32],
}

impl<'a> Kept<'a> {
    pub(super) fn iter(self) -> impl Iterator<Item = &'a Candidate> {
        self.places
            .iter()
            .map(move |place| &self.candidates[*place as usize])
    }

    pub(super) fn at(self, place: usize) -> &'a Candidate {
        &self.candidates[self.places[place] as usize]
    }

    pub(super) fn len(self) -> usize {
        self.places.len()
    }
}

/// What one run of a profile looks at.
#[derive(Clone, Copy)]
pub(super) struct Round<'a> {
    pub(super) request: &'a RequestFacts,
    pub(super) candidates: &'a [Candidate],
    /// Whose turn it is among equals, and what draws are made from.
    pub(super) turn: u64,
}

/// Runs the profile behind the gates: the one picked. `rows`, where wanted, becomes the score
/// table.
///
/// # Errors
/// When no candidate passes.
pub(super) fn run<'a>(
    profile: &Profile,
    gates: &[Gate],
    round: Round<'a>,
    scratch: &mut Scratch,
    mut rows: Option<&mut Vec<Row>>,
) -> Result<&'a Candidate, NoEndpoint> {
    let Round {
        request,
        candidates,
        turn,
    } = round;
    if candidates.is_empty() {
        return Err(NoEndpoint::PoolEmpty);
    }
    let Scratch { kept, totals, ties } = scratch;
    if let Some(rows) = rows.as_deref_mut() {
        rows.clear();
        rows.extend(candidates.iter().map(|candidate| Row::new(candidate.id)));
    }
    kept.clear();
    kept.extend(0..candidates.len() as u32);
    for gate in gates {
        let keeps = |candidate: &Candidate| gate.keeps(request, candidate);
        retain(kept, candidates, gate.name(), keeps, rows.as_deref_mut())?;
    }
    for filter in &profile.filters {
        let keeps = |candidate: &Candidate| filter.keeps(candidate);
        retain(kept, candidates, filter.name(), keeps, rows.as_deref_mut())?;
    }
    let kept = Kept {
        candidates,
        places: kept,
    };
    totals.clear();
    totals.resize(kept.len(), 0.0);
    for weighted in &profile.scorers {
        let weight = weighted.weight.get();
        // A weight of 0 is the same as no scorer.
        if weight == 0.0 {
            continue;
        }
        let mut place = 0;
        weighted.scorer.score(request, kept, |score| {
            totals[place] += score.get() * weight;
            if let Some(rows) = rows.as_deref_mut() {
                let row = &mut rows[kept.places[place] as usize];
                row.scores
                    .push((weighted.scorer.name(), score.get(), weight));
                row.total = totals[place];
            }
            place += 1;
        });
    }
    let picked = profile.picker.pick(kept, totals, turn, ties);
    picked
        .map(|place| &candidates[kept.places[place] as usize])
        .ok_or(NoEndpoint::PoolEmpty)
}

/// Drops those that do not stay.
fn retain(
    kept: &mut Vec<u32>,
    candidates: &[Candidate],
    name: &'static str,
    stays: impl Fn(&Candidate) -> bool,
    mut rows: Option<&mut Vec<Row>>,
) -> Result<(), NoEndpoint> {
    kept.retain(|place| {
        let stays = stays(&candidates[*place as usize]);
        if let Some(rows) = rows.as_deref_mut().filter(|_| !stays) {
            rows[*place as usize].dropped_by = Some(name);
        }
        stays
    });
    if kept.is_empty() {
        return Err(NoEndpoint::Filtered(name));
    }
    Ok(())
}
