//! The fields of OpenAI requests we read, borrowed from the raw JSON, edits of that JSON that
//! keep every other byte, and the error body clients expect. PURE.
#![deny(clippy::disallowed_methods)]

pub mod api;
pub mod error;
pub mod request;
pub mod splice;
