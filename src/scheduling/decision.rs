//! What was decided, and why. PURE data.

use super::endpoint::EndpointId;

/// A decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Where the request goes.
    pub decode: EndpointId,
    /// Where its prompt is computed first.
    pub prefill: Option<EndpointId>,
    /// How the decode endpoint was chosen.
    pub explain: Vec<Row>,
}

/// One candidate's line in the score table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The candidate.
    pub endpoint: EndpointId,
    /// The filter that dropped it; `None` when it was scored.
    pub dropped_by: Option<&'static str>,
    /// Scorer, score and weight.
    pub scores: Vec<(&'static str, f64, u32)>,
    /// Sum of score times weight.
    pub total: f64,
}

/// Why there is no decision.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoEndpoint {
    /// There is no endpoint at all.
    #[error("failed to find endpoint candidates for serving the request: the pool is empty")]
    PoolEmpty,
    /// A filter dropped the last one.
    #[error(
        "failed to find endpoint candidates for serving the request: none passes the {0} filter"
    )]
    Filtered(&'static str),
}
