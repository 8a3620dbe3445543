//! ServiceAccounts of engines and EPP, and the EPP's RoleBinding. PURE.

use k8s_openapi::api::core::v1::{LocalObjectReference, ServiceAccount};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use kube::core::ObjectMeta;

use crate::operator::children::Object;
use crate::operator::names;
use crate::operator::plan::Plan;
use crate::operator::settings::Settings;

pub(super) fn meta(plan: &Plan, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: plan.namespace.clone(),
        ..ObjectMeta::default()
    }
}

fn account(plan: &Plan, name: String, pull_secrets: &[String]) -> Object {
    let secrets: Vec<LocalObjectReference> = pull_secrets
        .iter()
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    Object::ServiceAccount(Box::new(ServiceAccount {
        metadata: meta(plan, name),
        image_pull_secrets: (!secrets.is_empty()).then_some(secrets),
        ..ServiceAccount::default()
    }))
}

pub(super) fn pd_account(settings: &Settings, plan: &Plan) -> Object {
    account(
        plan,
        names::pd_service_account(&plan.name),
        &settings.pd_pull_secrets,
    )
}

pub(super) fn epp_account(settings: &Settings, plan: &Plan) -> Object {
    account(
        plan,
        names::epp_service_account(&plan.name),
        &settings.epp_pull_secrets,
    )
}

/// Binds the EPP's account to the ClusterRole, in this namespace only.
pub(super) fn epp_role_binding(settings: &Settings, plan: &Plan) -> Object {
    Object::RoleBinding(Box::new(RoleBinding {
        metadata: meta(plan, names::epp_role_binding(&plan.name)),
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name: settings.epp_cluster_role.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: names::epp_service_account(&plan.name),
            namespace: plan.namespace.clone(),
            ..Subject::default()
        }]),
    }))
}
