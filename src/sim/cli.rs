//! vLLM's command line, read as far as a simulator needs it. PURE.
//!
//! Real manifests carry dozens of engine flags; every one is accepted, the few that mean
//! something here are read, and the rest are listed once in the log.

pub mod environment;
pub mod json;

use std::time::Duration;

pub use self::environment::Environment;
pub use self::json::{KvEvents, KvTransfer};
use super::engine::Lora;

/// What the simulator was told.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The model's own name or path.
    pub model: String,
    /// A folder with tokenizer files, where it is not the model's.
    pub tokenizer: Option<String>,
    /// Names it is served under; the model's own where none is given.
    pub served_names: Vec<String>,
    /// Adapters, served under their own names.
    pub loras: Vec<Lora>,
    /// Adapters that may run at once.
    pub max_loras: usize,
    /// Port to listen on.
    pub port: u16,
    /// Requests that run at once.
    pub max_num_seqs: usize,
    /// Tokens computed in one step; `None` is 8192, or a whole prompt without chunks.
    pub max_num_batched_tokens: Option<usize>,
    /// True lets a long prompt take several steps.
    pub chunked_prefill: bool,
    /// Requests that may wait.
    pub max_waiting: usize,
    /// Longest prompt and answer, in tokens.
    pub max_model_len: usize,
    /// Tokens in a block of KV cache.
    pub block_size: usize,
    /// Blocks of KV cache.
    pub num_gpu_blocks: usize,
    /// False switches the prefix cache off.
    pub prefix_caching: bool,
    /// Where KV events go; `None` publishes none.
    pub kv_events: Option<KvEvents>,
    /// How KV cache is passed between engines; `None` passes none.
    pub kv_transfer: Option<KvTransfer>,
    /// Time from the start of a request to its first token, whatever the prompt's length;
    /// zero leaves it to `prefill_overhead` and `prefill_time_per_token`.
    pub time_to_first_token: Duration,
    /// Paid once when a prompt starts.
    pub prefill_overhead: Duration,
    /// Per uncached prompt token.
    pub prefill_time_per_token: Duration,
    /// Time between tokens.
    pub inter_token_latency: Duration,
    /// Per token of KV cache fetched from another engine.
    pub kv_cache_transfer_time_per_token: Duration,
    /// How much slower a full engine is than one with a single request.
    pub time_factor_under_load: f64,
    /// Time before the first request is taken, as if the model were loading.
    pub startup_duration: Duration,
    /// The answer repeats the prompt.
    pub echo: bool,
    /// What only the environment says.
    pub environment: Environment,
    /// Flags that mean nothing here.
    pub ignored: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: String::new(),
            tokenizer: None,
            served_names: Vec::new(),
            loras: Vec::new(),
            max_loras: 1,
            port: 8000,
            max_num_seqs: 256,
            max_num_batched_tokens: None,
            chunked_prefill: true,
            max_waiting: 1000,
            max_model_len: 8192,
            block_size: 16,
            num_gpu_blocks: 8192,
            prefix_caching: true,
            kv_events: None,
            kv_transfer: None,
            time_to_first_token: Duration::ZERO,
            prefill_overhead: Duration::from_millis(5),
            prefill_time_per_token: Duration::from_micros(50),
            inter_token_latency: Duration::from_millis(2),
            kv_cache_transfer_time_per_token: Duration::from_micros(5),
            time_factor_under_load: 1.0,
            startup_duration: Duration::ZERO,
            echo: false,
            environment: Environment::default(),
            ignored: Vec::new(),
        }
    }
}

/// A flag's value that cannot be read.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{flag}: {value:?} is not {wanted}")]
pub struct Error {
    flag: String,
    value: String,
    wanted: &'static str,
}

