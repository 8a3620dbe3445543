//! A stand-in for vLLM where there is no GPU: the same API, command line and metrics,
//! answers made of nothing, timing of a machine that is told how fast it is.
//!
//! ```text
//! request -> engine.submit -> step -> tokens -> stream
//! ```

pub mod cli;
pub mod engine;
pub mod metrics;
pub mod run;
pub mod server;

#[cfg(test)]
mod tests;
