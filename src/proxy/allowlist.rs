//! A prefill endpoint named in a header -> may the sidecar connect to it? PURE.
//!
//! A header is a network destination that somebody else wrote (server-side request forgery):
//! host and port are both checked, and addresses that are never a prefiller's are refused
//! whatever the flags say.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Metadata services of clouds outside link-local space, which hand out credentials.
const METADATA: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

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
    /// IPv4-in-IPv6 addresses are held as IPv4.
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
                host: Host::Address(address.ip().to_canonical()),
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
#[error("{text:?} is neither `HOST:PORT` nor `NETWORK/BITS:PORT`")]
pub struct RuleError {
    text: String,
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let text = text.trim();
        let rule = if text.contains('/') {
            network(text)
        } else {
            Target::parse(text).map(Self::Exact)
        };
        rule.ok_or_else(|| RuleError {
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

impl Rule {
    fn matches(&self, target: &Target) -> bool {
        match self {
            Self::Exact(exact) => exact == target,
            Self::Network {
                address,
                bits,
                port,
            } => match &target.host {
                Host::Address(ip) => *port == target.port && shares_bits(*address, *ip, *bits),
                Host::Name(_) => false,
            },
        }
    }
}

fn shares_bits(left: IpAddr, right: IpAddr, bits: u32) -> bool {
    let differ = match (left, right) {
        (IpAddr::V4(left), IpAddr::V4(right)) => u128::from(left.to_bits() ^ right.to_bits()) << 96,
        (IpAddr::V6(left), IpAddr::V6(right)) => left.to_bits() ^ right.to_bits(),
        _ => return false,
    };
    differ.leading_zeros() >= bits
}

/// Where prefill legs may go.
#[derive(Clone, Debug, Default)]
pub struct Allowlist {
    /// Empty: every host and port but the ones always refused.
    pub rules: Vec<Rule>,
    /// This pod's own address: not another engine unless a rule names it exactly.
    pub own: Option<IpAddr>,
    /// True where pods have loopback addresses because they share one network namespace.
    pub loopback: bool,
}

impl Allowlist {
    /// True when the target's host and port are allowed. A name that passes is still to be
    /// looked up, and its address checked with [`Allowlist::allows_address`].
    pub fn allows(&self, target: &Target) -> bool {
        let listed = self.rules.is_empty() || self.rules.iter().any(|rule| rule.matches(target));
        listed
            && match &target.host {
                Host::Address(address) => self.allows_address(*address, target.port),
                Host::Name(_) => true,
            }
    }

    /// True unless the address is one that is always refused.
    pub fn allows_address(&self, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        if self.own == Some(address) {
            let exact = Rule::Exact(Target {
                host: Host::Address(address),
                port,
            });
            return self.rules.contains(&exact);
        }
        if address.is_loopback() {
            return self.loopback;
        }
        let local = match address {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast() || ip.octets()[0] == 0,
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let nobody = address.is_unspecified() || address.is_multicast();
        !(local || nobody || METADATA.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(rules: &[&str]) -> Allowlist {
        Allowlist {
            rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
            own: Some([10, 0, 0, 9].into()),
            loopback: false,
        }
    }

    fn allows(list: &Allowlist, target: &str) -> bool {
        list.allows(&Target::parse(target).unwrap())
    }

    #[test]
    fn targets_are_host_and_port_and_nothing_else() {
        let read = |text| Target::parse(text).map(|target| target.to_string());
        assert_eq!(read("10.0.0.1:8000").as_deref(), Some("10.0.0.1:8000"));
        assert_eq!(
            read("http://10.0.0.1:8000/").as_deref(),
            Some("10.0.0.1:8000")
        );
        assert_eq!(read("[fd00::1]:8000").as_deref(), Some("[fd00::1]:8000"));
        assert_eq!(read("[::ffff:10.0.0.1]:80").as_deref(), Some("10.0.0.1:80"));
        assert_eq!(read("Prefill-0.ns:80").as_deref(), Some("prefill-0.ns:80"));
        for text in [
            "",
            ":",
            "a",
            "a:",
            ":80",
            "a:0",
            "a:65536",
            "a:80/x",
            "u@a:80",
            "https://a:80",
            "a b:80",
            "http://http://a:80",
            "a?x:80",
            "fd00::1:80",
            "a:80#",
            "[::1]",
            "é:80",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_list_allows_its_hosts_on_its_ports_only() {
        let list = list(&[
            "10.1.2.3:8000",
            "prefill:8000",
            "10.2.0.0/16:8000",
            "[fd00::/8]:8000",
        ]);
        for good in [
            "10.1.2.3:8000",
            "PREFILL:8000",
            "10.2.255.1:8000",
            "[fd12::1]:8000",
        ] {
            assert!(allows(&list, good), "{good}");
        }
        for bad in [
            "10.1.2.3:8001",
            "10.1.2.4:8000",
            "prefill:22",
            "prefill2:8000",
            "10.3.0.1:8000",
            "10.2.0.1:80",
            "[fe12::1]:8000",
        ] {
            assert!(!allows(&list, bad), "{bad}");
        }
    }

    #[test]
    fn some_addresses_are_refused_whatever_the_list_says() {
        let everything = list(&["0.0.0.0/0:80", "[::/0]:80", "127.0.0.1:80"]);
        for list in [list(&[]), everything] {
            for bad in [
                "127.0.0.1:80",
                "127.9.9.9:80",
                "[::1]:80",
                "[::ffff:127.0.0.1]:80",
                "0.0.0.0:80",
                "0.1.2.3:80",
                "[::]:80",
                "169.254.169.254:80",
                "[fe80::1]:80",
                "224.0.0.1:80",
                "[ff02::1]:80",
                "255.255.255.255:80",
                "10.0.0.9:80",
                "[::ffff:10.0.0.9]:80",
                "[fd00:ec2::254]:80",
                "168.63.129.16:80",
                "100.100.100.200:80",
            ] {
                assert!(!allows(&list, bad), "{bad}");
            }
            assert!(allows(&list, "10.0.0.8:80"));
            assert!(allows(&list, "[fd00::1]:80"));
        }
    }

    #[test]
    fn the_own_pod_is_allowed_where_a_rule_names_it() {
        assert!(allows(&list(&["10.0.0.9:8200"]), "10.0.0.9:8200"));
        assert!(!allows(&list(&["10.0.0.9:8200"]), "10.0.0.9:8000"));
        assert!(!allows(&list(&["10.0.0.0/8:8200"]), "10.0.0.9:8200"));
    }

    #[test]
    fn loopback_is_allowed_where_pods_live_there() {
        let list = Allowlist {
            loopback: true,
            ..Allowlist::default()
        };
        assert!(allows(&list, "127.0.0.5:8000"));
        assert!(!allows(&list, "169.254.0.1:8000"));
    }

    #[test]
    fn rules_that_are_none_are_refused() {
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.0/33:80",
            "10.0.0.0/8",
            "x/8:80",
            "10.0.0.0/8:0",
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }
}
