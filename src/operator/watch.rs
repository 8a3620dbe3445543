//! Watches -> reconciles. IO: the wiring of the controller, nothing else.
//!
//! Only APIs that the cluster serves are watched. When a CRD appears or goes, what is
//! served is asked again and the controller starts anew with other watches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::{Controller, WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::events::Recorder;
use super::metrics::Metrics;
use super::neighbours::concern_each_other;
use super::reconcile::{Context, on_error, reconcile};
use super::resolved::{PoolVersion, Served};
use super::served;
use super::settings::Settings;
use crate::api::ModelService;
use crate::api::foreign::v1alpha2::InferencePool as InferencePoolAlpha;
use crate::api::foreign::{EnvoyFilter, Gateway, HTTPRoute, InferencePool};
use crate::telemetry::shutdown::Shutdown;

/// Changes of one object within this time make one reconcile.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// ModelServices reconciled at once.
const CONCURRENCY: u16 = 8;

/// Runs the controller until shutdown.
///
/// # Errors
/// When the API server cannot be asked what it serves.
pub async fn run(
    client: Client,
    settings: Settings,
    metrics: Metrics,
    instance: String,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut served_now = discover(&client, &shutdown).await?;
    let changes = watch_crds(client.clone(), &shutdown);
    let recorder = Arc::new(Recorder::new(client.clone(), instance));
    while !shutdown.begun() {
        tracing::info!(served = ?served_now, "watching");
        let controller = controller(&client, served_now);
        let context = Arc::new(Context {
            client: client.clone(),
            settings: settings.clone(),
            served: served_now,
            metrics: metrics.clone(),
            recorder: Arc::clone(&recorder),
            modelservices: controller.store(),
            failures: Mutex::new(HashMap::new()),
        });
        let stop = CancellationToken::new();
        let (watched, changes) = (client.clone(), changes.clone());
        let (stopper, asked) = (stop.clone(), shutdown.clone());
        shutdown.spawn("served APIs", async move {
            until_served_changes(watched, served_now, changes, asked).await;
            stopper.cancel();
            Ok(())
        });
        controller
            .graceful_shutdown_on(stop.cancelled_owned())
            .run(reconcile, on_error, context)
            .for_each(|result| async move {
                // Failed reconciles are logged where their back-off is decided.
                if let Err(kube::runtime::controller::Error::QueueError(error)) = result {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "watch failed; it is tried again"
                    );
                }
            })
            .await;
        if !shutdown.begun() {
            served_now = discover(&client, &shutdown).await?;
        }
    }
    Ok(())
}

/// All watches share one wait: after an API server's restart each of a dozen fails once or
/// twice in turn, so the default, which doubles to half a minute, would make the operator deaf
/// for minutes. A second between tries of all of them together is gentle enough.
#[derive(Debug)]
struct WatchBackoff(Duration);

const WATCH_BACKOFF_FIRST: Duration = Duration::from_millis(100);
const WATCH_BACKOFF_LIMIT: Duration = Duration::from_secs(1);

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = self.0;
        self.0 = (wait * 2).min(WATCH_BACKOFF_LIMIT);
        Some(wait)
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.0 = WATCH_BACKOFF_FIRST;
    }
}

fn controller(client: &Client, served: Served) -> Controller<ModelService> {
    let config = watcher::Config::default();
    let controller = Controller::new(Api::<ModelService>::all(client.clone()), config.clone())
        .with_config(
            kube::runtime::controller::Config::default()
                .debounce(DEBOUNCE)
                .concurrency(CONCURRENCY),
        );
    let store = controller.store();
    let mut controller = controller
        .trigger_backoff(WatchBackoff(WATCH_BACKOFF_FIRST))
        .owns(Api::<Deployment>::all(client.clone()), config.clone())
        .owns(metadata::<Service>(client), config.clone())
        .owns(metadata::<ServiceAccount>(client), config.clone())
        .owns(metadata::<RoleBinding>(client), config.clone())
        .owns(metadata::<ConfigMap>(client), config.clone())
        .watches(metadata::<ModelService>(client), config.clone(), {
            let store = store.clone();
            move |changed| neighbours(&store, &changed)
        })
        .watches(metadata::<ConfigMap>(client), config.clone(), {
            let store = store.clone();
            move |map| users_of_base_config(&store, &map)
        });
    if served.http_route {
        controller = controller
            .owns(Api::<HTTPRoute>::all(client.clone()), config.clone())
            .watches(Api::<Gateway>::all(client.clone()), config.clone(), {
                let store = store.clone();
                move |gateway| users_of_gateway(&store, &gateway)
            });
    }
    if served.envoy_filter {
        controller = controller.owns(metadata::<EnvoyFilter>(client), config.clone());
    }
    match served.inference_pool {
        Some(PoolVersion::V1) => controller.owns(metadata::<InferencePool>(client), config.clone()),
        Some(PoolVersion::V1Alpha2) => {
            controller.owns(metadata::<InferencePoolAlpha>(client), config.clone())
        }
        None => controller,
    }
}

