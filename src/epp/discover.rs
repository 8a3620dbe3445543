//! InferencePool and pods -> the datastore. IO: watches; the only writer of endpoints.
//!
//! While the API server is away the last endpoints stay: a request can still be answered.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch};
use kube::{Api, Client, ResourceExt as _};

use super::datastore::{Datastore, Discovered};
use super::endpoints_file;
use crate::api::foreign::InferencePool;
use crate::api::foreign::v1alpha2::InferencePool as InferencePoolAlpha;
use crate::contract;
use crate::scheduling::endpoint::{EndpointId, Role};
use crate::telemetry::shutdown::Shutdown;

/// Which pods, and on which ports.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Target {
    /// Labels the pods have.
    pub labels: BTreeMap<String, String>,
    /// Ports they serve on; the EPP may pick any.
    pub ports: Vec<u16>,
}

/// Where endpoints come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// An InferencePool of either version.
    Pool {
        /// Its namespace, and its pods'.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A label selector.
    Selector {
        /// Namespace of the pods.
        namespace: String,
        /// The pods and ports.
        target: Target,
    },
    /// A file, and no Kubernetes at all.
    File(PathBuf),
}

impl Source {
    /// `namespace/name`: what replicas of one EPP have in common and others do not.
    pub fn name(&self) -> String {
        match self {
            Self::Pool { namespace, name } => format!("{namespace}/{name}"),
            Self::Selector { namespace, target } => {
                let labels: Vec<_> = target
                    .labels
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                format!("{namespace}/{}", labels.join(","))
            }
            Self::File(path) => format!("file/{}", path.display()),
        }
    }
}

/// Keeps the datastore right until shutdown. Only sources in a cluster connect to one.
///
/// # Errors
/// When the cluster cannot be found, or the file cannot be read.
pub async fn run(
    config: Option<kube::Config>,
    source: Source,
    datastore: Datastore,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let client = || {
        let config = config.context("a source in a cluster needs its API server")?;
        anyhow::Ok(Client::try_from(config)?)
    };
    match source {
        Source::File(path) => endpoints_file::run(path, datastore, shutdown).await,
        Source::Selector { namespace, target } => {
            let client = client()?;
            let mut pods = Pods::new(&client, &namespace, &target);
            loop {
                tokio::select! {
                    () = shutdown.requested() => return Ok(()),
                    () = pods.next(&target, &datastore) => {}
                }
            }
        }
        Source::Pool { namespace, name } => {
            follow_pool(client()?, &namespace, &name, datastore, shutdown).await
        }
    }
}

