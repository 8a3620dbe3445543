//! The routing sidecar: what clients send to a decode pod -> the engine behind it,
//! streamed both ways.
//!
//! ```text
//! request -> route(headers) -> upstream -> stream back
//! ```

pub mod cli;
pub mod route;
pub mod run;
pub mod server;
pub mod upstream;

#[cfg(test)]
mod tests;
