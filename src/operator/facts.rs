//! (settings, ModelService, what the cluster says) -> [`Facts`]: every decision about one
//! ModelService, taken once. PURE.
//!
//! What is decided here is what several children must agree on: names and labels, which
//! containers people wrote, ports, who publishes KV events, how requests reach the EPP,
//! whose Redis it is. `render` makes each child from it and decides nothing.
#![deny(clippy::disallowed_methods)]

mod checks;
mod config_maps;
mod engines;
mod epp;
mod epp_config;
mod identity;
mod kv_events;
mod pool;
mod ports;
mod prefillers;
mod redis;
mod routing;
mod told;
mod written;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt as _;

pub use self::engines::Engines;
pub use self::epp::Epp;
pub use self::identity::{Identity, Labels, RoleLabels};
pub use self::kv_events::{FLAG as KV_EVENTS_FLAG, KvEvents};
pub use self::ports::Ports;
pub(in crate::operator) use self::ports::{BEHIND_SIDECAR, takes_flags};
pub use self::prefillers::Prefillers;
pub use self::redis::{ExternalRedis, OurRedis, Redis, redacted, redis_url};
pub use self::routing::{FilterFacts, RouteFacts, Routing, hostnames};
pub use self::written::Written;
use super::artifacts::Artifacts;
use super::base::{self, Base};
use super::builtin;
use super::finding::Finding;
use super::invalid::Error;
use super::names::{self, Role};
use super::resolved::{Resolved, Served};
use super::settings::Settings;
use super::template;
use crate::api::ModelService;

/// Everything that was decided about one ModelService.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The administrator's choices.
    pub settings: Settings,
    /// Names, labels and hosts.
    pub identity: Identity,
    /// Where the weights are.
    pub artifacts: Artifacts,
    /// What the base config says.
    pub base: Base,
    /// Optional APIs the cluster serves.
    pub served: Served,
    /// ConfigMaps of the base's `configMaps`, named and in a namespace.
    pub config_maps: Vec<ConfigMap>,
    /// Engines that answer requests.
    pub decode: Option<Engines>,
    /// Engines that compute the KV cache of prompts.
    pub prefill: Option<Engines>,
    /// The Endpoint Picker.
    pub epp: Option<Epp>,
    /// How requests get from the gateway to the EPP and on to the engines.
    pub routing: Routing,
    /// The Redis that the EPP uses.
    pub redis: Redis,
}

impl Facts {
    /// The user of pods whose images may have none; OpenShift gives each namespace its own.
    pub fn fixed_user(&self) -> Option<i64> {
        (!self.served.openshift).then_some(builtin::UNPRIVILEGED_USER)
    }

    /// The engines of one role.
    pub fn engines(&self, role: Role) -> Option<&Engines> {
        match role {
            Role::Decode => self.decode.as_ref(),
            Role::Prefill => self.prefill.as_ref(),
        }
    }

    /// What people wrote about the Deployment of that name.
    pub fn written(&self, deployment: &str) -> Option<&Written> {
        let name = &self.identity.name;
        let mut engines = self.all_engines();
        if deployment == names::epp_deployment(name) {
            return self.epp.as_ref().map(|epp| &epp.written);
        }
        engines
            .find(|engines| names::deployment(name, engines.role) == deployment)
            .map(|engines| &engines.written)
    }

    /// Decode and prefill, where they exist.
    pub fn all_engines(&self) -> impl Iterator<Item = &Engines> {
        [&self.decode, &self.prefill].into_iter().flatten()
    }
}

/// What every decision looks at.
struct Context<'a> {
    settings: &'a Settings,
    ms: &'a ModelService,
    resolved: &'a Resolved,
    identity: Identity,
    base: Base,
}

/// Decides everything. What a user should know though nothing is wrong is put to `findings`,
/// also when something is.
///
/// # Errors
/// The first thing that is wrong, with the object, key and line it is in. Keys are looked
/// at in alphabetical order, so the same input always gives the same error.
pub fn decide(
    settings: &Settings,
    ms: &ModelService,
    resolved: &Resolved,
    findings: &mut Vec<Finding>,
) -> Result<Facts, Error> {
    checks::pasted_texts(ms)?;
    let name = ms.name_any();
    let namespace = ms.namespace();
    let artifacts = Artifacts::parse(&ms.spec.model_artifacts)?;
    let renderer = template::Renderer::new(
        ms,
        &name,
        namespace.as_deref().unwrap_or_default(),
        &artifacts,
    );
    let ms = &base::render_args(ms, &renderer)?;
    let base = base::read(ms, resolved.base.as_ref(), &renderer, findings)?;
    let context = Context {
        settings,
        ms,
        resolved,
        identity: Identity::of(ms, resolved),
        base,
    };

    let config_maps = config_maps::place(&context)?;
    let mut epp = epp::epp(&context, findings);
    let scheduling = match &epp {
        Some(epp) => epp_config::read(&context, epp, &config_maps, findings)?,
        None => epp_config::EppScheduling::default(),
    };
    let redis = redis::decide(&context, &scheduling, epp.as_ref(), findings)?;
    let scored = scheduling.uses_kv_events;
    let mut decode = engines::decode(&context, &artifacts, scored, findings);
    let mut prefill = engines::prefill(&context, &artifacts, scored, decode.as_ref(), findings);
    if let Some(epp) = epp.as_mut().filter(|_| scored) {
        let engines = [decode.as_ref(), prefill.as_ref()];
        epp.kv_events = Some(kv_events::heard(engines, findings));
    }
    let prefillers = prefillers::allow(decode.as_ref(), prefill.as_ref());
    if let Some(decode) = &mut decode {
        decode.prefillers = prefillers;
    }
    if let Some(prefill) = &mut prefill {
        prefill.listed_by_name = decode
            .as_ref()
            .is_some_and(|decode| decode.prefillers == Prefillers::NewService);
    }
    let serving_port = pool::serving_port(&context, decode.as_ref(), prefill.as_ref(), findings);
    let routing = routing::decide(
        &context,
        decode.as_mut(),
        epp.as_ref(),
        serving_port,
        findings,
    );
    // A role that inherits from the other is told the same.
    let mut told = BTreeSet::new();
    findings.retain(|finding| told.insert(finding.to_string()));
    Ok(Facts {
        settings: settings.clone(),
        identity: context.identity,
        artifacts,
        base: context.base,
        served: resolved.served,
        config_maps,
        decode,
        prefill,
        epp,
        routing,
        redis,
    })
}

#[cfg(test)]
mod refusals_tests;
#[cfg(test)]
mod request_path_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod users_tests;
#[cfg(test)]
mod view;
