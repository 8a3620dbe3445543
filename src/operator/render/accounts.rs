//! Facts -> ServiceAccounts of engines and EPP, and the EPP's RoleBinding. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::{LocalObjectReference, ServiceAccount};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};

use crate::operator::children::Object;
use crate::operator::facts::Facts;
use crate::operator::names;

fn account(facts: &Facts, name: String, pull_secrets: &[String]) -> Object {
    let secrets: Vec<LocalObjectReference> = pull_secrets
        .iter()
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    Object::ServiceAccount(Box::new(ServiceAccount {
        metadata: facts.identity.meta(name),
        image_pull_secrets: (!secrets.is_empty()).then_some(secrets),
        ..ServiceAccount::default()
    }))
}

/// The account of prefill and decode pods.
pub(super) fn of_engines(facts: &Facts) -> Object {
    let name = names::pd_service_account(&facts.identity.name);
    account(facts, name, &facts.settings.pd_pull_secrets)
}

/// The EPP's account.
pub(super) fn of_epp(facts: &Facts) -> Object {
    let name = names::epp_service_account(&facts.identity.name);
    account(facts, name, &facts.settings.epp_pull_secrets)
}

/// Binds the EPP's account to the ClusterRole, in this namespace only.
pub(super) fn epp_role_binding(facts: &Facts) -> Object {
    let identity = &facts.identity;
    Object::RoleBinding(Box::new(RoleBinding {
        metadata: identity.meta(names::epp_role_binding(&identity.name)),
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name: facts.settings.epp_cluster_role.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: names::epp_service_account(&identity.name),
            namespace: identity.namespace.clone(),
            ..Subject::default()
        }]),
    }))
}
