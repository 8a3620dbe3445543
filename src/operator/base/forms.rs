//! The YAML of a `*Deployment` value -> a Deployment, and the form it was written in. PURE.
//!
//! People write a whole Deployment, or only the keys they care about. A key that can stand in one
//! place of a Deployment only is put there; a key that nobody knows is told, with the nearest
//! known name.
#![deny(clippy::disallowed_methods)]

use serde_json::{Map, Value, json};

use crate::nearest::nearest;

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

/// Keys of a Deployment's spec.
const DEPLOYMENT_KEYS: &[&str] = &[
    "minReadySeconds",
    "paused",
    "progressDeadlineSeconds",
    "replicas",
    "revisionHistoryLimit",
    "strategy",
];
/// Keys of a pod's metadata.
const META_KEYS: &[&str] = &["annotations", "labels"];
/// Fields of a security context that only a pod has.
const POD_SECURITY_KEYS: &[&str] = &[
    "fsGroup",
    "fsGroupChangePolicy",
    "seLinuxChangePolicy",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "sysctls",
];
/// Keys of the object itself.
const OBJECT_KEYS: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];

/// How a `*Deployment` value was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// A whole Deployment: nothing is added that the user did not ask for.
    Full,
    /// A Deployment whose main container cannot run as it is written: what is missing comes
    /// from the built-in base.
    Partial,
    /// Keys of a pod or a container only: the rest comes from the built-in base.
    Short,
}

/// A value, put into shape.
pub(super) struct Shaped {
    /// A Deployment as YAML.
    pub(super) value: Value,
    /// Full or Short; whether a full one is partial, its containers tell.
    pub(super) form: Form,
    /// Keys that stand where no Deployment has them: the key, and what was made of it.
    pub(super) moved: Vec<(String, String)>,
}

/// Puts a value into the shape of a Deployment. `main` is the name of its main container.
pub(super) fn shape(value: Value, main: &str) -> Shaped {
    let whole = |value| Shaped {
        value,
        form: Form::Full,
        moved: Vec::new(),
    };
    let Value::Object(mut fields) = value else {
        return whole(value);
    };
    let is_short = |key: &String| {
        let lists = [DEPLOYMENT_KEYS, META_KEYS, POD_KEYS, CONTAINER_KEYS];
        lists.iter().any(|keys| keys.contains(&key.as_str()))
    };
    let known = fields.keys().any(is_short);
    // `metadata` alone names a bare child; beside other keys it is one of them.
    let full = fields.keys().any(|key| match key.as_str() {
        "spec" | "apiVersion" | "kind" => true,
        "metadata" => !known,
        _ => false,
    });
    let mut moved = Vec::new();
    for key in fields.keys() {
        if OBJECT_KEYS.contains(&key.as_str()) || is_short(key) {
            continue;
        }
        let all = [
            DEPLOYMENT_KEYS,
            META_KEYS,
            POD_KEYS,
            CONTAINER_KEYS,
            OBJECT_KEYS,
        ]
        .concat();
        let near =
            nearest(key, all).map_or_else(String::new, |near| format!("; did you mean {near}?"));
        moved.push((
            key.clone(),
            format!("is not a key here and was dropped{near}"),
        ));
    }
    fields.retain(|key, _| OBJECT_KEYS.contains(&key.as_str()) || is_short(key));
    lift_pod_spec(&mut fields, &mut moved);
    let mut short: Vec<String> = fields.keys().filter(|key| is_short(key)).cloned().collect();
    // Containers first: keys of the main container overlay what it says there.
    short.sort_by_key(|key| CONTAINER_KEYS.contains(&key.as_str()));
    for key in short {
        let Some(field) = fields.remove(&key) else {
            continue;
        };
        let place = put(&mut fields, &key, field, main);
        if full {
            moved.push((key, format!("stands beside spec: it was read as {place}")));
        }
    }
    Shaped {
        value: Value::Object(fields),
        form: if known && !full {
            Form::Short
        } else {
            Form::Full
        },
        moved,
    }
}

/// `spec.containers` is a pod's spec in the place of a Deployment's.
fn lift_pod_spec(fields: &mut Map<String, Value>, moved: &mut Vec<(String, String)>) {
    let Some(Value::Object(spec)) = fields.get_mut("spec") else {
        return;
    };
    let of_pod: Vec<String> = spec
        .keys()
        .filter(|key| POD_KEYS.contains(&key.as_str()))
        .cloned()
        .collect();
    for key in of_pod {
        let Some(field) = spec.remove(&key) else {
            continue;
        };
        let pod = below(below(spec, "template"), "spec");
        pod.entry(key.clone()).or_insert(field);
        let text =
            format!("was read as spec.template.spec.{key}: a Deployment's spec has no pod keys");
        moved.push((format!("spec.{key}"), text));
    }
}

