//! `run`: flags -> the controller, its leader election, metrics and probes. IO.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Context as _;
use clap::builder::BoolishValueParser;
use clap::{ArgAction, Args};
use prometheus_client::registry::Registry;

use super::RenderArgs;
use crate::contract;
use crate::operator::leader::Candidate;
use crate::operator::metrics::Metrics;
use crate::operator::watch;
use crate::telemetry::admin::{self, Readiness};
use crate::telemetry::bind;
use crate::telemetry::logging::{self, LogArgs};
use crate::telemetry::shutdown::Shutdown;

/// Name of the Lease, as the Go operator had it: two generations never act at once.
const LEASE_NAME: &str = "f01a4b9d.llm-d.ai";

/// Flags of `run`.
#[derive(Clone, Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) render: RenderArgs,
    #[command(flatten)]
    log: LogArgs,
    /// Where `/metrics` listens, such as `:8080`; `0` switches it off.
    #[arg(long, default_value = "0")]
    metrics_bind_address: String,
    /// Where `/healthz` and `/readyz` listen.
    #[arg(long, default_value = ":8081")]
    health_probe_bind_address: String,
    /// Act only while holding the Lease, so that several replicas can run.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", value_parser = switch(), action = ArgAction::Set)]
    pub(super) leader_elect: bool,
    /// Namespace of the Lease; the pod's own when absent.
    #[arg(long, env = "POD_NAMESPACE")]
    leader_election_namespace: Option<String>,
    #[command(flatten)]
    unused: UnusedArgs,
}

/// A switch as Go's flags have it: bare, or with `=true`, `=false`, `=1`, `=F`, …
fn switch() -> BoolishValueParser {
    BoolishValueParser::new()
}

/// Flags of the Go operator that have nothing to act on here; accepted, and named in
/// the log when given.
#[derive(Clone, Debug, Args)]
struct UnusedArgs {
    #[arg(long, short = 't', hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch())]
    toggle: Option<bool>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch())]
    metrics_secure: Option<bool>,
    #[arg(long, hide = true)]
    metrics_cert_path: Option<String>,
    #[arg(long, hide = true)]
    metrics_cert_name: Option<String>,
    #[arg(long, hide = true)]
    metrics_cert_key: Option<String>,
    #[arg(long, hide = true)]
    webhook_cert_path: Option<String>,
    #[arg(long, hide = true)]
    webhook_cert_name: Option<String>,
    #[arg(long, hide = true)]
    webhook_cert_key: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = switch())]
    enable_http2: Option<bool>,
    #[arg(long, hide = true)]
    defaults_yaml_path: Option<String>,
}

impl UnusedArgs {
    fn given(&self) -> Vec<&'static str> {
        [
            ("--toggle", self.toggle == Some(true)),
            ("--metrics-secure", self.metrics_secure.is_some()),
            ("--metrics-cert-path", self.metrics_cert_path.is_some()),
            ("--metrics-cert-name", self.metrics_cert_name.is_some()),
            ("--metrics-cert-key", self.metrics_cert_key.is_some()),
            ("--webhook-cert-path", self.webhook_cert_path.is_some()),
            ("--webhook-cert-name", self.webhook_cert_name.is_some()),
            ("--webhook-cert-key", self.webhook_cert_key.is_some()),
            ("--enable-http2", self.enable_http2.is_some()),
            ("--defaults-yaml-path", self.defaults_yaml_path.is_some()),
        ]
        .into_iter()
        .filter_map(|(flag, given)| given.then_some(flag))
        .collect()
    }
}

/// Runs until SIGTERM or until leadership is lost.
pub(super) fn run(args: &RunArgs) -> anyhow::Result<()> {
    logging::init(&args.log)?;
    // Only fails when a provider is already installed, which is the wish.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(serve(args))
}

