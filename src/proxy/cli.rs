//! The sidecar's command line, in the spellings of every generation. PURE but for clap.

use std::net::IpAddr;
use std::time::Duration;

use clap::Parser;
use clap::builder::BoolishValueParser;

use super::allowlist::Rule;
use super::connector::Connector;
use super::legs::Limits;
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
    "enable-tls",
    "tls-insecure-skip-verify",
    "inference-pool-namespace",
    "inference-pool-name",
    "inference-pool",
    "pool-group",
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
    "INFERENCE_POOL",
    "INFERENCE_POOL_NAMESPACE",
    "INFERENCE_POOL_NAME",
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
    /// Most bytes of a request body that has to be read, and of a prefill's answer.
    #[arg(long, default_value_t = Limits::default().max_body_bytes)]
    pub max_body_bytes: usize,
    /// Longest wait for one prefill (`90s`, `1m30s`, `500ms`).
    #[arg(long, value_parser = duration, default_value = "60s")]
    pub prefill_timeout: Duration,
    /// How often one prefill endpoint is asked again after a 502, 503 or 504 (at most 10).
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=10))]
    pub prefill_max_retries: u32,
    /// Pause before it is asked again.
    #[arg(long, value_parser = duration, default_value = "200ms")]
    pub prefill_retry_backoff: Duration,
    /// Begin with a random one of the prefill endpoints a request names.
    #[arg(long, env = "ENABLE_PREFILLER_SAMPLING", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub enable_prefiller_sampling: bool,
    /// Where prefills may go: `HOST:PORT` or `NETWORK/BITS:PORT`, comma-separated. Without
    /// any, everywhere but addresses that are never a prefiller's (loopback, link-local, ...).
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT")]
    pub allowed_prefillers: Vec<Rule>,
    /// Accepted for compatibility: the allowlist is on when it has entries.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
          value_parser = BoolishValueParser::new())]
    pub enable_ssrf_protection: Option<bool>,
    /// Most idle connections kept to one engine.
    #[arg(long, default_value_t = 1024)]
    pub max_idle_conns_per_host: usize,
    /// This pod's address: prefills never go there unless the allowlist names it.
    #[arg(long, env = "POD_IP", value_parser = optional_address, default_value = "")]
    pub pod_ip: OptionalAddress,
    /// Seconds for open requests to end after SIGTERM.
    #[arg(long, default_value_t = 30)]
    pub drain_seconds: u64,
    /// Logging.
    #[command(flatten)]
    pub log: LogArgs,
}

/// An address, or none where the text is empty.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OptionalAddress(pub Option<IpAddr>);

impl Args {
    /// The bounds of the legs.
    pub fn limits(&self) -> Limits {
        Limits {
            max_body_bytes: self.max_body_bytes,
            prefill_timeout: self.prefill_timeout,
            prefill_max_retries: self.prefill_max_retries,
            prefill_retry_backoff: self.prefill_retry_backoff,
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
        match (self.enable_ssrf_protection, self.allowed_prefillers.is_empty()) {
            (Some(true), true) => warnings.push(
                "--enable-ssrf-protection has no list to check: give --allowed-prefillers; until then only addresses that are never a prefiller's are refused".to_owned(),
            ),
            (Some(false), false) => warnings.push(
                "--enable-ssrf-protection=false has no effect: --allowed-prefillers is checked".to_owned(),
            ),
            _ => {}
        }
        warnings
    }
}

fn optional_address(text: &str) -> Result<OptionalAddress, std::net::AddrParseError> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(OptionalAddress::default());
    }
    let address: IpAddr = text.parse()?;
    Ok(OptionalAddress(Some(address.to_canonical())))
}

/// A duration as Go writes it (`1m30s`, `200ms`, `1.5h`); a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration like `60s` or `200ms`");
    let mut rest = text.trim();
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|letter: char| letter.is_ascii_digit() || letter == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "" if tail.is_empty() && seconds == 0.0 => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        seconds += number.parse::<f64>().map_err(|_| bad())? * unit;
        rest = tail;
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
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
        if IGNORED.contains(&bare.as_str()) || bare.starts_with(IGNORED_PREFIX) {
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
        assert_eq!((args.warnings().len(), args.port), (2, 1));
        assert_eq!(ignored, ["v", "tracing"]);
        let (args, _) = parse(
            "routing-proxy --enable-ssrf-protection --allowed-prefillers 10.0.0.0/8:8000,a:1 --allowed-prefillers=b:2",
        );
        assert_eq!(
            (args.warnings().len(), args.allowed_prefillers.len()),
            (0, 3)
        );
    }

    #[test]
    fn durations_are_written_as_in_go() {
        let ms = |text| duration(text).map(|duration| duration.as_millis());
        assert_eq!(ms("200ms"), Ok(200));
        assert_eq!(ms("1m30.5s"), Ok(90_500));
        assert_eq!(ms("2"), Ok(2_000));
        for text in ["", "s", "1x", "-1s", "1s2", "1 s", "."] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