/// Puts a key of the shorthand where a Deployment has it, unless something is there; returns the
/// path.
fn put(fields: &mut Map<String, Value>, key: &str, field: Value, main: &str) -> String {
    let spec = below(fields, "spec");
    if DEPLOYMENT_KEYS.contains(&key) {
        spec.entry(key).or_insert(field);
        return format!("spec.{key}");
    }
    let template = below(spec, "template");
    if META_KEYS.contains(&key) {
        let existing = below(below(template, "metadata"), key);
        if let Value::Object(entries) = field {
            for (name, value) in entries {
                existing.entry(name).or_insert(value);
            }
        }
        return format!("spec.template.metadata.{key}");
    }
    let pod = below(template, "spec");
    let of_pod = key == "securityContext"
        && field.as_object().is_some_and(|context| {
            let mut names = context.keys();
            names.any(|name| POD_SECURITY_KEYS.contains(&name.as_str()))
        });
    if POD_KEYS.contains(&key) || of_pod {
        match (pod.get_mut(key), field) {
            // Containers made for keys that came before.
            (Some(Value::Array(existing)), Value::Array(items)) => existing.extend(items),
            (Some(_), _) => {}
            (None, field) => {
                pod.insert(key.to_owned(), field);
            }
        }
        return format!("spec.template.spec.{key}");
    }
    let containers = pod
        .entry("containers")
        .or_insert_with(|| json!([]))
        .as_array_mut();
    if let Some(containers) = containers {
        let named = |container: &Value| container.get("name").and_then(Value::as_str) == Some(main);
        let index = containers.iter().position(named).unwrap_or_else(|| {
            containers.push(json!({"name": main}));
            containers.len() - 1
        });
        if let Some(container) = containers[index].as_object_mut() {
            // At the top of the value it overlays what the container says.
            container.insert(key.to_owned(), field);
        }
    }
    format!("{key} of the container {main}")
}

/// The object under a key, made where it is absent or something else.
fn below<'a>(fields: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = fields.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("it was just made one")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shaped(text: &str) -> Shaped {
        shape(serde_yaml::from_str(text).unwrap(), "vllm")
    }

    #[test]
    fn keys_of_every_level_find_their_place() {
        let out = shaped(
            "strategy: {type: Recreate}\nannotations: {a: b}\nlabels: {c: d}\n\
             terminationGracePeriodSeconds: 600\nenv: [{name: X, value: y}]\n\
             containers: [{name: vllm, image: i}, {name: other}]\n",
        );
        assert_eq!(out.form, Form::Short);
        assert!(out.moved.is_empty());
        let spec = &out.value["spec"];
        assert_eq!(spec["strategy"]["type"], "Recreate");
        assert_eq!(spec["template"]["metadata"]["annotations"]["a"], "b");
        assert_eq!(spec["template"]["metadata"]["labels"]["c"], "d");
        let pod = &spec["template"]["spec"];
        assert_eq!(pod["terminationGracePeriodSeconds"], 600);
        let containers = pod["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 2, "{containers:?}");
        assert_eq!(containers[0]["image"], "i");
        assert_eq!(containers[0]["env"][0]["name"], "X");
    }

    #[test]
    fn metadata_beside_containers_is_kept() {
        let out = shaped("metadata: {annotations: {a: b}}\ncontainers: [{name: vllm}]\n");
        assert_eq!(out.form, Form::Short);
        assert_eq!(out.value["metadata"]["annotations"]["a"], "b");
        assert_eq!(
            out.value["spec"]["template"]["spec"]["containers"][0]["name"],
            "vllm"
        );
        assert_eq!(shaped("metadata: {labels: {a: b}}").form, Form::Full);
    }

    #[test]
    fn a_security_context_goes_where_its_fields_can_stand() {
        let of_pod = shaped("securityContext: {fsGroup: 1}");
        let pod = &of_pod.value["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["fsGroup"], 1);
        let of_container = shaped("securityContext: {readOnlyRootFilesystem: true}");
        let pod = &of_container.value["spec"]["template"]["spec"];
        assert_eq!(
            pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"],
            true
        );
    }

    #[test]
    fn what_stands_in_the_wrong_place_is_moved_and_told() {
        let out = shaped("spec: {replicas: 2, containers: [{name: vllm}]}\nimage: x\nimge: y\n");
        assert_eq!(out.form, Form::Full);
        let pod = &out.value["spec"]["template"]["spec"];
        assert_eq!(pod["containers"][0]["name"], "vllm");
        assert_eq!(pod["containers"][0]["image"], "x");
        let told: Vec<_> = out.moved.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(told, ["imge", "spec.containers", "image"]);
        assert!(out.moved[0].1.contains("did you mean image?"));
    }
}
