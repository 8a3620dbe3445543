//! Events and guesses about caches -> how much of a prompt each endpoint holds. PURE.
//!
//! ```text
//! Writer (one)   event -> endpoint: the engine's blocks, counted -> claims: why it holds a key
//!                                                                     |
//!                                                     published: key -> endpoints (lock-free)
//!                                                                     |
//! Reader (many)                            keys of a prompt -> matched: blocks per endpoint
//! ```
//!
//! Only `published` is shared. A lookup never waits for the writer and sees each key as it
//! was before or after a change; a lookup during changes may mix the two, which costs one
//! request a worse endpoint at most.
//!
//! There is no clock in here, times are arguments, and everything is bounded by [`Limits`].

#![deny(clippy::disallowed_methods)]

mod claims;
mod endpoint;
mod hash;
mod published;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;

use self::published::Published;
pub use self::writer::Writer;
use super::blocks::BlockKey;

/// An endpoint inside the index. Each one added gets a new slot, also one that comes back:
/// a slot that was removed never holds anything again.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EndpointSlot(u32);

/// Whatever can say how much of a prompt each endpoint holds.
pub trait KvIndex: Send + Sync {
    /// For each slot, in the order given: how many blocks of `keys` it holds, counted from
    /// the first one without a gap. A slot that is not known holds none.
    fn matched(&self, keys: &[BlockKey], slots: &[EndpointSlot]) -> Vec<u32>;
}

/// Bounds of what the index keeps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Endpoints at a time.
    pub max_endpoints: usize,
    /// Blocks of one engine, over all its tiers; also speculative blocks of one endpoint.
    pub max_blocks_per_endpoint: usize,
    /// Keys that [`Writer::remember`] keeps per endpoint.
    pub history_per_endpoint: usize,
}

impl Default for Limits {
    /// Far above a large GPU with a host tier (tens of thousands of blocks each); the
    /// history has the size that the Gateway API's prefix plugin keeps per server.
    fn default() -> Self {
        Self {
            max_endpoints: 1_024,
            max_blocks_per_endpoint: 500_000,
            history_per_endpoint: 31_250,
        }
    }
}

/// What one event did, in blocks. Each block of an event is counted once.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Applied {
    /// New on their medium.
    pub stored: u64,
    /// One more copy on the same medium: needs one more removal.
    pub duplicate: u64,
    /// Copies that are gone.
    pub removed: u64,
    /// Blocks that an `AllBlocksCleared` took.
    pub cleared: u64,
    /// Not indexed: the block before the run has no key here, so neither have these.
    pub unknown_parent: u64,
    /// Removed, or stored without tokens, under a hash that was never stored.
    pub unknown_hash: u64,
    /// Of a group whose blocks do not mean a reusable prefix (windows, Mamba).
    pub skipped_kind: u64,
    /// Not indexed: the run's tokens do not fit its blocks.
    pub odd_size: u64,
    /// Not indexed: content is more than tokens (images, embeddings).
    pub opaque: u64,
    /// The engine gave two contents one hash; the first one counts.
    pub conflicting: u64,
    /// Beyond [`Limits`], or for a slot that is not in the index.
    pub over_limit: u64,
}

/// What the index holds now, and what it refused so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// Endpoints.
    pub endpoints: usize,
    /// Different keys that at least one endpoint holds.
    pub keys: usize,
    /// Blocks of all engines, over all tiers.
    pub engine_blocks: usize,
    /// Blocks held by assumption until they expire.
    pub speculative: usize,
    /// Remembered keys of all endpoints.
    pub history: usize,
    /// Endpoints refused for [`Limits::max_endpoints`].
    pub endpoints_over_limit: u64,
    /// Blocks refused for [`Limits::max_blocks_per_endpoint`], or for want of an endpoint.
    pub blocks_over_limit: u64,
}

/// Looks up; as many as needed, each cheap to clone.
#[derive(Clone)]
pub struct Reader {
    published: Arc<Published>,
}

impl Reader {
    /// Tokens per block as the engines last said, which is how requests must be cut;
    /// `None` before the first event.
    pub fn block_size(&self) -> Option<u32> {
        self.published.block_size()
    }
}

impl KvIndex for Reader {
    fn matched(&self, keys: &[BlockKey], slots: &[EndpointSlot]) -> Vec<u32> {
        self.published.matched(keys, slots)
    }
}

/// An empty index.
pub fn new(limits: Limits) -> (Writer, Reader) {
    let published = Arc::new(Published::default());
    (
        Writer::new(limits, Arc::clone(&published)),
        Reader { published },
    )
}
