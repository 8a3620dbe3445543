//! The sidecar's command line, in the spellings of every generation. PURE but for clap.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use clap::builder::BoolishValueParser;

use super::admin;
use super::allowlist::{Host, Rule, RuleError, Target};
use super::connector::Connector;
use super::legs::Limits;
use super::server::{Behaviour, HEAD_TIMEOUT};
use crate::contract;
use crate::telemetry::duration;
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
    "enable-tls",
    "tls-insecure-skip-verify",
    "data-parallel-size",
    "ec-connector",
    "mooncake-bootstrap-port",
    "p2p-connector-port",
    "enable-p2p-pull",
    "decode-chunk-size",
    "configuration",
    "configuration-file",
    "tracing",
    "zap-encoder",
    "zap-log-level",
    "zap-devel",
    "zap-stacktrace-level",
    "zap-time-encoding",
];
/// Flags by which other generations found the pods that prefills may go to.
const POOL: &[&str] = &[
    "inference-pool-namespace",
    "inference-pool-name",
    "inference-pool",
    "pool-group",
];
/// Their environment variables.
pub const POOL_ENV: &[&str] = &[
    "INFERENCE_POOL",
    "INFERENCE_POOL_NAMESPACE",
    "INFERENCE_POOL_NAME",
];
/// What they do here.
pub const POOL_HINT: &str = "no InferencePool is watched here: --prefill-service (a headless Service) or --allowed-prefillers say where prefills may go";
/// A family of ignored flags.
const IGNORED_PREFIX: &str = "moriio-";
/// Ignored flags that are switches: no value follows.
const SWITCHES: &[&str] = &[
    "secure-proxy",
    "decoder-use-tls",
    "prefiller-use-tls",
    "decoder-tls-insecure-skip-verify",
    "prefiller-tls-insecure-skip-verify",
    "enable-p2p-pull",
    "tracing",
    "zap-devel",
];
/// Environment variables of other generations that have nothing to act on here.
pub const IGNORED_ENV: &[&str] = &[
    "MOONCAKE_BOOTSTRAP_PORT",
    "P2P_CONNECTOR_PORT",
    "SGLANG_BOOTSTRAP_PORT",
];

/// Forwards requests to the engine in the same pod, after a prefill elsewhere where they name
/// an endpoint for it.
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
    pub connector: Connector,
    /// Port of `/metrics` (0: none). Anyone who reaches it can read it.
    #[arg(long, default_value_t = 0)]
    pub metrics_port: u16,
    /// Most bytes of a request body that has to be read. 16 MiB hold a prompt of four million
    /// tokens; images and audio inside JSON may need more.
    #[arg(long, default_value_t = Limits::default().max_body_bytes)]
    pub max_body_bytes: usize,
    /// Most bytes of all bodies held at once; a request that finds none left gets a 503.
    #[arg(long, default_value_t = BODY_BUDGET_BYTES)]
    pub body_budget_bytes: usize,
    /// Longest time from a request's head to the end of a body that has to be read.
    #[arg(long, value_parser = duration::parse, default_value = "60s")]
    pub body_timeout: Duration,
    /// Most requests open at once, to the end of their answers; more get a 503.
    #[arg(long, default_value_t = 16_384, value_parser = at_least_one)]
    pub max_requests: usize,
    /// Most connections of clients at once; more are closed.
    #[arg(long, default_value_t = 20_480, value_parser = at_least_one)]
    pub max_connections: usize,
    /// A WebSocket without a byte for so long is closed.
    #[arg(long, value_parser = duration::parse, default_value = "10m")]
    pub upgrade_idle_timeout: Duration,
    /// Longest wait for one prefill (`90s`, `1m30s`, `500ms`).
    #[arg(long, value_parser = duration::parse, default_value = "60s")]
    pub prefill_timeout: Duration,
    /// How often one prefill endpoint is asked again after a 502, 503 or 504 (at most 10).
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10))]
    pub prefill_max_retries: u32,
    /// Pause before it is asked again.
    #[arg(long, value_parser = duration::parse, default_value = "200ms")]
    pub prefill_retry_backoff: Duration,
    /// Begin with a random one of the prefill endpoints a request names.
    #[arg(long, env = "ENABLE_PREFILLER_SAMPLING", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub enable_prefiller_sampling: bool,
    /// Where prefills may go: `HOST:PORT` or `NETWORK/BITS:PORT`, comma-separated. Without
    /// this and --prefill-service, nowhere. Addresses that are never a prefiller's (loopback,
    /// link-local, metadata, ...) are refused even inside a network; loopback is allowed where
    /// an entry names exactly the address.
    #[arg(long, env = contract::ENV_ALLOWED_PREFILLERS, value_name = "HOST:PORT")]
    pub allowed_prefillers: Vec<Rules>,
    /// A headless Service: prefills may go to the addresses that its name has, on this port.
    #[arg(long, env = contract::ENV_PREFILL_SERVICE, value_parser = optional_service, default_value = "", value_name = "HOST:PORT")]
    pub prefill_service: OptionalService,
    /// A file (of a Secret) with the key that prefill engines want: sent as a bearer token, or
    /// as it is where it has a scheme. Read again every 30 s. What clients send never goes
    /// there. The variable LLM_D_PREFILL_AUTHORIZATION holds the key itself.
    #[arg(long, env = "LLM_D_PREFILL_AUTHORIZATION_FILE", value_name = "FILE")]
    pub prefill_authorization_file: Option<PathBuf>,
    /// Lets requests for administrative paths (`/sleep`, `/v1/load_lora_adapter`, ...) through
    /// to the engine: all of them, or those in a comma-separated list.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "", value_name = "PATHS")]
    pub allow_admin_paths: Option<admin::Allowed>,
    /// Accepted for compatibility: targets are always checked.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new())]
    pub enable_ssrf_protection: Option<bool>,
    /// Most idle connections kept to one engine.
    #[arg(long, default_value_t = 1024)]
    pub max_idle_conns_per_host: usize,
    /// This pod's addresses, comma-separated: prefills never go there unless an entry of the
    /// list names one exactly.
    #[arg(long, env = contract::ENV_POD_IP, value_parser = addresses, default_value = "")]
    pub pod_ip: Addresses,
    /// Seconds for open requests to end after SIGTERM.
    #[arg(long, default_value_t = 30)]
    pub drain_seconds: u64,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Most bytes of bodies held at once: eight of the largest, or thousands of usual ones.
