//! What can be wrong with a peer or a connection. PURE.
#![deny(clippy::disallowed_methods)]

use std::io;

/// A rule of the protocol, or a limit, that a peer broke.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Violation {
    /// Of a frame of a message, or of a command.
    #[error("announced a frame of {announced} bytes; at most {limit} are taken")]
    FrameTooLarge {
        /// Bytes of the frame's body.
        announced: u64,
        /// Bytes that would have been taken.
        limit: u64,
    },
    /// All frames together.
    #[error("announced {announced} bytes for one message; at most {limit} are taken")]
    MessageTooLarge {
        /// Bytes of the message so far, with the frame just announced.
        announced: u64,
        /// Bytes that would have been taken.
        limit: u64,
    },
    /// Empty frames cost memory, too.
    #[error("sent a message of more than {limit} frames")]
    TooManyFrames {
        /// Frames that would have been taken.
        limit: usize,
    },
    /// Before traffic: not ZMTP 3, another mechanism, no READY, a wrong socket type.
    #[error("did not shake hands: {0}")]
    Handshake(&'static str),
    /// Flags that do not exist, or a command that cannot be read.
    #[error("sent a bad frame: {0}")]
    BadFrame(&'static str),
    /// Of one subscriber.
    #[error("made more than {limit} subscriptions")]
    TooManySubscriptions {
        /// Subscriptions that would have been taken.
        limit: usize,
    },
}

impl Violation {
    /// The class it is counted under.
    pub fn reason(self) -> Reason {
        match self {
            Self::FrameTooLarge { .. } => Reason::FrameTooLarge,
            Self::MessageTooLarge { .. } => Reason::MessageTooLarge,
            Self::TooManyFrames { .. } => Reason::TooManyFrames,
            Self::Handshake(_) => Reason::Handshake,
            Self::BadFrame(_) => Reason::BadFrame,
            Self::TooManySubscriptions { .. } => Reason::TooManySubscriptions,
        }
    }
}

/// Why a peer was dropped: the values of a metric's label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// [`Violation::FrameTooLarge`].
    FrameTooLarge,
    /// [`Violation::MessageTooLarge`].
    MessageTooLarge,
    /// [`Violation::TooManyFrames`].
    TooManyFrames,
    /// [`Violation::Handshake`].
    Handshake,
    /// [`Violation::BadFrame`].
    BadFrame,
    /// It sent ERROR.
    PeerError,
    /// [`SocketError::Timeout`].
    Timeout,
    /// [`Violation::TooManySubscriptions`].
    TooManySubscriptions,
    /// A listening socket had no room for it.
    TooManyConnections,
}

impl Reason {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 9] = [
        Self::FrameTooLarge,
        Self::MessageTooLarge,
        Self::TooManyFrames,
        Self::Handshake,
        Self::BadFrame,
        Self::PeerError,
        Self::Timeout,
        Self::TooManySubscriptions,
        Self::TooManyConnections,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FrameTooLarge => "frame_too_large",
            Self::MessageTooLarge => "message_too_large",
            Self::TooManyFrames => "too_many_frames",
            Self::Handshake => "handshake",
            Self::BadFrame => "bad_frame",
            Self::PeerError => "peer_error",
            Self::Timeout => "timeout",
            Self::TooManySubscriptions => "too_many_subscriptions",
            Self::TooManyConnections => "too_many_connections",
        }
    }
}

/// Why a connection did not come up, or ended.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// An address that is not `tcp://HOST:PORT`.
    #[error("{0:?} is not an address of the form tcp://HOST:PORT")]
    Address(String),
    /// There is nobody, or nobody answers.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Who was dialled.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The peer broke a rule.
    #[error("the peer {0}")]
    Violation(#[from] Violation),
    /// The peer sent ERROR; its own words, at most 255 bytes.
    #[error("the peer ended the connection: {0:?}")]
    PeerError(String),
    /// The peer was too slow with this.
    #[error("the peer did not finish in time: {0}")]
    Timeout(&'static str),
    /// The peer closed the connection, or is gone.
    #[error("the connection is closed")]
    Closed,
    /// The network failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl SocketError {
    /// Why the peer was dropped; `None` where it went by itself or never came.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Violation(violation) => Some(violation.reason()),
            Self::PeerError(_) => Some(Reason::PeerError),
            Self::Timeout(_) => Some(Reason::Timeout),
            Self::Address(_)
            | Self::Connect { .. }
            | Self::Bind { .. }
            | Self::Closed
            | Self::Io(_) => None,
        }
    }
}
