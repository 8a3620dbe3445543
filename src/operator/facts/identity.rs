//! A ModelService -> names, labels and hosts that its objects share. PURE.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use kube::core::ObjectMeta;

use crate::api::ModelService;
use crate::contract;
use crate::operator::names::{self, Role};

/// Labels as Kubernetes objects hold them.
type Labels = BTreeMap<String, String>;

/// Who a ModelService is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Its namespace; `None` offline.
    pub namespace: Option<String>,
    /// `routing.modelName`.
    pub model_name: String,
    /// Labels of every prefill and decode pod.
    pub labels: Labels,
}

impl Identity {
    pub(super) fn of(ms: &ModelService) -> Self {
        let labels = BTreeMap::from([
            (
                contract::LABEL_INFERENCE_SERVING.to_owned(),
                "true".to_owned(),
            ),
            (
                contract::LABEL_MODEL.to_owned(),
                names::sanitize(&ms.spec.routing.model_name),
            ),
        ]);
        Self {
            name: ms.name_any(),
            namespace: ms.namespace(),
            model_name: ms.spec.routing.model_name.clone(),
            labels,
        }
    }

    /// Labels of the pods of one role.
    pub fn role_labels(&self, role: Role) -> Labels {
        let mut labels = self.labels.clone();
        labels.insert(contract::LABEL_ROLE.to_owned(), role.as_str().to_owned());
        labels
    }

    /// Labels of the EPP's pods.
    pub fn epp_labels(&self) -> Labels {
        let name = names::epp_deployment(&self.name);
        BTreeMap::from([(contract::LABEL_EPP.to_owned(), name)])
    }

    /// Host name of a Service beside the ModelService.
    pub fn host(&self, service: &str) -> String {
        format!(
            "{service}.{}.svc.cluster.local",
            self.namespace_or_default()
        )
    }

    /// The namespace; offline the one that `kubectl apply` would take.
    pub fn namespace_or_default(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }

    /// Metadata of an object beside the ModelService.
    pub fn meta(&self, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: self.namespace.clone(),
            ..ObjectMeta::default()
        }
    }
}
