//! Arguments and environment -> a running EPP. IO.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use prometheus_client::registry::Registry;
use tonic::transport::Server as GrpcServer;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::cli::{self, Args, Command};
use super::datastore::Datastore;
use super::decisions::Decisions;
use super::director::{Director, Names};
use super::ext_proc::exchange::{Bounds, Exchanges};
use super::ext_proc::mode::BodyMode;
use super::ext_proc::serve;
use super::metrics::EppMetrics;
use super::session_key::SessionKeys;
use super::{config, discover, gather};
use crate::contract;
use crate::scheduling::config::SchedulingConfig;
use crate::telemetry::admin::{self, Readiness};
use crate::telemetry::budget::Budget;
use crate::telemetry::shutdown::Shutdown;
use crate::telemetry::{bind, logging};

/// How often gauges are brought up to date.
const OBSERVE: Duration = Duration::from_millis(500);

/// Parses the process's arguments and runs until SIGTERM.
pub fn main() -> ExitCode {
    let (args, ignored) = cli::normalize(std::env::args().collect());
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    if let Some(Command::Config { output }) = args.command {
        return config::print(&args, &ignored, output);
    }
    match start(&args, &ignored) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("epp: {error:#}");
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
    let config = config::start(args)?;
    // Only fails when a provider is already installed, which is the wish.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(serve(args, config))
}

async fn serve(args: &Args, scheduling: SchedulingConfig) -> anyhow::Result<()> {
    let shutdown = Shutdown::new();
    shutdown.on_signals().context("install signal handlers")?;
    let host = bind::host()?.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let managed = managed_mode()?;
    let config = cluster(args).await?;
    let namespace = config.as_ref().map(|config| &config.default_namespace);
    let source = args.source(namespace.map_or("", String::as_str))?;

    let mut registry = Registry::default();
    let metrics = EppMetrics::register(&mut registry);
    let datastore = Datastore::default();
    let readiness = Readiness::default();
    let name = source.name();
    shutdown.spawn(
        "discovery",
        discover::run(config, source, datastore.clone(), shutdown.clone()),
    );
    let knowledge = gather::start(
        args,
        &scheduling,
        &name,
        &datastore,
        &mut registry,
        &shutdown,
    )?;
    let decisions = Decisions::default();
    let budget = Budget::new(args.body_budget_bytes);
    budget.register(registry.sub_registry_with_prefix("llm_d_epp"));
    let mut router =
        admin::metrics_router(Arc::new(registry)).merge(admin::health_router(readiness.clone()));
    if args.enable_debug_endpoints {
        router = router.merge(decisions.clone().router());
    }
    let address = SocketAddr::new(host, args.metrics_port);
    shutdown.spawn(
        "metrics server",
        admin::serve(address, router, shutdown.clone()),
    );

    let (reporter, health) = tonic_health::server::health_reporter();
    set_health(&reporter, ServingStatus::NotServing).await;
    shutdown.spawn(
        "health",
        watch_health(
            reporter,
            datastore.clone(),
            readiness,
            metrics.clone(),
            shutdown.clone(),
        ),
    );
    let address = SocketAddr::new(host, args.grpc_health_port);
    let stop = shutdown.clone().into_requested();
    let health_server = GrpcServer::builder()
        .add_service(health.clone())
        .serve_with_shutdown(address, stop);
    shutdown.spawn("health server", async move {
        health_server
            .await
            .with_context(|| format!("health server on {address}"))
    });

    let shared =
        scheduling.redis_addr.is_some() && scheduling.pipeline.session_affinity().is_some();
    let known = datastore.clone();
    let director = Director::new(
        Arc::new(scheduling.pipeline),
        datastore,
        knowledge,
        args.enable_debug_endpoints.then_some(decisions),
        metrics.clone(),
        Names {
            session_keys: session_keys(shared)?,
            id_prefix: id_prefix(),
            // Randomly keyed by the operating system.
            first_turn: RandomState::new().hash_one(()),
        },
    );
    let bounds = Bounds {
        managed,
        max_body_bytes: args.max_body_bytes,
        body_timeout: args.body_timeout,
        budget,
        max_streams: args.max_streams,
    };
    let address = SocketAddr::new(host, args.grpc_port);
    // A gateway that finds nobody goes on without the EPP; one that finds an EPP which knows
    // no endpoint yet would be told that there are none.
    tokio::select! {
        () = known.until_synced() => {}
        () = shutdown.requested() => {
            return shutdown.finished().await;
        }
    }
    let listener = serve::listen(address).await?;
    tracing::info!(%address, ?managed, version = env!("CARGO_PKG_VERSION"), "serving");
    let served = serve::serve(
        listener,
        Exchanges::new(director, metrics, bounds),
        health,
        gateway_threads(args.gateway_threads),
        args.drain_timeout,
        shutdown.clone(),
    )
    .await;
    shutdown.begin();
    let finished = shutdown.finished().await;
    served.and(finished)
}

