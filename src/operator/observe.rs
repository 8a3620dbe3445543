//! Applied children -> what the status needs beyond them: why pods are not ready, what
//! the gateway says, whether an external Redis answers. IO, reads only.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};

use super::base::Place;
use super::children::{Applied, ChildKey, Children, Object, pods_of};
use super::error::Error;
use super::facts::{ExternalRedis, Facts, redacted, redis_url};
use super::resolved::Served;
use crate::api::ModelService;
use crate::api::foreign::{Gateway, HTTPRoute};

/// How long an external Redis may take to answer.
const REDIS_TIMEOUT: Duration = Duration::from_secs(2);
/// Opens the part of a message that differs from pod to pod and from moment to moment.
pub const POD_DETAIL: &str = " (pod ";
/// Pods looked at to explain one Deployment that is not ready.
const POD_SAMPLE: u32 = 50;

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Per Deployment that is not ready: its name and why, in words.
    pub unready: Vec<(String, String)>,
    /// The live Gateways of `routing.gatewayRefs` that exist.
    pub gateways: Vec<Gateway>,
    /// The live route, with what gateway controllers say about it.
    pub route: Option<HTTPRoute>,
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
    facts: &Facts,
    applied: &Children<Applied>,
) -> Result<Observed, Error> {
    let mut observed = Observed::default();
    for child in &applied.items {
        match &child.object {
            Object::Deployment(deployment) if !is_ready(deployment) => {
                let why = explain(client, facts, deployment).await?;
                observed.unready.push((deployment.name_any(), why));
            }
            Object::HttpRoute(route) => {
                observed.route = Some(route.as_ref().clone());
            }
            _ => {}
        }
    }
    if served.http_route {
        observed.gateways = gateways(client, ms).await?;
    }
    if let Some(redis) = facts.redis.external() {
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
async fn explain(client: &Client, facts: &Facts, deployment: &Deployment) -> Result<String, Error> {
    let namespace = deployment.namespace().unwrap_or_default();
    let pods_of = pods_of(deployment).unwrap_or_default();
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace)
        .list(
            &ListParams::default()
                .labels_from(&pods_of)
                .limit(POD_SAMPLE),
        )
        .await
        .map_err(|source| Error::Observe {
            what: "pods",
            source,
        })?;
    let name = deployment.name_any();
    let image_place = |container: &str| Some(facts.written(&name)?.sources.image(container));
    let reason = pods
        .items
        .iter()
        .find_map(|pod| pod_trouble(pod, &image_place));
    if let Some(reason) = reason {
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

/// What keeps one pod from being ready, if it is more than time: the trouble, then in
/// parentheses which pod says what about it. `image_place` tells who chose the image of a
/// container. PURE.
pub fn pod_trouble(pod: &Pod, image_place: &dyn Fn(&str) -> Option<Place>) -> Option<String> {
    let status = pod.status.as_ref()?;
    let name = pod.name_any();
    let containers = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    for container in containers {
        if let Some((trouble, detail)) = container_trouble(container, image_place) {
            let detail = format!("{POD_DETAIL}{name}: {detail})");
            return Some(format!("container {}: {trouble}{detail}", container.name));
        }
    }
    let unschedulable = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    })?;
    let message = unschedulable.message.clone().unwrap_or_default();
    Some(format!(
        "pods cannot be scheduled{POD_DETAIL}{name}: {message})"
    ))
}

/// The trouble of a container, and what the kubelet says about it at this moment.
fn container_trouble(
    container: &ContainerStatus,
    image_place: &dyn Fn(&str) -> Option<Place>,
) -> Option<(String, String)> {
    let state = container.state.as_ref()?;
    let exited = |code: i32| format!("exits with code {code}");
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.clone().unwrap_or_default();
        let message = waiting.message.clone().unwrap_or_default();
        let detail = format!("{reason} {message}").trim().to_owned();
        return match reason.as_str() {
            "" | "ContainerCreating" | "PodInitializing" => None,
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" => {
                let place = image_place(&container.name).map_or_else(String::new, |place| {
                    format!(", from {place}{}", place.line_note())
                });
                let image = &container.image;
                Some((format!("image {image:?}{place}, cannot be pulled"), detail))
            }
            "CrashLoopBackOff" => {
                let last = container.last_state.as_ref();
                let ended = last.and_then(|state| state.terminated.as_ref());
                let trouble = ended.map_or(reason, |ended| exited(ended.exit_code));
                Some((trouble, detail))
            }
            _ => Some((reason, detail)),
        };
    }
    let terminated = state.terminated.as_ref()?;
    let detail = terminated.reason.clone().unwrap_or_default();
    (terminated.exit_code != 0).then(|| (exited(terminated.exit_code), detail))
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
    redis: &ExternalRedis,
) -> Result<String, String> {
    let url = redis_url(&redis.address);
    let mut info: redis::ConnectionInfo = redis::IntoConnectionInfo::into_connection_info(url)
        .map_err(|error| format!("{} is not a Redis address: {error}", named(redis)))?;
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
    let named = named(redis);
    match tokio::time::timeout(REDIS_TIMEOUT, attempt).await {
        Ok(Ok(_pong)) => Ok(format!("Redis at {} answers", redacted(&redis.address))),
        Ok(Err(error)) => Err(format!("{named}: {error}")),
        Err(_elapsed) => Err(format!(
            "{named} did not answer within {} s",
            REDIS_TIMEOUT.as_secs()
        )),
    }
}

