//! Services -> a TCP listener per ClusterIP and port that forwards to a ready pod. IO.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::ports::Owner;
use crate::world::World;

/// After an address that could not be bound, or a connection that could not be taken.
const RETRY: Duration = Duration::from_millis(500);

/// Follows the cluster's Services for as long as the rig runs. `api` stands behind the
/// Service `kubernetes`.
pub async fn run(world: World, api: SocketAddr) {
    let mut changes = world.changes();
    let mut listeners: BTreeMap<SocketAddr, (Target, JoinHandle<()>)> = BTreeMap::new();
    let mut refused = BTreeSet::new();
    loop {
        changes.borrow_and_update();
        let wanted = wanted(&world);
        listeners.retain(|address, (target, task)| {
            let keep = wanted.get(address) == Some(target) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        let mut missing = false;
        for (address, target) in wanted {
            if listeners.contains_key(&address) {
                continue;
            }
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    refused.remove(&address);
                    let task = serve(listener, world.clone(), target.clone(), api);
                    listeners.insert(address, (target, tokio::spawn(task)));
                }
                Err(error) => {
                    missing = true;
                    if refused.insert(address) {
                        let owner = Owner::at(address);
                        tracing::warn!(%address, service = target.name, %error, %owner, "cannot listen on a ClusterIP yet");
                    }
                }
            }
        }
        // A listener whose Service has gone ends a moment after it is told to: who comes next
        // at its address is tried again, whether or not anything changes.
        let wait = if missing { RETRY } else { Duration::MAX };
        match tokio::time::timeout(wait, changes.changed()).await {
            Ok(Err(_)) => return,
            // Changes come in crowds.
            Ok(Ok(())) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(_) => {}
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
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
    let turn = AtomicUsize::new(0);
    loop {
        let (mut client, _) = match listener.accept().await {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(service = target.name, %error, "cannot take a connection");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
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
