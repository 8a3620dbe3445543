//! ConfigMaps the plan renders -> an annotation on the pods that use them, so that an edit
//! of their text rolls the pods. PURE.
//!
//! Secrets are not covered: the operator reads none but Redis's generated password, and a
//! hash of a secret does not belong where everybody may read it. After a change of the
//! model's or Redis's Secret, `kubectl rollout restart` the Deployments.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ConfigMap, PodSpec};
use kube::ResourceExt as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::contract;
use k8s_openapi::api::apps::v1::Deployment;

/// Puts the hash of every rendered ConfigMap that the pods use on their template; nothing
/// where they use none.
pub(super) fn annotate(deployment: &mut Deployment, maps: &[ConfigMap]) {
    let template = &mut deployment.spec.template;
    let Some(pod) = &template.spec else { return };
    let used = used_maps(pod);
    let namespace = deployment.metadata.namespace.as_deref();
    let mut digest = Sha256::new();
    let mut any = false;
    for name in used {
        let map = maps
            .iter()
            .rfind(|map| map.name_any() == name && map.metadata.namespace.as_deref() == namespace);
        let Some(map) = map else { continue };
        let content = json!([name, map.data, map.binary_data]);
        digest.update(content.to_string().as_bytes());
        any = true;
    }
    if !any {
        return;
    }
    let hash: String = digest
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    template
        .metadata
        .get_or_insert_default()
        .annotations
        .get_or_insert_default()
        .insert(contract::ANNOTATION_CONFIG_HASH.to_owned(), hash);
}

/// Names of the ConfigMaps a pod mounts or takes its environment from.
fn used_maps(pod: &PodSpec) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for volume in pod.volumes.iter().flatten() {
        names.extend(volume.config_map.as_ref().map(|source| source.name.clone()));
        let projected = volume.projected.iter().flat_map(|p| p.sources.iter());
        for source in projected.flatten() {
            names.extend(source.config_map.as_ref().map(|source| source.name.clone()));
        }
    }
    let containers = pod.containers.iter();
    for container in containers.chain(pod.init_containers.iter().flatten()) {
        for source in container.env_from.iter().flatten() {
            names.extend(
                source
                    .config_map_ref
                    .as_ref()
                    .map(|source| source.name.clone()),
            );
        }
        for entry in container.env.iter().flatten() {
            let key = entry
                .value_from
                .as_ref()
                .and_then(|from| from.config_map_key_ref.as_ref());
            names.extend(key.map(|key| key.name.clone()));
        }
    }
    names
}
