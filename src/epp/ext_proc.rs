//! Envoy's external processing protocol: streams of a gateway -> questions for the director
//! -> replies.
//!
//! ```text
//! connection -> serve (IO) -> exchange (IO, one per stream) -> stream (PURE) -> mode: hold -> decide -> release
//!                                   |  question                     |
//!                                   +-> director -> Routed | Refusal +-> reply (PURE) -> wire
//! ```

pub mod exchange;
pub mod head;
pub mod held;
pub mod metered;
pub mod mode;
pub mod reply;
pub mod serve;
pub mod stream;
pub mod wire;

#[cfg(test)]
mod tests;
