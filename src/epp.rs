//! The Endpoint Picker: ext_proc messages of a gateway -> the endpoint for each request.
//!
//! ```text
//! message -> session.handle -> director: parse -> schedule -> respond -> stream
//! side inputs, one writer task and lock-free readers: discover -> datastore
//! ```

mod authority;
pub mod cli;
pub mod datastore;
pub mod director;
pub mod discover;
pub mod metrics;
pub mod respond;
pub mod run;
pub mod server;
pub mod session;

#[cfg(test)]
mod tests;
