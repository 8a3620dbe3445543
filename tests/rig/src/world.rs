//! Watches -> the objects the service proxy, DNS and the gateway act on, and a signal that
//! something changed. IO.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::runtime::reflector::{self, Store, store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::net::Mode;

/// What is in the cluster now; cheap to clone.
#[derive(Clone)]
pub struct World {
    /// All pods.
    pub pods: Store<Pod>,
    /// All Services.
    pub services: Store<Service>,
    /// Of namespace mode; they refuse loopback addresses.
    slices: Option<Store<EndpointSlice>>,
    /// `Gateway`, `GatewayClass`, `HTTPRoute`, `EnvoyFilter` by kind.
    foreign: BTreeMap<&'static str, Store<DynamicObject>>,
    changes: watch::Receiver<u64>,
}

/// Kinds read as untyped objects.
const FOREIGN: &[(&str, &str, &str)] = &[
    ("gateway.networking.k8s.io", "v1", "Gateway"),
    ("gateway.networking.k8s.io", "v1", "GatewayClass"),
    ("gateway.networking.k8s.io", "v1", "HTTPRoute"),
    ("networking.istio.io", "v1alpha3", "EnvoyFilter"),
];

/// The API resource of a kind in [`World::foreign`].
pub fn resource(kind: &str) -> ApiResource {
    let (group, version, kind) = FOREIGN
        .iter()
        .find(|entry| entry.2 == kind)
        .copied()
        .unwrap_or(("", "v1", "Unknown"));
    let mut resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    if kind == "GatewayClass" {
        "gatewayclasses".clone_into(&mut resource.plural);
    }
    resource
}

impl World {
    /// Starts the watches; they run as long as the runtime does.
    pub fn watch(client: &Client, mode: Mode) -> Self {
        let (sender, changes) = watch::channel(0_u64);
        let foreign = FOREIGN
            .iter()
            .map(|(_, _, kind)| {
                let resource = resource(kind);
                (
                    *kind,
                    reflect(Api::all_with(client.clone(), &resource), resource, &sender),
                )
            })
            .collect();
        Self {
            pods: reflect(Api::all(client.clone()), (), &sender),
            services: reflect(Api::all(client.clone()), (), &sender),
            slices: (mode == Mode::Namespace)
                .then(|| reflect(Api::all(client.clone()), (), &sender)),
            foreign,
            changes,
        }
    }

    /// Objects of one foreign kind, by namespace and name.
    pub fn foreign(&self, kind: &str) -> Vec<std::sync::Arc<DynamicObject>> {
        let mut all = self.foreign.get(kind).map(Store::state).unwrap_or_default();
        all.sort_by_key(|object| {
            (
                object.creation_timestamp(),
                object.namespace(),
                object.name_any(),
            )
        });
        all
    }

    /// Resolves when something changed since the last call on this receiver.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Addresses of the ready endpoints behind one port of a Service: from its EndpointSlices,
    /// or, where those cannot be, from the pods its selector finds.
    pub fn endpoints(&self, service: &Service, port: &ServicePort) -> Vec<SocketAddr> {
        let mut found = match &self.slices {
            Some(slices) => by_slices(&slices.state(), service, port),
            None => self.by_selector(service, port),
        };
        found.sort();
        found.dedup();
        found
    }

    fn by_selector(&self, service: &Service, port: &ServicePort) -> Vec<SocketAddr> {
        let Some(selector) = service
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.as_ref())
        else {
            return Vec::new();
        };
        let namespace = service.namespace();
        self.pods
            .state()
            .iter()
            .filter(|pod| pod.namespace() == namespace && is_ready(pod))
            .filter(|pod| {
                selector
                    .iter()
                    .all(|(key, value)| pod.labels().get(key) == Some(value))
            })
            .filter_map(|pod| Some(SocketAddr::new(pod_ip(pod)?, target_port(pod, port)?)))
            .collect()
    }
}

fn by_slices(
    slices: &[std::sync::Arc<EndpointSlice>],
    service: &Service,
    port: &ServicePort,
) -> Vec<SocketAddr> {
    let name = service.name_any();
    let of_service = slices.iter().filter(|slice| {
        slice.namespace() == service.namespace()
            && slice.labels().get("kubernetes.io/service-name") == Some(&name)
    });
    let mut found = Vec::new();
    for slice in of_service {
        let wanted = port.name.as_deref().unwrap_or_default();
        let number = slice
            .ports
            .iter()
            .flatten()
            .find(|slice_port| slice_port.name.as_deref().unwrap_or_default() == wanted)
            .and_then(|slice_port| u16::try_from(slice_port.port?).ok());
        let Some(number) = number else { continue };
        let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
            // Unknown counts as ready (the API's own rule).
            endpoint
                .conditions
                .as_ref()
                .and_then(|conditions| conditions.ready)
                .unwrap_or(true)
        });
        let ips = ready
            .flat_map(|endpoint| &endpoint.addresses)
            .filter_map(|ip| ip.parse().ok());
        found.extend(ips.map(|ip| SocketAddr::new(ip, number)));
    }
    found
}

/// The pod's address once it has one.
pub fn pod_ip(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

/// Ready and not going away.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn target_port(pod: &Pod, port: &ServicePort) -> Option<u16> {
    match &port.target_port {
        None => u16::try_from(port.port).ok(),
        Some(IntOrString::Int(number)) => u16::try_from(*number).ok(),
        Some(IntOrString::String(name)) => pod
            .spec
            .iter()
            .flat_map(|spec| &spec.containers)
            .flat_map(|container| container.ports.iter().flatten())
            .find(|port| port.name.as_ref() == Some(name))
            .and_then(|port| u16::try_from(port.container_port).ok()),
    }
}

fn reflect<K>(api: Api<K>, dyntype: K::DynamicType, changed: &watch::Sender<u64>) -> Store<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Clone + Debug + Eq + Hash + Send + Sync,
{
    let writer = store::Writer::new(dyntype);
    let reader = writer.as_reader();
    let changed = changed.clone();
    tokio::spawn(async move {
        let stream = watcher(api, watcher::Config::default()).default_backoff();
        let mut stream = std::pin::pin!(reflector::reflector(writer, stream));
        while let Some(event) = stream.next().await {
            match event {
                Ok(_) => changed.send_modify(|count| *count += 1),
                Err(error) => tracing::debug!(%error, "watch interrupted"),
            }
        }
    });
    reader
}
