//! Nodes that run containers as processes: registers them, keeps their leases, and turns
//! every pod bound to them into processes and a status, as a kubelet does. IO.

mod container;
mod env;
mod pod;
mod probe;
mod status;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;

use crate::net::Net;
use crate::paths::Paths;
use crate::tools::Tools;
use crate::world::World;

/// Nodes with GPUs, and their number of GPUs; the last has none.
const NODES: &[(&str, u32)] = &[("gpu-0", 8), ("gpu-1", 8), ("cpu-0", 0)];
const LEASE_PERIOD: Duration = Duration::from_secs(10);
/// A lease that is not written in this time is written anew.
const LEASE_LIMIT: Duration = Duration::from_secs(5);
/// Between two attempts to delete a pod that ended.
const FORGET_RETRY: Duration = Duration::from_secs(1);

/// What the node needs to run pods.
pub struct Node {
    /// The administrator's client.
    pub client: Client,
    /// The cluster's network.
    pub net: Net,
    /// This run's directory.
    pub paths: Paths,
    /// Programs.
    pub tools: Tools,
    /// The API server's own address.
    pub api: SocketAddr,
    /// The cluster's certificate authority.
    pub ca_pem: PathBuf,
    /// Services, for names in loopback mode.
    pub world: World,
}

/// Registers the nodes and follows their pods for as long as the rig runs.
///
/// # Errors
/// When a node cannot be registered.
pub async fn start(node: Node) -> Result<()> {
    let node = Arc::new(node);
    for (name, gpus) in NODES {
        register(&node, name, *gpus)
            .await
            .with_context(|| format!("register node {name}"))?;
    }
    tokio::spawn(keep_leases(node.clone()));
    tokio::spawn(follow_pods(node));
    Ok(())
}

async fn register(node: &Node, name: &str, gpus: u32) -> Result<()> {
    let api: Api<NodeObject> = Api::all(node.client.clone());
    let gpu_labels = if gpus > 0 {
        json!({"nvidia.com/gpu.present": "true", "nvidia.com/gpu.count": gpus.to_string(), "nvidia.com/gpu.product": "Rig-Simulated-GPU"})
    } else {
        json!({})
    };
    let mut labels = json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"});
    if let (Some(labels), Some(more)) = (labels.as_object_mut(), gpu_labels.as_object()) {
        labels.extend(more.clone());
    }
    let object =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    api.patch(
        name,
        &PatchParams::apply("rig").force(),
        &Patch::Apply(&object),
    )
    .await?;
    let capacity = json!({"cpu": "64", "memory": "512Gi", "pods": "110", "ephemeral-storage": "1Ti", "nvidia.com/gpu": gpus.to_string()});
    let now = Timestamp::now().to_string();
    let condition = |kind: &str, status: &str, reason: &str| json!({"type": kind, "status": status, "reason": reason, "message": reason, "lastHeartbeatTime": now, "lastTransitionTime": now});
    let status = json!({"status": {
        "capacity": capacity, "allocatable": capacity,
        "addresses": [{"type": "InternalIP", "address": node.net.node_ip().to_string()}, {"type": "Hostname", "address": name}],
        "conditions": [
            condition("Ready", "True", "KubeletReady"),
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
        ],
        "nodeInfo": {
            "architecture": "amd64", "operatingSystem": "linux", "osImage": "processes of this machine",
            "kernelVersion": "", "kubeletVersion": "v1.36.3", "kubeProxyVersion": "",
            "containerRuntimeVersion": "process://1", "bootID": "", "machineID": "", "systemUUID": "",
        },
    }});
    api.patch_status(name, &PatchParams::default(), &Patch::Strategic(&status))
        .await?;
    Ok(())
}

async fn keep_leases(node: Arc<Node>) {
    let api: Api<Lease> = Api::namespaced(node.client.clone(), "kube-node-lease");
    loop {
        for (name, _) in NODES {
            let renew = k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(Timestamp::now());
            let spec =
                json!({"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": renew});
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec});
            let params = PatchParams::apply("rig").force();
            let patch = Patch::Apply(&lease);
            let written = api.patch(name, &params, &patch);
            match tokio::time::timeout(LEASE_LIMIT, written).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(name, %error, "cannot renew the node's lease"),
                Err(_) => tracing::warn!(name, "the node's lease is not renewed in time"),
            }
        }
        tokio::time::sleep(LEASE_PERIOD).await;
    }
}

/// One task per pod; it is told of every change of its pod.
async fn follow_pods(node: Arc<Node>) {
    let api: Api<Pod> = Api::all(node.client.clone());
    let mut tasks: BTreeMap<String, watch::Sender<Pod>> = BTreeMap::new();
    let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut listed = BTreeSet::new();
    while let Some(event) = stream.next().await {
        let pod = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(watcher::Event::InitDone) => {
                // Pods deleted while the watch was interrupted.
                tasks.retain(|uid, sender| listed.contains(uid) && !sender.is_closed());
                continue;
            }
            Ok(watcher::Event::Delete(pod)) => {
                tasks.remove(&pod.uid().unwrap_or_default());
                continue;
            }
            Ok(watcher::Event::InitApply(pod)) => {
                listed.insert(pod.uid().unwrap_or_default());
                pod
            }
            Ok(watcher::Event::Apply(pod)) => pod,
            Err(_) => continue,
        };
        let bound = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref())
            .unwrap_or_default();
        if !NODES.iter().any(|(name, _)| *name == bound) {
            continue;
        }
        let uid = pod.uid().unwrap_or_default();
        if let Some(sender) = tasks.get(&uid) {
            sender.send_replace(pod);
            continue;
        }
        let (sender, receiver) = watch::channel(pod);
        tasks.insert(uid, sender);
        let node = node.clone();
        tokio::spawn(async move { pod::run(node, receiver).await });
    }
}

/// Deletes a pod object for good; a pod that nobody deletes would stay for ever.
async fn forget(client: &Client, pod: &Pod) {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let params = kube::api::DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(kube::api::Preconditions {
            uid: pod.uid(),
            resource_version: None,
        }),
        ..kube::api::DeleteParams::default()
    };
    loop {
        match api.delete(&pod.name_any(), &params).await {
            Ok(_) => return,
            // Gone, or another pod has the name.
            Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => return,
            Err(error) => {
                tracing::warn!(pod = pod.name_any(), %error, "cannot delete a pod that ended");
                tokio::time::sleep(FORGET_RETRY).await;
            }
        }
    }
}

/// Kept so that events read like a kubelet's.
async fn event(client: &Client, pod: &Pod, kind: &str, reason: &str, message: &str) {
    let namespace = pod.namespace().unwrap_or_default();
    let api: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(client.clone(), &namespace);
    let node = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.clone())
        .unwrap_or_default();
    let now = Timestamp::now().to_string();
    let object = json!({
        "metadata": {"generateName": format!("{}.", pod.name_any()), "namespace": namespace},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "namespace": namespace, "uid": pod.uid()},
        "type": kind, "reason": reason, "message": message, "count": 1,
        "firstTimestamp": now, "lastTimestamp": now,
        "source": {"component": "kubelet", "host": node}, "reportingComponent": "kubelet", "reportingInstance": node,
    });
    if let Ok(object) = serde_json::from_value(object) {
        let _ = api.create(&PostParams::default(), &object).await;
    }
}
