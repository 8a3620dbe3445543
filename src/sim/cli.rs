//! vLLM's command line, read as far as a simulator needs it. PURE.
//!
//! Real manifests carry dozens of engine flags; every one is accepted, the few that mean
//! something here are read, and the rest are listed once in the log.

use std::time::Duration;

/// What the simulator was told.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The model's own name or path.
    pub model: String,
    /// Names it is served under; the model's own where none is given.
    pub served_names: Vec<String>,
    /// Port to listen on.
    pub port: u16,
    /// Requests that run at once.
    pub max_num_seqs: usize,
    /// Longest prompt and answer, in tokens.
    pub max_model_len: usize,
    /// Tokens in a block of KV cache.
    pub block_size: usize,
    /// Blocks of KV cache.
    pub num_gpu_blocks: usize,
    /// False switches the prefix cache off.
    pub prefix_caching: bool,
    /// Time from the start of a request to its first token.
    pub time_to_first_token: Duration,
    /// Time between tokens.
    pub inter_token_latency: Duration,
    /// The answer repeats the prompt.
    pub echo: bool,
    /// Flags that mean nothing here.
    pub ignored: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: String::new(),
            served_names: Vec::new(),
            port: 8000,
            max_num_seqs: 256,
            max_model_len: 8192,
            block_size: 16,
            num_gpu_blocks: 1024,
            prefix_caching: true,
            time_to_first_token: Duration::from_millis(10),
            inter_token_latency: Duration::from_millis(2),
            echo: false,
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
            if name == "served-model-name" {
                config.served_names = inline.into_iter().collect();
                while let Some(next) = args.next_if(|next| !next.starts_with('-')) {
                    config.served_names.push(next.clone());
                }
                continue;
            }
            let value = inline.or_else(|| args.next_if(|next| !next.starts_with("--")).cloned());
            config.set(&name, value)?;
        }
        if config.served_names.is_empty() {
            config.served_names = vec![config.model.clone()];
        }
        Ok(config)
    }

    fn set(&mut self, name: &str, value: Option<String>) -> Result<(), Error> {
        let text = value.clone().unwrap_or_default();
        let number = || {
            text.parse::<usize>().map_err(|_| Error {
                flag: format!("--{name}"),
                value: text.clone(),
                wanted: "a whole number",
            })
        };
        match name {
            "model" => self.model = text,
            "port" => {
                self.port = text.parse().map_err(|_| Error {
                    flag: "--port".to_owned(),
                    value: text.clone(),
                    wanted: "a port",
                })?;
            }
            "max-num-seqs" => self.max_num_seqs = number()?.max(1),
            "max-model-len" => self.max_model_len = number()?.max(1),
            "block-size" => self.block_size = number()?.max(1),
            "num-gpu-blocks-override" | "kv-cache-size" => self.num_gpu_blocks = number()?.max(1),
            "enable-prefix-caching" => self.prefix_caching = true,
            "no-enable-prefix-caching" => self.prefix_caching = false,
            "time-to-first-token" => self.time_to_first_token = duration(name, &text)?,
            "inter-token-latency" => self.inter_token_latency = duration(name, &text)?,
            "mode" => self.echo = text == "echo",
            _ => self.ignored.push(format!("--{name}")),
        }
        Ok(())
    }
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

/// Milliseconds, or a number with a unit.
fn duration(name: &str, text: &str) -> Result<Duration, Error> {
    let (digits, unit) =
        text.split_at(text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len()));
    let millis = match unit {
        "" | "ms" => Some(1.0),
        "s" => Some(1000.0),
        _ => None,
    };
    digits
        .parse::<f64>()
        .ok()
        .zip(millis)
        .and_then(|(number, unit)| Duration::try_from_secs_f64(number * unit / 1000.0).ok())
        .ok_or_else(|| Error {
            flag: format!("--{name}"),
            value: text.to_owned(),
            wanted: "milliseconds",
        })
}
