//! The shared core: (request, candidates, settings) -> a decision. PURE and synchronous.
//!
//! ```text
//! profile:  filters -> scorers -> picker       one per role; `schedule` runs decode, then prefill
//! ```
//!
//! Whatever a scorer needs (load, matched prefixes, the session) is a value handed in:
//! scorers never wait, lock, log or look anything up.
#![deny(clippy::disallowed_methods)]

pub mod config;
pub mod decision;
pub mod endpoint;
pub mod filter;
pub mod picker;
pub mod profile;
pub mod request;
pub mod schedule;
pub mod scorer;

pub use decision::Decision;
pub use schedule::schedule;

#[cfg(test)]
mod tests;
