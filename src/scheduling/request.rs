//! What a decision may know about a request. PURE data.

use std::net::{IpAddr, SocketAddr};

/// Characters of prompt that make a token where only one of the two is known: what English
/// text has in most vocabularies.
const CHARS_PER_TOKEN: usize = 4;

/// A request, reduced to what decisions depend on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestFacts {
    /// Characters of prompt; 0 when the body was not seen.
    pub prompt_chars: usize,
    /// Tokens of prompt, where they are known.
    pub prompt_tokens: Option<usize>,
    /// One prompt, one sample and nothing that only the engine which computed the prompt can
    /// answer (log-probabilities of the prompt): one transfer of KV cache can serve it.
    pub one_transfer: bool,
    /// Hash of the session's name; the name itself never gets here.
    pub session: Option<u64>,
    /// Endpoints the gateway allows; `None` allows all.
    pub subset: Option<Vec<Allowed>>,
}

impl RequestFacts {
    /// True when there is a prompt and it was seen.
    pub fn has_prompt(&self) -> bool {
        self.prompt_chars > 0 || self.prompt_tokens.is_some_and(|tokens| tokens > 0)
    }

    /// Characters of prompt, by its tokens where only those are known.
    pub fn chars(&self) -> usize {
        match (self.prompt_chars, self.prompt_tokens) {
            (0, Some(tokens)) => tokens.saturating_mul(CHARS_PER_TOKEN),
            (chars, _) => chars,
        }
    }

    /// Tokens of prompt, by its characters where those are all that is known.
    pub fn tokens(&self) -> usize {
        self.prompt_tokens
            .unwrap_or(self.prompt_chars / CHARS_PER_TOKEN)
    }
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
