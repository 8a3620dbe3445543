//! What the operator and the EPP may do, as one list. PURE: the chart's rules are written
//! from here, and a test refuses a chart that says otherwise.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::rbac::v1::PolicyRule;

const READ: &[&str] = &["get", "list", "watch"];
/// Server-side apply is `patch`, and `create` where the object is new.
const OWN: &[&str] = &["create", "delete", "get", "list", "patch", "watch"];

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let list = |items: &[&str]| {
        items
            .iter()
            .map(|item| (*item).to_owned())
            .collect::<Vec<_>>()
    };
    PolicyRule {
        api_groups: Some(list(&[group])),
        resources: Some(list(resources)),
        verbs: list(verbs),
        ..PolicyRule::default()
    }
}

/// Rules of the operator's ClusterRole. The operator also has the EPP's rules, since it
/// may grant only what it has.
pub fn operator_rules() -> Vec<PolicyRule> {
    vec![
        // `patch` puts and removes the finalizer of objects in other namespaces.
        rule(
            "llm-d.ai",
            &["modelservices"],
            &["get", "list", "patch", "watch"],
        ),
        rule(
            "llm-d.ai",
            &["modelservices/status"],
            &["get", "patch", "update"],
        ),
        rule("llm-d.ai", &["modelservices/finalizers"], &["update"]),
        rule("", &["configmaps", "services", "serviceaccounts"], OWN),
        // Only what was generated: the password of Redis, the secret of an EPP; no list, no watch.
        rule("", &["secrets"], &["create", "delete", "get", "patch"]),
        rule("", &["pods"], READ),
        rule("apps", &["deployments"], OWN),
        rule("rbac.authorization.k8s.io", &["rolebindings"], OWN),
        rule("networking.k8s.io", &["networkpolicies"], OWN),
        rule("gateway.networking.k8s.io", &["httproutes"], OWN),
        rule(
            "gateway.networking.k8s.io",
            &["gateways", "gatewayclasses"],
            READ,
        ),
        rule("inference.networking.k8s.io", &["inferencepools"], OWN),
        rule(
            "inference.networking.x-k8s.io",
            &["inferencepools", "inferencemodels"],
            OWN,
        ),
        rule("networking.istio.io", &["envoyfilters"], OWN),
        rule("apiextensions.k8s.io", &["customresourcedefinitions"], READ),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
    ]
}

/// Rules of the operator's Role in its own namespace.
pub fn leader_election_rules() -> Vec<PolicyRule> {
    vec![rule(
        "coordination.k8s.io",
        &["leases"],
        &["create", "get", "update"],
    )]
}

/// Rules of the ClusterRole that each EPP is bound to, in its own namespace only.
pub fn epp_rules() -> Vec<PolicyRule> {
    vec![
        rule("", &["pods"], READ),
        rule("inference.networking.k8s.io", &["inferencepools"], READ),
        rule("inference.networking.x-k8s.io", &["inferencepools"], READ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "a test reads the file it guards")]
    #[test]
    fn the_chart_grants_exactly_these_rules() {
        for (file, rules) in [
            ("operator", operator_rules()),
            ("leader-election", leader_election_rules()),
            ("epp", epp_rules()),
        ] {
            let path = format!(
                "{}/charts/llm-d-operator/files/rbac-{file}.yaml",
                env!("CARGO_MANIFEST_DIR")
            );
            let on_disk = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                on_disk == serde_yaml::to_string(&rules).unwrap(),
                "{path} is out of date: run `make generate`"
            );
        }
    }
}