pub const BODY_BUDGET_BYTES: usize = 128 << 20;

/// Entries of an allowlist; none where the text is empty.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules(pub Vec<Rule>);

impl FromStr for Rules {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let entries = text
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty());
        entries.map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Addresses; none where the text is empty.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Addresses(pub Vec<IpAddr>);

/// A Service's name and port, or none where the text is empty.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OptionalService(pub Option<(String, u16)>);

impl Args {
    /// The bounds of the legs.
    pub fn limits(&self) -> Limits {
        Limits {
            max_body_bytes: self.max_body_bytes,
            body_timeout: self.body_timeout,
            prefill_timeout: self.prefill_timeout,
            prefill_max_retries: self.prefill_max_retries,
            prefill_retry_backoff: self.prefill_retry_backoff,
        }
    }

    /// The entries of every `--allowed-prefillers`.
    pub fn rules(&self) -> Vec<Rule> {
        let lists = self.allowed_prefillers.iter();
        lists.flat_map(|list| list.0.clone()).collect()
    }

    /// What is done with requests.
    pub fn behaviour(&self) -> Behaviour {
        Behaviour {
            connector: self.connector,
            sampling: self.enable_prefiller_sampling,
            admin_paths: self.allow_admin_paths.clone().unwrap_or_default(),
            max_connections: self.max_connections,
            max_requests: self.max_requests,
            head_timeout: HEAD_TIMEOUT,
            upgrade_idle: self.upgrade_idle_timeout,
            drain: Duration::from_secs(self.drain_seconds),
        }
    }

    /// What these settings do not do although they look like it.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.connector.is_built() {
            warnings.push(format!(
                "--connector {:?} is not built in: every prompt is computed by the decode engine",
                self.connector
            ));
        }
        if self.rules().is_empty() && self.prefill_service.0.is_none() {
            warnings.push(
                "requests that name a prefill endpoint are refused: neither --allowed-prefillers nor --prefill-service is set".to_owned(),
            );
        }
        if self.enable_ssrf_protection == Some(false) {
            warnings.push(
                "--enable-ssrf-protection=false does not switch the check of prefill endpoints off: --allowed-prefillers and --prefill-service say what is allowed".to_owned(),
            );
        }
        if self.max_body_bytes > self.body_budget_bytes {
            warnings.push(format!(
                "--max-body-bytes {} is more than --body-budget-bytes {}, which is then the bound",
                self.max_body_bytes, self.body_budget_bytes
            ));
        }
        warnings
    }
}

fn addresses(text: &str) -> Result<Addresses, std::net::AddrParseError> {
    let found = text
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty());
    let found: Result<Vec<IpAddr>, _> = found.map(str::parse).collect();
    Ok(Addresses(
        found?.into_iter().map(|ip| ip.to_canonical()).collect(),
    ))
}

fn optional_service(text: &str) -> Result<OptionalService, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(OptionalService::default());
    }
    let target = Target::parse(text).filter(|_| !text.contains('/'));
    let target = target.ok_or_else(|| format!("{text:?} is not `HOST:PORT`"))?;
    let name = match target.host {
        Host::Name(name) => name,
        Host::Address(address) => address.to_string(),
    };
    Ok(OptionalService(Some((name, target.port))))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number: usize = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number"))?;
    // What a semaphore can count.
    let most = tokio::sync::Semaphore::MAX_PERMITS;
    let allowed = (1..=most).contains(&number);
    allowed
        .then_some(number)
        .ok_or_else(|| format!("{number} is not between 1 and {most}"))
}

