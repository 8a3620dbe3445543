//! ZeroMQ's sockets over TCP, as far as KV events need them: PUB, SUB, DEALER, ROUTER.
//!
//! ```text
//! bytes -> codec (greeting, frame, command; PURE) -> Item -> link (IO: time, TCP)
//!                                                     link -> SubSocket, DealerSocket     we dial
//!                                          accept -> link -> PubSocket, RouterSocket       others dial
//! ```
//!
//! Speaks ZMTP 3.1 and 3.0 with the NULL mechanism (<https://rfc.zeromq.org/spec/37/>,
//! <https://rfc.zeromq.org/spec/23/>), which is what libzmq 4 speaks without encryption.
//!
//! Nobody is trusted with a length: a frame is measured against [`WireLimits`] when it is
//! announced, before any memory is set aside, and memory grows only with the bytes that
//! came. A connection holds at most one unfinished message, a read buffer and what waits to
//! be sent, each of them bounded; a handshake, a message that has begun and a write have
//! deadlines. Who breaks a rule is dropped and counted under a [`Reason`].

mod accept;
mod client;
pub mod codec;
mod command;
mod error;
mod frame;
mod greeting;
mod link;
mod publisher;
mod router;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::accept::PeerTally;
pub use self::client::{DealerSocket, SubSocket};
pub use self::codec::WireLimits;
pub use self::error::{Reason, SocketError, Violation};
pub use self::publisher::PubSocket;
pub use self::router::{Request, RouterSocket};

/// Limits and deadlines of a socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SocketSettings {
    /// What is read from a peer.
    pub limits: WireLimits,
    /// From a connection's first moment, or from the start of the dialling, to the end of
    /// the handshake.
    pub handshake: Duration,
    /// From the first byte of a message to its last.
    pub message: Duration,
    /// A peer that takes none of the bytes that wait for it for so long is dropped.
    pub stall: Duration,
    /// A peer that was dialled and is silent for so long is asked whether it is still there,
    /// and dropped after as long again. Only peers of ZMTP 3.1 can be asked.
    pub heartbeat: Duration,
    /// Connections that a listening socket has at once; more are closed at once.
    pub connections: usize,
}

impl Default for SocketSettings {
    fn default() -> Self {
        Self {
            limits: WireLimits::EVENTS,
            handshake: Duration::from_secs(5),
            message: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            heartbeat: Duration::from_secs(15),
            connections: 128,
        }
    }
}
