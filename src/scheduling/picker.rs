//! Picks one of the scored candidates. PURE; turns and randomness are one argument, and the
//! order of the candidates plays no part.

use super::profile::Kept;
use super::scorer::rank;

/// Totals closer than this share of the best are a tie: scores have rounding.
const TIE: f64 = 1e-9;

/// A picker.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Picker {
    /// The highest total; of equals the one with least in flight; of those, whose turn it is.
    #[default]
    MaxScore,
    /// Any, each as likely as the others.
    Random,
    /// Any, each as likely as its share of the totals; as [`Picker::Random`] when all are 0.
    WeightedRandom,
}

impl Picker {
    /// All pickers.
    pub const ALL: [Self; 3] = [Self::MaxScore, Self::Random, Self::WeightedRandom];

    /// The type's name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxScore => "max-score-picker",
            Self::Random => "random-picker",
            Self::WeightedRandom => "weighted-random-picker",
        }
    }

    /// The place, among those kept, of the one picked; `None` when none is kept. `ties` is
    /// scratch space.
    pub(super) fn pick(
        self,
        kept: Kept<'_>,
        totals: &[f64],
        turn: u64,
        ties: &mut Vec<u32>,
    ) -> Option<usize> {
        match self {
            Self::MaxScore => max_score(kept, totals, turn, ties),
            Self::Random => by_draw(kept, turn, |_, draw| draw),
            Self::WeightedRandom if totals.iter().all(|total| *total <= 0.0) => {
                by_draw(kept, turn, |_, draw| draw)
            }
            // Each one's uniform draw to the power of 1/total; the largest wins in proportion
            // (Efraimidis and Spirakis). Logarithms keep the order and do not underflow.
            Self::WeightedRandom => by_draw(kept, turn, |place, draw| draw.ln() / totals[place]),
        }
    }
}

fn max_score(kept: Kept<'_>, totals: &[f64], turn: u64, ties: &mut Vec<u32>) -> Option<usize> {
    let best = totals.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let tied = |total: f64| best - total <= TIE * best;
    let least = kept
        .iter()
        .zip(totals)
        .filter(|(_, total)| tied(**total))
        .map(|(candidate, _)| candidate.signals.in_flight)
        .min()?;
    ties.clear();
    ties.extend(
        kept.iter()
            .zip(totals)
            .enumerate()
            .filter(|(_, (candidate, total))| tied(**total) && candidate.signals.in_flight == least)
            .map(|(place, _)| place as u32),
    );
    // Whose turn it is does not depend on how the candidates happen to be ordered.
    let whose = (turn % ties.len() as u64) as usize;
    let (_, place, _) = ties.select_nth_unstable_by_key(whose, |place| kept.at(*place as usize).id);
    Some(*place as usize)
}

/// The place with the largest key, made from a draw in (0, 1) that depends on the turn and the
/// endpoint alone.
fn by_draw(kept: Kept<'_>, turn: u64, key: impl Fn(usize, f64) -> f64) -> Option<usize> {
    let draw = |bits: u64| ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    kept.iter()
        .enumerate()
        .map(|(place, candidate)| (place, key(place, draw(rank(turn, candidate.id)))))
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(place, _)| place)
}
