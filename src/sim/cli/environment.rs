//! Environment variables -> settings, through a function that looks them up. PURE.

use std::net::IpAddr;

use super::{Config, Error};
use crate::contract;
use crate::kv::event::{Form, HashForm};

/// What only the environment says.
#[derive(Clone, Debug, PartialEq)]
pub struct Environment {
    /// Who answers: the pod's name.
    pub pod: String,
    /// Address to listen on; `None` is all.
    pub bind_host: Option<IpAddr>,
    /// `PYTHONHASHSEED`: the seed of block hashes.
    pub hash_seed: Option<String>,
    /// How KV events are written.
    pub event_form: Form,
    /// How hashes are written in them.
    pub hash_form: HashForm,
    /// Host that other engines are told to fetch KV cache from.
    pub side_channel_host: String,
    /// Port of it.
    pub side_channel_port: u16,
    /// Seconds that blocks wait to be fetched.
    pub hold_seconds: u64,
    /// True serves the faults of `/sim/faults`.
    pub admin: bool,
    /// True shows metrics under their names from before vLLM 0.10.
    pub old_metric_names: bool,
}

impl Default for Environment {
    fn default() -> Self {
        Self {
            pod: String::new(),
            bind_host: None,
            hash_seed: None,
            event_form: Form::Map,
            hash_form: HashForm::Int,
            // vLLM's defaults (`vllm/envs.py`).
            side_channel_host: "localhost".to_owned(),
            side_channel_port: 5600,
            hold_seconds: 480,
            admin: true,
            old_metric_names: false,
        }
    }
}

/// Variables that say the same as a flag, for images whose command line is not ours. They
/// win: who sets them means the simulator.
const TWINS: [(&str, &str); 12] = [
    ("SIM_TIME_TO_FIRST_TOKEN_MS", "time-to-first-token"),
    ("SIM_PREFILL_OVERHEAD_MS", "prefill-overhead"),
    ("SIM_PREFILL_TIME_PER_TOKEN_MS", "prefill-time-per-token"),
    ("SIM_INTER_TOKEN_LATENCY_MS", "inter-token-latency"),
    (
        "SIM_KV_CACHE_TRANSFER_TIME_PER_TOKEN_MS",
        "kv-cache-transfer-time-per-token",
    ),
    ("SIM_TIME_FACTOR_UNDER_LOAD", "time-factor-under-load"),
    ("SIM_STARTUP_DURATION_MS", "startup-duration"),
    ("SIM_NUM_GPU_BLOCKS", "num-gpu-blocks-override"),
    ("SIM_BLOCK_SIZE", "block-size"),
    ("SIM_MAX_NUM_SEQS", "max-num-seqs"),
    ("SIM_MAX_WAITING", "max-waiting-queue-length"),
    ("SIM_TOKENIZER", "tokenizer"),
];

impl Config {
    /// Takes in the environment; `lookup` returns a variable's value.
    ///
    /// # Errors
    /// When a variable that is understood has a value that is not.
    pub fn apply_environment(
        &mut self,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<(), Error> {
        let lookup = |name: &str| lookup(name).filter(|value| !value.is_empty());
        for (variable, flag) in TWINS {
            if let Some(value) = lookup(variable) {
                self.set(flag, Some(value)).map_err(|error| Error {
                    flag: variable.to_owned(),
                    ..error
                })?;
            }
        }
        let environment = &mut self.environment;
        if let Some(pod) = lookup("POD_NAME").or_else(|| lookup("HOSTNAME")) {
            environment.pod = pod;
        }
        environment.bind_host = parsed(&lookup, contract::ENV_BIND_HOST, "an IP address")?;
        environment.hash_seed = lookup("PYTHONHASHSEED");
        environment.event_form = match lookup("SIM_KV_EVENT_FORM").as_deref() {
            None | Some("map") => Form::Map,
            Some("array") => Form::Array,
            Some(value) => return Err(wrong("SIM_KV_EVENT_FORM", value, "map or array")),
        };
        if lookup("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES").as_deref() == Some("0") {
            environment.hash_form = HashForm::Bytes;
        }
        if let Some(host) = lookup("VLLM_NIXL_SIDE_CHANNEL_HOST") {
            environment.side_channel_host = host;
        }
        if let Some(port) = parsed(&lookup, "VLLM_NIXL_SIDE_CHANNEL_PORT", "a port")? {
            environment.side_channel_port = port;
        }
        let hold = "VLLM_NIXL_ABORT_REQUEST_TIMEOUT";
        if let Some(seconds) = parsed(&lookup, hold, "whole seconds")? {
            environment.hold_seconds = seconds;
        }
        environment.admin = lookup("SIM_ADMIN").as_deref() != Some("0");
        environment.old_metric_names = lookup("SIM_OLD_METRIC_NAMES").as_deref() == Some("1");
        Ok(())
    }
}

fn parsed<T: std::str::FromStr>(
    lookup: &impl Fn(&str) -> Option<String>,
    name: &str,
    wanted: &'static str,
) -> Result<Option<T>, Error> {
    let read = |value: String| value.parse().map_err(|_| wrong(name, &value, wanted));
    lookup(name).map(read).transpose()
}

fn wrong(name: &str, value: &str, wanted: &'static str) -> Error {
    Error {
        flag: name.to_owned(),
        value: value.to_owned(),
        wanted,
    }
}
