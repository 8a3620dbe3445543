//! An address -> why it is never a prefill endpoint's, whatever a list says. PURE.
//!
//! A header that names such an address wants something else than a prefill: the machine the
//! sidecar runs on, a cloud's metadata service, or one of these in the clothes of another
//! address family. The families that carry an IPv4 address inside an IPv6 one are refused as
//! a whole: pods have real addresses, and what a translator makes of these depends on the node.
#![deny(clippy::disallowed_methods)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is none of a prefill endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Special {
    /// This machine: 127.0.0.0/8, `::1`.
    Loopback,
    /// Nobody, which most systems read as this machine: 0.0.0.0/8, `::`.
    Unspecified,
    /// Only on the same wire: 169.254.0.0/16, fe80::/10.
    LinkLocal,
    /// Many at once.
    Multicast,
    /// All at once: 255.255.255.255.
    Broadcast,
    /// A cloud's service that hands out credentials.
    Metadata,
    /// 192.0.0.0/24, reserved for protocols.
    Protocol,
    /// An IPv6 address that carries an IPv4 address: mapped, compatible, translated, tunnelled.
    Embedded,
}

/// Metadata services outside link-local space.
const METADATA: &[IpAddr] = &[
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
];

/// Networks whose addresses carry an IPv4 address, by their leading bits: IPv4-compatible and
/// mapped, SIIT (RFC 2765), NAT64 well-known and local (RFC 6052, RFC 8215), 6to4, Teredo.
const EMBEDDED: &[(Ipv6Addr, u32)] = &[
    (Ipv6Addr::UNSPECIFIED, 96),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
    (Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96),
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    (Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32),
];

/// Why the address is no prefill endpoint's; `None` for an ordinary one.
pub fn special(address: IpAddr) -> Option<Special> {
    if METADATA.contains(&address) {
        return Some(Special::Metadata);
    }
    match address {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<Special> {
    match address.octets() {
        [127, ..] => Some(Special::Loopback),
        [0, ..] => Some(Special::Unspecified),
        [169, 254, ..] => Some(Special::LinkLocal),
        [192, 0, 0, _] => Some(Special::Protocol),
        [255, 255, 255, 255] => Some(Special::Broadcast),
        [224..=239, ..] => Some(Special::Multicast),
        _ => None,
    }
}

fn special_v6(address: Ipv6Addr) -> Option<Special> {
    let embedded = |&(network, bits): &(Ipv6Addr, u32)| {
        shares_bits(IpAddr::V6(network), IpAddr::V6(address), bits)
    };
    // An interface id of the form `0:5efe:a.b.c.d` is ISATAP's, under any network.
    let isatap = matches!(address.segments(), [_, _, _, _, 0 | 0x200, 0x5efe, _, _]);
    if address.is_loopback() {
        Some(Special::Loopback)
    } else if address.is_unspecified() {
        Some(Special::Unspecified)
    } else if address.is_unicast_link_local() {
        Some(Special::LinkLocal)
    } else if address.is_multicast() {
        Some(Special::Multicast)
    } else if isatap || EMBEDDED.iter().any(embedded) {
        Some(Special::Embedded)
    } else {
        None
    }
}

/// True when both are of one family and so many leading bits are equal.
pub fn shares_bits(left: IpAddr, right: IpAddr, bits: u32) -> bool {
    let differ = match (left, right) {
        (IpAddr::V4(left), IpAddr::V4(right)) => u128::from(left.to_bits() ^ right.to_bits()) << 96,
        (IpAddr::V6(left), IpAddr::V6(right)) => left.to_bits() ^ right.to_bits(),
        _ => return false,
    };
    differ.leading_zeros() >= bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_known_at_its_edges() {
        use Special::{
            Broadcast, Embedded, LinkLocal, Loopback, Metadata, Multicast, Protocol, Unspecified,
        };
        for (text, kind) in [
            ("126.255.255.255", None),
            ("127.0.0.0", Some(Loopback)),
            ("127.255.255.255", Some(Loopback)),
            ("128.0.0.0", None),
            ("0.0.0.0", Some(Unspecified)),
            ("0.255.255.255", Some(Unspecified)),
            ("1.0.0.0", None),
            ("169.253.255.255", None),
            ("169.254.169.254", Some(LinkLocal)),
            ("169.255.0.0", None),
            ("191.255.255.255", None),
            ("192.0.0.0", Some(Protocol)),
            ("192.0.0.255", Some(Protocol)),
            ("192.0.1.0", None),
            ("223.255.255.255", None),
            ("224.0.0.0", Some(Multicast)),
            ("239.255.255.255", Some(Multicast)),
            ("240.0.0.1", None),
            ("255.255.255.255", Some(Broadcast)),
            ("100.100.100.200", Some(Metadata)),
            ("168.63.129.16", Some(Metadata)),
            ("10.0.0.1", None),
            ("100.64.0.1", None),
            ("::", Some(Unspecified)),
            ("::1", Some(Loopback)),
            ("::2", Some(Embedded)),
            ("::10.0.0.1", Some(Embedded)),
            ("::1:0:0", None),
            ("::ffff:10.0.0.1", Some(Embedded)),
            ("::ffff:0:10.0.0.1", Some(Embedded)),
            ("64:ff9b::10.0.0.1", Some(Embedded)),
            ("64:ff9b::1:0:0", None),
            ("64:ff9b:1::1", Some(Embedded)),
            ("64:ff9b:1:ffff::1", Some(Embedded)),
            ("64:ff9b:2::1", None),
            ("2001::1", Some(Embedded)),
            ("2001:0:ffff::1", Some(Embedded)),
            ("2001:1::1", None),
            ("2002::", Some(Embedded)),
            ("2002:ffff::1", Some(Embedded)),
            ("2003::1", None),
            ("2001:db8::5efe:10.0.0.1", Some(Embedded)),
            ("2001:db8::200:5efe:10.0.0.1", Some(Embedded)),
            ("fe80::1", Some(LinkLocal)),
            ("febf::1", Some(LinkLocal)),
            ("fec0::1", None),
            ("ff00::", Some(Multicast)),
            ("ff02::1", Some(Multicast)),
            ("fd00:ec2::254", Some(Metadata)),
            ("fd20:ce::254", Some(Metadata)),
            ("fd00:ec2::255", None),
            ("fd00::1", None),
        ] {
            assert_eq!(special(text.parse().unwrap()), kind, "{text}");
        }
    }
}
