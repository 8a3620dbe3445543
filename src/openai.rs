//! The fields of OpenAI requests we read, borrowed from the raw JSON, and the error body
//! clients expect. PURE.
#![deny(clippy::disallowed_methods)]

pub mod error;
pub mod request;
