//! The EPP's command line, in the spellings of every generation of upstream. PURE but for
//! clap reading the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use super::discover::{Source, Target};
use crate::contract;
use crate::telemetry::duration;
use crate::telemetry::logging::LogArgs;

/// Upstream flags that have nothing to act on here; each takes a value.
const IGNORED: &[&str] = &[
    "pool-group",
    "secure-serving",
    "enable-cert-reload",
    "tls-min-version",
    "tls-cipher-suites",
    "health-checking",
    "ha-enable-leader-election",
    "grpc-max-recv-msg-size",
    "grpc-max-send-msg-size",
    "disable-endpoint-subset-filter",
    "emit-endpoint-scores",
    "refresh-prometheus-metrics-interval",
    "metrics-staleness-threshold",
    "tracing",
    "enable-pprof",
    "enable-grpc-stream-metrics",
    "metrics-endpoint-auth",
    "metrics-client-ca-file",
    "metrics-cert-dir",
    "total-queued-requests-metric",
    "total-running-requests-metric",
    "kv-cache-usage-percentage-metric",
    "lora-info-metric",
    "cache-info-metric",
    "v",
    "zap-encoder",
    "zap-log-level",
    "zap-devel",
    "zap-stacktrace-level",
    "zap-time-encoding",
    "destination-endpoint-hint-key",
    "destination-endpoint-hint-metadata-namespace",
    "model-server-metrics-port",
    "model-server-metrics-path",
    "model-server-metrics-scheme",
    "pool-api-version",
    "allow-experimental-plugins",
    "cert-path",
];

/// Picks the endpoint for each request a gateway asks about.
#[derive(Clone, Debug, Parser)]
#[command(name = "epp", version, about, args_override_self = true)]
pub struct Args {
    /// What to do; run where none is given.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// File with an EndpointPickerConfig, which counts in place of the scoring environment.
    #[arg(long, global = true, value_name = "FILE")]
    pub config_file: Option<String>,
    /// An EndpointPickerConfig itself.
    #[arg(long, global = true, value_name = "YAML")]
    pub config_text: Option<String>,
    /// InferencePool whose pods are picked from.
    #[arg(long, env = "POOL_NAME")]
    pub pool_name: Option<String>,
    /// Namespace of the pool and its pods; the pod's own when absent.
    #[arg(long, env = "POOL_NAMESPACE")]
    pub pool_namespace: Option<String>,
    /// Label selector `key=value,…`, in place of a pool.
    #[arg(long, conflicts_with = "pool_name")]
    pub endpoint_selector: Option<String>,
    /// Ports that selected pods serve on.
    #[arg(long, value_delimiter = ',', default_values_t = [contract::PORT_SERVING])]
    pub endpoint_target_ports: Vec<u16>,
    /// Port of the ext_proc service.
    #[arg(long, default_value_t = contract::PORT_EPP_GRPC)]
    pub grpc_port: u16,
    /// Port of the gRPC health service.
    #[arg(long, default_value_t = contract::PORT_EPP_HEALTH)]
    pub grpc_health_port: u16,
    /// Port of `/metrics`, `/healthz` and `/readyz`.
    #[arg(long, default_value_t = contract::PORT_EPP_METRICS)]
    pub metrics_port: u16,
    /// File of endpoints in place of a Kubernetes: YAML with `endpoints: [{address: IP:PORT,
    /// role: decode|prefill|both, name: …}]`. Read again when it changes.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["pool_name", "endpoint_selector"])]
    pub endpoints_file: Option<PathBuf>,
    /// The largest request body held, in bytes; larger ones are answered with 413. A prompt
    /// of a million tokens is about 5 MB of JSON.
    #[arg(long, env = "MAX_BODY_BYTES", default_value_t = 16 << 20)]
    pub max_body_bytes: usize,
    /// Bytes of request bodies held at one time by this process; a request that finds no
    /// room is answered with 503 and Retry-After.
    #[arg(long, env = "BODY_BUDGET_BYTES", default_value_t = 128 << 20)]
    pub body_budget_bytes: usize,
    /// Longest time from a request's headers to the end of its body; then it is answered
    /// with 408.
    #[arg(long, env = "BODY_TIMEOUT", value_parser = duration::parse, default_value = "60s")]
    pub body_timeout: Duration,
    /// Streams open at one time: one for each request of the gateways until its answer ends.
    /// A stream more is ended at once, and the gateway goes on without the EPP if it may.
    #[arg(long, env = "MAX_STREAMS", default_value_t = 32_768)]
    pub max_streams: usize,
    /// Threads that serve gateways' connections; 0 takes one for four cores, at most 8.
    #[arg(long, env = "GATEWAY_THREADS", default_value_t = 0)]
    pub gateway_threads: usize,
    /// Serve `/debug/decisions` on the metrics port: the last decisions with models, sizes
    /// and score tables. Anyone who reaches the port can read them.
    #[arg(long, env = "ENABLE_DEBUG_ENDPOINTS", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new())]
    pub enable_debug_endpoints: bool,
    /// Folder with the model's `tokenizer.json` and chat template; without it the engines are
    /// asked for tokens.
    #[arg(long, env = "TOKENIZER_PATH", value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
    /// The model whose KV events are believed; any where unset.
    #[arg(long, env = contract::ENV_MODEL)]
    pub model: Option<String>,
    /// Port on which engines publish KV events over ZeroMQ.
    #[arg(long, env = contract::ENV_KV_EVENTS_PORT, default_value_t = contract::PORT_KV_EVENTS)]
    pub kv_events_port: u16,
    /// Port on which engines replay missed KV events.
    #[arg(long, env = contract::ENV_KV_REPLAY_PORT, default_value_t = contract::PORT_KV_REPLAY)]
    pub kv_replay_port: u16,
    /// Time between two scrapes of the metrics of an engine that works; idle ones are scraped
    /// less often.
    #[arg(long, value_parser = duration::parse, default_value = "1s")]
    pub refresh_metrics_interval: Duration,
    /// Time for open streams to end after SIGTERM.
    #[arg(long, value_parser = duration::parse, default_value = "30s")]
    pub drain_timeout: Duration,
    /// kubeconfig file; in a cluster the pod's own account is used.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// What to do in place of running.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Print how requests are scheduled, as an EndpointPickerConfig; warnings and errors go to
    /// stderr.
    Config {
        /// In which form.
        #[arg(long, value_enum, default_value_t)]
        output: ConfigOutput,
    },
}

