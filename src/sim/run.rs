//! vLLM's command line -> a running simulator. IO.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::cli::Config;
use super::server;
use crate::contract;
use crate::telemetry::logging::{self, LogArgs, LogFormat};
use crate::telemetry::shutdown::Shutdown;

const HELP: &str = "inference-sim: a stand-in for vLLM without a GPU

Usage: inference-sim [vllm] [serve] [MODEL] [vLLM flags]

Read: --model --served-model-name --port --max-num-seqs --max-model-len --block-size
      --num-gpu-blocks-override --[no-]enable-prefix-caching
      --time-to-first-token MS --inter-token-latency MS --mode random|echo
Every other flag of vLLM is accepted and ignored.
Environment: SIM_TIME_TO_FIRST_TOKEN_MS, SIM_INTER_TOKEN_LATENCY_MS, POD_NAME, LOG_LEVEL";

/// Parses the process's arguments and runs until SIGTERM.
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let config = match Config::parse(&args) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("inference-sim: {error}");
            return ExitCode::from(2);
        }
    };
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("inference-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(mut config: Config) -> anyhow::Result<()> {
    let log_level = std::env::var("LOG_LEVEL").unwrap_or_else(|_| "info".to_owned());
    logging::init(&LogArgs {
        log_format: LogFormat::Json,
        log_level,
    })?;
    if !config.ignored.is_empty() {
        tracing::warn!(
            flags = config.ignored.join(" "),
            "flags without a meaning for a simulator"
        );
    }
    if let Some(time) = env_millis("SIM_TIME_TO_FIRST_TOKEN_MS")? {
        config.time_to_first_token = time;
    }
    if let Some(time) = env_millis("SIM_INTER_TOKEN_LATENCY_MS")? {
        config.inter_token_latency = time;
    }
    let host: IpAddr = match std::env::var(contract::ENV_BIND_HOST) {
        Ok(host) if !host.is_empty() => host
            .parse()
            .with_context(|| format!("{}={host:?}", contract::ENV_BIND_HOST))?,
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let pod = std::env::var("POD_NAME")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let shutdown = Shutdown::new();
        shutdown.on_signals().context("install signal handlers")?;
        let address = SocketAddr::new(host, config.port);
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address}"))?;
        tracing::info!(%address, model = config.model, served = ?config.served_names, "serving");
        axum::serve(listener, server::router(config, pod))
            .with_graceful_shutdown(shutdown.into_requested())
            .await
            .context("serve")
    })
}

fn env_millis(name: &str) -> anyhow::Result<Option<Duration>> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => {
            let millis = text
                .parse()
                .with_context(|| format!("{name}={text:?} is not whole milliseconds"))?;
            Ok(Some(Duration::from_millis(millis)))
        }
        _ => Ok(None),
    }
}
