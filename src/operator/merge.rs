//! Base object + what the ModelService says -> merged object. PURE.
//!
//! The rules are the Go operator's, so that its base configs render the same, with
//! its defects mended: an env entry of the ModelService replaces the whole entry of that
//! name, volumes are unique by name (the base's wins), accelerator labels are ANDed into
//! existing node affinity, and `replicas: 0` means 0. Args of the ModelService come
//! BEFORE the base's: the positional model name has to follow `vllm serve`.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{
    Affinity, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, NodeAffinity, NodeSelector,
    NodeSelectorRequirement, NodeSelectorTerm, PersistentVolumeClaimVolumeSource, PodSpec,
    ResourceRequirements, SecretKeySelector, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::artifacts::Artifacts;
use crate::api::modelservice::{AcceleratorTypes, ContainerSpec};

/// Where the model's volume is mounted.
pub const MODEL_MOUNT_PATH: &str = "/model-cache";
/// Name of the model's volume.
pub const MODEL_VOLUME: &str = "model-storage";

/// The pod spec of a Deployment, made where it is absent.
pub fn pod_spec(deployment: &mut Deployment) -> &mut PodSpec {
    deployment.spec.template.spec.get_or_insert_default()
}

/// Names the Deployment and puts the labels in all three places that must agree; the
/// base's own labels stay.
pub fn identity(
    deployment: &mut Deployment,
    name: &str,
    namespace: Option<&str>,
    labels: &BTreeMap<String, String>,
) {
    deployment.metadata.name = Some(name.to_owned());
    deployment.metadata.namespace = namespace.map(str::to_owned);
    let add = |target: &mut Option<BTreeMap<String, String>>| {
        target.get_or_insert_default().extend(labels.clone());
    };
    add(&mut deployment.metadata.labels);
    let spec: &mut DeploymentSpec = &mut deployment.spec;
    add(&mut spec.selector.match_labels);
    let template: &mut ObjectMeta = spec.template.metadata.get_or_insert_default();
    add(&mut template.labels);
}

/// Lays a section of a ModelService over a base: replicas where it gives them, containers and
/// init containers by name.
pub fn section(
    deployment: &mut Deployment,
    replicas: Option<i32>,
    containers: &[ContainerSpec],
    init_containers: &[ContainerSpec],
    artifacts: Option<&Artifacts>,
) {
    if let Some(replicas) = replicas {
        deployment.spec.replicas = Some(replicas);
    }
    let pod = pod_spec(deployment);
    self::containers(&mut pod.containers, containers, artifacts);
    if !init_containers.is_empty() {
        let init = pod.init_containers.get_or_insert_default();
        self::containers(init, init_containers, artifacts);
    }
}

/// Overlays containers by name: the base's order, then new ones in theirs. Of several with
/// one name in the overlay the last counts, as in the Go operator.
fn containers(base: &mut Vec<Container>, overlay: &[ContainerSpec], artifacts: Option<&Artifacts>) {
    for (index, spec) in overlay.iter().enumerate() {
        if overlay[index + 1..]
            .iter()
            .any(|later| later.name == spec.name)
        {
            continue;
        }
        let right = from_spec(spec, artifacts);
        let mut matched = false;
        for left in base.iter_mut().filter(|left| left.name == right.name) {
            container(left, right.clone());
            matched = true;
        }
        if !matched {
            base.push(right);
        }
    }
}

/// A ModelService's container as a Kubernetes one, with the model's volume if asked for.
fn from_spec(spec: &ContainerSpec, artifacts: Option<&Artifacts>) -> Container {
    let mut container = Container {
        name: spec.name.clone(),
        image: spec.image.clone(),
        command: spec.command.clone().filter(|command| !command.is_empty()),
        args: spec.args.clone().filter(|args| !args.is_empty()),
        env: spec.env.clone().filter(|env| !env.is_empty()),
        env_from: spec.env_from.clone().filter(|sources| !sources.is_empty()),
        resources: spec.resources.clone(),
        ..Container::default()
    };
    if let Some(artifacts) = artifacts
        && spec.mount_model_volume == Some(true)
    {
        container.volume_mounts = Some(vec![VolumeMount {
            name: MODEL_VOLUME.to_owned(),
            mount_path: MODEL_MOUNT_PATH.to_owned(),
            read_only: artifacts.read_only().then_some(true),
            ..VolumeMount::default()
        }]);
        if matches!(artifacts, Artifacts::HuggingFace { .. }) {
            let env = container.env.get_or_insert_default();
            for entry in model_env(artifacts) {
                // What the user wrote wins.
                if !env.iter().any(|existing| existing.name == entry.name) {
                    env.push(entry);
                }
            }
        }
    }
    container
}

/// What a Hugging Face download needs.
fn model_env(artifacts: &Artifacts) -> Vec<EnvVar> {
    let mut env = Vec::new();
    if let Artifacts::HuggingFace {
        secret: Some(secret),
        ..
    } = artifacts
    {
        env.push(EnvVar {
            name: "HF_TOKEN".to_owned(),
            value: None,
            value_from: Some(EnvVarSource {
                secret_key_ref: Some(SecretKeySelector {
                    name: secret.clone(),
                    key: "HF_TOKEN".to_owned(),
                    optional: None,
                }),
                ..EnvVarSource::default()
            }),
        });
    }
    env.push(EnvVar {
        name: "HF_HOME".to_owned(),
        value: Some(MODEL_MOUNT_PATH.to_owned()),
        value_from: None,
    });
    env
}

