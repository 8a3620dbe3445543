//! A ModelService and the others in the cluster -> those that matter to it: whose pods look like
//! its own, and who claims the same Gateway and is older. PURE.
#![deny(clippy::disallowed_methods)]

use kube::ResourceExt as _;

use super::names;
use crate::api::ModelService;
use crate::api::modelservice::ParentReference;

/// Other ModelServices that matter to one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Neighbours {
    /// Names of those in its namespace whose model's name gives the same label.
    pub namesakes: Vec<String>,
    /// The oldest that is older and sends its route to the same Gateway: of two routes with equal
    /// matches the older one wins (Gateway API, HTTPRouteRule).
    pub elder: Option<Elder>,
}

/// An older ModelService on the same Gateway.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Elder {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The Gateway that both name, as `namespace/name`.
    pub gateway: String,
}

impl Neighbours {
    /// Looks at all of them.
    pub fn of<'a>(ms: &ModelService, all: impl Iterator<Item = &'a ModelService>) -> Self {
        let label = names::sanitize(&ms.spec.routing.model_name);
        let mut found = Self::default();
        let mut oldest: Option<&ModelService> = None;
        for other in all {
            let beside = other.namespace() == ms.namespace();
            if beside && other.name_any() == ms.name_any() {
                continue;
            }
            if beside && names::sanitize(&other.spec.routing.model_name) == label {
                found.namesakes.push(other.name_any());
            }
            let is_elder = age(other) < age(ms) && shared_gateway(ms, other).is_some();
            if is_elder && oldest.is_none_or(|oldest| age(other) < age(oldest)) {
                oldest = Some(other);
            }
        }
        found.namesakes.sort();
        found.elder = oldest.and_then(|elder| {
            Some(Elder {
                namespace: elder.namespace().unwrap_or_default(),
                name: elder.name_any(),
                gateway: shared_gateway(ms, elder)?,
            })
        });
        found
    }
}

/// True when a change of one can matter to the other.
pub fn concern_each_other(a: &ModelService, b: &ModelService) -> bool {
    let label = |ms: &ModelService| names::sanitize(&ms.spec.routing.model_name);
    (a.namespace() == b.namespace() && label(a) == label(b)) || shared_gateway(a, b).is_some()
}

/// What orders routes with equal matches: creation, then namespace and name.
fn age(ms: &ModelService) -> (bool, String, String, String) {
    let created = ms.metadata.creation_timestamp.as_ref();
    let text = created.map(|time| time.0.to_string()).unwrap_or_default();
    // What is not created yet is the youngest.
    (
        created.is_none(),
        text,
        ms.namespace().unwrap_or_default(),
        ms.name_any(),
    )
}

fn shared_gateway(a: &ModelService, b: &ModelService) -> Option<String> {
    let namespace = |ms: &ModelService, reference: &ParentReference| {
        let own = ms.namespace().unwrap_or_default();
        reference.namespace.clone().unwrap_or(own)
    };
    let is_gateway =
        |reference: &ParentReference| reference.kind.as_deref().unwrap_or("Gateway") == "Gateway";
    let meets = |left: &ParentReference, right: &ParentReference| {
        let sections = (&left.section_name, &right.section_name);
        is_gateway(left)
            && is_gateway(right)
            && left.name == right.name
            && namespace(a, left) == namespace(b, right)
            // A route without a section is attached to every listener.
            && (sections.0.is_none() || sections.1.is_none() || sections.0 == sections.1)
    };
    let theirs = &b.spec.routing.gateway_refs;
    a.spec.routing.gateway_refs.iter().find_map(|left| {
        let shared = theirs.iter().any(|right| meets(left, right));
        shared.then(|| format!("{}/{}", namespace(a, left), left.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn ms(name: &str, created: &str, refs: &Value) -> ModelService {
        serde_json::from_value(json!({
            "apiVersion": "llm-d.ai/v1alpha1", "kind": "ModelService",
            "metadata": {"name": name, "namespace": "ns", "creationTimestamp": created},
            "spec": {
                "modelArtifacts": {"uri": "hf://o/m"},
                "routing": {"modelName": format!("o/{name}"), "gatewayRefs": refs},
            },
        }))
        .unwrap()
    }

    #[test]
    fn the_oldest_on_the_same_listener_is_the_elder() {
        let gateway = json!([{"name": "gw"}]);
        let young = ms("young", "2026-01-03T00:00:00Z", &gateway);
        let all = [
            ms("middle", "2026-01-02T00:00:00Z", &gateway),
            ms(
                "oldest",
                "2026-01-01T00:00:00Z",
                &json!([{"name": "gw", "namespace": "ns"}]),
            ),
            ms(
                "elsewhere",
                "2025-01-01T00:00:00Z",
                &json!([{"name": "other"}]),
            ),
            ms("none", "2025-01-01T00:00:00Z", &json!([])),
            young.clone(),
        ];
        let elder = Neighbours::of(&young, all.iter()).elder.unwrap();
        assert_eq!(
            (elder.name.as_str(), elder.gateway.as_str()),
            ("oldest", "ns/gw")
        );
        assert_eq!(Neighbours::of(&all[1], all.iter()).elder, None);
    }

    #[test]
    fn different_listeners_do_not_meet() {
        let a = ms(
            "a",
            "2026-01-01T00:00:00Z",
            &json!([{"name": "gw", "sectionName": "x"}]),
        );
        let b = ms(
            "b",
            "2026-01-02T00:00:00Z",
            &json!([{"name": "gw", "sectionName": "y"}]),
        );
        assert_eq!(Neighbours::of(&b, [&a].into_iter()).elder, None);
    }

    #[test]
    fn names_that_clean_up_alike_are_namesakes() {
        let mut a = ms("a", "2026-01-01T00:00:00Z", &json!([]));
        let mut b = a.clone();
        b.metadata.name = Some("b".to_owned());
        a.spec.routing.model_name = "my.model".to_owned();
        b.spec.routing.model_name = "my-model".to_owned();
        assert_eq!(Neighbours::of(&a, [&a, &b].into_iter()).namesakes, ["b"]);
        assert!(concern_each_other(&a, &b));
    }
}
