//! One engine that could be picked, as a decision sees it. PURE data.
//!
//! Everything that changes from one decision to the next is in [`Signals`]: a new signal is a
//! field there, filled in one place and read by the parts that want it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::contract;

/// A pod's labels.
pub type Labels = BTreeMap<String, String>;

/// What a pod may be used for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// Answers requests.
    Decode,
    /// Computes the KV cache of prompts.
    Prefill,
    /// Both.
    Both,
    /// Without a role label, or with one that is not known: answers requests.
    Unlabelled,
    /// Encodes images and sound only: neither.
    Encode,
}

impl Role {
    /// Reads the role label, in the spellings of every upstream version.
    pub fn from_label(label: Option<&str>) -> Self {
        match label {
            Some(contract::ROLE_DECODE) => Self::Decode,
            Some(contract::ROLE_PREFILL | "encode-prefill") => Self::Prefill,
            Some(contract::ROLE_BOTH | "prefill-decode" | "encode-prefill-decode") => Self::Both,
            Some("encode") => Self::Encode,
            _ => Self::Unlabelled,
        }
    }

    /// True when a pod of this role may do the work of `wanted`.
    pub fn serves(self, wanted: Self) -> bool {
        match (self, wanted) {
            (Self::Both, Self::Decode | Self::Prefill) | (Self::Unlabelled, Self::Decode) => true,
            (own, wanted) => own == wanted,
        }
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
    /// Its pod's labels; `None` where no filter looks at them.
    pub labels: Option<Arc<Labels>>,
    /// What is known of it now.
    pub signals: Signals,
}

/// What is known of an endpoint at the moment of a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Signals {
    /// Requests this EPP has sent there that have not ended.
    pub in_flight: u64,
    /// What its engine says of its load; `None` without fresh metrics.
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
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EngineLoad {
    /// Requests it is working on.
    pub running: u64,
    /// Requests it keeps waiting.
    pub waiting: u64,
    /// Share of its KV cache in use, from 0 to 1.
    pub kv_usage: f64,
}

impl Candidate {
    /// An idle, ready endpoint of which nothing else is known.
    pub fn new(id: EndpointId, role: Role) -> Self {
        Self {
            id,
            role,
            ready: true,
            labels: None,
            signals: Signals::default(),
        }
    }
}

impl Signals {
    /// Requests it has to do with: what this EPP counts, or what the engine says when that
    /// is more, since other replicas of the EPP send requests too.
    pub fn load(&self) -> u64 {
        let engine = self.engine.unwrap_or_default();
        self.in_flight
            .max(engine.running.saturating_add(engine.waiting))
    }

    /// Requests that wait there. Without metrics those in flight stand for them.
    pub fn waiting(&self) -> u64 {
        self.engine.map_or(self.in_flight, |engine| engine.waiting)
    }

    /// Requests its engine works on. Without metrics those in flight stand for them.
    pub fn running(&self) -> u64 {
        self.engine.map_or(self.in_flight, |engine| engine.running)
    }

    /// The best there is to know about the share of the prompt it need not compute.
    pub fn hit(&self) -> f64 {
        self.cached.unwrap_or(self.prefix)
    }
}
