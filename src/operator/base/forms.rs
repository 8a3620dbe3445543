//! The YAML of a `*Deployment` value -> a Deployment, and the form it was written in. PURE.
#![deny(clippy::disallowed_methods)]

use serde_json::{Map, Value, json};

/// Keys of a container; at the top of a `*Deployment` value they mean the main container.
const CONTAINER_KEYS: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resources",
    "securityContext",
    "startupProbe",
    "volumeMounts",
    "workingDir",
];
/// Keys of a pod spec; at the top of a `*Deployment` value they mean `spec.template.spec`.
const POD_KEYS: &[&str] = &[
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostname",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "runtimeClassName",
    "schedulerName",
    "shareProcessNamespace",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
];

/// `containers: …` or `env: …` at the top -> a Deployment; `None` when it is one already.
pub(super) fn expand_shorthand(value: &Value, main: &str) -> Option<Value> {
    let fields = value.as_object()?;
    let full = ["apiVersion", "kind", "metadata", "spec"]
        .iter()
        .any(|key| fields.contains_key(*key));
    let known = fields
        .keys()
        .any(|key| POD_KEYS.contains(&key.as_str()) || CONTAINER_KEYS.contains(&key.as_str()));
    if full || !known {
        return None;
    }
    let mut pod = Map::new();
    let mut overlay = Map::new();
    for (key, field) in fields {
        let target = if CONTAINER_KEYS.contains(&key.as_str()) {
            &mut overlay
        } else {
            &mut pod
        };
        target.insert(key.clone(), field.clone());
    }
    if !overlay.is_empty() {
        let containers = pod
            .entry("containers")
            .or_insert_with(|| json!([]))
            .as_array_mut()?;
        let index = containers
            .iter()
            .position(|container| container.get("name").and_then(Value::as_str) == Some(main))
            .unwrap_or_else(|| {
                containers.push(json!({"name": main}));
                containers.len() - 1
            });
        containers[index].as_object_mut()?.extend(overlay);
    }
    Some(json!({"spec": {"template": {"spec": pod}}}))
}
