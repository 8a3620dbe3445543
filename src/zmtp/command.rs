//! Commands: the body of a frame <-> what it says. PURE.
#![deny(clippy::disallowed_methods)]

use bytes::{Buf, Bytes};

use super::error::Violation;
use super::frame;
use super::greeting::Version;

/// Bytes that a PING may want back.
const MAX_CONTEXT_BYTES: usize = 16;
/// First byte of a subscription that is a message, as before ZMTP 3.1.
const SUBSCRIBE: u8 = 1;
const CANCEL: u8 = 0;

/// What this side plays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SocketType {
    /// Sends to all who subscribed.
    Pub,
    /// Hears what it subscribed to.
    Sub,
    /// Asks, without taking turns.
    Dealer,
    /// Answers those who ask.
    Router,
}

impl SocketType {
    fn name(self) -> &'static str {
        match self {
            Self::Pub => "PUB",
            Self::Sub => "SUB",
            Self::Dealer => "DEALER",
            Self::Router => "ROUTER",
        }
    }

    /// Whether a peer of this type makes sense.
    fn fits(self, peer: &[u8]) -> bool {
        let fitting: [&[u8]; 3] = match self {
            Self::Pub => [b"SUB", b"XSUB", b"SUB"],
            Self::Sub => [b"PUB", b"XPUB", b"PUB"],
            Self::Dealer => [b"ROUTER", b"REP", b"DEALER"],
            Self::Router => [b"DEALER", b"REQ", b"ROUTER"],
        };
        fitting.contains(&peer)
    }
}

/// A command that was received.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// The peer's part of the handshake: its socket type, empty where it named none.
    Ready(Bytes),
    /// The peer gives up; its own words.
    Error(String),
    /// Messages that begin like this are wanted.
    Subscribe(Bytes),
    /// And no longer.
    Cancel(Bytes),
    /// Asks whether this side is there and wants these bytes back.
    Ping(Bytes),
    /// The answer to a PING, or a command that is not known here: nothing to do.
    Other,
}

/// Reads the body of a command's frame.
pub(super) fn read(mut body: Bytes) -> Result<Command, Violation> {
    let name = short(&mut body).filter(|name| !name.is_empty());
    let name = name.ok_or(Violation::BadFrame("a command has no name"))?;
    Ok(match &name[..] {
        b"READY" => Command::Ready(socket_type(body)?),
        b"ERROR" => {
            let words = short(&mut body).unwrap_or_default();
            Command::Error(String::from_utf8_lossy(&words).into_owned())
        }
        b"SUBSCRIBE" => Command::Subscribe(body),
        b"CANCEL" => Command::Cancel(body),
        b"PING" => {
            // Two bytes say how long the peer waits, which is its own affair.
            if body.len() < 2 || body.len() - 2 > MAX_CONTEXT_BYTES {
                return Err(Violation::BadFrame("a PING is too short or too long"));
            }
            Command::Ping(body.split_off(2))
        }
        _ => Command::Other,
    })
}

/// Whether a peer with this socket type can be talked to.
pub(super) fn check_peer(own: SocketType, peer: &[u8]) -> Result<(), Violation> {
    if own.fits(peer) {
        Ok(())
    } else {
        Err(Violation::Handshake("the peer's socket type does not fit"))
    }
}

/// The subscription or its end in a message, as peers of ZMTP 3.0 send it.
pub(super) fn in_message(frames: &[Bytes]) -> Option<Command> {
    let [only] = frames else {
        return None;
    };
    match *only.first()? {
        SUBSCRIBE => Some(Command::Subscribe(only.slice(1..))),
        CANCEL => Some(Command::Cancel(only.slice(1..))),
        _ => None,
    }
}

/// READY of this side.
pub(super) fn ready(own: SocketType) -> Bytes {
    let name = own.name().as_bytes();
    let value_bytes = (name.len() as u32).to_be_bytes();
    let mut data: Vec<&[u8]> = vec![b"\x0bSocket-Type", &value_bytes, name];
    // What libzmq sends, too: no name of one's own.
    if matches!(own, SocketType::Dealer | SocketType::Router) {
        data.push(b"\x08Identity\0\0\0\0");
    }
    frame::command("READY", &data)
}

/// ERROR of this side, for a handshake that fails.
pub(super) fn error(words: &str) -> Bytes {
    let words = &words.as_bytes()[..words.len().min(255)];
    frame::command("ERROR", &[&[words.len() as u8], words])
}

/// Asks a peer for a sign of life.
pub(super) fn ping() -> Bytes {
    frame::command("PING", &[&[0, 0]])
}

/// The answer to a PING.
pub(super) fn pong(context: &[u8]) -> Bytes {
    frame::command("PONG", &[context])
}

/// A subscription in the form that the peer understands.
pub(super) fn subscribe(prefix: &[u8], peer: Version) -> Bytes {
    if peer.has_commands() {
        return frame::command("SUBSCRIBE", &[prefix]);
    }
    let mut body = vec![SUBSCRIBE];
    body.extend_from_slice(prefix);
    frame::message(&[Bytes::from(body)])
}

/// Bytes after one byte that counts them.
fn short(body: &mut Bytes) -> Option<Bytes> {
    let length = usize::from(body.try_get_u8().ok()?);
    (length <= body.len()).then(|| body.split_to(length))
}

/// Reads the properties of READY; names are not case-sensitive.
fn socket_type(mut body: Bytes) -> Result<Bytes, Violation> {
    const CUT: Violation = Violation::Handshake("the properties of READY cannot be read");
    let mut found = Bytes::new();
    while !body.is_empty() {
        let name = short(&mut body).ok_or(CUT)?;
        let length = body.try_get_u32().map_err(|_| CUT)? as usize;
        if length > body.len() {
            return Err(CUT);
        }
        let value = body.split_to(length);
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            found = value;
        }
    }
    Ok(found)
}
