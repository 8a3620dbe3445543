//! Objects of other projects that we render or read: Gateway API, the Inference
//! Extension, Istio. PURE data.
//!
//! Each type names only the fields that we set, read or merge; everything else a user
//! put into a base config is kept verbatim in `rest`. So a field that those projects add
//! tomorrow travels through today, which complete generated types would drop.

use std::collections::BTreeMap;

use kube::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::modelservice::ParentReference;

/// What an object says beyond the fields named here.
pub type Rest = Map<String, Value>;

/// InferencePool, `inference.networking.k8s.io/v1`
/// (<https://gateway-api-inference-extension.sigs.k8s.io/reference/spec/>).
#[derive(CustomResource, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[kube(
    group = "inference.networking.k8s.io",
    version = "v1",
    kind = "InferencePool",
    namespaced,
    schema = "disabled",
    status = "RouteStatus",
    derive = "PartialEq",
    derive = "Default"
)]
#[serde(rename_all = "camelCase")]
pub struct InferencePoolSpec {
    /// Labels of the pods that belong to the pool.
    #[serde(default)]
    pub selector: LabelSelector,
    /// Ports the pods serve on; the EPP may pick any of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_ports: Vec<PoolPort>,
    /// The EPP's Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_picker_ref: Option<EndpointPickerRef>,
    /// Fields we do not touch.
    #[serde(flatten)]
    pub rest: Rest,
}

/// `matchLabels` only: all the InferencePool knows.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels a pod must have.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

/// A port by number.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PoolPort {
    /// The port number.
    pub number: i32,
}

/// The EPP's Service, as the v1 pool names it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointPickerRef {
    /// Name of the Service.
    pub name: String,
    /// Its gRPC port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PoolPort>,
    /// `FailOpen` or `FailClose`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_mode: Option<String>,
    /// Fields we do not touch.
    #[serde(flatten)]
    pub rest: Rest,
}

/// The older InferencePool, `inference.networking.x-k8s.io/v1alpha2`.
pub mod v1alpha2 {
    use super::{BTreeMap, CustomResource, Deserialize, Rest, RouteStatus, Serialize};

    /// InferencePool of the experimental group.
    #[derive(CustomResource, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
    #[kube(
        group = "inference.networking.x-k8s.io",
        version = "v1alpha2",
        kind = "InferencePool",
        namespaced,
        schema = "disabled",
        status = "RouteStatus",
        derive = "PartialEq",
        derive = "Default"
    )]
    #[serde(rename_all = "camelCase")]
    pub struct InferencePoolSpec {
        /// Labels of the pods that belong to the pool.
        #[serde(default)]
        pub selector: BTreeMap<String, String>,
        /// Port the pods serve on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub target_port_number: Option<i32>,
        /// The EPP's Service.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub extension_ref: Option<ExtensionRef>,
        /// Fields we do not touch.
        #[serde(flatten)]
        pub rest: Rest,
    }

    /// The EPP's Service, as the older pool names it.
    #[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
    #[serde(rename_all = "camelCase")]
    pub struct ExtensionRef {
        /// Name of the Service.
        #[serde(default)]
        pub name: String,
        /// Its gRPC port.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub port_number: Option<i32>,
        /// `FailOpen` or `FailClose`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub failure_mode: Option<String>,
        /// Fields we do not touch.
        #[serde(flatten)]
        pub rest: Rest,
    }

    /// InferenceModel of the experimental group; gone from later releases.
    #[derive(CustomResource, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
    #[kube(
        group = "inference.networking.x-k8s.io",
        version = "v1alpha2",
        kind = "InferenceModel",
        namespaced,
        schema = "disabled",
        status = "RouteStatus",
        derive = "PartialEq",
        derive = "Default"
    )]
    #[serde(rename_all = "camelCase")]
    pub struct InferenceModelSpec {
        /// The `model` that requests name.
        #[serde(default)]
        pub model_name: String,
        /// The pool that serves it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub pool_ref: Option<PoolRef>,
        /// Fields we do not touch.
        #[serde(flatten)]
        pub rest: Rest,
    }

    /// A pool by name.
    #[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
    pub struct PoolRef {
        /// Name of the InferencePool.
        #[serde(default)]
        pub name: String,
        /// Fields we do not touch.
        #[serde(flatten)]
        pub rest: Rest,
    }
}

