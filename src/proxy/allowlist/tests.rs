//! Which targets pass, in every spelling.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn list(rules: &[&str]) -> Allowlist {
    Allowlist {
        rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        own: vec![[10, 0, 0, 9].into(), "fd00::9".parse().unwrap()],
        ..Allowlist::default()
    }
}

fn check(list: &Allowlist, target: &str) -> Verdict {
    let service = Listed {
        port: 8000,
        addresses: vec![
            [10, 0, 0, 5].into(),
            [127, 0, 0, 5].into(),
            [169, 254, 1, 1].into(),
        ],
    };
    list.check(&Target::parse(target).unwrap(), &service)
}

fn allows(list: &Allowlist, target: &str) -> bool {
    check(list, target) == Verdict::Allowed
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
        "[fc12::1]:8000",
    ] {
        assert_eq!(check(&list, bad), Verdict::Unlisted, "{bad}");
    }
}

#[test]
fn without_a_list_nothing_is_allowed() {
    let none = list(&[]);
    for target in ["10.1.2.3:8000", "prefill:8000", "[fd00::1]:8000"] {
        assert_eq!(check(&none, target), Verdict::NoList, "{target}");
    }
    assert_eq!(check(&none, "127.0.0.1:8000"), Verdict::Never);
}

#[test]
fn a_service_allows_the_addresses_it_has_on_its_port() {
    let mut list = list(&[]);
    list.service_port = Some(8000);
    assert_eq!(check(&list, "10.0.0.5:8000"), Verdict::Allowed);
    assert_eq!(check(&list, "10.0.0.6:8000"), Verdict::NotYet);
    assert_eq!(check(&list, "10.0.0.5:8001"), Verdict::Unlisted);
    assert_eq!(check(&list, "prefill:8000"), Verdict::Unlisted);
    // What DNS says cannot make these endpoints.
    assert_eq!(check(&list, "169.254.1.1:8000"), Verdict::Never);
    assert_eq!(check(&list, "127.0.0.5:8000"), Verdict::Never);
    assert_eq!(check(&list, "10.0.0.9:8000"), Verdict::Never);
    list.loopback = true;
    assert_eq!(check(&list, "127.0.0.5:8000"), Verdict::Allowed);
    assert_eq!(check(&list, "127.0.0.6:8000"), Verdict::NotYet);
    assert_eq!(check(&list, "169.254.1.1:8000"), Verdict::Never);
}

#[test]
fn loopback_is_allowed_where_a_rule_names_it_exactly() {
    let mut list = list(&["127.0.0.5:8000", "0.0.0.0/0:8001", "[::1]:8000"]);
    for loopback in [false, true] {
        list.loopback = loopback;
        assert!(allows(&list, "127.0.0.5:8000") && allows(&list, "[::1]:8000"));
        for bad in ["127.0.0.6:8000", "127.0.0.5:8001", "127.0.0.5:80"] {
            assert!(!allows(&list, bad), "{bad}");
        }
    }
}

#[test]
fn a_network_of_loopback_addresses_is_meant_only_where_pods_live_there() {
    let mut list = list(&[
        "127.0.0.0/8:8000",
        "0.0.0.0/0:8001",
        "127.0.0.0/7:8002",
        "[::/8]:8000",
    ]);
    assert_eq!(check(&list, "127.0.0.6:8000"), Verdict::Never);
    list.loopback = true;
    list.own.push([127, 0, 0, 9].into());
    assert!(allows(&list, "127.0.0.6:8000") && allows(&list, "127.200.0.1:8000"));
    for bad in [
        "127.0.0.1:8000",
        "127.0.0.9:8000",
        "127.0.0.6:80",
        "127.0.0.6:8001",
        "127.0.0.6:8002",
        "[::1]:8000",
        "[::ffff:127.0.0.6]:8000",
    ] {
        assert!(!allows(&list, bad), "{bad}");
    }
}

#[test]
fn the_own_pod_is_allowed_where_a_rule_names_it() {
    assert!(allows(&list(&["10.0.0.9:8200"]), "10.0.0.9:8200"));
    assert!(allows(&list(&["[fd00::9]:8200"]), "[fd00::9]:8200"));
    assert!(!allows(&list(&["10.0.0.9:8200"]), "10.0.0.9:8000"));
    assert!(!allows(&list(&["10.0.0.0/8:8200"]), "10.0.0.9:8200"));
    assert!(!list(&[]).allows_resolved([10, 0, 0, 9].into()));
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
        "2130706433:80",
        "0x7f.1:80",
        "10.1:80",
    ] {
        let error = text.parse::<Rule>().unwrap_err();
        assert!(matches!(error, RuleError::Form { .. }), "{text}: {error}");
    }
    for text in [
        "169.254.169.254:80",
        "[::ffff:10.0.0.1]:80",
        "0.0.0.0:80",
        "[fe80::1]:80",
    ] {
        let error = text.parse::<Rule>().unwrap_err();
        assert!(
            matches!(error, RuleError::Special { .. }),
            "{text}: {error}"
        );
    }
}

