//! [`Facts`] -> `Children<Desired>`: each child built whole, once, in the file named after
//! it. PURE and INFALLIBLE: nothing is decided here.
#![deny(clippy::disallowed_methods)]

mod accounts;
mod config_hash;
mod engines;
mod envoy_filter;
mod epp;
mod pool;
mod redis;
mod route;
mod secrets;
mod services;

use k8s_openapi::api::core::v1::ConfigMap;

use super::children::{Child, ChildKey, Children, Desired, Object, Ownership};
use super::facts::{Engines, Facts};
use super::names::Role;

/// Renders every child.
pub fn render(facts: &Facts) -> Children<Desired> {
    let mut items: Vec<Child> = facts
        .config_maps
        .iter()
        .map(|map| config_map(facts, map))
        .collect();
    items.extend(facts.all_engines().map(|e| engines_child(facts, e)));
    if facts.epp.is_some() {
        items.push(owned(ChildKey::EppServiceAccount, accounts::of_epp(facts)));
        items.push(owned(
            ChildKey::EppRoleBinding,
            accounts::epp_role_binding(facts),
        ));
    }
    if facts.all_engines().next().is_some() {
        items.push(owned(
            ChildKey::PdServiceAccount,
            accounts::of_engines(facts),
        ));
    }
    let optional = [
        (ChildKey::EppSecret, secrets::of_epp(facts)),
        (ChildKey::EppDeployment, epp::deployment(facts)),
        (ChildKey::EppService, services::of_epp(facts)),
        (
            ChildKey::DecodeService,
            services::of_role(facts, Role::Decode),
        ),
        (
            ChildKey::PrefillService,
            services::of_role(facts, Role::Prefill),
        ),
        (ChildKey::PrefillPods, services::prefill_pods(facts)),
        (ChildKey::InferencePool, pool::pool(facts)),
        (ChildKey::InferenceModel, pool::inference_model(facts)),
        (ChildKey::HttpRoute, route::route(facts)),
        (ChildKey::EnvoyFilter, envoy_filter::envoy_filter(facts)),
    ];
    items.extend(
        optional
            .into_iter()
            .filter_map(|(key, object)| Some(owned(key, object?))),
    );
    items.extend(redis::redis(facts));
    Children::new(items)
}

fn engines_child(facts: &Facts, engines: &Engines) -> Child {
    let key = match engines.role {
        Role::Decode => ChildKey::DecodeDeployment,
        Role::Prefill => ChildKey::PrefillDeployment,
    };
    Child {
        keep_live_replicas: engines.written.keep_live_replicas,
        ..owned(key, engines::deployment(facts, engines))
    }
}

fn config_map(facts: &Facts, map: &ConfigMap) -> Child {
    let ownership = if map.metadata.namespace == facts.identity.namespace {
        Ownership::Owned
    } else {
        Ownership::Elsewhere
    };
    child(
        ChildKey::ConfigMaps,
        Object::ConfigMap(Box::new(map.clone())),
        ownership,
    )
}

fn owned(key: ChildKey, object: Object) -> Child {
    child(key, object, Ownership::Owned)
}

fn child(key: ChildKey, object: Object, ownership: Ownership) -> Child {
    Child {
        key,
        object,
        ownership,
        keep_live_replicas: false,
    }
}
