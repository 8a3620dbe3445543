//! What was decided, and why. PURE data.

use super::endpoint::EndpointId;

/// A decision.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision {
    /// Where the request goes.
    pub decode: EndpointId,
    /// Where its prompt is computed first.
    pub prefill: Option<EndpointId>,
    /// Why there is a prefill endpoint, or none.
    pub prefill_because: PrefillBecause,
}

/// Why a prompt is computed on a prefill endpoint first, or not.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum PrefillBecause {
    /// Prefill/decode is switched off, or the prompt was not seen.
    Off,
    /// One transfer of KV cache cannot serve it: several prompts or samples, or
    /// log-probabilities of the prompt.
    SeveralTransfers,
    /// What the decode endpoint lacks of the prompt is below the threshold.
    BelowThreshold,
    /// It is not, and a prefill endpoint was found.
    Chosen,
    /// It is not, but no prefill endpoint passes the filters.
    NoEndpoint,
}

impl PrefillBecause {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Off,
        Self::SeveralTransfers,
        Self::BelowThreshold,
        Self::Chosen,
        Self::NoEndpoint,
    ];

    /// The word in metrics and score tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::SeveralTransfers => "several-transfers",
            Self::BelowThreshold => "below-threshold",
            Self::Chosen => "chosen",
            Self::NoEndpoint => "no-endpoint",
        }
    }
}

/// How a decision came about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Explanation {
    /// How the decode endpoint was chosen: a row per candidate, in their order.
    pub decode: Vec<Row>,
    /// How the prefill endpoint was chosen; empty when none was looked for.
    pub prefill: Vec<Row>,
}

/// One candidate's line in the score table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The candidate.
    pub endpoint: EndpointId,
    /// The filter that dropped it; `None` when it was scored.
    pub dropped_by: Option<&'static str>,
    /// Scorer, score and weight.
    pub scores: Vec<(&'static str, f64, f64)>,
    /// Sum of score times weight.
    pub total: f64,
}

impl Row {
    /// A candidate of which nothing is said yet.
    pub(super) fn new(endpoint: EndpointId) -> Self {
        Self {
            endpoint,
            dropped_by: None,
            scores: Vec::new(),
            total: 0.0,
        }
    }
}

impl Decision {
    /// Where the request will be worked on: decode, then prefill where there is one.
    pub fn endpoints(&self) -> impl Iterator<Item = EndpointId> {
        [Some(self.decode), self.prefill].into_iter().flatten()
    }
}

impl Explanation {
    /// The score table as text: a line per candidate of each profile, the best first, as
    /// people read it in logs.
    pub fn table(&self, decision: &Decision) -> String {
        let mut text = profile_table("decode", decision.decode, &self.decode);
        if let Some(prefill) = decision.prefill {
            text.push_str(&profile_table("prefill", prefill, &self.prefill));
        } else {
            text.push_str("prefill: none, ");
            text.push_str(decision.prefill_because.as_str());
            text.push('\n');
        }
        text
    }
}

fn profile_table(profile: &str, chosen: EndpointId, rows: &[Row]) -> String {
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by(|a, b| {
        b.total
            .total_cmp(&a.total)
            .then(a.endpoint.cmp(&b.endpoint))
    });
    let mut text = format!("{profile}: {chosen}\n");
    for row in rows {
        let mark = if row.endpoint == chosen { '*' } else { ' ' };
        text.push_str(&format!("{mark} {:<21}", row.endpoint.to_string()));
        if let Some(filter) = row.dropped_by {
            text.push_str(&format!(" dropped by the filter {filter}\n"));
            continue;
        }
        text.push_str(&format!(" {:>8.3} =", row.total));
        for (index, (scorer, score, weight)) in row.scores.iter().enumerate() {
            let plus = if index == 0 { "" } else { " +" };
            text.push_str(&format!("{plus} {weight} x {score:.3} {scorer}"));
        }
        text.push('\n');
    }
    text
}

/// Why there is no decision.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoEndpoint {
    /// There is no endpoint at all.
    #[error("failed to find endpoint candidates for serving the request: the pool is empty")]
    PoolEmpty,
    /// A filter dropped the last one.
    #[error(
        "failed to find endpoint candidates for serving the request: none passes the filter {0}"
    )]
    Filtered(&'static str),
}
