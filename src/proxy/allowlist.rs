//! A prefill endpoint named in a header -> may the sidecar connect to it? PURE.
//!
//! A header is a network destination that somebody else wrote (server-side request forgery):
//! host and port are both checked against a list, without a list nothing is allowed, and
//! addresses that are never a prefiller's are refused whatever the list says.
#![deny(clippy::disallowed_methods)]

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use super::address::{self, Special, shares_bits};

/// Where the machine's own programs listen, also where pods have other loopback addresses.
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A prefill endpoint: `host:port`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// Where.
    pub host: Host,
    /// Never 0.
    pub port: u16,
}

/// An address, or a name to look up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Host {
    /// As it was written: an IPv4 address inside an IPv6 one stays there.
    Address(IpAddr),
    /// Lower case.
    Name(String),
}

impl Target {
    /// Reads `host:port` or `http://host:port`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix("http://").unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        let target = if let Ok(address) = text.parse::<SocketAddr>() {
            Self {
                host: Host::Address(address.ip()),
                port: address.port(),
            }
        } else {
            let (name, port) = text.rsplit_once(':')?;
            let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if name.is_empty() || name.len() > 253 || !name.bytes().all(is_name) {
                return None;
            }
            Self {
                host: Host::Name(name.to_ascii_lowercase()),
                port: port.parse().ok()?,
            }
        };
        (target.port != 0).then_some(target)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(out),
            Host::Name(name) => write!(out, "{name}:{}", self.port),
        }
    }
}

/// True where a resolver may read the name as an IPv4 address in one of its old spellings
/// (`2130706433`, `0x7f.1`, `0177.0.0.1`): its last label is a number.
fn is_number(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or(name);
    let hexadecimal = last.strip_prefix("0x");
    match hexadecimal {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// One entry of `--allowed-prefillers`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Rule {
    /// Exactly this host and port: `10.0.0.7:8000`, `prefill-0.prefill:8000`.
    Exact(Target),
    /// Every address of a network, on this port: `10.0.0.0/8:8000`, `[fd00::/8]:8000`.
    Network {
        /// Any address of the network.
        address: IpAddr,
        /// Leading bits that must be equal.
        bits: u32,
        /// The port.
        port: u16,
    },
}

/// Why a text is no rule.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum RuleError {
    /// It has neither form.
    #[error("{text:?} is neither `HOST:PORT` nor `NETWORK/BITS:PORT`")]
    Form {
        /// The text.
        text: String,
    },
    /// It names an address that is never allowed.
    #[error("{text:?} is never a prefill endpoint ({special:?}): it would be refused all the same")]
    Special {
        /// The text.
        text: String,
        /// What it is instead.
        special: Special,
    },
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let text = text.trim();
        let rule = if text.contains('/') && !text.starts_with("http://") {
            network(text)
        } else {
            Target::parse(text).map(Self::Exact)
        };
        match rule {
            Some(Self::Exact(Target {
                host: Host::Name(name),
                ..
            })) if is_number(&name) => None,
            Some(Self::Exact(Target {
                host: Host::Address(address),
                ..
            })) => {
                // Loopback where it is named exactly: tests and laptops.
                let special = address::special(address).filter(|kind| *kind != Special::Loopback);
                if let Some(special) = special {
                    let text = text.to_owned();
                    return Err(RuleError::Special { text, special });
                }
                rule
            }
            other => other,
        }
        .ok_or_else(|| RuleError::Form {
            text: text.to_owned(),
        })
    }
}

fn network(text: &str) -> Option<Rule> {
    let (network, port) = text.rsplit_once(':')?;
    let inside = network.strip_prefix('[').map(|rest| rest.strip_suffix(']'));
    let (address, bits) = inside.unwrap_or(Some(network))?.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let bits: u32 = bits.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let port: u16 = port.parse().ok()?;
    (bits <= most && port != 0).then_some(Rule::Network {
        address,
        bits,
        port,
    })
}

/// The addresses that a Service had when it was last looked up.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Listed {
    /// The port of every one.
    pub port: u16,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
}

/// What becomes of a target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The sidecar may connect to it; a name is still to be looked up, and its address to be
    /// checked with [`Allowlist::allows_resolved`].
    Allowed,
    /// An ordinary address on the Service's port that the Service does not have, as far as is
    /// known: a new pod is an endpoint before DNS says so.
    NotYet,
    /// The list has no such entry.
    Unlisted,
    /// There is no list.
    NoList,
    /// It is never a prefill endpoint.
    Never,
}

/// Where prefill legs may go.
#[derive(Clone, Debug, Default)]
pub struct Allowlist {
    /// Explicit entries.
    pub rules: Vec<Rule>,
    /// The port of the prefill Service, where one is given.
    pub service_port: Option<u16>,
    /// This pod's own addresses: not another engine unless a rule names one exactly.
    pub own: Vec<IpAddr>,
    /// True where pods have loopback addresses because they share one network namespace: the
    /// Service's addresses are then allowed to be some, and so are those of a network that lies
    /// within 127.0.0.0/8, but for localhost.
    pub loopback: bool,
}

impl Allowlist {
    /// May the sidecar connect there, when the Service has these addresses?
    pub fn check(&self, target: &Target, service: &Listed) -> Verdict {
        let exact = Rule::Exact(target.clone());
        let address = match &target.host {
            Host::Name(name) if is_number(name) => return Verdict::Never,
            Host::Name(_) if self.rules.contains(&exact) => return Verdict::Allowed,
            Host::Name(_) => return self.unlisted(),
            Host::Address(address) => *address,
        };
        let special = address::special(address);
        let own = self.own.contains(&address);
        if self.rules.contains(&exact) && special.is_none_or(|kind| kind == Special::Loopback) {
            return Verdict::Allowed;
        }
        let loopback = special == Some(Special::Loopback) && self.loopback;
        if own || (special.is_some() && !loopback) {
            return Verdict::Never;
        }
        let in_network = |rule: &Rule| match rule {
            Rule::Exact(_) => false,
            Rule::Network {
                address: network,
                bits,
                port,
            } => {
                // What includes all machines does not mean this one.
                let pods = address.is_ipv4() && address != LOCALHOST;
                let meant = !loopback || (*bits >= 8 && pods);
                meant && *port == target.port && shares_bits(*network, address, *bits)
            }
        };
        if self.rules.iter().any(in_network) {
            return Verdict::Allowed;
        }
        if self.service_port == Some(target.port) {
            let known = service.port == target.port && service.addresses.contains(&address);
            return if known {
                Verdict::Allowed
            } else {
                Verdict::NotYet
            };
        }
        self.unlisted()
    }

    fn unlisted(&self) -> Verdict {
        if self.is_empty() {
            Verdict::NoList
        } else {
            Verdict::Unlisted
        }
    }

    /// True when nothing is allowed at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.service_port.is_none()
    }

    /// True when a name that a rule lists may lead to this address.
    pub fn allows_resolved(&self, address: IpAddr) -> bool {
        address::special(address).is_none() && !self.own.contains(&address)
    }
}

#[cfg(test)]
mod tests;
