//! Small pieces of Kubernetes objects, as the built-in bases and Redis are made of them. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::{
    Capabilities, ContainerPort, EnvVar, EnvVarSource, GRPCAction, HTTPGetAction,
    ObjectFieldSelector, PodSecurityContext, Probe, ResourceRequirements, SeccompProfile,
    SecretKeySelector, SecurityContext, ServicePort,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::contract;

/// An env entry with a literal value.
pub fn var(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    }
}

/// An env entry with a field of the pod.
pub fn field_var(name: &str, path: &str) -> EnvVar {
    let field_ref = ObjectFieldSelector {
        api_version: None,
        field_path: path.to_owned(),
    };
    let value_from = EnvVarSource {
        field_ref: Some(field_ref),
        ..EnvVarSource::default()
    };
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(value_from),
    }
}

/// An env entry with a key of a Secret.
pub fn secret_var(name: &str, secret: &str, key: &str) -> EnvVar {
    let selector = SecretKeySelector {
        name: secret.to_owned(),
        key: key.to_owned(),
        optional: None,
    };
    let value_from = EnvVarSource {
        secret_key_ref: Some(selector),
        ..EnvVarSource::default()
    };
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(value_from),
    }
}

/// A Service port to the container port of the same number.
pub fn service_port(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::Int(i32::from(number))),
        ..ServicePort::default()
    }
}

/// What the "restricted" pod security standard asks of a container.
pub fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

/// What the "restricted" pod security standard asks of a pod.
pub fn restricted_pod() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

/// The user of pods whose images have none. OpenShift gives each namespace users of its own and
/// refuses others.
pub const UNPRIVILEGED_USER: i64 = 65532;

/// The same for an engine: it compiles and caches, so its root file system stays writable.
pub(super) fn restricted_engine() -> SecurityContext {
    SecurityContext {
        read_only_root_filesystem: None,
        ..restricted()
    }
}

/// Requests, and a limit of memory. No limit of CPU: a throttled EPP or sidecar makes every
/// request late.
pub fn resources(requests: &[(&str, &str)], memory: &str) -> ResourceRequirements {
    let amounts = |pairs: &[(&str, &str)]| {
        let pair =
            |(name, amount): &(&str, &str)| ((*name).to_owned(), Quantity((*amount).to_owned()));
        Some(pairs.iter().map(pair).collect())
    };
    ResourceRequirements {
        requests: amounts(requests),
        limits: amounts(&[("memory", memory)]),
        ..ResourceRequirements::default()
    }
}

/// A named container port.
pub fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

/// Asks the engine or the sidecar, once in so many seconds.
pub(super) fn http_probe(
    port: u16,
    tls: bool,
    period_seconds: i32,
    failure_threshold: i32,
) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/health".to_owned()),
            port: IntOrString::Int(i32::from(port)),
            scheme: tls.then(|| "HTTPS".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

/// Asks the EPP, once in so many seconds.
pub(super) fn grpc_probe(period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        grpc: Some(GRPCAction {
            port: i32::from(contract::PORT_EPP_HEALTH),
            service: Some(contract::GRPC_EXT_PROC_SERVICE.to_owned()),
            ..GRPCAction::default()
        }),
        period_seconds: Some(period_seconds),
        failure_threshold: Some(failure_threshold),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}
