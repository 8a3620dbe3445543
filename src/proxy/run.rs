//! Arguments -> a running sidecar. IO.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::allowlist::Allowlist;
use super::cli::{self, Args};
use super::legs::Legs;
use super::metrics::Metrics;
use super::server::Proxy;
use super::upstream::Upstream;
use crate::contract;
use crate::telemetry::shutdown::Shutdown;
use crate::telemetry::{admin, logging};

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
    warn(args, ignored);
    let host = bind_host()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(serve(args, host))
}

/// Everything that was set and does nothing.
fn warn(args: &Args, ignored: &[String]) {
    for flag in ignored {
        tracing::warn!(
            flag,
            "flag accepted for compatibility; it has no effect here"
        );
    }
    for variable in cli::IGNORED_ENV {
        if std::env::var_os(variable).is_some() {
            tracing::warn!(variable, "this environment variable has no effect here");
        }
    }
    for warning in args.warnings() {
        tracing::warn!("{warning}");
    }
}

/// Where several pods share one network namespace: the pod's own address, at which its
/// programs meet instead of localhost.
fn bind_host() -> anyhow::Result<Option<IpAddr>> {
    match std::env::var(contract::ENV_BIND_HOST) {
        Ok(host) if !host.is_empty() => {
            let host = host
                .parse()
                .with_context(|| format!("{}={host:?}", contract::ENV_BIND_HOST))?;
            Ok(Some(host))
        }
        _ => Ok(None),
    }
}

async fn serve(args: &Args, host: Option<IpAddr>) -> anyhow::Result<()> {
    let listen = host.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let engine = SocketAddr::new(host.unwrap_or(Ipv4Addr::LOCALHOST.into()), args.vllm_port);
    let allowlist = Allowlist {
        rules: args.allowed_prefillers.clone(),
        own: args.pod_ip.0,
        loopback: host.is_some_and(|host| host.is_loopback()),
    };
    let shutdown = Shutdown::new();
    shutdown.on_signals().context("install signal handlers")?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    if args.metrics_port != 0 {
        let router = admin::metrics_router(Arc::new(registry));
        let address = SocketAddr::new(listen, args.metrics_port);
        shutdown.spawn(
            "metrics server",
            admin::serve(address, router, shutdown.clone()),
        );
    }
    let address = SocketAddr::new(listen, args.port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}"))?;
    tracing::info!(%address, %engine, connector = ?args.connector, "serving");
    let engine = Upstream::new(engine, args.max_idle_conns_per_host);
    let legs = Legs::new(engine, allowlist, args.limits(), metrics);
    let drain = Duration::from_secs(args.drain_seconds);
    Proxy::new(legs, args.connector, args.enable_prefiller_sampling)
        .serve(listener, drain, shutdown)
        .await
}
