//! What the engine did -> vLLM's metric families as Prometheus text. PURE.
//!
//! Names, labels and buckets follow `vllm/v1/metrics/loggers.py`
//! (<https://docs.vllm.ai/en/latest/usage/metrics.html>). Written as text, since vLLM's names
//! hold colons and its counters end in `_total` as they are.
#![deny(clippy::disallowed_methods)]

mod page;

use self::page::{Histogram, Page, escape, one_two_five};
use super::engine::{Finish, Finished, Gauges, Output, Totals};

const FIRST_TOKEN_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const TOKEN_BUCKETS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const REQUEST_BUCKETS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
const STEP_BUCKETS: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
];
const CHOICES_BUCKETS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

/// What never changes about an engine.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The name it is served under.
    pub model: String,
    /// Tokens in a block.
    pub block_size: usize,
    /// Blocks of the cache.
    pub num_blocks: usize,
    /// False where the prefix cache is off.
    pub prefix_caching: bool,
    /// Longest prompt and answer, in tokens.
    pub max_model_len: usize,
    /// Adapters that may run at once; 0 is no adapters.
    pub max_loras: usize,
    /// Names that vLLM had before 0.10 (`gpu_cache_usage_perc`, `gpu_prefix_cache_*`).
    pub old_names: bool,
}

/// Counts of what the simulator itself did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own {
    /// Requests that were refused.
    pub refused: u64,
    /// Requests that came with transfer parameters to an engine without a connector.
    pub ignored_transfers: u64,
    /// Reads of blocks that were not, or no longer, held for their reader.
    pub unheld_reads: u64,
    /// Requests whose prompt logprobs the KV cache of another engine made impossible.
    pub broken_transfers: u64,
    /// Batches of KV events that were numbered.
    pub batches: u64,
    /// Batches of KV events that never left, as the queue was full or a fault said so.
    pub lost_batches: u64,
    /// Messages with KV events that subscribers were too slow for.
    pub dropped_messages: u64,
    /// Peers of the KV events' sockets that broke a rule or a limit.
    pub dropped_peers: u64,
}

/// Everything that `/metrics` shows of one engine.
#[derive(Clone, Debug)]
pub struct Metrics {
    about: About,
    totals: Totals,
    gauges: Gauges,
    /// By [`Finish`].
    finished: [u64; 4],
    /// Counts of the simulator itself.
    pub own: Own,
    first_token: Histogram,
    inter_token: Histogram,
    per_output_token: Histogram,
    whole: Histogram,
    queue: Histogram,
    inference: Histogram,
    prefill: Histogram,
    decode: Histogram,
    prompt_tokens: Histogram,
    generated_tokens: Histogram,
    max_tokens: Histogram,
    choices: Histogram,
    step_tokens: Histogram,
}

const FINISHES: [Finish; 4] = [Finish::Stop, Finish::Length, Finish::Abort, Finish::Error];

impl Metrics {
    /// Nothing has happened yet.
    pub fn new(about: About) -> Self {
        let request = || Histogram::new(REQUEST_BUCKETS);
        let tokens = || Histogram::new(&one_two_five(about.max_model_len));
        Self {
            totals: Totals::default(),
            gauges: Gauges::default(),
            finished: [0; 4],
            own: Own::default(),
            first_token: Histogram::new(FIRST_TOKEN_BUCKETS),
            inter_token: Histogram::new(TOKEN_BUCKETS),
            per_output_token: Histogram::new(TOKEN_BUCKETS),
            whole: request(),
            queue: request(),
            inference: request(),
            prefill: request(),
            decode: request(),
            prompt_tokens: tokens(),
            generated_tokens: tokens(),
            max_tokens: tokens(),
            choices: Histogram::new(CHOICES_BUCKETS),
            step_tokens: Histogram::new(STEP_BUCKETS),
            about,
        }
    }

