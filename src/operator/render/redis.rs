//! Facts -> the Redis of a namespace: Secret, Deployment, Service and NetworkPolicy, shared by the
//! ModelServices there. PURE.
//!
//! It is a cache of a cache: no persistence, bounded memory, evicting. Serving never
//! waits for it.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{
    Container, LocalObjectReference, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, Service,
    ServiceSpec, TCPSocketAction,
};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::ObjectMeta;

use super::child;
use super::secrets::generated;
use crate::contract;
use crate::operator::builtin;
use crate::operator::children::{Child, ChildKey, Object, Ownership};
use crate::operator::facts::{Facts, OurRedis};
use crate::operator::resolved::REDIS_PASSWORD_KEY;

const MAX_MEMORY: &str = "256mb";
const MEMORY_LIMIT: &str = "384Mi";

/// The four objects; none where the EPP uses no Redis or somebody else's.
pub(super) fn redis(facts: &Facts) -> Vec<Child> {
    let Some(redis) = facts.redis.ours() else {
        return Vec::new();
    };
    let shared = |key, object| child(key, object, Ownership::Shared);
    vec![
        shared(ChildKey::RedisSecret, secret(facts, redis)),
        shared(ChildKey::RedisNetworkPolicy, network_policy(facts, redis)),
        shared(ChildKey::RedisDeployment, deployment(facts, redis)),
        shared(ChildKey::RedisService, service(facts, redis)),
    ]
}

fn selector() -> BTreeMap<String, String> {
    BTreeMap::from([(
        "app.kubernetes.io/name".to_owned(),
        contract::REDIS_NAME.to_owned(),
    )])
}

fn named(facts: &Facts) -> ObjectMeta {
    let mut labels = selector();
    labels.insert(
        contract::LABEL_MANAGED_BY.to_owned(),
        contract::MANAGER.to_owned(),
    );
    ObjectMeta {
        labels: Some(labels),
        ..facts.identity.meta(contract::REDIS_NAME.to_owned())
    }
}

fn secret(facts: &Facts, redis: &OurRedis) -> Object {
    generated(named(facts), REDIS_PASSWORD_KEY, &redis.password)
}

fn service(facts: &Facts, redis: &OurRedis) -> Object {
    Object::Service(Box::new(Service {
        metadata: named(facts),
        spec: Some(ServiceSpec {
            ports: Some(vec![builtin::service_port("redis", redis.port)]),
            selector: Some(selector()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }))
}

fn deployment(facts: &Facts, redis: &OurRedis) -> Object {
    let labels = Some(selector());
    Object::Deployment(Box::new(Deployment {
        metadata: named(facts),
        spec: DeploymentSpec {
            replicas: Some(1),
            selector: LabelSelector {
                match_labels: labels.clone(),
                ..LabelSelector::default()
            },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels,
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(facts, redis)),
            },
            ..DeploymentSpec::default()
        },
        ..Deployment::default()
    }))
}

fn pod(facts: &Facts, redis: &OurRedis) -> PodSpec {
    let args = [
        "--port",
        &redis.port.to_string(),
        // The password comes from the Secret when the container starts.
        "--requirepass",
        "$(REDIS_PASSWORD)",
        "--maxmemory",
        MAX_MEMORY,
        "--maxmemory-policy",
        "allkeys-lru",
        "--save",
        "",
        "--appendonly",
        "no",
        "--protected-mode",
        "no",
    ];
    let probe = |period_seconds| Probe {
        tcp_socket: Some(TCPSocketAction {
            port: IntOrString::Int(i32::from(redis.port)),
            host: None,
        }),
        period_seconds: Some(period_seconds),
        ..Probe::default()
    };
    let pull_secrets: Vec<LocalObjectReference> = facts
        .settings
        .epp_pull_secrets
        .iter()
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    PodSpec {
        image_pull_secrets: (!pull_secrets.is_empty()).then_some(pull_secrets),
        automount_service_account_token: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_user: facts.fixed_user(),
            ..builtin::restricted_pod()
        }),
        containers: vec![Container {
            name: "redis".to_owned(),
            image: Some(redis.image.clone()),
            args: Some(args.map(str::to_owned).to_vec()),
            env: Some(vec![builtin::secret_var(
                "REDIS_PASSWORD",
                contract::REDIS_NAME,
                REDIS_PASSWORD_KEY,
            )]),
            ports: Some(vec![builtin::port("redis", redis.port)]),
            readiness_probe: Some(probe(2)),
            liveness_probe: Some(probe(10)),
            resources: Some(builtin::resources(
                &[("cpu", "50m"), ("memory", "64Mi")],
                MEMORY_LIMIT,
            )),
            security_context: Some(builtin::restricted()),
            ..Container::default()
        }],
        ..PodSpec::default()
    }
}

/// Only EPPs of this namespace may connect.
fn network_policy(facts: &Facts, redis: &OurRedis) -> Object {
    let epps = LabelSelector {
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: contract::LABEL_EPP.to_owned(),
            operator: "Exists".to_owned(),
            values: None,
        }]),
        ..LabelSelector::default()
    };
    Object::NetworkPolicy(Box::new(NetworkPolicy {
        metadata: named(facts),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(selector()),
                ..LabelSelector::default()
            }),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(vec![NetworkPolicyPeer {
                    pod_selector: Some(epps),
                    ..NetworkPolicyPeer::default()
                }]),
                ports: Some(vec![NetworkPolicyPort {
                    port: Some(IntOrString::Int(i32::from(redis.port))),
                    protocol: Some("TCP".to_owned()),
                    ..NetworkPolicyPort::default()
                }]),
            }]),
            ..NetworkPolicySpec::default()
        }),
    }))
}
