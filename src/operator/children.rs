//! The objects behind one ModelService, with the stage they are in as a type:
//! `Children<Desired>` come from `render`, `Children<Applied>` only from `apply`. PURE.
#![deny(clippy::disallowed_methods)]

use std::marker::PhantomData;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::rbac::v1::RoleBinding;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{ApiResource, Selector};
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde_json::Value;

use crate::api::foreign::v1alpha2::{InferenceModel, InferencePool as InferencePoolAlpha};
use crate::api::foreign::{EnvoyFilter, HTTPRoute, InferencePool};

/// The children are wishes.
#[derive(Clone, Copy, Debug)]
pub struct Desired;
/// The children exist: the API server has answered for each.
#[derive(Clone, Copy, Debug)]
pub struct Applied;

/// The objects behind one ModelService, in the order in which they are applied.
#[derive(Clone, Debug)]
pub struct Children<S> {
    /// The objects.
    pub items: Vec<Child>,
    stage: PhantomData<S>,
}

/// One object behind a ModelService.
#[derive(Clone, Debug, PartialEq)]
pub struct Child {
    /// What it is for.
    pub key: ChildKey,
    /// The object itself; in `Children<Applied>`, as the API server returned it.
    pub object: Object,
    /// Whether it is this ModelService's alone.
    pub ownership: Ownership,
    /// Leave `spec.replicas` as it is once the object exists (`decoupleScaling`).
    pub keep_live_replicas: bool,
}

/// Whose an object is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ownership {
    /// This ModelService's alone.
    Owned,
    /// Shared by the ModelServices of a namespace; goes with the last.
    Shared,
    /// This ModelService's alone, in another namespace: no owner reference reaches there (the
    /// garbage collector would delete the object), so a label says whose it is and a
    /// finalizer removes it.
    Elsewhere,
}

/// What a child is for. The order is the order of application: identities and settings
/// first, what routes traffic last.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ChildKey {
    /// A ConfigMap of the base's `configMaps`.
    ConfigMaps,
    /// Password of the Redis we render.
    RedisSecret,
    /// Secret under which the EPP publishes names of sessions.
    EppSecret,
    /// Account of prefill and decode pods.
    PdServiceAccount,
    /// Account of the EPP.
    EppServiceAccount,
    /// Binds the EPP's account to its ClusterRole.
    EppRoleBinding,
    /// Who may talk to the Redis we render.
    RedisNetworkPolicy,
    /// The Redis we render.
    RedisDeployment,
    /// Its Service.
    RedisService,
    /// Prefill engines.
    PrefillDeployment,
    /// Their Service.
    PrefillService,
    /// The headless Service that tells sidecars which prefill pods there are.
    PrefillPods,
    /// Decode engines.
    DecodeDeployment,
    /// Their Service.
    DecodeService,
    /// The Endpoint Picker.
    EppDeployment,
    /// Its Service.
    EppService,
    /// The pool of endpoints.
    InferencePool,
    /// The model in the pool (old API).
    InferenceModel,
    /// The route.
    HttpRoute,
    /// Istio's patch of the gateway.
    EnvoyFilter,
}

impl ChildKey {
    /// An account, or the rights of one.
    pub fn is_identity(self) -> bool {
        matches!(
            self,
            Self::PdServiceAccount | Self::EppServiceAccount | Self::EppRoleBinding
        )
    }

    /// The key in the output of `generate` and in base ConfigMaps.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMaps => "configMaps",
            Self::RedisSecret => "redisSecret",
            Self::EppSecret => "eppSecret",
            Self::PdServiceAccount => "pdServiceAccount",
            Self::EppServiceAccount => "eppServiceAccount",
            Self::EppRoleBinding => "eppRoleBinding",
            Self::RedisNetworkPolicy => "redisNetworkPolicy",
            Self::RedisDeployment => "redisDeployment",
            Self::RedisService => "redisService",
            Self::PrefillDeployment => "prefillDeployment",
            Self::PrefillService => "prefillService",
            Self::PrefillPods => "prefillPods",
            Self::DecodeDeployment => "decodeDeployment",
            Self::DecodeService => "decodeService",
            Self::EppDeployment => "eppDeployment",
            Self::EppService => "eppService",
            Self::InferencePool => "inferencePool",
            Self::InferenceModel => "inferenceModel",
            Self::HttpRoute => "httpRoute",
            Self::EnvoyFilter => "envoyFilter",
        }
    }
}

/// A typed Kubernetes object of one of the kinds we own.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant is the kind it is named for")]
pub enum Object {
    ConfigMap(Box<ConfigMap>),
    Secret(Box<Secret>),
    ServiceAccount(Box<ServiceAccount>),
    RoleBinding(Box<RoleBinding>),
    NetworkPolicy(Box<NetworkPolicy>),
    Deployment(Box<Deployment>),
    Service(Box<Service>),
    InferencePool(Box<InferencePool>),
    InferencePoolAlpha(Box<InferencePoolAlpha>),
    InferenceModel(Box<InferenceModel>),
    HttpRoute(Box<HTTPRoute>),
    EnvoyFilter(Box<EnvoyFilter>),
}

