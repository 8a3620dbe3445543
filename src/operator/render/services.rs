//! Facts -> the Services in front of engines and EPP. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::operator::children::Object;
use crate::operator::facts::Facts;
use crate::operator::names::{self, Role};

/// `clusterIP` of a Service that is only a name for its pods.
const HEADLESS: &str = "None";

/// The Service in front of the engines of a role.
pub(super) fn of_role(facts: &Facts, role: Role) -> Option<Object> {
    let mut service = facts.engines(role)?.service.clone()?;
    let identity = &facts.identity;
    service.metadata.name = Some(names::service(&identity.name, role));
    service.metadata.namespace.clone_from(&identity.namespace);
    let spec = service.spec.get_or_insert_default();
    let selector = spec.selector.get_or_insert_default();
    selector.extend(identity.role(role).service.clone());
    Some(Object::Service(Box::new(service)))
}

/// The Service in front of the EPP.
pub(super) fn of_epp(facts: &Facts) -> Option<Object> {
    let mut service = facts.epp.as_ref()?.service.clone()?;
    let identity = &facts.identity;
    let labels = identity.epp_labels();
    service.metadata.name = Some(names::epp_service(&identity.name));
    service.metadata.namespace.clone_from(&identity.namespace);
    let own_labels = service.metadata.labels.get_or_insert_default();
    own_labels.extend(labels.clone());
    let spec = service.spec.get_or_insert_default();
    spec.selector.get_or_insert_default().extend(labels);
    Some(Object::Service(Box::new(service)))
}

/// The headless Service whose addresses are those of the ready prefill pods: sidecars may ask
/// these and no others.
pub(super) fn prefill_pods(facts: &Facts) -> Option<Object> {
    facts
        .prefill
        .as_ref()
        .filter(|prefill| prefill.listed_by_name)?;
    let identity = &facts.identity;
    let port = i32::from(facts.routing.serving_port);
    Some(Object::Service(Box::new(Service {
        metadata: identity.meta(names::prefill_pods(&identity.name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some(HEADLESS.to_owned()),
            selector: Some(identity.prefill.service.clone()),
            ports: Some(vec![ServicePort {
                name: Some("http".to_owned()),
                protocol: Some("TCP".to_owned()),
                port,
                target_port: Some(IntOrString::Int(port)),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    })))
}
