//! What scoring may know about a request. PURE data.

use std::net::{IpAddr, SocketAddr};

/// A request, reduced to what decisions depend on.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Characters of prompt; 0 when the body was not seen.
    pub prompt_chars: usize,
    /// Hash of the session's name; the name itself never gets here.
    pub session: Option<u64>,
    /// Endpoints the gateway allows; `None` allows all.
    pub subset: Option<Vec<Allowed>>,
}

/// One entry of a gateway's subset hint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Allowed {
    /// Every port of this address.
    Address(IpAddr),
    /// Exactly this address and port.
    Socket(SocketAddr),
}

impl Allowed {
    /// Reads `ip`, `ip:port`, `[ip6]:port`. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        text.parse().map(Self::Socket).ok().or_else(|| {
            text.trim_matches(['[', ']'])
                .parse()
                .map(Self::Address)
                .ok()
        })
    }

    /// True when the endpoint is meant.
    pub fn admits(self, endpoint: SocketAddr) -> bool {
        match self {
            Self::Address(ip) => endpoint.ip() == ip,
            Self::Socket(socket) => endpoint == socket,
        }
    }
}
