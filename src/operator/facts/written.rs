//! Base Deployment + a section of the ModelService -> the Deployment as people wrote it, and
//! whether the built-in base fills what they left out. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::operator::base::Sources;
use crate::operator::finding::Finding;

/// Pods as people wrote them.
#[derive(Clone, Debug)]
pub struct Written {
    /// The base, overlaid by the ModelService's section; without name and labels.
    pub deployment: Deployment,
    /// The built-in base fills what is absent.
    pub filled: bool,
    /// Where each part was written.
    pub sources: Sources,
    /// Leave replicas to an autoscaler.
    pub keep_live_replicas: bool,
}

/// Labels by which others are found: a base that puts them on its pods would have these pods
/// taken for somebody else's.
pub(super) fn drop_labels(
    deployment: &mut Deployment,
    reserved: &[&str],
    sources: &Sources,
    findings: &mut Vec<Finding>,
) {
    let labels = deployment.spec.template.metadata.as_mut();
    let Some(labels) = labels.and_then(|meta| meta.labels.as_mut()) else {
        return;
    };
    for name in reserved {
        if labels.remove(*name).is_some() {
            let place = sources.field(None, name);
            let text = format!("the label {name} of the pods was dropped");
            let detail = "pods of another kind are found by it";
            findings.push(Finding::at(place, text).detail(detail));
        }
    }
}

impl Written {
    /// The pod; an empty one where nobody wrote any.
    pub fn pod(&self) -> PodSpec {
        self.deployment
            .spec
            .template
            .spec
            .clone()
            .unwrap_or_default()
    }

    /// A container or native sidecar by name.
    pub fn container(&self, name: &str) -> Option<&Container> {
        let pod = self.deployment.spec.template.spec.as_ref()?;
        let mut all = pod
            .containers
            .iter()
            .chain(pod.init_containers.iter().flatten());
        all.find(|container| container.name == name)
    }
}
