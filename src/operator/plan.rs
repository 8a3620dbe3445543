//! (settings, ModelService, resolved facts) -> [`Plan`]: everything merged, named and
//! valid, so that `render` cannot fail. PURE.
//!
//! A base config of full Deployments (the old form) gives what the Go operator gave.
//! Shorthand values, and bases without any Deployment, are filled from the built-in bases.
#![deny(clippy::disallowed_methods)]

pub mod artifacts;
mod base;
mod checks;
mod config_hash;
mod epp;
mod epp_config;
mod kv_events;
mod place;
mod pool;
mod prefillers;
mod redis;
mod routing;
mod workloads;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::ResourceExt as _;

use super::children::Object;
use super::names::{self, Role};
use super::resolved::{Generated, Resolved};
use super::settings::Settings;
use super::{decode, template};
use crate::api::ModelService;
use crate::api::foreign::HTTPRoute;
use crate::api::foreign::v1alpha2::InferenceModel;
use crate::contract;
use crate::scheduling::config::{SettingError, SettingOrigin};
use artifacts::Artifacts;
pub use place::Place;
pub use redis::{ExternalRedis, RedisPlan, redacted, redis_url};

/// Everything named and valid.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the ModelService.
    pub name: String,
    /// Its namespace; `None` offline.
    pub namespace: Option<String>,
    /// Labels of every prefill and decode pod.
    pub labels: BTreeMap<String, String>,
    /// ConfigMaps of the base's `configMaps`.
    pub config_maps: Vec<ConfigMap>,
    /// Decode engines.
    pub decode: Option<Workload>,
    /// Prefill engines.
    pub prefill: Option<Workload>,
    /// The Endpoint Picker.
    pub epp: Option<Workload>,
    /// The headless Service by which sidecars know the prefill pods.
    pub prefill_pods: Option<Service>,
    /// What the EPP's replicas share; empty offline.
    pub epp_secret: Option<Generated>,
    /// InferencePool of either version.
    pub pool: Option<Object>,
    /// InferenceModel.
    pub model: Option<InferenceModel>,
    /// HTTPRoute.
    pub route: Option<HTTPRoute>,
    /// What the EnvoyFilter is made of.
    pub envoy_filter: Option<EnvoyFilterPlan>,
    /// The Redis to render.
    pub redis: Option<RedisPlan>,
    /// A Redis that is somebody else's.
    pub external_redis: Option<ExternalRedis>,
    /// Things a user should know; nothing is wrong.
    pub warnings: Vec<String>,
}

/// Pods of one role, and their Service.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The merged Deployment.
    pub deployment: Deployment,
    /// The merged Service.
    pub service: Option<Service>,
    /// Leave replicas to an autoscaler.
    pub keep_live_replicas: bool,
    /// Per container: who chose its image, for when it cannot be pulled.
    pub images: BTreeMap<String, Place>,
}

/// What the EnvoyFilter is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvoyFilterPlan {
    /// Gateways, in the ModelService's namespace.
    pub gateways: Vec<String>,
    /// Names Istio gives to the routes that lead to the decode Service.
    pub route_names: Vec<String>,
    /// Host name of the EPP's Service.
    pub epp_host: String,
    /// There are several replicas of the EPP.
    pub epp_replicated: bool,
    /// The EPP may be asked at any time whether it lives.
    pub epp_answers_pings: bool,
    /// Host name of the decode Service.
    pub decode_host: String,
    /// Ports of the decode Service that those routes lead to, each once.
    pub decode_ports: Vec<i32>,
}

/// Why there is no valid plan. Every variant says where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A template cannot be rendered.
    #[error("{source_object}: {error}")]
    Template {
        /// `ConfigMap ns/name` or `ModelService`.
        source_object: String,
        /// Key, line, column and reason.
        error: crate::gotemplate::Error,
    },
    /// A rendered value cannot be read.
    #[error("{source_object}: {error}")]
    Decode {
        /// `ConfigMap ns/name`.
        source_object: String,
        /// Key, line, path and reason.
        error: decode::Error,
    },
    /// A field of the ModelService is wrong.
    #[error("{field}: {message}")]
    Spec {
        /// Path of the field.
        field: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The merged object would be refused, or the administrator does not allow it.
    #[error("{}: {message}{}", merged(place, object), place.line_note())]
    Merged {
        /// Child key, such as `decodeDeployment`.
        object: &'static str,
        /// Where it was written.
        place: Place,
        /// What is wrong.
        message: String,
        /// `Privileged` and `CrossNamespace` refusals have reasons of their own.
        reason: &'static str,
    },
    /// The EPP's settings are wrong.
    #[error("{}", list(errors))]
    EppSettings {
        /// Every wrong setting, and where it was written.
        errors: Vec<EppSetting>,
    },
}

/// A wrong setting of the EPP.
#[derive(Debug)]
pub struct EppSetting {
    /// Where it, or the document that it is in, was written.
    pub place: Place,
    /// What is read there: `env`, a flag, or a key of a ConfigMap.
    pub holder: String,
    /// What is wrong.
    pub error: SettingError,
}

