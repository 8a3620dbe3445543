//! A stand-in for vLLM where there is no GPU: the same API, command line, metrics, cache
//! events and hand-over of KV cache; answers made of nothing, timing of a machine that is
//! told how fast it is.
//!
//! ```text
//! request -> server -> task -> engine.submit, engine.step -> tokens -> answer
//!                                                         -> events -> subscribers
//! ```

pub mod cli;
pub mod engine;
pub mod events;
pub mod faults;
pub mod help;
pub mod metrics;
pub mod python;
pub mod run;
pub mod server;
pub mod task;
pub mod tokens;
pub mod transfer;

#[cfg(test)]
mod tests;