/// HTTPRoute, `gateway.networking.k8s.io/v1` (<https://gateway-api.sigs.k8s.io/reference/spec/>).
#[derive(CustomResource, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "HTTPRoute",
    plural = "httproutes",
    namespaced,
    schema = "disabled",
    status = "RouteStatus",
    derive = "PartialEq",
    derive = "Default"
)]
#[serde(rename_all = "camelCase")]
pub struct HTTPRouteSpec {
    /// Gateways the route attaches to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_refs: Vec<ParentReference>,
    /// Rules, verbatim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<Value>>,
    /// Fields we do not touch.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What controllers say about a route or a pool, per parent.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct RouteStatus {
    /// One entry per parent and controller.
    #[serde(default, alias = "parent", skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<ParentStatus>,
    /// Fields we do not read.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What one controller says about one parent.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentStatus {
    /// The parent.
    #[serde(default)]
    pub parent_ref: ParentReference,
    /// `Accepted`, `ResolvedRefs`, ...
    #[serde(default)]
    pub conditions: Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>,
    /// Fields we do not read.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Gateway, `gateway.networking.k8s.io/v1`: read only.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "Gateway",
    namespaced,
    schema = "disabled",
    status = "GatewayStatus",
    derive = "PartialEq",
    derive = "Default"
)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// Its GatewayClass.
    #[serde(default)]
    pub gateway_class_name: String,
    /// Its listeners.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// Fields we do not read.
    #[serde(flatten)]
    pub rest: Rest,
}

/// One listener of a Gateway.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Listener {
    /// Name of the listener.
    pub name: String,
    /// Its port.
    pub port: i32,
    /// `HTTP`, `HTTPS`, ...
    #[serde(default)]
    pub protocol: String,
    /// Fields we do not read.
    #[serde(flatten)]
    pub rest: Rest,
}

/// What the gateway's controller says.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct GatewayStatus {
    /// Where clients reach it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<GatewayAddress>,
    /// `Accepted`, `Programmed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>,
    /// Fields we do not read.
    #[serde(flatten)]
    pub rest: Rest,
}

/// One address of a Gateway.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct GatewayAddress {
    /// Address or host name.
    pub value: String,
    /// Fields we do not read.
    #[serde(flatten)]
    pub rest: Rest,
}

/// GatewayClass, `gateway.networking.k8s.io/v1`: read only.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "GatewayClass",
    plural = "gatewayclasses",
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default"
)]
#[serde(rename_all = "camelCase")]
pub struct GatewayClassSpec {
    /// Which controller serves Gateways of this class.
    #[serde(default)]
    pub controller_name: String,
    /// Fields we do not read.
    #[serde(flatten)]
    pub rest: Rest,
}

/// EnvoyFilter, `networking.istio.io/v1alpha3`
/// (<https://istio.io/latest/docs/reference/config/networking/envoy-filter/>).
#[derive(CustomResource, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[kube(
    group = "networking.istio.io",
    version = "v1alpha3",
    kind = "EnvoyFilter",
    namespaced,
    schema = "disabled",
    derive = "PartialEq",
    derive = "Default"
)]
#[serde(rename_all = "camelCase")]
pub struct EnvoyFilterSpec {
    /// Gateways whose proxies are patched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<TargetRef>,
    /// The patches.
    #[serde(default)]
    pub config_patches: Vec<ConfigPatch>,
    /// Fields we do not touch.
    #[serde(flatten)]
    pub rest: Rest,
}

/// The object an EnvoyFilter applies to.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct TargetRef {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name, in the EnvoyFilter's namespace.
    pub name: String,
}

/// One patch. `match` and `patch.value` are Envoy's own configuration as JSON: the one
/// place where a typed literal would only hide what Envoy reads.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigPatch {
    /// `HTTP_FILTER`, `HTTP_ROUTE`, `CLUSTER`, ...
    pub apply_to: String,
    /// Where.
    #[serde(rename = "match", default)]
    pub matches: Value,
    /// What.
    pub patch: Patch,
}

/// What a patch does.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Patch {
    /// `INSERT_BEFORE`, `MERGE`, ...
    pub operation: String,
    /// The configuration.
    #[serde(default)]
    pub value: Value,
}
