//! The sidecar's command line, in the spellings of every generation. PURE but for clap.

use clap::Parser;

use crate::contract;
use crate::telemetry::logging::LogArgs;

/// Flags of other generations that have nothing to act on here.
const IGNORED: &[&str] = &[
    "v",
    "secure-proxy",
    "secure-serving",
    "cert-path",
    "decoder-use-tls",
    "prefiller-use-tls",
    "decoder-tls-insecure-skip-verify",
    "prefiller-tls-insecure-skip-verify",
    "enable-ssrf-protection",
    "inference-pool-namespace",
    "inference-pool-name",
    "inference-pool",
    "data-parallel-size",
    "enable-prefiller-sampling",
    "zap-encoder",
    "zap-log-level",
    "zap-devel",
    "zap-stacktrace-level",
    "zap-time-encoding",
    "enable-tls",
    "tls-insecure-skip-verify",
    "pool-group",
];
/// Ignored flags that are switches: no value follows.
const SWITCHES: &[&str] = &[
    "secure-proxy",
    "decoder-use-tls",
    "prefiller-use-tls",
    "decoder-tls-insecure-skip-verify",
    "prefiller-tls-insecure-skip-verify",
    "enable-ssrf-protection",
    "enable-prefiller-sampling",
    "zap-devel",
];

/// Forwards requests to the engine in the same pod.
#[derive(Clone, Debug, Parser)]
#[command(name = "routing-proxy", version, about)]
pub struct Args {
    /// Port clients connect to.
    #[arg(long, default_value_t = contract::PORT_SERVING)]
    pub port: u16,
    /// Port of the engine in this pod.
    #[arg(long, alias = "model-server-port", default_value_t = contract::PORT_ENGINE_BEHIND_SIDECAR)]
    pub vllm_port: u16,
    /// How KV cache gets from prefill to decode engines.
    #[arg(long, alias = "kv-connector", default_value = "nixlv2")]
    pub connector: String,
    /// Seconds for open requests to end after SIGTERM.
    #[arg(long, default_value_t = 30)]
    pub drain_seconds: u64,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// One spelling for every flag; ignored ones are taken out and returned beside.
pub fn normalize(args: Vec<String>) -> (Vec<String>, Vec<String>) {
    let (mut kept, mut ignored) = (Vec::new(), Vec::new());
    let mut args = args.into_iter().peekable();
    kept.extend(args.next());
    while let Some(arg) = args.next() {
        let name = arg.trim_start_matches('-');
        if name.len() == arg.len() {
            kept.push(arg);
            continue;
        }
        let bare = name.split('=').next().unwrap_or(name).to_owned();
        if IGNORED.contains(&bare.as_str()) {
            if !arg.contains('=') && !SWITCHES.contains(&bare.as_str()) {
                args.next_if(|next| !next.starts_with('-'));
            }
            ignored.push(bare);
        } else if bare.len() == 1 {
            kept.push(format!("-{name}"));
        } else {
            kept.push(format!("--{name}"));
        }
    }
    (kept, ignored)
}
