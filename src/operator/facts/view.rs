//! A ModelService -> its facts and children side by side, as tests look at them.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;

use super::{ExternalRedis, Facts, FilterFacts, OurRedis};
use crate::api::ModelService;
use crate::api::foreign::HTTPRoute;
use crate::operator::check::check;
use crate::operator::children::{ChildKey, Children, Desired, Object};
use crate::operator::invalid::Error;
use crate::operator::render::render;
use crate::operator::resolved::Resolved;
use crate::operator::settings::Settings;

/// A rendered Deployment.
#[derive(Debug)]
pub(in crate::operator::facts) struct Workload {
    pub(in crate::operator::facts) deployment: Deployment,
    pub(in crate::operator::facts) keep_live_replicas: bool,
}

/// What came of a ModelService.
#[derive(Debug)]
pub(in crate::operator::facts) struct View {
    pub(in crate::operator::facts) facts: Facts,
    pub(in crate::operator::facts) children: Children<Desired>,
    pub(in crate::operator::facts) decode: Option<Workload>,
    pub(in crate::operator::facts) prefill: Option<Workload>,
    pub(in crate::operator::facts) epp: Option<Workload>,
    pub(in crate::operator::facts) pool: Option<Object>,
    pub(in crate::operator::facts) route: Option<HTTPRoute>,
    pub(in crate::operator::facts) envoy_filter: Option<FilterFacts>,
    pub(in crate::operator::facts) redis: Option<OurRedis>,
    pub(in crate::operator::facts) external_redis: Option<ExternalRedis>,
    pub(in crate::operator::facts) config_maps: Vec<ConfigMap>,
    pub(in crate::operator::facts) warnings: Vec<String>,
}

/// Decides, renders and checks, as a reconcile does.
pub(in crate::operator::facts) fn plan(
    settings: &Settings,
    ms: &ModelService,
    resolved: &Resolved,
) -> Result<View, Error> {
    let mut findings = Vec::new();
    let facts = super::decide(settings, ms, resolved, &mut findings)?;
    let children = render(&facts);
    check(&facts, &children)?;
    let workload = |key| {
        let child = children.items.iter().find(|child| child.key == key)?;
        Some(Workload {
            deployment: children.deployment(key)?.clone(),
            keep_live_replicas: child.keep_live_replicas,
        })
    };
    Ok(View {
        decode: workload(ChildKey::DecodeDeployment),
        prefill: workload(ChildKey::PrefillDeployment),
        epp: workload(ChildKey::EppDeployment),
        pool: children.get(ChildKey::InferencePool).cloned(),
        route: match children.get(ChildKey::HttpRoute) {
            Some(Object::HttpRoute(route)) => Some(route.as_ref().clone()),
            _ => None,
        },
        envoy_filter: facts.routing.filter.clone(),
        redis: facts.redis.ours().cloned(),
        external_redis: facts.redis.external().cloned(),
        config_maps: facts.config_maps.clone(),
        warnings: findings.iter().map(ToString::to_string).collect(),
        facts,
        children,
    })
}
