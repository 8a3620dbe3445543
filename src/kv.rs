//! Which engine holds which part of a prompt in its KV cache.
//!
//! ```text
//! engine -> subscribe(IO) -> event (decode) -> index          what each endpoint holds
//! prompt -> tokenize      -> blocks (keys)  -> index.matched   how much of it, per endpoint
//! ```
//!
//! The engine's own hashes are opaque names; the index is keyed by hashes of our own over
//! the tokens, so that neither an engine's seed nor its hash algorithm matters.

pub mod blocks;
pub mod event;
#[cfg(feature = "index")]
pub mod index;
#[cfg(feature = "tokio")]
pub mod metrics;
#[cfg(all(feature = "zmq", feature = "index"))]
pub mod subscribe;
#[cfg(feature = "tokenizer")]
pub mod tokenize;
