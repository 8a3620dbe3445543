//! The Endpoint Picker: ext_proc messages of a gateway -> the endpoint for each request.
//!
//! ```text
//! message -> session.handle -> director: parse -> gather what is known -> schedule -> respond -> stream
//! side inputs, one writer task and lock-free readers:
//!     discover -> datastore     kv::subscribe -> kv::index     scrape     sessions <-> Redis
//! ```

mod authority;
pub mod cli;
mod config;
pub mod datastore;
pub mod decisions;
pub mod director;
pub mod discover;
pub mod follow;
mod gather;
pub mod knowledge;
pub mod metrics;
pub mod respond;
pub mod run;
pub mod scrape;
pub mod server;
pub mod session;
pub mod sessions;

#[cfg(test)]
mod tests;