/// Runs one generic expression for whichever type the object has.
macro_rules! with_object {
    ($object:expr, $inner:ident => $body:expr) => {
        match $object {
            Object::ConfigMap($inner) => $body,
            Object::Secret($inner) => $body,
            Object::ServiceAccount($inner) => $body,
            Object::RoleBinding($inner) => $body,
            Object::NetworkPolicy($inner) => $body,
            Object::Deployment($inner) => $body,
            Object::Service($inner) => $body,
            Object::InferencePool($inner) => $body,
            Object::InferencePoolAlpha($inner) => $body,
            Object::InferenceModel($inner) => $body,
            Object::HttpRoute($inner) => $body,
            Object::EnvoyFilter($inner) => $body,
        }
    };
}

/// Which pods are a Deployment's; `None` for a selector that no API server accepts.
pub fn pods_of(deployment: &Deployment) -> Option<Selector> {
    deployment.spec.selector.clone().try_into().ok()
}

// === impl Object ===

impl Object {
    /// Group, version, kind and plural.
    pub fn api_resource(&self) -> ApiResource {
        fn of<K: Resource<DynamicType = ()>>(_: &K) -> ApiResource {
            ApiResource::erase::<K>(&())
        }
        with_object!(self, inner => of(inner.as_ref()))
    }

    /// Kind, as a static word for labels.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ConfigMap(_) => "ConfigMap",
            Self::Secret(_) => "Secret",
            Self::ServiceAccount(_) => "ServiceAccount",
            Self::RoleBinding(_) => "RoleBinding",
            Self::NetworkPolicy(_) => "NetworkPolicy",
            Self::Deployment(_) => "Deployment",
            Self::Service(_) => "Service",
            Self::InferencePool(_) | Self::InferencePoolAlpha(_) => "InferencePool",
            Self::InferenceModel(_) => "InferenceModel",
            Self::HttpRoute(_) => "HTTPRoute",
            Self::EnvoyFilter(_) => "EnvoyFilter",
        }
    }

    /// Metadata.
    pub fn meta(&self) -> &ObjectMeta {
        with_object!(self, inner => &inner.metadata)
    }

    /// Metadata, to be changed.
    pub fn meta_mut(&mut self) -> &mut ObjectMeta {
        with_object!(self, inner => &mut inner.metadata)
    }

    /// Name; every child has one.
    pub fn name(&self) -> String {
        with_object!(self, inner => inner.name_any())
    }

    /// Namespace; every child has one.
    pub fn namespace(&self) -> String {
        with_object!(self, inner => inner.namespace().unwrap_or_default())
    }

    /// The object as it is sent to the API server: no status, no nulls.
    pub fn to_value(&self) -> Value {
        fn of<K: Serialize>(inner: &K) -> Value {
            serde_json::to_value(inner).expect("Kubernetes types are representable as JSON")
        }
        let mut value = with_object!(self, inner => of(inner.as_ref()));
        if let Some(fields) = value.as_object_mut() {
            fields.remove("status");
            fields.retain(|_, field| !field.is_null());
        }
        value
    }

    /// The same kind of object, read from JSON.
    ///
    /// # Errors
    /// When the JSON is not of this kind.
    pub fn reread(&self, value: Value) -> serde_json::Result<Self> {
        Ok(match self {
            Self::ConfigMap(_) => Self::ConfigMap(serde_json::from_value(value)?),
            Self::Secret(_) => Self::Secret(serde_json::from_value(value)?),
            Self::ServiceAccount(_) => Self::ServiceAccount(serde_json::from_value(value)?),
            Self::RoleBinding(_) => Self::RoleBinding(serde_json::from_value(value)?),
            Self::NetworkPolicy(_) => Self::NetworkPolicy(serde_json::from_value(value)?),
            Self::Deployment(_) => Self::Deployment(serde_json::from_value(value)?),
            Self::Service(_) => Self::Service(serde_json::from_value(value)?),
            Self::InferencePool(_) => Self::InferencePool(serde_json::from_value(value)?),
            Self::InferencePoolAlpha(_) => Self::InferencePoolAlpha(serde_json::from_value(value)?),
            Self::InferenceModel(_) => Self::InferenceModel(serde_json::from_value(value)?),
            Self::HttpRoute(_) => Self::HttpRoute(serde_json::from_value(value)?),
            Self::EnvoyFilter(_) => Self::EnvoyFilter(serde_json::from_value(value)?),
        })
    }
}

// === impl Children ===

impl Children<Desired> {
    /// Puts the objects into the order of application.
    pub fn new(mut items: Vec<Child>) -> Self {
        items.sort_by_key(|child| child.key);
        Self {
            items,
            stage: PhantomData,
        }
    }
}

impl Children<Applied> {
    /// Only `apply` may say that objects exist.
    pub(in crate::operator) fn applied(items: Vec<Child>) -> Self {
        Self {
            items,
            stage: PhantomData,
        }
    }
}

impl<S> Children<S> {
    /// The first child for that purpose.
    pub fn get(&self, key: ChildKey) -> Option<&Object> {
        self.items
            .iter()
            .find(|child| child.key == key)
            .map(|child| &child.object)
    }

    /// The Deployment for that purpose.
    pub fn deployment(&self, key: ChildKey) -> Option<&Deployment> {
        match self.get(key) {
            Some(Object::Deployment(deployment)) => Some(deployment),
            _ => None,
        }
    }
}