/// Overlays one container: see the module's rules.
pub fn container(left: &mut Container, right: Container) {
    if right
        .image
        .as_deref()
        .is_some_and(|image| !image.is_empty())
    {
        left.image = right.image;
    }
    if right.command.is_some() {
        left.command = right.command;
    }
    if let Some(mut args) = right.args {
        args.extend(left.args.take().unwrap_or_default());
        left.args = Some(args);
    }
    if let Some(entries) = right.env {
        env(left.env.get_or_insert_default(), entries);
    }
    if let Some(sources) = right.env_from {
        left.env_from.get_or_insert_default().extend(sources);
    }
    if let Some(mounts) = right.volume_mounts {
        let existing = left.volume_mounts.get_or_insert_default();
        for mount in mounts {
            if !existing
                .iter()
                .any(|other| other.mount_path == mount.mount_path)
            {
                existing.push(mount);
            }
        }
    }
    if let Some(right) = right.resources {
        resources(left.resources.get_or_insert_default(), right);
    }
}

/// By name: the base's order, then new names; an entry on the right replaces all of the
/// left entry, so that `value` and `valueFrom` never both remain.
pub fn env(left: &mut Vec<EnvVar>, right: Vec<EnvVar>) {
    for entry in right {
        match left.iter_mut().find(|existing| existing.name == entry.name) {
            Some(existing) => *existing = entry,
            None => left.push(entry),
        }
    }
}

fn resources(left: &mut ResourceRequirements, right: ResourceRequirements) {
    // Kubernetes wants limit and request of an extended resource to be the same number: what the
    // right side says of one is said of both.
    let (mut limits, mut requests) = (right.limits, right.requests);
    let limited: BTreeMap<_, _> = extended(limits.as_ref());
    let requested: BTreeMap<_, _> = extended(requests.as_ref());
    for (name, amount) in &requested {
        if !limited.contains_key(name) {
            let limits = limits.get_or_insert_default();
            limits.insert(name.clone(), amount.clone());
        }
    }
    for (name, amount) in &limited {
        let was_requested = |left: &ResourceRequirements| {
            left.requests
                .as_ref()
                .is_some_and(|all| all.contains_key(name))
        };
        if !requested.contains_key(name) && was_requested(left) {
            let requests = requests.get_or_insert_default();
            requests.insert(name.clone(), amount.clone());
        }
    }
    if let Some(limits) = limits {
        left.limits.get_or_insert_default().extend(limits);
    }
    if let Some(requests) = requests {
        left.requests.get_or_insert_default().extend(requests);
    }
    if let Some(claims) = right.claims {
        left.claims.get_or_insert_default().extend(claims);
    }
}

