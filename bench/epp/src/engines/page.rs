//! A vLLM metrics page of about 300 series, with the counters, gauges and histograms that it
//! has, idle. PURE.

use std::fmt::Write as _;

use bytes::Bytes;

use crate::prompts::MODEL;

const GAUGES: [(&str, &str); 5] = [
    ("num_requests_running", "0"),
    ("num_requests_waiting", "0"),
    ("kv_cache_usage_perc", "0.1"),
    ("lora_requests_info", "0"),
    ("engine_sleep_state", "0"),
];
const COUNTERS: [&str; 8] = [
    "num_preemptions_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "external_prefix_cache_queries_total",
    "external_prefix_cache_hits_total",
    "mm_cache_queries_total",
];
const HISTOGRAMS: [&str; 14] = [
    "iteration_tokens_total",
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_max_num_generation_tokens",
    "request_params_n",
    "request_params_max_tokens",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_inference_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
];
const BOUNDS: [&str; 18] = [
    "0.001", "0.005", "0.01", "0.02", "0.04", "0.06", "0.08", "0.1", "0.25", "0.5", "0.75", "1.0",
    "2.5", "5.0", "7.5", "10.0", "20.0", "+Inf",
];

/// The page.
pub(super) fn page() -> Bytes {
    let labels = format!("engine=\"0\",model_name=\"{MODEL}\"");
    let mut page = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        writeln!(page, "{text}").expect("writing to a text cannot fail");
    };
    for (name, value) in GAUGES {
        line(format_args!("# HELP vllm:{name} A gauge of the engine."));
        line(format_args!("# TYPE vllm:{name} gauge"));
        line(format_args!("vllm:{name}{{{labels}}} {value}"));
    }
    line(format_args!("# TYPE vllm:cache_config_info gauge"));
    line(format_args!(
        "vllm:cache_config_info{{block_size=\"16\",cache_dtype=\"auto\",engine=\"0\",\
         num_gpu_blocks=\"30000\"}} 1.0"
    ));
    for name in COUNTERS {
        line(format_args!("# HELP vllm:{name} A counter of the engine."));
        line(format_args!("# TYPE vllm:{name} counter"));
        line(format_args!("vllm:{name}{{{labels}}} 123456.0"));
    }
    for name in HISTOGRAMS {
        line(format_args!(
            "# HELP vllm:{name} A histogram of the engine."
        ));
        line(format_args!("# TYPE vllm:{name} histogram"));
        for (index, bound) in BOUNDS.iter().enumerate() {
            let count = index * 1000;
            line(format_args!(
                "vllm:{name}_bucket{{{labels},le=\"{bound}\"}} {count}.0"
            ));
        }
        line(format_args!("vllm:{name}_count{{{labels}}} 17000.0"));
        line(format_args!("vllm:{name}_sum{{{labels}}} 4321.5"));
    }
    Bytes::from(page)
}