/// A form of the printed configuration.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum ConfigOutput {
    /// As people write it.
    #[default]
    Yaml,
    /// As programs read it.
    Json,
}

impl Args {
    /// Where endpoints come from. `default_namespace` is the pod's own.
    ///
    /// # Errors
    /// When neither pool nor selector is given, or the selector cannot be read.
    pub fn source(&self, default_namespace: &str) -> anyhow::Result<Source> {
        let namespace = self
            .pool_namespace
            .clone()
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or_else(|| default_namespace.to_owned());
        if let Some(selector) = &self.endpoint_selector {
            let labels = selector
                .split(',')
                .map(|pair| {
                    let (key, value) = pair.split_once('=')?;
                    Some((key.trim().to_owned(), value.trim().to_owned()))
                })
                .collect::<Option<BTreeMap<_, _>>>()
                .ok_or_else(|| {
                    anyhow::anyhow!("--endpoint-selector {selector:?}: write key=value,key=value")
                })?;
            let target = Target {
                labels,
                ports: self.endpoint_target_ports.clone(),
            };
            return Ok(Source::Selector { namespace, target });
        }
        if let Some(path) = &self.endpoints_file {
            return Ok(Source::File(path.clone()));
        }
        match &self.pool_name {
            Some(name) => Ok(Source::Pool {
                namespace,
                name: name.clone(),
            }),
            None => anyhow::bail!(
                "one of --pool-name, --endpoint-selector and --endpoints-file is needed"
            ),
        }
    }
}

/// Brings every spelling into one: `-poolName x`, `--poolName=x` and `--pool-name x` are
/// the same. Flags without an effect here are taken out and returned beside.
pub fn normalize(args: Vec<String>) -> (Vec<String>, Vec<String>) {
    let mut kept = Vec::new();
    let mut ignored = Vec::new();
    let mut args = args.into_iter().peekable();
    kept.extend(args.next());
    while let Some(arg) = args.next() {
        let dashes = arg.len() - arg.trim_start_matches('-').len();
        if dashes == 0 || dashes > 2 || arg.len() == dashes {
            kept.push(arg);
            continue;
        }
        let (name, value) = match arg[dashes..].split_once('=') {
            Some((name, value)) => (kebab(name), Some(value.to_owned())),
            None => (kebab(&arg[dashes..]), None),
        };
        if IGNORED.contains(&name.as_str()) {
            if value.is_none() {
                args.next_if(|next| !next.starts_with('-'));
            }
            ignored.push(name);
            continue;
        }
        let dashes = if name.len() == 1 { "-" } else { "--" };
        kept.push(match value {
            Some(value) => format!("{dashes}{name}={value}"),
            None => format!("{dashes}{name}"),
        });
    }
    (kept, ignored)
}

fn kebab(name: &str) -> String {
    let mut out = String::new();
    for (index, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() {
            if index > 0 && !out.ends_with('-') {
                out.push('-');
            }
            out.push(c.to_ascii_lowercase());
        } else {
            out.push(c);
        }
    }
    out
}
