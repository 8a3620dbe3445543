//! Ports of this machine's loopback address for programs that cannot be handed a listener:
//! outside the range from which the kernel serves outgoing connections, reserved against other
//! rigs, and with the name of whoever took one all the same. IO.
//!
//! Whatever the rig can listen on itself, it binds once and keeps; this is for the rest.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};

use anyhow::{Result, bail};

mod owner;

pub use owner::Owner;

/// The kernel's default, where it does not tell.
const USUAL_EPHEMERAL: RangeInclusive<u16> = 32_768..=60_999;
/// The range is searched from here first: services that people run beside lie below.
const QUIET: u16 = 20_000;
/// The first port that needs no privileges.
const UNPRIVILEGED: u16 = 1024;
/// With fewer ports than this outside the ephemeral range, those inside are used as well.
const ENOUGH: usize = 256;

/// Something of this machine's network that no other rig takes as long as this is alive.
///
/// It is a name in the kernel's abstract socket namespace: that has the very scope of ports
/// (one network namespace, all users), and the name goes with the process that holds it.
#[derive(Debug)]
pub struct Reservation {
    _socket: UnixDatagram,
}

impl Reservation {
    /// Takes this name; `None` when another rig has it.
    pub fn take(name: &str) -> Option<Self> {
        let name = UnixAddr::from_abstract_name(format!("llm-d-rig/{name}")).ok()?;
        UnixDatagram::bind_addr(&name)
            .ok()
            .map(|socket| Self { _socket: socket })
    }
}

/// A port that no other rig on this machine chooses as long as this is alive.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reservation: Reservation,
}

impl Port {
    /// Chooses a port that nobody listens on.
    ///
    /// # Errors
    /// When every port is taken.
    pub fn choose() -> Result<Self> {
        let ports = candidates(&ephemeral());
        // Not from the same end each time: that would try what others hold again and again.
        let start = RandomState::new().build_hasher().finish() as usize % ports.len();
        let (later, first) = ports.split_at(start);
        match first.iter().chain(later).find_map(|port| Self::take(*port)) {
            Some(port) => Ok(port),
            None => bail!("each of {} ports of 127.0.0.1 is taken", ports.len()),
        }
    }

    /// Reserves this port if nobody has it.
    fn take(number: u16) -> Option<Self> {
        let port = Self {
            number,
            _reservation: Reservation::take(&format!("port/{number}"))?,
        };
        TcpListener::bind(port.address()).ok().map(|_| port)
    }

    /// Where a program that is told this port listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), self.number)
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Who listens on it, if somebody does; to be asked while its own program does not run.
    pub fn owner(&self) -> Option<Owner> {
        match TcpListener::bind(self.address()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Some(Owner::at(self.address()))
            }
            _ => None,
        }
    }
}

/// Ports that may be chosen.
fn candidates(ephemeral: &RangeInclusive<u16>) -> Vec<u16> {
    let outside = |from: u16| -> Vec<u16> {
        (from..=u16::MAX)
            .filter(|port| !ephemeral.contains(port))
            .collect()
    };
    [QUIET, UNPRIVILEGED]
        .map(outside)
        .into_iter()
        .find(|ports| ports.len() >= ENOUGH)
        // A machine that gives every port to connections: one that is lost is chosen anew.
        .unwrap_or_else(|| (UNPRIVILEGED..=u16::MAX).collect())
}

/// Ports that the kernel gives to outgoing connections in this network namespace.
fn ephemeral() -> RangeInclusive<u16> {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| parse_range(&text))
        .unwrap_or(USUAL_EPHEMERAL)
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_candidate_lies_in_the_ephemeral_range() {
        for range in [
            USUAL_EPHEMERAL,
            1024..=60_999,
            15_000..=65_535,
            32_768..=65_000,
        ] {
            let ports = candidates(&range);
            assert!(ports.len() >= ENOUGH, "{range:?}: {}", ports.len());
            assert!(
                ports
                    .iter()
                    .all(|port| !range.contains(port) && *port >= UNPRIVILEGED),
                "{range:?}"
            );
        }
    }

    #[test]
    fn a_machine_that_gives_every_port_to_connections_still_has_some() {
        assert_eq!(
            candidates(&(UNPRIVILEGED..=65_535)).len(),
            65_536 - usize::from(UNPRIVILEGED)
        );
    }

    #[test]
    fn the_kernels_range_is_read() {
        assert_eq!(parse_range("32768\t60999\n"), Some(USUAL_EPHEMERAL));
        assert_eq!(parse_range(""), None);
        let range = ephemeral();
        let port = Port::choose().unwrap();
        assert!(!range.contains(&port.number()), "{port:?} in {range:?}");
    }

    #[test]
    fn choosers_never_agree_while_their_ports_are_held() {
        let chosen: Vec<Port> = std::thread::scope(|scope| {
            let chooser = || -> Vec<Port> { (0..50).map(|_| Port::choose().unwrap()).collect() };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(chooser)).collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        let numbers: BTreeSet<_> = chosen.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), 200);
        let held = chosen[0].number();
        assert!(Port::take(held).is_none(), "a reserved port was given away");
        drop(chosen);
        assert!(Port::take(held).is_some(), "a port was not given back");
    }

    #[test]
    fn a_taken_port_is_skipped_and_its_owner_named() {
        let port = Port::choose().unwrap();
        assert!(port.owner().is_none());
        for address in ["127.0.0.1", "0.0.0.0", "[::]"] {
            let thief = TcpListener::bind(format!("{address}:{}", port.number())).unwrap();
            let owner = port.owner().expect("somebody listens").to_string();
            let me = format!("(process {})", std::process::id());
            assert!(owner.ends_with(&me), "{address}: {owner}");
            drop(thief);
        }
        // Somebody listens whom no rig knows: the name is free, the port is not.
        let number = port.number();
        drop(port);
        let thief = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
        assert!(Port::take(number).is_none(), "a taken port was chosen");
        drop(thief);
        assert!(Port::take(number).is_some());
    }
}