    /// Takes in what a step brought and the engine's state after it.
    pub fn record(&mut self, output: &Output, totals: Totals, gauges: Gauges) {
        self.totals = totals;
        self.gauges = gauges;
        for token in &output.tokens {
            let histogram = if token.first {
                &mut self.first_token
            } else {
                &mut self.inter_token
            };
            histogram.observe(token.after.as_secs_f64());
        }
        if let Some(tokens) = output.step_tokens {
            self.step_tokens.observe(tokens as f64);
        }
        for finished in &output.finished {
            self.record_finished(finished);
        }
    }

    fn record_finished(&mut self, finished: &Finished) {
        self.finished[finished.finish as usize] += 1;
        if finished.generated == 0 {
            return;
        }
        let times = finished.times;
        let seconds = |from: std::time::Duration, to: std::time::Duration| {
            to.saturating_sub(from).as_secs_f64()
        };
        self.whole.observe(seconds(times.arrived, times.finished));
        self.queue.observe(seconds(times.arrived, times.scheduled));
        self.inference
            .observe(seconds(times.scheduled, times.finished));
        self.prefill
            .observe(seconds(times.scheduled, times.first_token));
        let decode = seconds(times.first_token, times.finished);
        self.decode.observe(decode);
        if finished.generated > 1 {
            self.per_output_token
                .observe(decode / (finished.generated - 1) as f64);
        }
        self.prompt_tokens.observe(finished.prompt_tokens as f64);
        self.generated_tokens.observe(finished.generated as f64);
        self.max_tokens.observe(finished.max_tokens as f64);
        self.choices.observe(1.0);
    }

    /// The Prometheus text; `now_seconds` since 1970 dates the adapters' line.
    pub fn text(&self, now_seconds: f64) -> String {
        let mut page = Page {
            out: String::with_capacity(16 << 10),
            labels: format!("model_name=\"{}\",engine=\"0\"", escape(&self.about.model)),
        };
        self.gauges(&mut page, now_seconds);
        self.counters(&mut page);
        self.histograms(&mut page);
        page.out
    }

    fn gauges(&self, page: &mut Page, now_seconds: f64) {
        let (about, gauges) = (&self.about, &self.gauges);
        page.one("gauge", "vllm:num_requests_running", gauges.running);
        page.one("gauge", "vllm:num_requests_waiting", gauges.waiting);
        page.one("gauge", "sim:held_requests", gauges.held);
        let usage = if about.old_names {
            "vllm:gpu_cache_usage_perc"
        } else {
            "vllm:kv_cache_usage_perc"
        };
        page.one("gauge", usage, gauges.usage);
        page.head("gauge", "vllm:cache_config_info");
        let caching = if about.prefix_caching {
            "True"
        } else {
            "False"
        };
        page.line(
            "vllm:cache_config_info",
            &format!(
                "block_size=\"{}\",cache_dtype=\"auto\",enable_prefix_caching=\"{caching}\",num_gpu_blocks=\"{}\",engine=\"0\"",
                about.block_size, about.num_blocks
            ),
            1.0,
        );
        if about.max_loras > 0 {
            page.head("gauge", "vllm:lora_requests_info");
            let list = |names: &[String]| escape(&names.join(","));
            let labels = format!(
                "max_lora=\"{}\",running_lora_adapters=\"{}\",waiting_lora_adapters=\"{}\"",
                about.max_loras,
                list(&gauges.running_loras),
                list(&gauges.waiting_loras),
            );
            page.line("vllm:lora_requests_info", &labels, now_seconds);
        }
    }

