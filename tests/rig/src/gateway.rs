//! Gateways, HTTPRoutes and EnvoyFilters -> a running Envoy with the names istiod would give,
//! and the statuses a gateway controller would write, each only when true. IO.
//!
//! `config` turns objects into Envoy resources (pure), `patch` applies EnvoyFilters to them
//! (pure), `files` hands them to Envoy, `status` tells the API server.

mod config;
mod files;
mod patch;
mod status;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use kube::Client;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::paths::Paths;
use crate::process::Spec;
use crate::supervise::supervise;
use crate::world::{self, World};

/// The controller's name that the GatewayClass carries.
pub const CONTROLLER: &str = "istio.io/gateway-controller";
/// The GatewayClass.
pub const CLASS: &str = "istio";

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// On an address of the cluster's own network.
    Address(SocketAddr),
    /// On a Unix socket, where the network is not the cluster's own: its ports belong to others.
    Socket(PathBuf),
}

/// What the gateway needs.
pub struct Gateway {
    /// The administrator's client.
    pub client: Client,
    /// Objects to follow.
    pub world: World,
    /// Envoy's executable.
    pub envoy: PathBuf,
    /// This run's directory.
    pub paths: Paths,
    /// Where the first listener of the first Gateway listens.
    pub listen: Listen,
    /// The Unix socket of Envoy's administration page.
    pub admin: PathBuf,
    /// Ends Envoy.
    pub stop: CancellationToken,
}

/// Starts Envoy and follows the objects for as long as the rig runs.
///
/// # Errors
/// When the GatewayClass cannot be made or Envoy's files cannot be written.
pub async fn start(gateway: Gateway) -> Result<()> {
    let class = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": CLASS}, "spec": {"controllerName": CONTROLLER},
    });
    kube::Api::<kube::api::DynamicObject>::all_with(
        gateway.client.clone(),
        &world::resource("GatewayClass"),
    )
    .patch(
        CLASS,
        &PatchParams::apply("rig").force(),
        &Patch::Apply(&class),
    )
    .await?;
    let files = files::Files::create(&gateway.paths, &gateway.admin)?;
    supervise(
        &gateway.stop,
        "envoy",
        Spec {
            program: gateway.envoy.clone(),
            args: [
                "-c",
                &files.bootstrap().display().to_string(),
                "--log-level",
                "warning",
                "--concurrency",
                "2",
                "--disable-hot-restart",
            ]
            .map(str::to_owned)
            .to_vec(),
            env: vec![("HOME".to_owned(), gateway.paths.run().display().to_string())],
            log: gateway.paths.logs().join("envoy.log"),
            pid_file: Some(gateway.paths.state().join("envoy.pid")),
            ..Spec::default()
        },
    );
    tokio::spawn(follow(gateway, files));
    Ok(())
}

async fn follow(gateway: Gateway, mut files: files::Files) {
    let mut changes = gateway.world.changes();
    let mut reporter = status::Reporter::default();
    loop {
        changes.borrow_and_update();
        let mut config = config::build(&gateway.world, &gateway.listen, &gateway.paths);
        for problem in patch::apply(&mut config, &gateway.world.foreign("EnvoyFilter")) {
            tracing::warn!(problem, "EnvoyFilter");
        }
        match files.write(&config) {
            Ok(changed) if changed => tracing::info!(
                clusters = config.clusters.len(),
                "configuration written for Envoy"
            ),
            Ok(_) => {}
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "cannot write Envoy's configuration"
            ),
        }
        let settled = reporter.report(&gateway, &config).await;
        if settled {
            if changes.changed().await.is_err() {
                return;
            }
            // Changes come in crowds.
            tokio::time::sleep(Duration::from_millis(100)).await;
        } else {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}
