//! The Endpoint Picker: ext_proc messages of a gateway -> the endpoint for each request.
//!
//! ```text
//! ext_proc: message -> stream -> director: read -> gather what is known -> schedule -> reply
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
mod endpoints_file;
pub mod ext_proc;
pub mod follow;
mod gather;
pub mod knowledge;
pub mod metrics;
pub mod run;
pub mod scrape;
mod session_key;
pub mod sessions;