impl Config {
    /// Reads arguments without the program's name: `vllm serve MODEL …`, `serve MODEL …`,
    /// `python3 -m vllm.entrypoints.openai.api_server --model MODEL …`, or flags alone.
    ///
    /// # Errors
    /// When a flag that is understood has a value that is not.
    pub fn parse(args: &[String]) -> Result<Self, Error> {
        let mut config = Self::default();
        let mut args = launcher(args).iter().peekable();
        while let Some(arg) = args.next() {
            if !arg.starts_with('-') {
                if config.model.is_empty() {
                    config.model.clone_from(arg);
                }
                continue;
            }
            let (flag, inline) = match arg.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (arg.as_str(), None),
            };
            let name = flag.trim_start_matches('-').replace('_', "-");
            if LISTS.contains(&name.as_str()) {
                let mut values: Vec<String> = inline.into_iter().collect();
                while let Some(next) = args.next_if(|next| !next.starts_with('-')) {
                    values.push(next.clone());
                }
                config.set_list(&name, values)?;
                continue;
            }
            let takes = |next: &&String| {
                if is_switch(&name) {
                    matches!(next.to_ascii_lowercase().as_str(), "true" | "false")
                } else {
                    !next.starts_with("--")
                }
            };
            let value = inline.or_else(|| args.next_if(takes).cloned());
            config.set(&name, value)?;
        }
        if config.served_names.is_empty() {
            config.served_names = vec![config.model.clone()];
        }
        Ok(config)
    }

    fn set_list(&mut self, name: &str, values: Vec<String>) -> Result<(), Error> {
        if name == "served-model-name" {
            self.served_names = values;
            return Ok(());
        }
        for value in values {
            let (adapter, path) = json::lora(&value).ok_or_else(|| Error {
                flag: format!("--{name}"),
                value: value.clone(),
                wanted: "name=path or an object with name and path",
            })?;
            self.loras.push(Lora {
                id: self.loras.len() as u32 + 1,
                name: adapter,
                path,
            });
        }
        Ok(())
    }

    /// Sets one flag, named without dashes in front.
    ///
    /// # Errors
    /// When the value cannot be read.
    pub fn set(&mut self, name: &str, value: Option<String>) -> Result<(), Error> {
        let switch = value.as_deref().map(str::to_ascii_lowercase);
        let on = switch.as_deref() != Some("false");
        let text = value.unwrap_or_default();
        let wrong = |wanted| Error {
            flag: format!("--{name}"),
            value: text.clone(),
            wanted,
        };
        let number = || {
            let number = human_number(&text).ok_or_else(|| wrong("a whole number"));
            number.map(|number| number.max(1))
        };
        let time = || duration(&text).ok_or_else(|| wrong("milliseconds"));
        match name {
            "model" => self.model = text,
            "tokenizer" => self.tokenizer = Some(text),
            "port" => self.port = text.parse().map_err(|_| wrong("a port"))?,
            "max-num-seqs" => self.max_num_seqs = number()?,
            "max-num-batched-tokens" => self.max_num_batched_tokens = Some(number()?),
            "max-waiting-queue-length" => self.max_waiting = number()?,
            "max-loras" => self.max_loras = number()?,
            "max-model-len" if matches!(text.as_str(), "auto" | "-1") => {}
            "max-model-len" => self.max_model_len = number()?,
            "block-size" => self.block_size = number()?,
            "num-gpu-blocks-override" | "kv-cache-size" => self.num_gpu_blocks = number()?,
            "enable-prefix-caching" => self.prefix_caching = on,
            "no-enable-prefix-caching" => self.prefix_caching = false,
            "enable-chunked-prefill" => self.chunked_prefill = on,
            "no-enable-chunked-prefill" => self.chunked_prefill = false,
            "kv-events-config" => {
                self.kv_events = KvEvents::read(&text).map_err(wrong)?;
            }
            "kv-transfer-config" => {
                self.kv_transfer = Some(KvTransfer::read(&text).map_err(wrong)?);
            }
            "time-to-first-token" => self.time_to_first_token = time()?,
            "prefill-overhead" => self.prefill_overhead = time()?,
            "prefill-time-per-token" => self.prefill_time_per_token = time()?,
            "inter-token-latency" => self.inter_token_latency = time()?,
            "kv-cache-transfer-time-per-token" => {
                self.kv_cache_transfer_time_per_token = time()?;
            }
            "time-factor-under-load" => {
                let factor = text.parse::<f64>().ok();
                self.time_factor_under_load = factor
                    .filter(|factor| (1.0..=1e6).contains(factor))
                    .ok_or_else(|| wrong("a number from 1 on"))?;
            }
            "startup-duration" => self.startup_duration = time()?,
            "mode" => self.echo = text == "echo",
            _ => self.ignored.push(format!("--{name}")),
        }
        Ok(())
    }
}

/// Flags with any number of values.
const LISTS: [&str; 2] = ["served-model-name", "lora-modules"];

/// Flags without a value, so that what follows may be the model.
fn is_switch(name: &str) -> bool {
    let starts = ["enable-", "no-", "disable-"];
    starts.iter().any(|start| name.starts_with(start))
        || matches!(name, "trust-remote-code" | "enforce-eager" | "headless")
}

/// Skips what starts vLLM; the flags follow.
fn launcher(args: &[String]) -> &[String] {
    let mut rest = args;
    while let Some((first, after)) = rest.split_first() {
        let skip = match first.as_str() {
            "vllm" | "serve" => true,
            "-m" | "--module" => {
                rest = after.get(1..).unwrap_or_default();
                continue;
            }
            word => word.ends_with("/vllm") || word.contains("python"),
        };
        if !skip {
            break;
        }
        rest = after;
    }
    rest
}

/// A whole number, or one like `16k` (thousands) or `16K` (times 1024), as vLLM reads them.
fn human_number(text: &str) -> Option<usize> {
    let unit = match text.chars().next_back()? {
        'k' => 1_000,
        'm' => 1_000_000,
        'K' => 1 << 10,
        'M' => 1 << 20,
        _ => return text.parse().ok(),
    };
    let number: f64 = text[..text.len() - 1].parse().ok()?;
    let scaled = number * f64::from(unit);
    (0.0..1e15).contains(&scaled).then_some(scaled as usize)
}

/// Milliseconds, or a number with a unit.
fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) =
        text.split_at(text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len()));
    let seconds = match unit {
        "" | "ms" => 1e-3,
        "us" | "µs" => 1e-6,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    let number: f64 = digits.parse().ok()?;
    Duration::try_from_secs_f64(number * seconds).ok()
}
