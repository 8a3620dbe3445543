//! Bytes of one connection, in chunks of any size -> greeting, commands, messages. PURE.
//!
//! What is announced is measured against the limits before anything is set aside for it,
//! in every state of the connection; a body's buffer grows with the bytes that came.
#![deny(clippy::disallowed_methods)]

use bytes::Bytes;

pub use super::command::{Command, SocketType};
pub use super::error::Violation;
use super::frame::{self, Header};
pub use super::greeting::Version;
use super::{command, greeting};

/// A command of ours or of libzmq has some tens of bytes, a subscription those of its topic.
const MAX_COMMAND_BYTES: u64 = 4096;

/// What is taken from a peer; a command has a limit of its own, 4 KiB.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WireLimits {
    /// Bytes of one frame of a message.
    pub frame_bytes: usize,
    /// Bytes of all frames of a message.
    pub message_bytes: usize,
    /// Frames of a message.
    pub frames: usize,
}

impl WireLimits {
    /// For KV events. A batch is what an engine did in one step; the longest prompts, of a
    /// million tokens, take about 6 MiB where an engine stores one in a single step.
    pub const EVENTS: Self = Self {
        frame_bytes: 16 << 20,
        message_bytes: 16 << 20,
        frames: 16,
    };
    /// For those who only ask: subscriptions, requests of a replay.
    pub const REQUESTS: Self = Self {
        frame_bytes: 4096,
        message_bytes: 4096,
        frames: 16,
    };
}

/// One thing that was received in full.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Item {
    /// The first one, once.
    Greeting(Version),
    /// The first after the greeting is READY or ERROR.
    Command(Command),
    /// Its frames, at least one.
    Message(Vec<Bytes>),
}

#[derive(Debug)]
enum State {
    Greeting {
        bytes: [u8; greeting::BYTES],
        have: usize,
    },
    Header {
        bytes: [u8; frame::MAX_HEADER_BYTES],
        have: usize,
    },
    Body {
        header: Header,
        body: Vec<u8>,
    },
    Broken(Violation),
}

const NEXT_FRAME: State = State::Header {
    bytes: [0; frame::MAX_HEADER_BYTES],
    have: 0,
};

/// Reads one side of one connection.
#[derive(Debug)]
pub struct Decoder {
    limits: WireLimits,
    state: State,
    /// READY has come.
    ready: bool,
    /// Frames of the message that has begun.
    frames: Vec<Bytes>,
    frames_bytes: usize,
}

impl Decoder {
    /// A decoder before the first byte.
    pub fn new(limits: WireLimits) -> Self {
        Self {
            limits,
            state: State::Greeting {
                bytes: [0; greeting::BYTES],
                have: 0,
            },
            ready: false,
            frames: Vec::new(),
            frames_bytes: 0,
        }
    }

    /// Takes bytes off the front of `input` until an item is complete; `None` once all of
    /// them are taken and more are needed.
    ///
    /// # Errors
    /// The rule that was broken, again and again: the connection is of no more use.
    pub fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Item>, Violation> {
        let result = self.step(input);
        if let Err(violation) = result {
            self.state = State::Broken(violation);
            self.frames = Vec::new();
            self.frames_bytes = 0;
        }
        result
    }

    /// Bytes that are kept from one call to the next, as they were set aside: what the
    /// limits bound.
    pub fn held_bytes(&self) -> usize {
        let body = match &self.state {
            State::Body { body, .. } => body.capacity(),
            State::Greeting { .. } | State::Header { .. } | State::Broken(_) => 0,
        };
        body + self.frames_bytes + self.frames.capacity() * size_of::<Bytes>()
    }

    /// Whether a greeting, a command or a message has begun and not ended.
    pub fn is_inside(&self) -> bool {
        match self.state {
            State::Greeting { have, .. } => have > 0,
            State::Header { have, .. } => have > 0 || self.is_inside_message(),
            State::Body { .. } => true,
            State::Broken(_) => false,
        }
    }

