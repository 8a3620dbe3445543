//! Arguments and environment -> a running EPP. IO.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::ExternalProcessorServer;
use futures::StreamExt as _;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server as GrpcServer;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::authority::Readable;
use super::cli::{self, Args, Command};
use super::datastore::Datastore;
use super::decisions::Decisions;
use super::director::Director;
use super::metrics::Metrics;
use super::server::Server;
use super::session::BodyMode;
use super::{config, discover, gather};
use crate::contract;
use crate::scheduling::config::SchedulingConfig;
use crate::telemetry::admin::{self, Readiness};
use crate::telemetry::logging;
use crate::telemetry::shutdown::Shutdown;

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
    let host = bind_host()?;
    let managed = managed_mode()?;
    let config = match &args.kubeconfig {
        Some(path) => {
            let file = kube::config::Kubeconfig::read_from(path).context("read the kubeconfig")?;
            kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default())
                .await?
        }
        None => kube::Config::infer().await.context("find the API server")?,
    };
    let source = args.source(&config.default_namespace)?;
    let client = kube::Client::try_from(config)?;

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let datastore = Datastore::default();
    let readiness = Readiness::default();
    let name = source.name();
    shutdown.spawn(
        "discovery",
        discover::run(client, source, datastore.clone(), shutdown.clone()),
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
    let router = admin::metrics_router(Arc::new(registry))
        .merge(admin::health_router(readiness.clone()))
        .merge(decisions.clone().router());
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

    let director = Director::new(
        Arc::new(scheduling.pipeline),
        datastore,
        knowledge,
        decisions,
        metrics.clone(),
        id_prefix(),
        // Randomly keyed by the operating system.
        RandomState::new().hash_one(()),
    );
    let processor = Server {
        director,
        metrics,
        managed,
        body_limit: args.max_body_bytes,
    };
    let address = SocketAddr::new(host, args.grpc_port);
    tracing::info!(%address, ?managed, version = env!("CARGO_PKG_VERSION"), "serving");
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("ext_proc server on {address}"))?;
    let incoming = TcpListenerStream::new(listener).map(|connection| {
        // One request is one stream of a few small messages.
        connection.and_then(|stream| stream.set_nodelay(true).map(|()| Readable::new(stream)))
    });
    let server = GrpcServer::builder()
        .http2_adaptive_window(Some(true))
        .add_service(health)
        .add_service(
            ExternalProcessorServer::new(processor)
                .max_decoding_message_size(args.max_body_bytes + (1 << 20)),
        )
        .serve_with_incoming_shutdown(incoming, shutdown.clone().into_requested());
    let drained = tokio::select! {
        result = server => result.with_context(|| format!("ext_proc server on {address}")),
        () = drain_deadline(&shutdown, drain_timeout(&args.drain_timeout)?) => {
            tracing::warn!("streams still open at the end of the drain time were cut");
            Ok(())
        }
    };
    shutdown.begin();
    shutdown.finished().await;
    drained
}

async fn drain_deadline(shutdown: &Shutdown, limit: Duration) {
    shutdown.requested().await;
    tokio::time::sleep(limit).await;
}

fn drain_timeout(text: &str) -> anyhow::Result<Duration> {
    let seconds = text.trim_end_matches('s').parse::<f64>().ok();
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .with_context(|| format!("--drain-timeout {text:?}: write seconds such as 30s"))
}

/// Health and gauges follow the datastore.
async fn watch_health(
    reporter: HealthReporter,
    datastore: Datastore,
    readiness: Readiness,
    metrics: Metrics,
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

fn bind_host() -> anyhow::Result<IpAddr> {
    match std::env::var(contract::ENV_BIND_HOST) {
        Ok(host) if !host.is_empty() => host
            .parse()
            .with_context(|| format!("{}={host:?} is not an address", contract::ENV_BIND_HOST)),
        _ => Ok(Ipv4Addr::UNSPECIFIED.into()),
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
