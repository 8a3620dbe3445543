//! A ModelService -> names, labels and hosts that its objects share. PURE.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use kube::ResourceExt as _;
use kube::core::ObjectMeta;

use crate::api::ModelService;
use crate::contract;
use crate::operator::names::{self, Role};
use crate::operator::resolved::{LiveEngines, Resolved};

/// Labels as Kubernetes objects hold them.
pub type Labels = BTreeMap<String, String>;

/// Who a ModelService is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Its namespace; `None` offline.
    pub namespace: Option<String>,
    /// `routing.modelName`.
    pub model_name: String,
    /// Labels that say what is served, whoever serves it.
    pub common: Labels,
    /// Labels of the decode role.
    pub decode: RoleLabels,
    /// Labels of the prefill role.
    pub prefill: RoleLabels,
}

/// Labels of one role's objects.
///
/// A Deployment's selector cannot change, and a Service must not look for a label that the pods
/// which serve do not have yet. So what was made before the label existed keeps its labels as
/// long as nobody else has the same; then the pods are rolled with the label added, and the
/// Services follow once every pod has it.
#[derive(Clone, Debug)]
pub struct RoleLabels {
    /// The Deployment's selector, where the live one decides it.
    pub kept_selector: Option<Labels>,
    /// Labels of the pods.
    pub pods: Labels,
    /// What Services look for.
    pub service: Labels,
}

impl RoleLabels {
    fn of(
        common: &Labels,
        own: (&str, &str),
        role: Role,
        live: Option<&LiveEngines>,
        alone: bool,
    ) -> Self {
        let mut old = common.clone();
        old.insert(contract::LABEL_ROLE.to_owned(), role.as_str().to_owned());
        let mut new = old.clone();
        new.insert(own.0.to_owned(), own.1.to_owned());
        let has_own = |labels: &Labels| labels.get(own.0).is_some_and(|value| value == own.1);
        let Some(live) = live.filter(|live| !has_own(&live.selector)) else {
            return Self {
                kept_selector: None,
                pods: new.clone(),
                service: new,
            };
        };
        let marked = has_own(&live.template_labels);
        Self {
            kept_selector: Some(live.selector.clone()),
            pods: if marked || !alone {
                new.clone()
            } else {
                old.clone()
            },
            service: if marked && live.rolled_out { new } else { old },
        }
    }
}

impl Identity {
    pub(super) fn of(ms: &ModelService, resolved: &Resolved) -> Self {
        let name = ms.name_any();
        let common = BTreeMap::from([
            (
                contract::LABEL_INFERENCE_SERVING.to_owned(),
                "true".to_owned(),
            ),
            (
                contract::LABEL_MODEL.to_owned(),
                names::sanitize(&ms.spec.routing.model_name),
            ),
        ]);
        let value = names::label(&name);
        let own = (contract::LABEL_MODEL_SERVICE, value.as_str());
        let alone = resolved.namesakes.is_empty();
        let labels = |role, live: &Option<LiveEngines>| {
            RoleLabels::of(&common, own, role, live.as_ref(), alone)
        };
        Self {
            decode: labels(Role::Decode, &resolved.live_decode),
            prefill: labels(Role::Prefill, &resolved.live_prefill),
            namespace: ms.namespace(),
            model_name: ms.spec.routing.model_name.clone(),
            common,
            name,
        }
    }

    /// Labels of one role's objects.
    pub fn role(&self, role: Role) -> &RoleLabels {
        match role {
            Role::Decode => &self.decode,
            Role::Prefill => &self.prefill,
        }
    }

    /// Labels of the endpoints of the pool: what the Services of both roles look for.
    pub fn pool_labels(&self) -> Labels {
        let shared = self.decode.service.iter();
        let shared = shared.filter(|(name, value)| self.prefill.service.get(*name) == Some(*value));
        shared.map(|(k, v)| (k.clone(), v.clone())).collect()
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