    /// Whether frames of a message have come and others are to follow.
    pub fn is_inside_message(&self) -> bool {
        !self.frames.is_empty()
    }

    fn step(&mut self, input: &mut &[u8]) -> Result<Option<Item>, Violation> {
        loop {
            match &mut self.state {
                State::Greeting { bytes, have } => {
                    fill(bytes, have, greeting::BYTES, input);
                    greeting::check(&bytes[..*have])?;
                    if *have < greeting::BYTES {
                        return Ok(None);
                    }
                    let version = greeting::version(bytes);
                    self.state = NEXT_FRAME;
                    return Ok(Some(Item::Greeting(version)));
                }
                State::Header { bytes, have } => {
                    let need = frame::header_bytes(&bytes[..*have])?;
                    if *have == need {
                        let header = frame::header(&bytes[..need]);
                        self.admit(header)?;
                        self.state = State::Body {
                            header,
                            body: Vec::new(),
                        };
                    } else if input.is_empty() {
                        return Ok(None);
                    } else {
                        fill(bytes, have, need, input);
                    }
                }
                State::Body { header, body } => {
                    // Below the limits, so it is a number of bytes of this machine.
                    let missing = header.bytes as usize - body.len();
                    let (taken, rest) = input.split_at(missing.min(input.len()));
                    *input = rest;
                    append(body, taken, missing);
                    if taken.len() < missing {
                        return Ok(None);
                    }
                    let (header, body) = (*header, std::mem::take(body));
                    self.state = NEXT_FRAME;
                    if let Some(item) = self.end(header, Bytes::from(body))? {
                        return Ok(Some(item));
                    }
                }
                State::Broken(violation) => return Err(*violation),
            }
        }
    }

    /// Judges a frame by its header. How much it announces comes first: that is what the
    /// operator wants to read of a peer that means harm.
    fn admit(&self, header: Header) -> Result<(), Violation> {
        let announced = header.bytes;
        let limit = if header.command {
            MAX_COMMAND_BYTES
        } else {
            self.limits.frame_bytes as u64
        };
        if announced > limit {
            return Err(Violation::FrameTooLarge { announced, limit });
        }
        if header.command {
            return Ok(());
        }
        let announced = announced + self.frames_bytes as u64;
        let limit = self.limits.message_bytes as u64;
        if announced > limit {
            return Err(Violation::MessageTooLarge { announced, limit });
        }
        if self.frames.len() >= self.limits.frames {
            let limit = self.limits.frames;
            return Err(Violation::TooManyFrames { limit });
        }
        if !self.ready {
            return Err(Violation::Handshake("a message came before READY"));
        }
        Ok(())
    }

    fn end(&mut self, header: Header, body: Bytes) -> Result<Option<Item>, Violation> {
        if header.command {
            let command = command::read(body)?;
            match command {
                Command::Ready(_) => self.ready = true,
                Command::Error(_) => {}
                _ if !self.ready => {
                    return Err(Violation::Handshake("another command came before READY"));
                }
                _ => {}
            }
            return Ok(Some(Item::Command(command)));
        }
        self.frames_bytes += body.len();
        self.frames.push(body);
        if header.more {
            return Ok(None);
        }
        self.frames_bytes = 0;
        Ok(Some(Item::Message(std::mem::take(&mut self.frames))))
    }
}

/// Moves bytes from the input until `need` of them are there.
fn fill(bytes: &mut [u8], have: &mut usize, need: usize, input: &mut &[u8]) {
    let (taken, rest) = input.split_at((need - *have).min(input.len()));
    bytes[*have..*have + taken.len()].copy_from_slice(taken);
    *have += taken.len();
    *input = rest;
}

/// Appends what came. The buffer at most doubles, and never beyond what is `missing`.
fn append(body: &mut Vec<u8>, taken: &[u8], missing: usize) {
    if body.capacity() - body.len() < taken.len() {
        let more = taken.len().max(body.len()).min(missing);
        body.reserve_exact(more);
    }
    body.extend_from_slice(taken);
}
