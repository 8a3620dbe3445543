//! One pod -> its network, volumes and containers, its status as they change, and its end. IO.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::container;
use super::status::{self, Role, State};
use super::{Node, event, forget, volumes};
use crate::net::PodNet;

/// Between two attempts to make a pod's network.
const NETWORK_RETRY: Duration = Duration::from_secs(1);

/// What a pod's containers share.
pub(super) struct Shared {
    pub(super) node: Arc<Node>,
    pub(super) pod: Pod,
    pub(super) net: PodNet,
    /// This pod's folder: `<namespace>_<pod>`.
    pub(super) dir: PathBuf,
    states: Mutex<Vec<State>>,
    changed: Notify,
}

impl Shared {
    /// Changes one container's state and lets the status follow.
    pub(super) fn update(&self, index: usize, change: impl FnOnce(&mut State)) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut states[index]);
        drop(states);
        self.changed.notify_one();
    }

    /// One container's state now.
    pub(super) fn state(&self, index: usize) -> State {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)[index].clone()
    }

    fn states(&self) -> Vec<State> {
        self.states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn volumes(&self) -> PathBuf {
        self.dir.join("volumes")
    }

    /// `<namespace>_<pod>`.
    pub(super) fn label(&self) -> String {
        format!(
            "{}_{}",
            self.pod.namespace().unwrap_or_default(),
            self.pod.name_any()
        )
    }
}

/// Tells containers when to end: main containers first, sidecars after them.
#[derive(Clone, Default)]
struct Ends {
    mains: CancellationToken,
    sidecars: CancellationToken,
}

/// Runs one pod from its binding to its deletion.
pub(super) async fn run(node: Arc<Node>, mut updates: watch::Receiver<Pod>) {
    let pod = updates.borrow_and_update().clone();
    if pod.metadata.deletion_timestamp.is_some() {
        forget(&node.client, &pod).await;
        return;
    }
    if matches!(
        pod.status
            .as_ref()
            .and_then(|status| status.phase.as_deref()),
        Some("Succeeded" | "Failed")
    ) {
        return;
    }
    let Some(net) = network(&node, &pod, &mut updates).await else {
        forget(&node.client, &pod).await;
        return;
    };
    let dir = node.paths.pods().join(format!(
        "{}_{}",
        pod.namespace().unwrap_or_default(),
        pod.name_any()
    ));
    let containers = containers(&pod);
    let states = containers
        .iter()
        .map(|(role, container)| State::new(*role, container))
        .collect();
    let shared = Arc::new(Shared {
        node,
        pod,
        net,
        dir,
        states: Mutex::new(states),
        changed: Notify::new(),
    });
    shared.changed.notify_one();
    let ends = Ends::default();
    let mut life = tokio::spawn(live(shared.clone(), containers, ends.clone()));
    let started = Timestamp::now().to_string();
    let mut written = None;
    let grace = loop {
        tokio::select! {
            () = shared.changed.notified() => write(&shared, &started, &mut written).await,
            changed = updates.changed() => {
                if changed.is_err() {
                    // The object is gone: nobody waits for a graceful end.
                    break None;
                }
                let pod = updates.borrow();
                if pod.metadata.deletion_timestamp.is_some() {
                    break Some(pod.metadata.deletion_grace_period_seconds.unwrap_or(30));
                }
            }
        }
    };
    let limit = Duration::from_secs(u64::try_from(grace.unwrap_or(0)).unwrap_or(0));
    ends.mains.cancel();
    let ended = tokio::time::timeout(limit, &mut life).await;
    if ended.is_err() {
        // Out of patience: dropping the tasks kills the processes.
        life.abort();
        let _ = life.await;
    }
    if grace.is_some() {
        write(&shared, &started, &mut written).await;
        forget(&shared.node.client, &shared.pod).await;
    }
}

