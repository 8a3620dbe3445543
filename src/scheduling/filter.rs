//! Filters: keep or drop a candidate. PURE.

use super::endpoint::{Candidate, EndpointId, Role};
use super::request::RequestFacts;

/// A filter of a profile.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Filter {
    /// Keeps endpoints that may answer requests: by their role, or without one.
    Decode,
    /// Keeps endpoints whose role lets them compute prompts for others.
    Prefill,
    /// Keeps endpoints by the value of one label.
    ByLabel {
        /// The label's key.
        label: String,
        /// Values that are kept.
        values: Vec<String>,
        /// Keep endpoints without the label too.
        allows_no_label: bool,
    },
    /// Keeps endpoints that meet every requirement on their labels.
    LabelSelector(Vec<Requirement>),
}

/// What a label must be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// What it is compared with; empty for [`Operator::Exists`] and [`Operator::DoesNotExist`].
    pub values: Vec<String>,
}

/// How a label is compared; the words of Kubernetes' label selectors.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operator {
    /// It is there and one of the values.
    In,
    /// It is none of the values, or not there.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl Operator {
    /// All operators.
    pub const ALL: [Self; 4] = [Self::In, Self::NotIn, Self::Exists, Self::DoesNotExist];

    /// The word in selectors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::In => "In",
            Self::NotIn => "NotIn",
            Self::Exists => "Exists",
            Self::DoesNotExist => "DoesNotExist",
        }
    }

    /// True when it compares with values.
    pub fn wants_values(self) -> bool {
        matches!(self, Self::In | Self::NotIn)
    }
}

impl Filter {
    /// The type's name in configurations and explanations.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Decode => "decode-filter",
            Self::Prefill => "prefill-filter",
            Self::ByLabel { .. } => "by-label",
            Self::LabelSelector(_) => "label-selector-filter",
        }
    }

    /// True when it looks at labels, so candidates must carry theirs.
    pub fn reads_labels(&self) -> bool {
        matches!(self, Self::ByLabel { .. } | Self::LabelSelector(_))
    }

    /// True when the candidate stays.
    pub fn keeps(&self, candidate: &Candidate) -> bool {
        match self {
            Self::Decode => candidate.role.serves(Role::Decode),
            Self::Prefill => candidate.role.serves(Role::Prefill),
            Self::ByLabel {
                label,
                values,
                allows_no_label,
            } => match value(candidate, label) {
                Some(value) => values.iter().any(|wanted| wanted == value),
                None => *allows_no_label,
            },
            Self::LabelSelector(requirements) => requirements
                .iter()
                .all(|requirement| requirement.admits(candidate)),
        }
    }
}

impl Requirement {
    fn admits(&self, candidate: &Candidate) -> bool {
        let value = value(candidate, &self.key);
        let listed = || value.is_some_and(|value| self.values.iter().any(|wanted| wanted == value));
        match self.operator {
            Operator::In => listed(),
            Operator::NotIn => !listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

fn value<'a>(candidate: &'a Candidate, key: &str) -> Option<&'a str> {
    let labels = candidate.labels.as_ref()?;
    labels.get(key).map(String::as_str)
}

/// What every profile drops before its own filters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Gate {
    /// Keeps ready endpoints.
    Ready,
    /// Keeps endpoints the gateway allows.
    Subset,
    /// Keeps all but one: an endpoint computes its own prompts itself.
    Except(EndpointId),
}

impl Gate {
    /// The name in explanations.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Subset => "subset",
            Self::Except(_) => "other-endpoint",
        }
    }

    /// True when the candidate stays.
    pub(super) fn keeps(self, request: &RequestFacts, candidate: &Candidate) -> bool {
        match self {
            Self::Ready => candidate.ready,
            Self::Subset => request
                .subset
                .as_ref()
                .is_none_or(|allowed| allowed.iter().any(|entry| entry.admits(candidate.id.0))),
            Self::Except(id) => candidate.id != id,
        }
    }
}