async fn serve(args: &RunArgs) -> anyhow::Result<()> {
    let settings = args.render.settings();
    anyhow::ensure!(
        !settings.epp_cluster_role.is_empty(),
        "--epp-cluster-role is required: the ClusterRole that each EPP is bound to"
    );
    for flag in args.unused.given() {
        tracing::warn!(
            flag,
            "flag accepted for compatibility; it has no effect here"
        );
    }
    let shutdown = Shutdown::new();
    shutdown.on_signals().context("install signal handlers")?;

    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let readiness = Readiness::default();
    start_admin(args, Arc::new(registry), readiness.clone(), &shutdown)?;

    let client = kube::Client::try_default()
        .await
        .context("find the API server")?;
    // Ready means "able to take over": a standby replica is ready too.
    readiness.set(true);
    let identity = identity();
    let mut candidate = None;
    if args.leader_elect {
        let namespace = args
            .leader_election_namespace
            .clone()
            .unwrap_or_else(|| client.default_namespace().to_owned());
        let mut standby = Candidate::new(client.clone(), &namespace, LEASE_NAME, &identity);
        tracing::info!(
            lease = LEASE_NAME,
            namespace,
            identity,
            "waiting for leadership"
        );
        if !standby.lead(&shutdown).await {
            return shutdown.finished().await;
        }
        candidate = Some(standby);
    }
    metrics.leader.set(1);
    tracing::info!(identity, version = env!("CARGO_PKG_VERSION"), "acting");
    let controller = watch::run(
        client,
        settings,
        metrics.clone(),
        identity,
        shutdown.clone(),
    );
    let result = match candidate {
        None => controller.await,
        Some(mut candidate) => {
            let ended = tokio::select! {
                biased;
                lost = candidate.keep() => Err(lost),
                result = controller => Ok(result),
            };
            match ended {
                Ok(result) => {
                    candidate.step_down().await;
                    result
                }
                // Not a word more to the API server: somebody else acts now. Dropping the
                // controller has stopped its reconciles; the process ends with an error.
                Err(lost) => {
                    metrics.leader.set(0);
                    return Err(lost.into());
                }
            }
        }
    };
    metrics.leader.set(0);
    shutdown.begin();
    let finished = shutdown.finished().await;
    result.and(finished)
}

fn start_admin(
    args: &RunArgs,
    registry: Arc<Registry>,
    readiness: Readiness,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let host = bind::host()?.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    if let Some(address) =
        admin::parse_address(&args.metrics_bind_address, host).context("--metrics-bind-address")?
    {
        let router = admin::metrics_router(registry);
        shutdown.spawn(
            "metrics server",
            admin::serve(address, router, shutdown.clone()),
        );
    }
    if let Some(address) = admin::parse_address(&args.health_probe_bind_address, host)
        .context("--health-probe-bind-address")?
    {
        let router = admin::health_router(readiness);
        shutdown.spawn(
            "health server",
            admin::serve(address, router, shutdown.clone()),
        );
    }
    Ok(())
}

/// Unique per process: the pod's name where there is one, and the process's id.
fn identity() -> String {
    let pod = std::env::var("POD_NAME")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_else(|_| contract::MANAGER.to_owned());
    format!("{pod}_{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    #[test]
    fn switches_may_say_true_or_false_as_gos_may() {
        let parse = |words: &[&str]| {
            let words = ["run"].iter().chain(words);
            Line::try_parse_from(words).unwrap().run
        };
        for (word, on) in [
            ("--toggle", Some(true)),
            ("-t", Some(true)),
            ("--toggle=true", Some(true)),
            ("--toggle=false", Some(false)),
            ("-t=true", Some(true)),
            ("--leader-elect", None),
        ] {
            assert_eq!(parse(&[word]).unused.toggle, on, "{word}");
        }
        assert!(parse(&["--leader-elect=1"]).leader_elect);
        assert!(!parse(&["--leader-elect=False"]).leader_elect);
        assert!(parse(&["--toggle=false"]).unused.given().is_empty());
    }
}
