//! The shared core: (request, endpoints, settings) -> a decision. PURE and synchronous.
#![deny(clippy::disallowed_methods)]

pub mod config;