/// What an ignored flag does here.
pub fn hint(flag: &str) -> &'static str {
    if POOL.contains(&flag) {
        POOL_HINT
    } else {
        "it has no effect here"
    }
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
        if [IGNORED, POOL].concat().contains(&bare.as_str()) || bare.starts_with(IGNORED_PREFIX) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> (Args, Vec<String>) {
        let (args, ignored) = normalize(line.split(' ').map(str::to_owned).collect());
        (Args::try_parse_from(args).unwrap(), ignored)
    }

    #[test]
    fn flags_of_every_generation_are_understood() {
        for line in [
            "routing-proxy --port=8000 --vllm-port=8001 --connector=nixlv2",
            "routing-proxy -port 8000 -model-server-port=8001 --kv-connector nixlv2 --secure-proxy -v 5",
            "routing-proxy --port 8000 --vllm-port 8001 --connector nixlv2 --prefiller-use-tls --enable-ssrf-protection=false --inference-pool-name p --inference-pool-namespace n --cert-path /c",
            "routing-proxy --port 8000 --model-server-port 8001 --data-parallel-size 1 --ec-connector ec-nixl --mooncake-bootstrap-port 1 --p2p-connector-port 2 --enable-p2p-pull --secure-proxy=true --enable-ssrf-protection --enable-prefiller-sampling --pool-group g --inference-pool n/p --enable-tls prefiller,decoder --max-idle-conns-per-host 9 --prefill-max-retries 2 --prefill-retry-backoff 1s --decode-chunk-size 0 --configuration-file f --tracing --metrics-port 0 --moriio-x 1",
        ] {
            let (args, _) = parse(line);
            assert_eq!(
                (args.port, args.vllm_port, args.connector),
                (8000, 8001, Connector::Nixlv2)
            );
        }
    }

    #[test]
    fn settings_without_effect_are_said() {
        let (args, ignored) = parse(
            "routing-proxy --connector sglang --enable-ssrf-protection -v 5 --tracing --port 1",
        );
        // The connector, and that no list is set.
        assert_eq!((args.warnings().len(), args.port), (2, 1));
        assert_eq!(ignored, ["v", "tracing"]);
        let (args, _) = parse(
            "routing-proxy --enable-ssrf-protection --allowed-prefillers 10.0.0.0/8:8000,a:1 --allowed-prefillers=b:2 --allowed-prefillers=",
        );
        assert_eq!((args.warnings().len(), args.rules().len()), (0, 3));
    }

    #[test]
    fn a_list_of_prefill_endpoints_is_asked_for_and_no_flag_replaces_it() {
        let warnings = |line| parse(line).0.warnings().join("\n");
        let silent = "routing-proxy --prefill-service prefill.ns.svc:8000";
        assert_eq!(warnings(silent), "");
        assert!(warnings("routing-proxy").contains("--prefill-service"));
        let off = format!("{silent} --enable-ssrf-protection=false");
        assert!(warnings(&off).contains("does not switch"));
        let (_, ignored) = parse("routing-proxy --inference-pool-name p --pool-group=g");
        assert!(
            ignored
                .iter()
                .all(|flag| hint(flag).contains("--prefill-service"))
        );
        assert_eq!(hint("tracing"), "it has no effect here");
    }

    #[test]
    fn values_are_checked_at_the_start() {
        let fails = |flag: &str| {
            let error = Args::try_parse_from(["routing-proxy", flag]).unwrap_err();
            error.to_string()
        };
        for (flag, says) in [
            (
                "--allowed-prefillers=169.254.169.254:80",
                "never a prefill endpoint",
            ),
            ("--allowed-prefillers=a", "neither `HOST:PORT` nor"),
            ("--prefill-service=a", "not `HOST:PORT`"),
            ("--prefill-service=http://a:80", "not `HOST:PORT`"),
            ("--body-timeout=soon", "not a duration"),
            ("--max-requests=0", "not between 1 and"),
            ("--pod-ip=here", "invalid IP address"),
            ("--connector=x", "unknown connector"),
        ] {
            assert!(fails(flag).contains(says), "{}", fails(flag));
        }
        let (args, _) = parse(
            "routing-proxy --pod-ip=10.0.0.9,::ffff:10.0.0.8,fd00::9 --allow-admin-paths=/sleep",
        );
        assert_eq!(args.pod_ip.0.len(), 3);
        assert_eq!(args.pod_ip.0[1], IpAddr::from([10, 0, 0, 8]));
        assert!(!args.behaviour().admin_paths.refuses("/sleep"));
        let (args, _) = parse("routing-proxy --allow-admin-paths --port 1");
        assert_eq!(
            (args.behaviour().admin_paths, args.port),
            (admin::Allowed::Everything, 1)
        );
    }
}