/// The pod's network; tried again until it is there. `None` when the pod goes before.
async fn network(node: &Node, pod: &Pod, updates: &mut watch::Receiver<Pod>) -> Option<PodNet> {
    loop {
        let error = match node.net.add_pod().await {
            Ok(net) => return Some(net),
            Err(error) => format!("{error:#}"),
        };
        tracing::error!(pod = pod.name_any(), error, "no network for a pod yet");
        event(
            &node.client,
            pod,
            "Warning",
            "FailedCreatePodSandBox",
            &error,
        )
        .await;
        let gone = updates.wait_for(|pod| pod.metadata.deletion_timestamp.is_some());
        if tokio::time::timeout(NETWORK_RETRY, gone).await.is_ok() {
            return None;
        }
    }
}

fn containers(pod: &Pod) -> Vec<(Role, Container)> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let inits = spec.init_containers.iter().flatten().map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        (
            if sidecar { Role::Sidecar } else { Role::Init },
            container.clone(),
        )
    });
    inits
        .chain(
            spec.containers
                .iter()
                .map(|container| (Role::Main, container.clone())),
        )
        .collect()
}

/// Volumes, then init containers and sidecars in order, then the main containers; ends when
/// all of them have been told to and did.
async fn live(shared: Arc<Shared>, containers: Vec<(Role, Container)>, ends: Ends) {
    let mut told = false;
    loop {
        let ip = shared.net.ip.to_string();
        let node_ip = shared.node.net.node_ip().to_string();
        match volumes::prepare(
            &shared.node.client,
            &shared.pod,
            &shared.volumes(),
            &ip,
            &node_ip,
        )
        .await
        {
            Ok(()) => break,
            Err(error) => {
                if !told {
                    event(
                        &shared.node.client,
                        &shared.pod,
                        "Warning",
                        "FailedMount",
                        &format!("{error:#}"),
                    )
                    .await;
                    told = true;
                }
            }
        }
        tokio::select! {
            () = ends.mains.cancelled() => return,
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
    let (mut sidecars, mut mains) = (JoinSet::new(), JoinSet::new());
    for (index, (role, container)) in containers.into_iter().enumerate() {
        let stop = if role == Role::Sidecar {
            ends.sidecars.clone()
        } else {
            ends.mains.clone()
        };
        let task = container::run(shared.clone(), index, container, stop);
        match role {
            Role::Init => task.await,
            Role::Sidecar => {
                sidecars.spawn(task);
                while !shared.state(index).started && !ends.mains.is_cancelled() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Role::Main => {
                mains.spawn(task);
            }
        }
        if ends.mains.is_cancelled() {
            break;
        }
    }
    while mains.join_next().await.is_some() {}
    if !sidecars.is_empty() {
        ends.sidecars.cancel();
        while sidecars.join_next().await.is_some() {}
    }
}

/// Writes the status when it differs from what was written last.
async fn write(shared: &Shared, started: &str, written: &mut Option<Value>) {
    let (ip, node_ip) = (
        shared.net.ip.to_string(),
        shared.node.net.node_ip().to_string(),
    );
    let mut status = status::pod_status(&shared.pod, &shared.states(), &ip, &node_ip, started);
    status::stamp(&mut status, written.as_ref(), &Timestamp::now().to_string());
    if written.as_ref() == Some(&status) {
        return;
    }
    let api: Api<Pod> = Api::namespaced(
        shared.node.client.clone(),
        &shared.pod.namespace().unwrap_or_default(),
    );
    let patch = json!({"metadata": {"uid": shared.pod.uid()}, "status": status});
    match api
        .patch_status(
            &shared.pod.name_any(),
            &PatchParams::default(),
            &Patch::Strategic(&patch),
        )
        .await
    {
        Ok(_) => *written = Some(status),
        // Gone. A conflict is not: others write the same object, and the last word counts.
        Err(kube::Error::Api(error)) if error.code == 404 => {}
        Err(error) => {
            tracing::warn!(pod = shared.pod.name_any(), %error, "cannot write a pod's status");
            tokio::time::sleep(Duration::from_millis(500)).await;
            shared.changed.notify_one();
        }
    }
}
