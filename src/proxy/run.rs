//! Arguments -> a running sidecar. IO.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::net::TcpListener;

use super::cli::{self, Args};
use super::server::Proxy;
use super::upstream::Upstream;
use crate::contract;
use crate::telemetry::logging;
use crate::telemetry::shutdown::Shutdown;

/// Parses the process's arguments and runs until SIGTERM.
pub fn main() -> ExitCode {
    let (args, ignored) = cli::normalize(std::env::args().collect());
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    match start(&args, &ignored) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("routing-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args, ignored: &[String]) -> anyhow::Result<()> {
    logging::init(&args.log)?;
    for flag in ignored {
        tracing::warn!(
            flag,
            "flag accepted for compatibility; it has no effect here"
        );
    }
    // Where several pods share one network namespace, a pod's programs meet at its own
    // address instead of localhost.
    let (listen, engine) = match std::env::var(contract::ENV_BIND_HOST) {
        Ok(host) if !host.is_empty() => {
            let host: IpAddr = host
                .parse()
                .with_context(|| format!("{}={host:?}", contract::ENV_BIND_HOST))?;
            (host, host)
        }
        _ => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
    };
    let drain = Duration::from_secs(args.drain_seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        let shutdown = Shutdown::new();
        shutdown.on_signals().context("install signal handlers")?;
        let address = SocketAddr::new(listen, args.port);
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address}"))?;
        let engine = SocketAddr::new(engine, args.vllm_port);
        tracing::info!(%address, %engine, connector = args.connector, "serving");
        Proxy::new(Upstream::new(engine))
            .serve(listener, drain, shutdown)
            .await
    })
}
