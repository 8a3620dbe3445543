//! The routing sidecar: what clients send to a decode pod -> the engine behind it, streamed
//! both ways. Where a request names prefill endpoints, one of them computes the prompt first.
//!
//! ```text
//! request -> route(headers) -> connector: prefill leg -> splice -> decode leg -> stream back
//! ```
//!
//! What is sent where is decided by pure functions (`route`, `allowlist`, `params`,
//! `connector::*`); only `server`, `legs` and `upstream` touch sockets.

pub mod allowlist;
pub mod body;
pub mod cli;
pub mod connector;
pub mod failure;
pub mod legs;
pub mod metrics;
pub mod params;
pub mod route;
pub mod run;
pub mod server;
pub mod upstream;
pub mod usage;

#[cfg(test)]
mod tests;
