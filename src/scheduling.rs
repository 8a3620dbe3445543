//! The shared core: (pipeline, request, candidates, turn) -> a decision. PURE and synchronous.
//!
//! ```text
//! profile:  gates -> filters -> scorers -> picker     one per role; the profile handler runs decode, then prefill
//! ```
//!
//! Whatever a scorer needs (load, matched prefixes, the session) is a value handed in:
//! scorers never wait, lock, log or look anything up. [`config`] makes the pipeline, from the
//! environment or from an `EndpointPickerConfig`.
#![deny(clippy::disallowed_methods)]

pub mod config;
pub mod decision;
pub mod endpoint;
pub mod filter;
pub mod picker;
pub mod pipeline;
mod profile;
pub mod request;
pub mod schedule;
pub mod scorer;

pub use decision::Decision;
pub use pipeline::Pipeline;
pub use profile::Scratch;
pub use request::RequestFacts;
pub use schedule::{explain, schedule};

#[cfg(test)]
mod tests;
