//! [`Plan`] -> `Children<Desired>`. PURE and INFALLIBLE: what could be wrong was found in
//! `plan`.
#![deny(clippy::disallowed_methods)]

mod accounts;
mod envoy_filter;
mod redis;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::ObjectMeta;

use super::children::{Child, ChildKey, Children, Desired, Object, Ownership};
use super::names;
use super::plan::{Plan, Workload};
use super::resolve::EPP_SECRET_KEY;
use super::resolved::Generated;
use super::settings::Settings;

/// Renders every child.
pub fn render(settings: &Settings, plan: &Plan) -> Children<Desired> {
    let mut items: Vec<Child> = plan
        .config_maps
        .iter()
        .map(|map| config_map(plan, map))
        .collect();
    let mut owned = |key, object| items.push(child(key, object, Ownership::Owned));
    if plan.decode.is_some() || plan.prefill.is_some() {
        owned(
            ChildKey::PdServiceAccount,
            accounts::pd_account(settings, plan),
        );
    }
    if plan.epp.is_some() {
        owned(
            ChildKey::EppServiceAccount,
            accounts::epp_account(settings, plan),
        );
        owned(
            ChildKey::EppRoleBinding,
            accounts::epp_role_binding(settings, plan),
        );
    }
    if let Some(secret) = &plan.epp_secret {
        let meta = accounts::meta(plan, names::epp_secret(&plan.name));
        owned(ChildKey::EppSecret, generated(meta, EPP_SECRET_KEY, secret));
    }
    if let Some(service) = &plan.prefill_pods {
        owned(
            ChildKey::PrefillPods,
            Object::Service(Box::new(service.clone())),
        );
    }
    if let Some(pool) = &plan.pool {
        owned(ChildKey::InferencePool, pool.clone());
    }
    if let Some(model) = &plan.model {
        owned(
            ChildKey::InferenceModel,
            Object::InferenceModel(Box::new(model.clone())),
        );
    }
    if let Some(route) = &plan.route {
        owned(
            ChildKey::HttpRoute,
            Object::HttpRoute(Box::new(route.clone())),
        );
    }
    if let Some(filter) = &plan.envoy_filter {
        owned(
            ChildKey::EnvoyFilter,
            envoy_filter::envoy_filter(plan, filter),
        );
    }
    for (workload, deployment, service) in [
        (
            &plan.decode,
            ChildKey::DecodeDeployment,
            ChildKey::DecodeService,
        ),
        (
            &plan.prefill,
            ChildKey::PrefillDeployment,
            ChildKey::PrefillService,
        ),
        (&plan.epp, ChildKey::EppDeployment, ChildKey::EppService),
    ] {
        if let Some(workload) = workload {
            items.extend(workload_children(workload, deployment, service));
        }
    }
    if let Some(redis) = &plan.redis {
        items.extend(redis::redis(plan, redis));
    }
    Children::new(items)
}

fn config_map(plan: &Plan, map: &ConfigMap) -> Child {
    let ownership = if map.metadata.namespace == plan.namespace {
        Ownership::Owned
    } else {
        Ownership::Elsewhere
    };
    let object = Object::ConfigMap(Box::new(map.clone()));
    child(ChildKey::ConfigMaps, object, ownership)
}

fn workload_children(workload: &Workload, deployment: ChildKey, service: ChildKey) -> Vec<Child> {
    let mut children = vec![Child {
        keep_live_replicas: workload.keep_live_replicas,
        ..child(
            deployment,
            Object::Deployment(Box::new(workload.deployment.clone())),
            Ownership::Owned,
        )
    }];
    if let Some(object) = &workload.service {
        children.push(child(
            service,
            Object::Service(Box::new(object.clone())),
            Ownership::Owned,
        ));
    }
    children
}

/// A Secret with one generated text.
fn generated(metadata: ObjectMeta, key: &str, text: &Generated) -> Object {
    let bytes = ByteString(text.0.clone().into_bytes());
    Object::Secret(Box::new(Secret {
        metadata,
        data: Some([(key.to_owned(), bytes)].into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }))
}

fn child(key: ChildKey, object: Object, ownership: Ownership) -> Child {
    Child {
        key,
        object,
        ownership,
        keep_live_replicas: false,
    }
}
