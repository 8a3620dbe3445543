//! Filters: keep or drop a candidate. PURE.

use super::endpoint::{Candidate, Role};
use super::request::Request;

/// A filter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Filter {
    /// Keeps ready endpoints.
    Ready,
    /// Keeps endpoints of a role.
    Role(Role),
    /// Keeps endpoints the gateway allows.
    Subset,
}

impl Filter {
    /// The name in explanations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Role(_) => "role",
            Self::Subset => "subset",
        }
    }

    /// True when the candidate stays.
    pub fn keeps(self, request: &Request, candidate: &Candidate) -> bool {
        match self {
            Self::Ready => candidate.ready,
            Self::Role(role) => candidate.role.serves(role),
            Self::Subset => request
                .subset
                .as_ref()
                .is_none_or(|allowed| allowed.iter().any(|entry| entry.admits(candidate.id.0))),
        }
    }
}
