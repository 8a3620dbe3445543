//! Picks one of the scored candidates. PURE; the rotation is an argument.

use super::endpoint::Candidate;

/// Totals closer than this are a tie: weights are whole numbers, scores have rounding.
const TIE: f64 = 1e-9;

/// The index of the highest total; of equals the one with least in flight; of those,
/// whose turn it is.
pub fn max_score(candidates: &[Candidate], totals: &[f64], rotation: usize) -> Option<usize> {
    let best = totals.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let tied: Vec<usize> = (0..candidates.len())
        .filter(|index| best - totals[*index] <= TIE)
        .collect();
    let least = tied
        .iter()
        .map(|index| candidates[*index].in_flight)
        .min()?;
    let calm: Vec<usize> = tied
        .into_iter()
        .filter(|index| candidates[*index].in_flight == least)
        .collect();
    calm.get(rotation % calm.len()).copied()
}