/// Names of resources that devices and operators of nodes offer: with a domain, and not one of
/// Kubernetes' own.
pub fn is_extended(name: &str) -> bool {
    let domain = name.split_once('/').map(|(domain, _)| domain);
    domain.is_some_and(|domain| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

fn extended(amounts: Option<&BTreeMap<String, Quantity>>) -> BTreeMap<String, Quantity> {
    let amounts = amounts.into_iter().flatten();
    let amounts = amounts.filter(|(name, _)| is_extended(name));
    amounts
        .map(|(name, amount)| (name.clone(), amount.clone()))
        .collect()
}

/// Restricts the pods to nodes with one of the accelerators: the requirement is added to
/// every required term there is, since terms are alternatives.
pub fn accelerators(pod: &mut PodSpec, types: &AcceleratorTypes) {
    if types.label_key.is_empty() || types.label_values.is_empty() {
        return;
    }
    let requirement = NodeSelectorRequirement {
        key: types.label_key.clone(),
        operator: "In".to_owned(),
        values: Some(types.label_values.clone()),
    };
    let affinity: &mut Affinity = pod.affinity.get_or_insert_default();
    let node: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    let required: &mut NodeSelector = node
        .required_during_scheduling_ignored_during_execution
        .get_or_insert_default();
    if required.node_selector_terms.is_empty() {
        required
            .node_selector_terms
            .push(NodeSelectorTerm::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_expressions
            .get_or_insert_default()
            .push(requirement.clone());
    }
}

/// Adds the volume the model lives on, unless the base has one of that name.
pub fn model_volume(pod: &mut PodSpec, artifacts: &Artifacts) {
    let volumes = pod.volumes.get_or_insert_default();
    if volumes.iter().any(|volume| volume.name == MODEL_VOLUME) {
        return;
    }
    let mut volume = Volume {
        name: MODEL_VOLUME.to_owned(),
        ..Volume::default()
    };
    match artifacts {
        Artifacts::HuggingFace { size, .. } => {
            volume.empty_dir = Some(EmptyDirVolumeSource {
                size_limit: size.clone(),
                ..EmptyDirVolumeSource::default()
            });
        }
        Artifacts::Claim { claim, .. } => {
            volume.persistent_volume_claim = Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim.clone(),
                read_only: Some(true),
            });
        }
    }
    volumes.push(volume);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn var(name: &str, value: &str) -> EnvVar {
        EnvVar {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            value_from: None,
        }
    }

    fn spec(name: &str) -> ContainerSpec {
        ContainerSpec {
            name: name.to_owned(),
            ..ContainerSpec::default()
        }
    }

    #[test]
    fn args_of_the_modelservice_come_first() {
        let mut base = vec![Container {
            name: "vllm".to_owned(),
            command: Some(vec!["vllm".to_owned(), "serve".to_owned()]),
            args: Some(vec!["--port".to_owned(), "8001".to_owned()]),
            ..Container::default()
        }];
        let overlay = ContainerSpec {
            args: Some(vec!["org/model".to_owned()]),
            ..spec("vllm")
        };
        containers(&mut base, &[overlay], None);
        assert_eq!(
            base[0].args.as_ref().unwrap(),
            &["org/model", "--port", "8001"]
        );
    }

    #[test]
    fn an_env_entry_replaces_the_whole_entry_of_that_name() {
        let from = EnvVar {
            name: "P".to_owned(),
            value: None,
            value_from: Some(EnvVarSource::default()),
        };
        let mut base = vec![from, var("S", "keep")];
        env(&mut base, vec![var("P", "new"), var("N", "1")]);
        assert_eq!(base, [var("P", "new"), var("S", "keep"), var("N", "1")]);
    }

    #[test]
    fn unknown_containers_are_appended_in_their_order() {
        let mut base = vec![Container {
            name: "vllm".to_owned(),
            ..Container::default()
        }];
        containers(
            &mut base,
            &[spec("extra"), spec("vllm"), spec("more")],
            None,
        );
        let names: Vec<_> = base.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["vllm", "extra", "more"]);
    }

    #[test]
    fn of_two_containers_with_one_name_the_last_counts() {
        let image = |image: &str| ContainerSpec {
            image: Some(image.to_owned()),
            args: Some(vec![image.to_owned()]),
            ..spec("vllm")
        };
        for mut base in [Vec::new(), vec![from_spec(&spec("vllm"), None)]] {
            containers(&mut base, &[image("first"), image("last")], None);
            assert_eq!(base.len(), 1);
            assert_eq!(base[0].image.as_deref(), Some("last"));
            assert_eq!(base[0].args.as_deref().unwrap(), ["last"]);
        }
    }

    #[test]
    fn accelerators_are_anded_into_what_the_base_requires() {
        let term = |key: &str| NodeSelectorTerm {
            match_expressions: Some(vec![NodeSelectorRequirement {
                key: key.to_owned(),
                operator: "Exists".to_owned(),
                values: None,
            }]),
            ..NodeSelectorTerm::default()
        };
        let mut pod = PodSpec::default();
        pod.affinity
            .get_or_insert_default()
            .node_affinity
            .get_or_insert_default()
            .required_during_scheduling_ignored_during_execution = Some(NodeSelector {
            node_selector_terms: vec![term("zone"), term("rack")],
        });
        let types = AcceleratorTypes {
            label_key: "gpu".to_owned(),
            label_values: vec!["A100".to_owned()],
        };
        accelerators(&mut pod, &types);
        let terms = pod
            .affinity
            .unwrap()
            .node_affinity
            .unwrap()
            .required_during_scheduling_ignored_during_execution
            .unwrap()
            .node_selector_terms;
        assert!(
            terms
                .iter()
                .all(|term| term.match_expressions.as_ref().unwrap().len() == 2)
        );
    }

    #[test]
    fn the_bases_own_model_volume_wins() {
        let own = Volume {
            name: MODEL_VOLUME.to_owned(),
            ..Volume::default()
        };
        let mut pod = PodSpec {
            volumes: Some(vec![own.clone()]),
            ..PodSpec::default()
        };
        model_volume(
            &mut pod,
            &Artifacts::Claim {
                claim: "c".to_owned(),
                path: "m".to_owned(),
            },
        );
        assert_eq!(pod.volumes.unwrap(), [own]);
    }

    #[test]
    fn users_env_survives_the_model_mount() {
        let artifacts = Artifacts::HuggingFace {
            repo: "o/m".to_owned(),
            secret: Some("s".to_owned()),
            size: None,
        };
        let overlay = ContainerSpec {
            env: Some(vec![var("HF_HOME", "/mine"), var("MY", "1")]),
            mount_model_volume: Some(true),
            ..spec("vllm")
        };
        let mut base = Vec::new();
        containers(&mut base, &[overlay], Some(&artifacts));
        let env = base[0].env.as_ref().unwrap();
        assert_eq!(env[0], var("HF_HOME", "/mine"));
        assert_eq!(
            env.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(),
            ["HF_HOME", "MY", "HF_TOKEN"]
        );
        assert_eq!(
            base[0].volume_mounts.as_ref().unwrap()[0].mount_path,
            MODEL_MOUNT_PATH
        );
    }
}
