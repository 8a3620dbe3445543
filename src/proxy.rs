//! The routing sidecar: what clients send to a decode pod -> the engine behind it, streamed
//! both ways. Where a request names prefill endpoints, one of them computes the prompt first.
//!
//! ```text
//! request -> route(headers) -> connector: prefill leg -> splice -> decode leg -> stream back
//! ```
//!
//! What is sent where is decided by pure functions (`route`, `admin`, `address`, `allowlist`,
//! `params`, the edits of `connector::*`); only `server`, `legs`, `upgrade`, `service` and
//! `upstream` touch sockets.

pub mod address;
pub mod admin;
pub mod allowlist;
pub mod body;
pub mod cli;
mod client_stream;
pub mod connector;
pub mod failure;
pub mod heavy;
pub mod key;
pub mod legs;
pub mod metrics;
pub mod params;
pub mod reason;
pub mod route;
pub mod run;
pub mod server;
pub mod service;
pub mod upgrade;
pub mod upstream;
pub mod usage;

#[cfg(test)]
mod tests;