    fn counters(&self, page: &mut Page) {
        let totals = &self.totals;
        let old = if self.about.old_names { "gpu_" } else { "" };
        let mut counter = |name: &str, value: u64| page.one("counter", name, value as f64);
        counter("vllm:prompt_tokens_total", totals.prompt_tokens);
        counter("vllm:generation_tokens_total", totals.generated_tokens);
        counter(
            &format!("vllm:{old}prefix_cache_queries_total"),
            totals.cache_queries,
        );
        counter(
            &format!("vllm:{old}prefix_cache_hits_total"),
            totals.cache_hits,
        );
        counter(
            "vllm:external_prefix_cache_queries_total",
            totals.external_queries,
        );
        counter(
            "vllm:external_prefix_cache_hits_total",
            totals.external_hits,
        );
        counter("vllm:num_preemptions_total", totals.preemptions);
        counter(
            "vllm:nixl_num_failed_transfers_total",
            totals.failed_transfers,
        );
        counter("vllm:nixl_num_kv_expired_reqs_total", totals.expired_holds);
        counter("sim:refused_requests_total", self.own.refused);
        counter("sim:ignored_transfers_total", self.own.ignored_transfers);
        counter("sim:unheld_reads_total", self.own.unheld_reads);
        counter("sim:broken_transfers_total", self.own.broken_transfers);
        counter("sim:kv_event_batches_total", self.own.batches);
        counter("sim:kv_event_batches_lost_total", self.own.lost_batches);
        counter(
            "sim:kv_event_messages_dropped_total",
            self.own.dropped_messages,
        );
        counter("sim:kv_event_peers_dropped_total", self.own.dropped_peers);
        page.head("counter", "vllm:request_success_total");
        for finish in FINISHES {
            let labels = format!("{},finished_reason=\"{}\"", page.labels, finish.as_str());
            let count = self.finished[finish as usize];
            page.line("vllm:request_success_total", &labels, count as f64);
        }
    }

    fn histograms(&self, page: &mut Page) {
        for (name, histogram) in [
            ("vllm:time_to_first_token_seconds", &self.first_token),
            ("vllm:inter_token_latency_seconds", &self.inter_token),
            ("vllm:time_per_output_token_seconds", &self.inter_token),
            (
                "vllm:request_time_per_output_token_seconds",
                &self.per_output_token,
            ),
            ("vllm:e2e_request_latency_seconds", &self.whole),
            ("vllm:request_queue_time_seconds", &self.queue),
            ("vllm:request_inference_time_seconds", &self.inference),
            ("vllm:request_prefill_time_seconds", &self.prefill),
            ("vllm:request_decode_time_seconds", &self.decode),
            ("vllm:request_prompt_tokens", &self.prompt_tokens),
            ("vllm:request_generation_tokens", &self.generated_tokens),
            ("vllm:request_max_num_generation_tokens", &self.max_tokens),
            ("vllm:request_params_max_tokens", &self.max_tokens),
            ("vllm:request_params_n", &self.choices),
            ("vllm:iteration_tokens_total", &self.step_tokens),
        ] {
            page.histogram(name, histogram);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_vllms_names_old_and_new() {
        let page = |old_names| {
            let about = About {
                model: "a\"b".to_owned(),
                old_names,
                max_model_len: 100,
                ..About::default()
            };
            Metrics::new(about).text(0.0)
        };
        let new = page(false);
        assert!(new.contains("vllm:kv_cache_usage_perc{model_name=\"a\\\"b\",engine=\"0\"} 0.0\n"));
        assert!(new.contains("vllm:prefix_cache_hits_total{"));
        assert!(new.contains(
            "vllm:time_to_first_token_seconds_bucket{model_name=\"a\\\"b\",engine=\"0\",le=\"0.001\"} 0.0\n"
        ));
        assert!(!new.contains("gpu_cache_usage_perc"));
        let old = page(true);
        assert!(old.contains("vllm:gpu_cache_usage_perc{"));
        assert!(old.contains("vllm:gpu_prefix_cache_queries_total{"));
        assert!(!old.contains("vllm:prefix_cache"));
        for line in new.lines().chain(old.lines()) {
            let number = line.rsplit(' ').next().unwrap();
            assert!(
                line.starts_with('#') || number.parse::<f64>().is_ok(),
                "{line}"
            );
        }
    }
}
