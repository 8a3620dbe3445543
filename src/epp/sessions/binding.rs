//! A session's binding and what can happen to it. PURE data.

#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use crate::scheduling::endpoint::EndpointId;

/// A session, as the hash of its name.
pub type SessionHash = u64;

/// How far ahead of this replica's clock another one's may be before it is not believed.
pub const MAX_AHEAD: Duration = Duration::from_mins(5);

/// A point in time that replicas share: milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    pub(super) fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_millis() as u64))
    }
}

/// Bounds of a table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// How long a binding lasts after its last use.
    pub sticky: Duration,
    /// Most bindings; the ones used longest ago make room.
    pub max_bindings: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sticky: Duration::from_hours(1),
            max_bindings: 100_000,
        }
    }
}

impl Limits {
    /// How often a use of a binding is worth telling other replicas.
    pub fn refresh(&self) -> Duration {
        (self.sticky / 8).max(Duration::from_secs(1))
    }
}

/// Where a session is bound.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bound {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Hash of the pod's uid: another pod may come to have the same address.
    pub pod_uid: u64,
}

/// A binding, as replicas tell each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Change {
    /// Which session.
    pub session: SessionHash,
    /// Where it is bound.
    pub bound: Bound,
    /// When it was bound or last used.
    pub at: UnixMillis,
}

impl Change {
    /// True when of two bindings of one session this is the one to keep.
    pub fn beats(&self, other: &Self) -> bool {
        if self.at != other.at {
            return self.at > other.at;
        }
        if self.bound.endpoint != other.bound.endpoint {
            return self.bound.endpoint.to_string() < other.bound.endpoint.to_string();
        }
        self.bound.pod_uid < other.bound.pod_uid
    }
}

/// What a local [`Table::bind`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bind {
    /// The session had no binding.
    New,
    /// It was bound elsewhere.
    Moved,
    /// It was bound there already.
    Kept,
    /// The table is full and room is being made.
    Refused,
}

/// What a binding heard of did.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Merge {
    /// The session had no binding.
    New,
    /// It was bound elsewhere.
    Moved,
    /// The same binding, used later.
    Refreshed,
    /// What is known wins.
    Older,
    /// It had expired on the way.
    Expired,
    /// Its time lies further ahead than [`MAX_AHEAD`].
    Ahead,
    /// The table is full and room is being made.
    Refused,
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Swept {
    /// Bindings not used for the sticky duration.
    pub expired: usize,
    /// Bindings that made room.
    pub evicted: usize,
}