/// Only names, labels and owners of objects travel and stay in memory.
fn metadata<K>(client: &Client) -> Api<PartialObjectMeta<K>>
where
    K: Resource<DynamicType = ()>,
{
    Api::all(client.clone())
}

fn users_of_base_config(
    store: &Store<ModelService>,
    map: &PartialObjectMeta<ConfigMap>,
) -> Vec<ObjectRef<ModelService>> {
    let (namespace, name) = (map.namespace(), map.name_any());
    refs(store, |ms| {
        ms.spec
            .base_config_map_ref
            .as_ref()
            .is_some_and(|reference| {
                let own = ms.namespace();
                let wanted = reference
                    .namespace
                    .clone()
                    .filter(|n| !n.is_empty())
                    .or(own);
                reference.name.as_deref() == Some(name.as_str()) && wanted == namespace
            })
    })
}

/// Those to whom a change of one ModelService matters.
fn neighbours(
    store: &Store<ModelService>,
    changed: &PartialObjectMeta<ModelService>,
) -> Vec<ObjectRef<ModelService>> {
    let key = ObjectRef::new(&changed.name_any()).within(&changed.namespace().unwrap_or_default());
    let Some(own) = store.get(&key) else {
        return Vec::new();
    };
    refs(store, |ms| {
        ObjectRef::from_obj(ms) != key && concern_each_other(&own, ms)
    })
}

fn users_of_gateway(
    store: &Store<ModelService>,
    gateway: &Gateway,
) -> Vec<ObjectRef<ModelService>> {
    let (namespace, name) = (gateway.namespace(), gateway.name_any());
    refs(store, |ms| {
        ms.spec.routing.gateway_refs.iter().any(|reference| {
            reference.name == name
                && reference.namespace.clone().or_else(|| ms.namespace()) == namespace
        })
    })
}

fn refs(
    store: &Store<ModelService>,
    concerns: impl Fn(&ModelService) -> bool,
) -> Vec<ObjectRef<ModelService>> {
    store
        .state()
        .iter()
        .filter(|ms| concerns(ms))
        .map(|ms| ObjectRef::from_obj(ms.as_ref()))
        .collect()
}

/// A counter that moves whenever a CRD appears, changes or goes.
fn watch_crds(client: Client, shutdown: &Shutdown) -> watch::Receiver<u64> {
    let (sender, receiver) = watch::channel(0);
    let stop = shutdown.clone();
    shutdown.spawn("CRD watch", async move {
        let api = Api::<PartialObjectMeta<CustomResourceDefinition>>::all(client);
        let stream = watcher(api, watcher::Config::default())
            .default_backoff()
            .touched_objects();
        let mut stream = std::pin::pin!(stream);
        loop {
            tokio::select! {
                () = stop.requested() => return Ok(()),
                item = stream.next() => match item {
                    Some(Ok(_)) => sender.send_modify(|count| *count += 1),
                    Some(Err(error)) => tracing::debug!(%error, "CRD watch"),
                    None => return Ok(()),
                },
            }
        }
    });
    receiver
}

/// Resolves at shutdown, or when the API server serves something else than before.
async fn until_served_changes(
    client: Client,
    before: Served,
    mut changes: watch::Receiver<u64>,
    shutdown: Shutdown,
) {
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            changed = changes.changed() => {
                if changed.is_err() {
                    return shutdown.requested().await;
                }
            }
        }
        // A new CRD is served a moment after it is written; several often come together.
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
        changes.borrow_and_update();
        match served::discover(&client).await {
            Ok(now) if now != before => return,
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "discovery after a CRD change"),
        }
    }
}

/// Asks until the API server answers.
async fn discover(client: &Client, shutdown: &Shutdown) -> anyhow::Result<Served> {
    let mut delay = Duration::from_millis(500);
    loop {
        match served::discover(client).await {
            Ok(served) => return Ok(served),
            Err(error) if shutdown.begun() => return Err(error.into()),
            Err(error) => tracing::warn!(
                error = error.to_string(),
                "the API server does not answer; trying again"
            ),
        }
        tokio::select! {
            () = tokio::time::sleep(delay) => delay = (delay * 2).min(Duration::from_secs(15)),
            () = shutdown.requested() => anyhow::bail!("asked to stop before the API server answered"),
        }
    }
}
