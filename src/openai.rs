//! The fields of requests that steer, read leniently from the raw JSON; edits of that JSON that
//! keep every other byte; the engine's paths; and the error bodies clients expect. PURE.
#![deny(clippy::disallowed_methods)]

pub mod api;
pub mod error;
pub mod request;
pub mod scan;
pub mod splice;