async fn follow_pool(
    client: Client,
    namespace: &str,
    name: &str,
    datastore: Datastore,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut pools = tokio::select! {
        pools = pool_targets(client.clone(), namespace, name) => pools,
        () = shutdown.requested() => return Ok(()),
    };
    let mut current: Option<(Target, Pods)> = None;
    loop {
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            target = pools.next() => match target {
                Some(Some(target)) => {
                    if current.as_ref().is_none_or(|(before, _)| *before != target) {
                        tracing::info!(namespace, name, pods = ?target, "following the InferencePool");
                        let pods = Pods::new(&client, namespace, &target);
                        current = Some((target, pods));
                    }
                }
                Some(None) => {
                    tracing::warn!(namespace, name, "the InferencePool does not exist; waiting for it");
                    current = None;
                    datastore.replace(Vec::new());
                }
                None => anyhow::bail!("the watch of InferencePool {namespace}/{name} ended"),
            },
            () = async {
                match &mut current {
                    Some((target, pods)) => pods.next(target, &datastore).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
    }
}

type Targets = std::pin::Pin<Box<dyn Stream<Item = Option<Target>> + Send>>;

/// What the pool selects, each time it changes; `None` when it does not exist. Asks which
/// version the cluster serves until it knows.
async fn pool_targets(client: Client, namespace: &str, name: &str) -> Targets {
    loop {
        for (version, v1) in [
            ("inference.networking.k8s.io/v1", true),
            ("inference.networking.x-k8s.io/v1alpha2", false),
        ] {
            match client.list_api_group_resources(version).await {
                Ok(list)
                    if list
                        .resources
                        .iter()
                        .any(|resource| resource.kind == "InferencePool") =>
                {
                    return if v1 {
                        let api = Api::<InferencePool>::namespaced(client, namespace);
                        watch_one(api, name, target_v1)
                    } else {
                        let api = Api::<InferencePoolAlpha>::namespaced(client, namespace);
                        watch_one(api, name, target_alpha)
                    };
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, version, "discovery"),
            }
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

fn watch_one<K>(api: Api<K>, name: &str, target: fn(&K) -> Target) -> Targets
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    Box::pin(watcher::watch_object(api, name).default_backoff().filter_map(move |result| async move {
        match result {
            Ok(pool) => Some(pool.as_ref().map(target)),
            Err(error) => {
                tracing::warn!(%error, "watch of the InferencePool failed; it is tried again");
                None
            }
        }
    }))
}

fn target_v1(pool: &InferencePool) -> Target {
    Target {
        labels: pool.spec.selector.match_labels.clone(),
        ports: pool
            .spec
            .target_ports
            .iter()
            .filter_map(|port| u16::try_from(port.number).ok())
            .collect(),
    }
}

fn target_alpha(pool: &InferencePoolAlpha) -> Target {
    let port = pool
        .spec
        .target_port_number
        .and_then(|port| u16::try_from(port).ok());
    Target {
        labels: pool.spec.selector.clone(),
        ports: port.into_iter().collect(),
    }
}

type PodEvents = std::pin::Pin<Box<dyn Stream<Item = Result<Event<Pod>, watcher::Error>> + Send>>;

/// The pods of one target.
struct Pods {
    events: PodEvents,
    known: HashMap<String, Pod>,
    listing: HashMap<String, Pod>,
    synced: bool,
}

impl Pods {
    fn new(client: &Client, namespace: &str, target: &Target) -> Self {
        let selector: Vec<String> = target
            .labels
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        let config = watcher::Config::default().labels(&selector.join(","));
        let events =
            watch(Api::<Pod>::namespaced(client.clone(), namespace), config).default_backoff();
        Self {
            events: Box::pin(events),
            known: HashMap::new(),
            listing: HashMap::new(),
            synced: false,
        }
    }

    /// Takes one event and publishes what follows from it.
    async fn next(&mut self, target: &Target, datastore: &Datastore) {
        let uid = |pod: &Pod| pod.uid().unwrap_or_default();
        match self.events.next().await {
            Some(Ok(Event::Init)) => self.listing.clear(),
            Some(Ok(Event::InitApply(pod))) => {
                self.listing.insert(uid(&pod), pod);
                return;
            }
            Some(Ok(Event::InitDone)) => {
                self.known = std::mem::take(&mut self.listing);
                self.synced = true;
                datastore.set_synced();
            }
            Some(Ok(Event::Apply(pod))) => {
                self.known.insert(uid(&pod), pod);
            }
            Some(Ok(Event::Delete(pod))) => {
                self.known.remove(&uid(&pod));
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "watch of pods failed; it is tried again");
                return;
            }
            None => return std::future::pending().await,
        }
        if self.synced {
            let mut endpoints: Vec<_> = self
                .known
                .values()
                .flat_map(|pod| endpoints_of(pod, &target.ports))
                .collect();
            endpoints.sort_by_key(|endpoint| endpoint.id);
            datastore.replace(endpoints);
        }
    }
}

/// The endpoints of a pod: one per port; none before it has an address or after it ended.
pub fn endpoints_of(pod: &Pod, ports: &[u16]) -> Vec<Discovered> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let address = status
        .pod_ip
        .as_deref()
        .and_then(|ip| ip.parse::<IpAddr>().ok());
    let (Some(address), false) = (address, ended) else {
        return Vec::new();
    };
    let ready = pod.metadata.deletion_timestamp.is_none()
        && status
            .conditions
            .iter()
            .flatten()
            .any(|c| c.type_ == "Ready" && c.status == "True");
    let labels = Arc::new(pod.labels().clone());
    let role = Role::from_label(labels.get(contract::LABEL_ROLE).map(String::as_str));
    ports
        .iter()
        .map(|port| Discovered {
            id: EndpointId(SocketAddr::new(address, *port)),
            pod: pod.name_any(),
            pod_uid: pod.uid().unwrap_or_default(),
            role,
            labels: Arc::clone(&labels),
            ready,
        })
        .collect()
}