/// Which Redis, and where it was named; never its password.
fn named(redis: &ExternalRedis) -> String {
    format!(
        "Redis at {} ({}, env {}{})",
        redacted(&redis.address),
        redis.place,
        redis.env,
        redis.place.line_note()
    )
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(container: &serde_json::Value) -> Pod {
        let mut status = container.clone();
        status["name"] = json!("vllm");
        status["image"] = json!("x:1");
        for (field, value) in [
            ("imageID", json!("")),
            ("ready", json!(false)),
            ("restartCount", json!(0)),
        ] {
            status[field] = value;
        }
        serde_json::from_value(json!({
            "metadata": {"name": "d-1"},
            "status": {"containerStatuses": [status]},
        }))
        .unwrap()
    }

    #[test]
    fn an_image_that_cannot_be_pulled_names_who_chose_it() {
        let place = Place::Base {
            object: "ConfigMap ns/b".to_owned(),
            key: "decodeDeployment",
            line: Some(9),
        };
        let waiting =
            json!({"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}});
        assert_eq!(
            pod_trouble(&pod(&waiting), &|_| Some(place.clone())).unwrap(),
            "container vllm: image \"x:1\", from ConfigMap ns/b: decodeDeployment (line 9), \
             cannot be pulled (pod d-1: ErrImagePull not found)"
        );
    }

    #[test]
    fn a_crash_reads_the_same_while_the_kubelet_waits() {
        let crashed = json!({"exitCode": 3, "reason": "Error"});
        let now = json!({"state": {"terminated": crashed}});
        let later = json!({
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
            "lastState": {"terminated": crashed},
        });
        for status in [now, later] {
            let trouble = pod_trouble(&pod(&status), &|_| None).unwrap();
            assert!(
                trouble.starts_with("container vllm: exits with code 3 (pod d-1: "),
                "{trouble}"
            );
        }
    }

    #[test]
    fn an_external_redis_is_named_without_its_password() {
        let redis = ExternalRedis {
            env: "KVCACHE_INDEXER_REDIS_ADDR",
            place: Place::Base {
                object: "ConfigMap ns/b".to_owned(),
                key: "eppDeployment",
                line: Some(4),
            },
            address: "redis://:secret@r:1".to_owned(),
            password: None,
        };
        assert_eq!(
            named(&redis),
            "Redis at redis://***@r:1 (ConfigMap ns/b: eppDeployment, env KVCACHE_INDEXER_REDIS_ADDR (line 4))"
        );
        assert!(!format!("{redis:?}").contains("secret"));
    }

    #[test]
    fn an_address_with_tls_can_be_asked() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        assert!(redis::Client::open("rediss://:pw@example.com:6380").is_ok());
    }
}
