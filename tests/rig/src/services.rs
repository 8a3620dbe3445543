//! Services -> a TCP listener per ClusterIP and port that forwards to a ready pod. IO.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::world::World;

/// Follows the cluster's Services for as long as the rig runs. `api` stands behind the
/// Service `kubernetes`.
pub async fn run(world: World, api: SocketAddr) {
    let mut changes = world.changes();
    let mut listeners: BTreeMap<SocketAddr, JoinHandle<()>> = BTreeMap::new();
    let mut refused = BTreeSet::new();
    loop {
        let wanted = wanted(&world);
        listeners.retain(|address, task| {
            let keep = wanted.contains_key(address) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        for (address, target) in wanted {
            if listeners.contains_key(&address) {
                continue;
            }
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    listeners.insert(
                        address,
                        tokio::spawn(serve(listener, world.clone(), target, api)),
                    );
                }
                Err(error) if refused.insert(address) => {
                    tracing::warn!(%address, service = target.name, %error, "cannot listen on a ClusterIP");
                }
                Err(_) => {}
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
        // Changes come in crowds.
        tokio::time::sleep(Duration::from_millis(50)).await;
        changes.borrow_and_update();
    }
}

#[derive(Clone, Debug)]
struct Target {
    namespace: String,
    name: String,
    port: i32,
}

fn wanted(world: &World) -> BTreeMap<SocketAddr, Target> {
    let mut wanted = BTreeMap::new();
    for service in world.services.state() {
        for (ip, port) in addresses(&service) {
            let target = Target {
                namespace: service.namespace().unwrap_or_default(),
                name: service.name_any(),
                port: i32::from(port),
            };
            wanted.insert(SocketAddr::new(ip, port), target);
        }
    }
    wanted
}

/// ClusterIP and TCP ports of a Service; none when it is headless.
fn addresses(service: &Service) -> Vec<(IpAddr, u16)> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let Some(ip) = spec.cluster_ip.as_ref().and_then(|ip| ip.parse().ok()) else {
        return Vec::new();
    };
    spec.ports
        .iter()
        .flatten()
        .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
        .filter_map(|port| Some((ip, u16::try_from(port.port).ok()?)))
        .collect()
}

async fn serve(listener: TcpListener, world: World, target: Target, api: SocketAddr) {
    let turn = Arc::new(AtomicUsize::new(0));
    while let Ok((mut client, _)) = listener.accept().await {
        let endpoint = pick(&world, &target, api, turn.fetch_add(1, Ordering::Relaxed));
        tokio::spawn(async move {
            // No ready pod: the connection closes, as a reset would.
            let Some(endpoint) = endpoint else { return };
            if let Ok(mut server) = TcpStream::connect(endpoint).await {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}

fn pick(world: &World, target: &Target, api: SocketAddr, turn: usize) -> Option<SocketAddr> {
    if target.namespace == "default" && target.name == "kubernetes" {
        return Some(api);
    }
    let key = kube::runtime::reflector::ObjectRef::new(&target.name).within(&target.namespace);
    let service = world.services.get(&key)?;
    let port = service
        .spec
        .as_ref()?
        .ports
        .iter()
        .flatten()
        .find(|port| port.port == target.port)?
        .clone();
    let endpoints = world.endpoints(&service, &port);
    endpoints.get(turn % endpoints.len().max(1)).copied()
}
