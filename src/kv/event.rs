//! KV events of an engine: msgpack payload <-> what it says about cached blocks. PURE.
//!
//! One payload is one batch, `[timestamp, [event, ...], rank]`. An event is an array
//! (vLLM up to 0.23, older SGLang) or a map with string keys (vLLM from 0.24); hashes are
//! integers or bytes. All forms decode to the same types. Follows
//! `vllm/distributed/kv_events.py`.
//!
//! ```text
//! payload -> decode: value (one msgpack item at a time) -> fields -> Event | Rejected
//! ```
//!
//! An event that cannot be read is rejected alone: the rest of its batch still counts.
//! Nothing here trusts a length it reads; the limits are the constants below.

#![deny(clippy::disallowed_methods)]

mod decode;
mod encode;
mod extra_keys;
#[cfg(test)]
mod tests;
mod value;

pub use decode::decode;
pub use encode::{EncodeBatch, EncodeEvent, EncodeStored, Form, HashForm, encode};

/// Events read of one batch; the others are rejected. An engine sends a batch per step.
pub const MAX_EVENTS: usize = 65_536;
/// Block hashes of one event.
pub const MAX_HASHES: usize = 131_072;
/// Tokens of one event.
pub const MAX_TOKENS: usize = 2_097_152;
/// Block hashes of all events of one batch. An engine's whole cache has fewer blocks, and a hash
/// of one byte on the wire takes eight here.
pub const MAX_BATCH_HASHES: usize = 1_048_576;
/// Tokens of all events of one batch; no engine computes so many in a step.
pub const MAX_BATCH_TOKENS: usize = 4_194_304;
/// Bytes of an adapter's name or of a salt.
pub const MAX_NAME_BYTES: usize = 1_024;

/// What one engine did to its cache in one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// When the engine made the batch: seconds since 1970.
    pub timestamp_seconds: f64,
    /// The data-parallel rank that speaks; `None` where the engine has one.
    pub rank: Option<u32>,
    /// The events that could be read, in the engine's order.
    pub events: Vec<Event>,
    /// Those that could not.
    pub rejected: Vec<Rejected>,
}

/// One change of a cache.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// `BlockStored`: consecutive blocks of one prompt are cached from now on.
    Stored(Stored),
    /// `BlockRemoved`: these blocks are gone.
    Removed(Removed),
    /// `AllBlocksCleared`: the rank's cache is empty.
    Cleared,
}

/// A run of consecutive blocks.
///
/// Usually `tokens.len() == hashes.len() * block_size`. Offload connectors send no tokens,
/// and sliding-window or Mamba groups send more tokens than they have blocks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Stored {
    /// The engine's names of the blocks. A longer hash is reduced to its last 8 bytes.
    pub hashes: Vec<u64>,
    /// The block before the run; `None` where the run starts a prompt.
    pub parent: Option<u64>,
    /// What the blocks hold.
    pub tokens: Vec<u32>,
    /// Tokens in one block of this group.
    pub block_size: u32,
    /// The adapter. One known by number only is `lora_id:<number>`, which no request asks for.
    pub lora: Option<String>,
    /// The request's `cache_salt`; known only where the run starts a prompt.
    pub salt: Option<String>,
    /// Where the blocks are.
    pub medium: Medium,
    /// The KV-cache group; `None` where the engine has one.
    pub group: Option<u32>,
    /// How the group attends.
    pub kind: SpecKind,
    /// From this block of the run on, content is more than tokens (images, embeddings):
    /// the tokens alone must not name those blocks.
    pub opaque_from: Option<usize>,
}

/// Blocks that are gone from one medium.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Removed {
    /// As in [`Stored::hashes`].
    pub hashes: Vec<u64>,
    /// Where they were.
    pub medium: Medium,
    /// As in [`Stored::group`].
    pub group: Option<u32>,
}

/// Where a block is kept.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Medium {
    /// The accelerator's memory; also what an event means that names no medium.
    #[default]
    Gpu,
    /// The host's memory.
    Cpu,
    /// Disk or an object store.
    Storage,
    /// A name not known here.
    Other,
}

impl Medium {
    const NAMES: [(Self, &'static str); 4] = [
        (Self::Gpu, "GPU"),
        (Self::Cpu, "CPU"),
        (Self::Storage, "STORAGE"),
        (Self::Other, "OTHER"),
    ];

    /// Reads a name in either case.
    fn read(name: &[u8]) -> Self {
        let known = Self::NAMES
            .iter()
            .find(|(_, known)| known.as_bytes().eq_ignore_ascii_case(name));
        known.map_or(Self::Other, |(medium, _)| *medium)
    }

    fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
    }
}

/// How a KV-cache group attends: whether a block serves every request with its prefix.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum SpecKind {
    /// To all earlier tokens; also what an event means that names no kind.
    #[default]
    FullAttention,
    /// Multi-head latent attention.
    Mla,
    /// Full attention with sink tokens.
    Sink,
    /// Sliding windows, Mamba states, chunks, encoders: a cached block does not mean a
    /// reusable prefix.
    Other,
}

impl SpecKind {
    const NAMES: [(Self, &'static str); 4] = [
        (Self::FullAttention, "full_attention"),
        (Self::Mla, "mla_attention"),
        (Self::Sink, "sink_full_attention"),
        (Self::Other, "unknown"),
    ];

    fn read(name: &[u8]) -> Self {
        let known = Self::NAMES
            .iter()
            .find(|(_, known)| known.as_bytes() == name);
        known.map_or(Self::Other, |(kind, _)| *kind)
    }

    fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
    }
}

/// An event that could not be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rejected {
    /// Its place in the batch.
    pub index: usize,
    /// Why.
    pub reason: Reason,
    /// What it calls itself, at most 32 characters; empty where it does not say.
    pub type_name: String,
}

/// Why an event was rejected.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Reason {
    /// An event of a kind not known here.
    #[error("event type is not known")]
    UnknownType,
    /// Neither an array nor a map with a type.
    #[error("event is neither a tagged array nor a tagged map")]
    NotAnEvent,
    /// A field that must be there.
    #[error("event has no {0}")]
    MissingField(&'static str),
    /// A field of a wrong type or out of range.
    #[error("{0} cannot be read")]
    BadField(&'static str),
    /// More than [`MAX_HASHES`] or [`MAX_TOKENS`] entries, or more than its batch has left of
    /// [`MAX_BATCH_HASHES`] and [`MAX_BATCH_TOKENS`].
    #[error("{0} has too many entries")]
    TooLong(&'static str),
    /// This event and all after it are beyond [`MAX_EVENTS`].
    #[error("batch has more than {MAX_EVENTS} events")]
    TooManyEvents,
}

impl Reason {
    /// A short name for a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownType => "unknown_type",
            Self::NotAnEvent => "not_an_event",
            Self::MissingField(_) => "missing_field",
            Self::BadField(_) => "bad_field",
            Self::TooLong(_) => "too_long",
            Self::TooManyEvents => "too_many_events",
        }
    }
}

/// Why nothing of a payload could be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Cut off, or not msgpack.
    #[error("payload ends inside a value or is not msgpack")]
    Malformed,
    /// msgpack of another shape.
    #[error("payload is not an array of timestamp, events and rank")]
    NotABatch,
}
