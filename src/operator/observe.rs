//! Applied children -> what the status needs beyond them: why pods are not ready, what
//! the gateway says, whether an external Redis answers. IO, reads only.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use super::children::{Applied, ChildKey, Children, Object};
use super::error::Error;
use super::plan::Plan;
use super::resolved::Served;
use crate::api::ModelService;
use crate::api::foreign::{Gateway, ParentStatus};

/// How long an external Redis may take to answer.
const REDIS_TIMEOUT: Duration = Duration::from_secs(2);
/// Pods looked at to explain one Deployment that is not ready.
const POD_SAMPLE: u32 = 50;

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Per Deployment that is not ready: its name and why, in words.
    pub unready: Vec<(String, String)>,
    /// The live Gateways of `routing.gatewayRefs` that exist.
    pub gateways: Vec<Gateway>,
    /// What gateway controllers say about the live route.
    pub route_parents: Vec<ParentStatus>,
    /// Whether an external Redis answers; `None` when there is none to ask.
    pub redis: Option<Result<String, String>>,
}

/// Looks at the cluster after an apply.
///
/// # Errors
/// When the API server fails.
pub async fn observe(
    client: &Client,
    served: Served,
    ms: &ModelService,
    plan: &Plan,
    applied: &Children<Applied>,
) -> Result<Observed, Error> {
    let mut observed = Observed::default();
    for child in &applied.items {
        match &child.object {
            Object::Deployment(deployment) if !is_ready(deployment) => {
                let why = explain(client, deployment).await?;
                observed.unready.push((deployment.name_any(), why));
            }
            Object::HttpRoute(route) => {
                observed.route_parents = route
                    .status
                    .as_ref()
                    .map(|status| status.parents.clone())
                    .unwrap_or_default();
            }
            _ => {}
        }
    }
    if served.http_route {
        observed.gateways = gateways(client, ms).await?;
    }
    if let Some(redis) = &plan.external_redis {
        observed.redis = Some(ask_redis(client, ms, redis).await);
    }
    Ok(observed)
}

/// A Deployment is ready when its controller has seen the last change and every wanted
/// pod runs the newest template and is available.
pub fn is_ready(deployment: &Deployment) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let Some(status) = &deployment.status else {
        return false;
    };
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) >= wanted
        && status.available_replicas.unwrap_or(0) >= wanted
        && status.replicas.unwrap_or(0) <= wanted.max(status.updated_replicas.unwrap_or(0))
}

/// Why the pods of a Deployment are not ready: the first reason any of them gives.
async fn explain(client: &Client, deployment: &Deployment) -> Result<String, Error> {
    let namespace = deployment.namespace().unwrap_or_default();
    let selector = deployment
        .spec
        .selector
        .match_labels
        .as_ref()
        .map(|labels| {
            labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join(",")
        })
        .unwrap_or_default();
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace)
        .list(&ListParams::default().labels(&selector).limit(POD_SAMPLE))
        .await
        .map_err(|source| Error::Observe {
            what: "pods",
            source,
        })?;
    if let Some(reason) = pods.items.iter().find_map(pod_trouble) {
        return Ok(reason);
    }
    let failure = deployment
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .into_iter()
        .flatten()
        .find(|condition| {
            condition.type_.as_deref() == Some("ReplicaFailure")
                && condition.status.as_deref() == Some("True")
        });
    Ok(failure
        .and_then(|condition| condition.message.clone())
        .unwrap_or_default())
}

/// What keeps one pod from being ready, if it is more than time. PURE.
pub fn pod_trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let name = pod.name_any();
    let containers = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    for container in containers {
        if let Some(trouble) = container_trouble(container) {
            return Some(format!(
                "pod {name}, container {}: {trouble}",
                container.name
            ));
        }
    }
    let unschedulable = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    })?;
    let message = unschedulable.message.clone().unwrap_or_default();
    Some(format!("pod {name} cannot be scheduled: {message}"))
}

fn container_trouble(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.clone().unwrap_or_default();
        if matches!(
            reason.as_str(),
            "" | "ContainerCreating" | "PodInitializing"
        ) {
            return None;
        }
        let message = waiting.message.clone().unwrap_or_default();
        return Some(format!("{reason} {message}").trim().to_owned());
    }
    let terminated = state.terminated.as_ref()?;
    (terminated.exit_code != 0).then(|| format!("exited with code {}", terminated.exit_code))
}

async fn gateways(client: &Client, ms: &ModelService) -> Result<Vec<Gateway>, Error> {
    let own_namespace = ms.namespace().unwrap_or_default();
    let mut found = Vec::new();
    for reference in &ms.spec.routing.gateway_refs {
        let namespace = reference.namespace.as_deref().unwrap_or(&own_namespace);
        let gateway = Api::<Gateway>::namespaced(client.clone(), namespace)
            .get_opt(&reference.name)
            .await
            .map_err(|source| Error::Observe {
                what: "gateways",
                source,
            })?;
        found.extend(gateway);
    }
    Ok(found)
}

/// Asks an external Redis for a PONG; the error is in words.
async fn ask_redis(
    client: &Client,
    ms: &ModelService,
    redis: &super::plan::ExternalRedis,
) -> Result<String, String> {
    let address = &redis.address;
    let url = if address.contains("://") {
        address.clone()
    } else {
        format!("redis://{address}")
    };
    let mut info: redis::ConnectionInfo = redis::IntoConnectionInfo::into_connection_info(url)
        .map_err(|error| format!("{} is not a Redis address: {error}", redis.env))?;
    if let Some((secret, key)) = &redis.password {
        let namespace = ms.namespace().unwrap_or_default();
        let password = read_password(client, &namespace, secret, key).await?;
        let settings = info.redis_settings().clone().set_password(password);
        info = info.set_redis_settings(settings);
    }
    let attempt = async {
        let client = redis::Client::open(info)?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("PING")
            .query_async::<String>(&mut connection)
            .await
    };
    match tokio::time::timeout(REDIS_TIMEOUT, attempt).await {
        Ok(Ok(_pong)) => Ok(format!("Redis at {address} answers")),
        Ok(Err(error)) => Err(format!("Redis at {address} ({}): {error}", redis.env)),
        Err(_elapsed) => Err(format!(
            "Redis at {address} ({}) did not answer within {} s",
            redis.env,
            REDIS_TIMEOUT.as_secs()
        )),
    }
}

async fn read_password(
    client: &Client,
    namespace: &str,
    secret: &str,
    key: &str,
) -> Result<String, String> {
    let found = Api::<k8s_openapi::api::core::v1::Secret>::namespaced(client.clone(), namespace)
        .get_opt(secret)
        .await
        .map_err(|error| format!("read Secret {namespace}/{secret}: {error}"))?;
    found
        .and_then(|secret| secret.data)
        .and_then(|mut data| data.remove(key))
        .and_then(|bytes| String::from_utf8(bytes.0).ok())
        .ok_or_else(|| format!("Secret {namespace}/{secret} has no key {key}"))
}

/// True when a child of that purpose is among the applied.
pub fn has(applied: &Children<Applied>, key: ChildKey) -> bool {
    applied.get(key).is_some()
}
