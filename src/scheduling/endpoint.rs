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
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Which endpoint.
    pub id: EndpointId,
    /// What it may be used for.
    pub role: Role,
    /// Its pod is ready and not going away.
    pub ready: bool,
    /// Requests this EPP has sent there that have not ended.
    pub in_flight: u64,
    /// Blocks of the prompt its engine holds, as far as an index knows.
    pub cached_blocks: u32,
    /// Blocks of the prompt that this EPP has sent there before.
    pub prefix_blocks: u32,
}
