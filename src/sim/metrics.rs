//! vLLM's metric names (<https://docs.vllm.ai/en/latest/usage/metrics.html>). Written as
//! text, since vLLM's names hold colons and its counters end in `_total` as they are.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters and gauges of one engine.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Requests being answered.
    pub running: AtomicU64,
    /// Requests waiting for a place.
    pub waiting: AtomicU64,
    /// Prompt tokens taken in.
    pub prompt_tokens: AtomicU64,
    /// Tokens generated.
    pub generation_tokens: AtomicU64,
    /// Prompt tokens looked up in the prefix cache.
    pub cache_queries: AtomicU64,
    /// Of those, found.
    pub cache_hits: AtomicU64,
    /// Requests finished.
    pub success: AtomicU64,
}

impl Metrics {
    /// The Prometheus text.
    pub fn text(&self, model: &str, cache_usage: f64, block_size: usize, blocks: usize) -> String {
        let mut out = String::new();
        let mut line = |kind: &str, name: &str, value: String| {
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "# TYPE {name} {kind}\n{name}{{model_name=\"{model}\"}} {value}"
            );
        };
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
        line("gauge", "vllm:num_requests_running", load(&self.running));
        line("gauge", "vllm:num_requests_waiting", load(&self.waiting));
        line("gauge", "vllm:kv_cache_usage_perc", cache_usage.to_string());
        line(
            "counter",
            "vllm:prompt_tokens_total",
            load(&self.prompt_tokens),
        );
        line(
            "counter",
            "vllm:generation_tokens_total",
            load(&self.generation_tokens),
        );
        line(
            "counter",
            "vllm:prefix_cache_queries_total",
            load(&self.cache_queries),
        );
        line(
            "counter",
            "vllm:prefix_cache_hits_total",
            load(&self.cache_hits),
        );
        line("counter", "vllm:request_success_total", load(&self.success));
        let _ = writeln!(
            out,
            "# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{{block_size=\"{block_size}\",num_gpu_blocks=\"{blocks}\"}} 1"
        );
        out
    }
}

/// Counts up now and down when dropped.
#[derive(Debug)]
pub struct Held<'a>(&'a AtomicU64);

impl<'a> Held<'a> {
    /// Counts one up.
    pub fn new(gauge: &'a AtomicU64) -> Self {
        gauge.fetch_add(1, Ordering::Relaxed);
        Self(gauge)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
