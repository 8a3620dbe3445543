//! One engine that could be picked, as a decision sees it. PURE data.

use std::net::SocketAddr;

use crate::contract;

/// What a pod may be used for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// Answers requests.
    Decode,
    /// Computes the KV cache of prompts.
    Prefill,
    /// Both; also a pod without a role label.
    Both,
}

impl Role {
    /// Reads the role label. An unknown value is taken for [`Role::Both`].
    pub fn from_label(label: Option<&str>) -> Self {
        match label {
            Some(contract::ROLE_DECODE) => Self::Decode,
            Some(contract::ROLE_PREFILL) => Self::Prefill,
            _ => Self::Both,
        }
    }

    /// True when a pod of this role may do the work of `wanted`.
    pub fn serves(self, wanted: Self) -> bool {
        self == Self::Both || wanted == Self::Both || self == wanted
    }
}

/// Which endpoint: its address, which is also what the gateway is told.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EndpointId(pub SocketAddr);

impl std::fmt::Display for EndpointId {
    /// `ip:port`, IPv6 in brackets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One endpoint at the moment of a decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Which endpoint.
    pub id: EndpointId,
    /// What it may be used for.
    pub role: Role,
    /// Its pod is ready and not going away.
    pub ready: bool,
    /// Requests this EPP has sent there that have not ended.
    pub in_flight: u64,
    /// Requests its engine says it runs and keeps waiting; `None` without fresh metrics.
    pub engine: Option<EngineLoad>,
    /// Share of the prompt that its engine holds, from 0 to 1, as far as an index knows;
    /// `None` when nothing is known of this engine's cache.
    pub cached: Option<f64>,
    /// Share of the prompt, from 0 to 1, that this EPP has sent there before.
    pub prefix: f64,
    /// Sessions bound to it.
    pub sessions: u64,
    /// The request's session is bound to it.
    pub bound: bool,
}

/// What an engine says of its load.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct EngineLoad {
    /// Requests it is working on.
    pub running: u64,
    /// Requests it keeps waiting.
    pub waiting: u64,
}

impl Candidate {
    /// An idle, ready endpoint of which nothing else is known.
    pub fn new(id: EndpointId, role: Role) -> Self {
        Self {
            id,
            role,
            ready: true,
            in_flight: 0,
            engine: None,
            cached: None,
            prefix: 0.0,
            sessions: 0,
            bound: false,
        }
    }

    /// Requests it has to do with: what this EPP counts, or what the engine says when that
    /// is more, since other replicas of the EPP send requests too.
    pub fn load(&self) -> u64 {
        let engine = self.engine.unwrap_or_default();
        self.in_flight.max(engine.running + engine.waiting)
    }

    /// True when so many requests wait there that a session is better off elsewhere. Without
    /// metrics the requests in flight stand for those that wait.
    pub fn is_saturated(&self, queue_threshold: u64) -> bool {
        self.engine.map_or(self.in_flight, |engine| engine.waiting) >= queue_threshold
    }

    /// The best there is to know about the share of the prompt it need not compute.
    pub fn hit(&self) -> f64 {
        self.cached.unwrap_or(self.prefix)
    }
}
