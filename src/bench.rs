//! The cache-hit test: a gateway's URL in, one verdict and the figures behind it out.
//!
//! ```text
//! flags -> plan(pure) -> run(IO): pods, warm-up, baseline, health check, requests, counters
//!       -> measure(pure): counters and answers -> outcome (JSON) -> report(pure): text, HTML
//! ```
//!
//! The procedure is that of the published test of KV-cache-aware routing
//! (<https://github.com/cnuland/hello-chris-llm-d>, `assets/cache-aware/tekton`), with the
//! ceiling beside the hit rate, because a rate alone does not say how good a router is.

pub mod answer;
pub mod ceiling;
pub mod cli;
mod counters;
pub mod exposition;
mod http;
pub mod measure;
pub mod outcome;
pub mod plan;
pub mod prometheus;
pub mod prompts;
pub mod report;
mod run;
pub mod tally;
#[cfg(test)]
mod tests;
