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
use super::key::{self, Key};
use super::legs::{Legs, Prefillers};
use super::metrics::Metrics;
use super::server::Proxy;
use super::service::{self, Pace, Service};
use super::upstream::Upstream;
use crate::telemetry::budget::Budget;
use crate::telemetry::shutdown::Shutdown;
use crate::telemetry::{admin, bind, logging};

/// The operator's key for the prefill engines, from a Secret.
const ENV_AUTHORIZATION: &str = "LLM_D_PREFILL_AUTHORIZATION";
/// How long what runs outside async threads (a look-up) may keep the program from ending.
const LAST_WAIT: Duration = Duration::from_secs(1);

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
    let host = bind::host()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let served = runtime.block_on(serve(args, host));
    runtime.shutdown_timeout(LAST_WAIT);
    served
}

/// Everything that was set and does nothing.
fn warn(args: &Args, ignored: &[String]) {
    for flag in ignored {
        tracing::warn!(flag, "flag accepted for compatibility: {}", cli::hint(flag));
    }
    for variable in cli::POOL_ENV {
        if std::env::var_os(variable).is_some() {
            tracing::warn!(variable, "{}", cli::POOL_HINT);
        }
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

async fn serve(args: &Args, host: Option<IpAddr>) -> anyhow::Result<()> {
    let listen = host.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let engine = SocketAddr::new(host.unwrap_or(Ipv4Addr::LOCALHOST.into()), args.vllm_port);
    let shutdown = Shutdown::new();
    shutdown.on_signals().context("install signal handlers")?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let budget = Budget::new(args.body_budget_bytes);
    budget.register(registry.sub_registry_with_prefix("llm_d_proxy"));
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
    let prefillers = prefillers(args, host, &metrics, &shutdown)?;
    tracing::info!(
        %address,
        %engine,
        connector = ?args.connector,
        allowed_prefillers = args.rules().len(),
        prefill_service = ?args.prefill_service.0,
        "serving"
    );
    let engine = Upstream::new(engine, args.max_idle_conns_per_host);
    let legs = Legs::new(engine, prefillers, args.limits(), budget, metrics);
    let behaviour = args.behaviour();
    let drain = behaviour.drain;
    let served = Proxy::new(legs, behaviour, shutdown.clone())
        .serve(listener)
        .await;
    shutdown.begin();
    // WebSockets have the drain time too, which began when shutdown was asked for.
    let finished = tokio::time::timeout(drain + LAST_WAIT, shutdown.finished()).await;
    served.and(finished.unwrap_or(Ok(())))
}

/// Who may compute prompts.
fn prefillers(
    args: &Args,
    host: Option<IpAddr>,
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> anyhow::Result<Prefillers> {
    let service = args.prefill_service.0.clone();
    let allowlist = Allowlist {
        rules: args.rules(),
        service_port: service.as_ref().map(|(_, port)| *port),
        own: args.pod_ip.0.iter().copied().chain(host).collect(),
        loopback: host.is_some_and(|host| host.is_loopback()),
    };
    let service = service.map(|service| {
        Service::start(
            service,
            service::system(),
            Pace::default(),
            metrics.clone(),
            shutdown,
        )
    });
    let key = match (
        &args.prefill_authorization_file,
        std::env::var(ENV_AUTHORIZATION),
    ) {
        (Some(file), _) => Key::file(file.clone(), key::REREAD, shutdown)?,
        (None, Ok(key)) if !key.trim().is_empty() => Key::fixed(&key).context(ENV_AUTHORIZATION)?,
        _ => Key::none(),
    };
    Ok(Prefillers {
        allowlist: Arc::new(allowlist),
        service,
        key,
    })
}
