//! One profile: filters, weighted scorers, picker. PURE.

use super::config::{ProfileConfig, Settings};
use super::decision::{NoEndpoint, Row};
use super::endpoint::{Candidate, EndpointId};
use super::filter::Filter;
use super::picker;
use super::request::Request;
use super::scorer;

/// Runs the profile: the chosen endpoint and the score table.
///
/// # Errors
/// When no candidate passes the filters.
pub fn run(
    settings: &Settings,
    config: &ProfileConfig,
    filters: &[Filter],
    request: &Request,
    candidates: &[Candidate],
    rotation: usize,
) -> Result<(EndpointId, Vec<Row>), NoEndpoint> {
    if candidates.is_empty() {
        return Err(NoEndpoint::PoolEmpty);
    }
    let mut kept = candidates.to_vec();
    let mut rows = Vec::new();
    for filter in filters {
        let (keep, drop): (Vec<_>, Vec<_>) = kept
            .into_iter()
            .partition(|candidate| filter.keeps(request, candidate));
        rows.extend(drop.iter().map(|candidate| Row {
            endpoint: candidate.id,
            dropped_by: Some(filter.name()),
            scores: Vec::new(),
            total: 0.0,
        }));
        kept = keep;
        if kept.is_empty() {
            return Err(NoEndpoint::Filtered(filter.name()));
        }
    }
    let mut totals = vec![0.0; kept.len()];
    let mut scores = vec![Vec::new(); kept.len()];
    for (kind, weight) in &config.scorers {
        // A weight of 0 is the same as no scorer.
        if weight.0 == 0 {
            continue;
        }
        for (index, score) in scorer::score(*kind, settings, request, &kept)
            .into_iter()
            .enumerate()
        {
            totals[index] += score.get() * f64::from(weight.0);
            scores[index].push((kind.stem(), score.get(), weight.0));
        }
    }
    let chosen = picker::max_score(&kept, &totals, rotation).ok_or(NoEndpoint::PoolEmpty)?;
    let id = kept[chosen].id;
    rows.extend(
        kept.iter()
            .zip(scores)
            .zip(totals)
            .map(|((candidate, scores), total)| Row {
                endpoint: candidate.id,
                dropped_by: None,
                scores,
                total,
            }),
    );
    Ok((id, rows))
}
