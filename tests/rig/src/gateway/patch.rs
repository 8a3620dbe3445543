//! EnvoyFilters -> changes of the Envoy resources, as istiod makes them for the patches this
//! project and its users write: HTTP_FILTER inserts, HTTP_ROUTE and CLUSTER merges. PURE.

use std::sync::Arc;

use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::Value;

use super::config::{Config, Listener};

/// Applies every EnvoyFilter in order of age; returns what could not be applied.
pub(super) fn apply(config: &mut Config, filters: &[Arc<DynamicObject>]) -> Vec<String> {
    let mut problems = Vec::new();
    for filter in filters {
        let namespace = filter.namespace().unwrap_or_default();
        let selected: Vec<usize> = (0..config.listeners.len())
            .filter(|index| selects(&filter.data["spec"], &namespace, &config.listeners[*index]))
            .collect();
        if selected.is_empty() {
            continue;
        }
        for (index, patch) in filter.data["spec"]["configPatches"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            if let Err(problem) = one(config, &selected, patch) {
                problems.push(format!(
                    "{namespace}/{} configPatches[{index}]: {problem}",
                    filter.name_any()
                ));
            }
        }
    }
    problems
}

/// The labels a gateway's pod carries: the automatic one and the classic ingress gateway's.
fn selects(spec: &Value, namespace: &str, listener: &Listener) -> bool {
    if namespace != listener.namespace {
        return false;
    }
    let targets = spec["targetRefs"].as_array().cloned().unwrap_or_default();
    if !targets.is_empty() {
        return targets.iter().any(|target| {
            target["kind"] == "Gateway" && target["name"] == listener.gateway.as_str()
        });
    }
    spec["workloadSelector"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, value)| match key.as_str() {
            "istio" => value == "ingressgateway",
            "gateway.networking.k8s.io/gateway-name" => value == listener.gateway.as_str(),
            _ => false,
        })
}

fn one(config: &mut Config, selected: &[usize], patch: &Value) -> Result<(), String> {
    let context = patch["match"]["context"].as_str().unwrap_or("ANY");
    if !matches!(context, "ANY" | "GATEWAY") {
        return Ok(());
    }
    let operation = patch["patch"]["operation"].as_str().unwrap_or_default();
    let value = &patch["patch"]["value"];
    match (patch["applyTo"].as_str().unwrap_or_default(), operation) {
        ("HTTP_FILTER", "INSERT_BEFORE" | "INSERT_FIRST") => {
            let before =
                patch["match"]["listener"]["filterChain"]["filter"]["subFilter"]["name"].as_str();
            for index in selected {
                let filters = &mut config.listeners[*index].filters;
                let at = match before {
                    Some(name) => filters.iter().position(|filter| filter["name"] == name),
                    None => Some(0),
                };
                if let Some(at) = at {
                    filters.insert(at, value.clone());
                }
            }
            Ok(())
        }
        ("HTTP_ROUTE", "MERGE") => {
            let name = patch["match"]["routeConfiguration"]["vhost"]["route"]["name"].as_str();
            for index in selected {
                for route in &mut config.listeners[*index].routes {
                    if name.is_none_or(|name| route["name"] == name) {
                        merge(route, value);
                    }
                }
            }
            Ok(())
        }
        ("CLUSTER", "MERGE") => {
            let name = patch["match"]["cluster"]["name"].as_str();
            for (key, cluster) in &mut config.clusters {
                if name.is_none_or(|name| key == name) {
                    merge(cluster, value);
                }
            }
            Ok(())
        }
        (to, operation) => Err(format!(
            "applyTo {to} with operation {operation} is not supported by this rig"
        )),
    }
}

/// Protobuf's merge: messages merge, lists append, everything else is replaced.
fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(into), Value::Array(from)) => into.extend(from.iter().cloned()),
        (into, from) => *into = from.clone(),
    }
}
