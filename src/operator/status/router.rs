//! What gateway controllers say about route, Gateways and pool -> the RouterReady condition.
//! PURE. Nothing is assumed, and what was said about an older generation does not count.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use kube::core::ObjectMeta;

use super::Seen;
use crate::api::ModelService;
use crate::api::conditions::Verdict;
use crate::api::foreign::{HTTPRoute, ParentStatus};
use crate::api::modelservice::ParentReference;
use crate::operator::children::{ChildKey, Object};
use crate::operator::observe::Observed;

/// The verdict on everything between clients and the EPP.
pub(super) fn router(ms: &ModelService, seen: &Seen<'_>, observed: &Observed) -> Verdict {
    let Some(route) = observed
        .route
        .as_ref()
        .filter(|_| seen.outcome.applied.get(ChildKey::HttpRoute).is_some())
    else {
        return if ms.spec.routing.gateway_refs.is_empty() {
            Verdict::yes(
                "NoRoute",
                "spec.routing.gatewayRefs is empty: routing is somebody else's",
            )
        } else {
            Verdict::no("NoRoute", "the HTTPRoute does not exist")
        };
    };
    let shadowed = seen.facts.routing.shadowed.as_ref();
    let trouble = gateways(ms, observed)
        .or_else(|| parents(ms, seen, route))
        .or_else(|| pool(seen, route))
        .or_else(|| Some(Verdict::no("RouteShadowed", shadowed?)));
    trouble.unwrap_or_else(|| {
        Verdict::yes(
            "Programmed",
            "the gateway has accepted and programmed the route",
        )
    })
}

/// A Gateway that is missing or not programmed.
fn gateways(ms: &ModelService, observed: &Observed) -> Option<Verdict> {
    let own_namespace = ms.namespace().unwrap_or_default();
    for reference in &ms.spec.routing.gateway_refs {
        if kind(reference) != "Gateway" {
            continue;
        }
        let namespace = reference.namespace.as_ref().unwrap_or(&own_namespace);
        let name = format!("Gateway {namespace}/{}", reference.name);
        let found = observed.gateways.iter().find(|gateway| {
            gateway.name_any() == reference.name && gateway.namespace().as_ref() == Some(namespace)
        });
        let Some(gateway) = found else {
            return Some(Verdict::no(
                "GatewayNotFound",
                format!("{name} (spec.routing.gatewayRefs) does not exist"),
            ));
        };
        let conditions = gateway
            .status
            .as_ref()
            .map(|status| status.conditions.as_slice())
            .unwrap_or_default();
        let verdict = unless_true(conditions, "Programmed", &gateway.metadata, &name);
        if verdict.is_some() {
            return verdict;
        }
    }
    None
}

/// A parent that has not taken the route as it is now.
fn parents(ms: &ModelService, seen: &Seen<'_>, route: &HTTPRoute) -> Option<Verdict> {
    let said = route
        .status
        .as_ref()
        .map(|status| status.parents.as_slice())
        .unwrap_or_default();
    let wanted = match &seen.facts.routing.route {
        Some(route) => route.parents.as_slice(),
        None => ms.spec.routing.gateway_refs.as_slice(),
    };
    if wanted.is_empty() && said.is_empty() {
        return Some(pending("HTTPRoute has no parent"));
    }
    let namespace = ms.namespace().unwrap_or_default();
    for reference in wanted {
        let what = format!("HTTPRoute at {} {}", kind(reference), reference.name);
        let theirs: Vec<&ParentStatus> = said
            .iter()
            .filter(|parent| same_parent(&parent.parent_ref, reference, &namespace))
            .collect();
        if theirs.is_empty() {
            return Some(pending(&format!(
                "{what}: no gateway controller has accepted it"
            )));
        }
        for parent in theirs {
            for type_ in ["Accepted", "ResolvedRefs"] {
                let verdict = unless_true(&parent.conditions, type_, &route.metadata, &what);
                if verdict.is_some() {
                    return verdict;
                }
            }
        }
    }
    None
}

/// An InferencePool that the route leads to and that no gateway has accepted.
fn pool(seen: &Seen<'_>, route: &HTTPRoute) -> Option<Verdict> {
    let pool = seen.outcome.applied.get(ChildKey::InferencePool)?;
    let name = pool.name();
    let leads_there = route.spec.rules.iter().flatten().any(|rule| {
        let backends = rule["backendRefs"].as_array();
        backends
            .into_iter()
            .flatten()
            .any(|backend| backend["kind"] == "InferencePool" && backend["name"] == name.as_str())
    });
    if !leads_there {
        return None;
    }
    let status = match pool {
        Object::InferencePool(pool) => pool.status.as_ref(),
        Object::InferencePoolAlpha(pool) => pool.status.as_ref(),
        _ => None,
    };
    let what = format!("InferencePool {name}");
    // `Status` is the kind of the entry that stands there before anybody has looked.
    let parents: Vec<&ParentStatus> = status
        .iter()
        .flat_map(|status| status.parents.iter())
        .filter(|parent| parent.parent_ref.kind.as_deref() != Some("Status"))
        .collect();
    if parents.is_empty() {
        return Some(pending(&format!("{what}: no gateway has accepted it")));
    }
    parents
        .into_iter()
        .find_map(|parent| unless_true(&parent.conditions, "Accepted", pool.meta(), &what))
}