/// IPv4 addresses that are refused, near the edges of each kind and inside.
fn refused() -> impl Strategy<Value = Ipv4Addr> {
    let inside = |network: [u8; 4], bits: u32| {
        any::<u32>().prop_map(move |host| {
            let mask = u32::MAX.checked_shr(bits).unwrap_or(0);
            Ipv4Addr::from_bits(u32::from_be_bytes(network) | (host & mask))
        })
    };
    prop_oneof![
        inside([127, 0, 0, 0], 8),
        inside([0, 0, 0, 0], 8),
        inside([169, 254, 0, 0], 16),
        inside([192, 0, 0, 0], 24),
        inside([224, 0, 0, 0], 4),
        Just(Ipv4Addr::LOCALHOST),
        Just(Ipv4Addr::UNSPECIFIED),
        Just(Ipv4Addr::BROADCAST),
        Just(Ipv4Addr::new(169, 254, 169, 254)),
        Just(Ipv4Addr::new(100, 100, 100, 200)),
        Just(Ipv4Addr::new(10, 0, 0, 9)),
    ]
}

/// IPv6 addresses that carry this one, and IPv6 forms of their own.
fn carried(inner: Ipv4Addr, noise: u64) -> Vec<Ipv6Addr> {
    let bits = u128::from(inner.to_bits());
    let noise = u128::from(noise);
    [
        bits,
        0xffff << 32 | bits,
        0xffff << 48 | bits,
        0x0064_ff9b << 96 | bits,
        0x0064_ff9b_0001 << 80 | noise << 32 & (u128::MAX >> 48) | bits,
        0x2002 << 112 | bits << 80 | noise,
        0x2001_0000 << 96 | noise << 32 & (u128::MAX >> 32) | (bits ^ 0xffff_ffff),
        0x2001_0db8 << 96 | 0x5efe << 32 | bits,
        0xfe80 << 112 | noise,
        0xff02 << 112 | noise,
        0xfd00_0ec2 << 96 | 0x254,
        0xfd20_00ce << 96 | 0x254,
        0xfd00 << 112 | 9,
        1,
        0,
    ]
    .map(Ipv6Addr::from_bits)
    .to_vec()
}

/// How people and resolvers write an IPv4 address.
fn spellings(address: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = address.octets();
    let whole = address.to_bits();
    let (low16, low24) = (whole & 0xffff, whole & 0xff_ffff);
    vec![
        format!("{a}.{b}.{c}.{d}"),
        format!("{a}.{b}.{c}.{d}."),
        format!("{whole}"),
        format!("{whole}."),
        format!("{whole:#x}"),
        format!("{whole:#X}"),
        format!("0{whole:o}"),
        format!("{a}.{low24}"),
        format!("{a}.{b}.{low16}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("{a:03}.{b:03}.{c:03}.{d:03}"),
        format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
        format!("{a:#x}.{low24}"),
        format!("{a}.{b}.{c}.{d:#x}"),
        format!("{a}.{b}.{c}.0x"),
    ]
}

/// How an IPv6 address may be written: short, in full, in capitals, with the last part dotted.
fn spellings_v6(address: Ipv6Addr) -> Vec<String> {
    let s = address.segments();
    let full: Vec<String> = s.iter().map(|part| format!("{part:04x}")).collect();
    let last = Ipv4Addr::from_bits(u32::from(s[6]) << 16 | u32::from(s[7]));
    let short = address.to_string();
    vec![
        format!("[{short}]"),
        format!("[{}]", short.to_uppercase()),
        format!("[{}]", full.join(":")),
        format!("[{}:{last}]", full[..6].join(":")),
        format!("[{short}%1]"),
    ]
}

proptest! {
    #[test]
    fn every_spelling_of_a_refused_address_is_refused(
        address in refused(), noise in any::<u64>(), loopback in any::<bool>(),
    ) {
        let mut everything = list(&["0.0.0.0/0:80", "[::/0]:80", "127.0.0.1:81", "prefill:80"]);
        everything.service_port = Some(80);
        everything.loopback = loopback;
        let carried = carried(address, noise);
        let service = Listed {
            port: 80,
            addresses: carried.iter().map(|found| IpAddr::V6(*found))
                .filter(|found| !(loopback && address::special(*found) == Some(Special::Loopback)))
                .chain((!(loopback && address.is_loopback())).then_some(IpAddr::V4(address)))
                .collect(),
        };
        let hosts = spellings(address).into_iter()
            .chain(carried.into_iter().flat_map(spellings_v6));
        for host in hosts {
            for text in [format!("{host}:80"), format!("http://{host}:80"), format!("http://{host}:80/")] {
                let verdict = Target::parse(&text).map(|target| everything.check(&target, &service));
                prop_assert_ne!(verdict, Some(Verdict::Allowed), "{}", text);
            }
        }
    }

    #[test]
    fn every_other_address_is_allowed_by_a_network(bits in any::<u128>(), v4 in any::<u32>()) {
        let everything = list(&["0.0.0.0/0:80", "[::/0]:80"]);
        for address in [IpAddr::V6(Ipv6Addr::from_bits(bits)), IpAddr::V4(Ipv4Addr::from_bits(v4))] {
            if address::special(address).is_none() && !everything.own.contains(&address) {
                prop_assert!(allows(&everything, &SocketAddr::new(address, 80).to_string()));
            }
        }
    }
}
