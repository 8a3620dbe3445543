//! The 64 bytes that open a connection. PURE.
//!
//! A signature, the version, the mechanism as a text padded with zeros, zeros.
#![deny(clippy::disallowed_methods)]

use super::error::Violation;

pub(super) const BYTES: usize = 64;

const MAJOR: u8 = 3;
const MINOR: u8 = 1;
const MECHANISM: [u8; 20] = *b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// The version that a peer speaks.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Version {
    /// 3, or later.
    pub major: u8,
    /// 1 brought commands for subscriptions and heartbeats.
    pub minor: u8,
}

impl Version {
    /// Subscriptions and heartbeats are commands.
    pub fn has_commands(self) -> bool {
        self >= Self { major: 3, minor: 1 }
    }
}

/// What this side sends.
pub(super) fn ours() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[0] = 0xff;
    bytes[9] = 0x7f;
    bytes[10] = MAJOR;
    bytes[11] = MINOR;
    bytes[12..32].copy_from_slice(&MECHANISM);
    bytes
}

/// Judges as much of a greeting as has come: a wrong peer is known by its first byte.
/// What the protocol says has no meaning (padding, filler, as-server) is not looked at.
pub(super) fn check(so_far: &[u8]) -> Result<(), Violation> {
    let is_other = |at: usize, byte: u8| so_far.get(at).is_some_and(|found| *found != byte);
    if is_other(0, 0xff) || is_other(9, 0x7f) {
        return Err(Violation::Handshake("the greeting is not one of ZMTP 3"));
    }
    if so_far.get(10).is_some_and(|major| *major < MAJOR) {
        return Err(Violation::Handshake("the version is older than ZMTP 3"));
    }
    let mechanism = &so_far[so_far.len().min(12)..so_far.len().min(32)];
    if !MECHANISM.starts_with(mechanism) {
        return Err(Violation::Handshake("the mechanism is not NULL"));
    }
    Ok(())
}

/// Of a greeting that was checked.
pub(super) fn version(greeting: &[u8; BYTES]) -> Version {
    Version {
        major: greeting[10],
        minor: greeting[11],
    }
}
