//! Everything `plan` may know beyond the ModelService itself. PURE data: `resolve`
//! fills it, `plan` reads it, and a thing that could not be had is a value here.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use serde_json::Value;

/// Key of the password in the Secret of the Redis we render.
pub const REDIS_PASSWORD_KEY: &str = "password";
/// Key in the Secret that the replicas of an EPP share.
pub const EPP_SECRET_KEY: &str = "pool-secret";

/// What `resolve` fetched.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// The base ConfigMap; `None` when the ModelService names none.
    pub base: Option<BaseConfig>,
    /// Optional APIs the cluster serves.
    pub served: Served,
    /// One entry per `routing.gatewayRefs`, in order.
    pub gateways: Vec<GatewayFacts>,
    /// What exists under the name of the Redis we may render.
    pub redis: RedisFacts,
    /// A fresh secret for the EPP's replicas, used where their Secret does not exist yet;
    /// `None` offline.
    pub epp_secret: Option<Generated>,
    /// The live HTTPRoute has rules that another field manager set: they are left alone.
    pub route_rules_foreign: bool,
    /// Those rules, verbatim; empty where there are none.
    pub route_rules: Vec<Value>,
    /// The live Deployment of decode engines.
    pub live_decode: Option<LiveEngines>,
    /// The live Deployment of prefill engines.
    pub live_prefill: Option<LiveEngines>,
    /// Other ModelServices of the namespace whose model's name gives the same label.
    pub namesakes: Vec<String>,
    /// The route of an older ModelService on the same Gateway, where there is one.
    pub elder_route: Option<ElderRoute>,
}

/// What a live Deployment of engines says of its pods.
#[derive(Clone, Debug, Default)]
pub struct LiveEngines {
    /// Its selector, which cannot change.
    pub selector: BTreeMap<String, String>,
    /// Labels of the pods it makes.
    pub template_labels: BTreeMap<String, String>,
    /// Every pod that it has is of that template.
    pub rolled_out: bool,
}

/// The route of an older ModelService on the same Gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ElderRoute {
    /// `namespace/name` of the HTTPRoute.
    pub route: String,
    /// The ModelService that it belongs to.
    pub modelservice: String,
    /// `namespace/name` of the Gateway that both name.
    pub gateway: String,
    /// Its host names; empty for all.
    pub hostnames: Vec<String>,
    /// Its rules.
    pub rules: Vec<Value>,
}

/// A base ConfigMap.
#[derive(Clone, Debug, Default)]
pub struct BaseConfig {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its values: templates.
    pub data: BTreeMap<String, String>,
}

/// Optional APIs the cluster serves.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Served {
    /// The newest InferencePool version served.
    pub inference_pool: Option<PoolVersion>,
    /// InferenceModel `inference.networking.x-k8s.io/v1alpha2`.
    pub inference_model: bool,
    /// HTTPRoute `gateway.networking.k8s.io/v1`.
    pub http_route: bool,
    /// EnvoyFilter `networking.istio.io/v1alpha3`.
    pub envoy_filter: bool,
    /// SecurityContextConstraints `security.openshift.io/v1`: OpenShift gives pods their users.
    pub openshift: bool,
}

/// Version of the InferencePool API.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PoolVersion {
    /// `inference.networking.k8s.io/v1`.
    V1,
    /// `inference.networking.x-k8s.io/v1alpha2`.
    V1Alpha2,
}

/// A Gateway that `routing.gatewayRefs` names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GatewayFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its GatewayClass; `None` when the Gateway does not exist (yet).
    pub class: Option<String>,
    /// The class's controller, such as `istio.io/gateway-controller`.
    pub controller: Option<String>,
}

/// What exists under the name of the Redis we may render.
#[derive(Clone, Debug, Default)]
pub struct RedisFacts {
    /// The password in the existing Secret, or a fresh one; `None` offline.
    pub password: Option<Generated>,
    /// A Service of that name exists that we did not make.
    pub foreign_service: bool,
}

/// A generated text that nobody may read in a log.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Generated(pub String);

impl std::fmt::Debug for Generated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}