impl std::fmt::Display for EppSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            place,
            holder,
            error,
        } = self;
        match (&error.at, place) {
            // The field names container and variable.
            (SettingOrigin::Variable(_), Place::Spec { .. }) => write!(f, "{place}: {error}"),
            (SettingOrigin::Variable(_), _) => {
                write!(f, "{place}, {holder} {error}{}", place.line_note())
            }
            (SettingOrigin::Document { .. }, _) => write!(f, "{place}, {holder}: {error}"),
        }
    }
}

/// The place, with the child's key where the place does not say it.
fn merged(place: &Place, object: &str) -> String {
    match place {
        Place::Base { .. } => place.to_string(),
        Place::Spec { .. } | Place::Operator => format!("{object} ({place})"),
    }
}

fn list(errors: &[EppSetting]) -> String {
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl Error {
    /// One CamelCase word, from a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Template { .. } => "TemplateInvalid",
            Self::Decode { .. } => "BaseConfigInvalid",
            Self::Spec { .. } => "SpecInvalid",
            Self::Merged { reason, .. } => reason,
            Self::EppSettings { .. } => "EPPSettingsInvalid",
        }
    }

    /// True when the base config is what is wrong, not the ModelService.
    pub fn blames_base_config(&self) -> bool {
        match self {
            Self::Template { source_object, .. } => source_object != base::MODEL_SERVICE,
            Self::Decode { .. } => true,
            Self::Spec { .. } => false,
            Self::Merged { place, .. } => place.is_base(),
            Self::EppSettings { errors } => errors.iter().any(|error| error.place.is_base()),
        }
    }
}

/// What every part of the plan looks at.
struct Context<'a> {
    settings: &'a Settings,
    ms: &'a ModelService,
    resolved: &'a Resolved,
    name: String,
    namespace: Option<String>,
    artifacts: Artifacts,
    labels: BTreeMap<String, String>,
    base: base::Base,
}

impl Context<'_> {
    fn role_labels(&self, role: Role) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        labels.insert(contract::LABEL_ROLE.to_owned(), role.as_str().to_owned());
        labels
    }

    fn host(&self, service: &str) -> String {
        let namespace = self.namespace.as_deref().unwrap_or("default");
        format!("{service}.{namespace}.svc.cluster.local")
    }
}

/// Makes the plan.
///
/// # Errors
/// The first thing that is wrong, with the object, key and line it is in. Keys are looked
/// at in alphabetical order, so the same input always gives the same error.
pub fn plan(settings: &Settings, ms: &ModelService, resolved: &Resolved) -> Result<Plan, Error> {
    let name = ms.name_any();
    let namespace = ms.namespace();
    checks::pasted_texts(ms)?;
    let artifacts = Artifacts::parse(&ms.spec.model_artifacts)?;
    let renderer = template::Renderer::new(
        ms,
        &name,
        namespace.as_deref().unwrap_or_default(),
        &artifacts,
    );
    let mut warnings = Vec::new();
    let ms = &base::render_args(ms, &renderer)?;
    let base = base::read(resolved.base.as_ref(), &renderer, &mut warnings)?;
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
    let context = Context {
        settings,
        ms,
        resolved,
        name,
        namespace,
        artifacts,
        labels,
        base,
    };

    let config_maps = workloads::config_maps(&context)?;
    let mut routing = routing::decide(&context, &mut warnings);
    let mut epp = epp::epp(&context, &routing)?;
    let scheduling = match &epp {
        Some(epp) => epp_config::read(&context, &epp.deployment, &config_maps, &mut warnings)?,
        None => epp_config::EppScheduling::default(),
    };
    let (redis, external_redis) =
        redis::decide(&context, scheduling.redis_addr, epp.as_mut(), &mut warnings)?;
    let scored = scheduling.uses_kv_events;
    let mut decode = workloads::role(&context, Role::Decode, scored)?;
    let mut prefill = workloads::role(&context, Role::Prefill, scored)?;
    if let Some(epp) = epp.as_mut().filter(|_| scored) {
        let engines = [decode.as_ref(), prefill.as_ref()];
        kv_events::tell(&context, engines, epp, &mut warnings);
    }
    let prefill_pods = prefillers::allow(&context, decode.as_mut(), prefill.as_ref());
    let (route, envoy_filter) = routing::route(
        &context,
        &mut routing,
        decode.as_mut(),
        epp.as_ref(),
        &mut warnings,
    );
    let epp_secret = epp.as_ref().and_then(|epp| epp::secret(&context, epp));
    if let Some(epp) = &mut epp {
        epp::tell_body_mode(&context, &routing, epp);
    }
    for workload in [&mut decode, &mut prefill, &mut epp].into_iter().flatten() {
        config_hash::annotate(workload, &config_maps);
    }
    let pool = pool::pool(&context, &routing, epp.is_some());
    let model = pool::inference_model(&context);
    Ok(Plan {
        name: context.name,
        namespace: context.namespace,
        labels: context.labels,
        config_maps,
        decode,
        prefill,
        epp,
        prefill_pods,
        epp_secret,
        pool,
        model,
        route,
        envoy_filter,
        redis,
        external_redis,
        warnings,
    })
}

#[cfg(test)]
mod refusals_tests;
#[cfg(test)]
mod request_path_tests;
#[cfg(test)]
mod tests;