/// How the API server is reached; `None` where endpoints do not come from a cluster.
async fn cluster(args: &Args) -> anyhow::Result<Option<kube::Config>> {
    if args.endpoints_file.is_some() {
        return Ok(None);
    }
    let Some(path) = &args.kubeconfig else {
        return Ok(Some(
            kube::Config::infer().await.context("find the API server")?,
        ));
    };
    let file = kube::config::Kubeconfig::read_from(path).context("read the kubeconfig")?;
    let options = kube::config::KubeConfigOptions::default();
    Ok(Some(
        kube::Config::from_custom_kubeconfig(file, &options).await?,
    ))
}

/// Keys of sessions under the pool's secret. Replicas without one do not know each other's
/// sessions.
fn session_keys(shared: bool) -> anyhow::Result<SessionKeys> {
    match std::env::var(contract::ENV_POOL_SECRET) {
        Ok(secret) if !secret.is_empty() => Ok(SessionKeys::new(secret.as_bytes())),
        _ => {
            if shared {
                tracing::warn!(
                    variable = contract::ENV_POOL_SECRET,
                    "is not set: sessions in Redis are of use to this process only"
                );
            }
            SessionKeys::random().context("a secret for session keys")
        }
    }
}

fn gateway_threads(wanted: usize) -> usize {
    if wanted > 0 {
        return wanted;
    }
    // One thread bears thousands of requests a second, and fewer threads wake each other less;
    // the rest of the cores is for tokens, the index and the gateway itself.
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    (cores / 4).clamp(1, 8)
}

/// Health and gauges follow the datastore.
async fn watch_health(
    reporter: HealthReporter,
    datastore: Datastore,
    readiness: Readiness,
    metrics: EppMetrics,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(OBSERVE);
    let mut serving = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.requested() => {
                readiness.set(false);
                set_health(&reporter, ServingStatus::NotServing).await;
                return Ok(());
            }
        }
        metrics.observed(datastore.totals());
        if !serving && datastore.is_synced() {
            serving = true;
            readiness.set(true);
            set_health(&reporter, ServingStatus::Serving).await;
            tracing::info!("endpoints are known: ready");
        }
    }
}

async fn set_health(reporter: &HealthReporter, status: ServingStatus) {
    for service in ["", contract::GRPC_EXT_PROC_SERVICE] {
        reporter.set_service_status(service, status).await;
    }
}

fn managed_mode() -> anyhow::Result<Option<BodyMode>> {
    match std::env::var(contract::ENV_MANAGED_BODY_MODE) {
        Ok(name) if !name.is_empty() => BodyMode::parse(&name).map(Some).with_context(|| {
            format!(
                "{}={name:?} is not a body mode such as FULL_DUPLEX_STREAMED",
                contract::ENV_MANAGED_BODY_MODE
            )
        }),
        _ => Ok(None),
    }
}

/// Tells ids of this process from those of other replicas and of its own past.
fn id_prefix() -> String {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    format!("epp-{:x}-{:x}", std::process::id(), since.as_micros())
}