fn kind(reference: &ParentReference) -> &str {
    reference.kind.as_deref().unwrap_or("Gateway")
}

fn same_parent(a: &ParentReference, b: &ParentReference, own_namespace: &str) -> bool {
    let namespace =
        |reference: &ParentReference| reference.namespace.clone().unwrap_or(own_namespace.into());
    a.name == b.name
        && kind(a) == kind(b)
        && namespace(a) == namespace(b)
        && a.section_name == b.section_name
        && a.port == b.port
}

fn pending(what: &str) -> Verdict {
    Verdict::no("Pending", format!("{what} yet"))
}

/// The verdict on a condition that is not true of the object as it is now.
fn unless_true(
    conditions: &[Condition],
    type_: &str,
    object: &ObjectMeta,
    what: &str,
) -> Option<Verdict> {
    let condition = conditions.iter().find(|condition| {
        // Controllers that note no generation are believed.
        let noted = condition.observed_generation;
        condition.type_ == type_ && (noted.is_none() || noted >= object.generation)
    });
    match condition {
        Some(condition) if condition.status == "True" => None,
        Some(condition) if condition.status == "False" => Some(Verdict::no(
            condition.reason.clone(),
            format!("{what} is not {type_}: {}", condition.message),
        )),
        _ => Some(pending(&format!("{what} is not {type_}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn condition(type_: &str, status: &str, generation: i64) -> serde_json::Value {
        json!({
            "type": type_, "status": status, "observedGeneration": generation,
            "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    }

    fn parent(name: &str, generation: i64) -> serde_json::Value {
        let conditions = ["Accepted", "ResolvedRefs"].map(|t| condition(t, "True", generation));
        json!({"parentRef": {"name": name}, "conditions": conditions})
    }

    fn verdict(parents: &[serde_json::Value], pool_parents: &serde_json::Value) -> Option<Verdict> {
        let reference = |name: &str| json!({"name": name, "kind": "Gateway", "namespace": "ns"});
        let rules =
            json!([{"backendRefs": [{"kind": "InferencePool", "name": "m-inference-pool"}]}]);
        let refs = json!([reference("a"), reference("b")]);
        let ms: ModelService = serde_json::from_value(json!({
            "apiVersion": "llm-d.ai/v1alpha1", "kind": "ModelService",
            "metadata": {"name": "m", "namespace": "ns"},
            "spec": {"modelArtifacts": {"uri": "hf://o/m"}, "routing": {"modelName": "m", "gatewayRefs": refs}},
        }))
        .unwrap();
        let route: HTTPRoute = serde_json::from_value(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "m-http-route", "namespace": "ns", "generation": 2},
            "spec": {"parentRefs": refs, "rules": rules},
            "status": {"parents": parents},
        }))
        .unwrap();
        let pool: crate::api::foreign::InferencePool = serde_json::from_value(json!({
            "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool",
            "metadata": {"name": "m-inference-pool", "namespace": "ns", "generation": 1},
            "spec": {}, "status": {"parents": pool_parents},
        }))
        .unwrap();
        let object = Object::InferencePool(Box::new(pool));
        let mut facts = crate::operator::facts::decide(
            &crate::operator::settings::Settings::default(),
            &ms,
            &crate::operator::resolved::Resolved::default(),
            &mut Vec::new(),
        )
        .unwrap();
        facts.routing.route = Some(crate::operator::facts::RouteFacts {
            parents: route.spec.parent_refs.clone(),
            rules: route.spec.rules.clone(),
        });
        let outcome = crate::operator::apply::Outcome {
            applied: crate::operator::children::Children::applied(vec![
                crate::operator::children::Child {
                    key: ChildKey::InferencePool,
                    object,
                    ownership: crate::operator::children::Ownership::Owned,
                    keep_live_replicas: false,
                },
            ]),
            failed: Vec::new(),
            inventory: Vec::new(),
        };
        let seen = Seen {
            facts: &facts,
            outcome: &outcome,
            observed: None,
        };
        super::parents(&ms, &seen, &route).or_else(|| super::pool(&seen, &route))
    }

    #[test]
    fn every_parent_must_have_taken_the_route_as_it_is_now() {
        let accepted =
            json!([{"parentRef": {"name": "a"}, "conditions": [condition("Accepted", "True", 1)]}]);
        let both = [parent("a", 2), parent("b", 2)];
        assert_eq!(verdict(&both, &accepted), None);
        let one = verdict(&both[..1], &accepted).unwrap();
        assert!(one.message.contains("Gateway b"), "{one:?}");
        let stale = verdict(&[parent("a", 2), parent("b", 1)], &accepted).unwrap();
        assert_eq!(stale.reason, "Pending");
        assert!(
            stale.message.contains("Gateway b is not Accepted yet"),
            "{stale:?}"
        );
    }

    #[test]
    fn a_pool_the_route_leads_to_must_be_accepted() {
        let both = [parent("a", 2), parent("b", 2)];
        let nobody =
            json!([{"parentRef": {"kind": "Status", "name": "default"}, "conditions": []}]);
        assert_eq!(verdict(&both, &nobody).unwrap().reason, "Pending");
        let refused = json!([{"parentRef": {"name": "a"}, "conditions": [condition("Accepted", "False", 1)]}]);
        assert_eq!(verdict(&both, &refused).unwrap().reason, "R");
    }
}
