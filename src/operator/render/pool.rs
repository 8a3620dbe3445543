//! Facts -> the InferencePool in the version the cluster serves, whichever form the base has,
//! and the InferenceModel. PURE.
#![deny(clippy::disallowed_methods)]

use kube::core::ObjectMeta;

use crate::api::foreign::v1alpha2::{
    ExtensionRef, InferencePool as InferencePoolAlpha, InferencePoolSpec as InferencePoolAlphaSpec,
    PoolRef,
};
use crate::api::foreign::{
    EndpointPickerRef, InferencePool, InferencePoolSpec, LabelSelector, PoolPort,
};
use crate::contract;
use crate::operator::base::BasePool;
use crate::operator::children::Object;
use crate::operator::facts::Facts;
use crate::operator::names;
use crate::operator::resolved::PoolVersion;

/// The InferencePool, in the version the cluster serves, whichever form the base has.
pub(super) fn pool(facts: &Facts) -> Option<Object> {
    let version = facts.routing.pool_version?;
    if facts.base.pool.is_none() && facts.epp.is_none() {
        return None;
    }
    let mut v1 = match &facts.base.pool {
        Some(BasePool::V1(pool)) => pool.as_ref().clone(),
        Some(BasePool::Alpha(pool)) if version == PoolVersion::V1Alpha2 => {
            return Some(alpha(facts, pool.as_ref().clone()));
        }
        Some(BasePool::Alpha(pool)) => from_alpha(pool),
        None => InferencePool::new("", InferencePoolSpec::default()),
    };
    name(facts, &mut v1.metadata);
    v1.spec
        .selector
        .match_labels
        .extend(facts.identity.pool_labels());
    if v1.spec.target_ports.is_empty() {
        v1.spec.target_ports = vec![PoolPort {
            number: i32::from(facts.routing.serving_port),
        }];
    }
    let picker = v1.spec.endpoint_picker_ref.get_or_insert_default();
    picker.name = names::epp_service(&facts.identity.name);
    picker.port.get_or_insert(PoolPort {
        number: i32::from(contract::PORT_EPP_GRPC),
    });
    // An outage of the EPP costs cache hits, not answers.
    picker
        .failure_mode
        .get_or_insert_with(|| "FailOpen".to_owned());
    if version == PoolVersion::V1 {
        return Some(Object::InferencePool(Box::new(v1)));
    }
    let spec = InferencePoolAlphaSpec {
        selector: v1.spec.selector.match_labels,
        target_port_number: v1.spec.target_ports.first().map(|port| port.number),
        extension_ref: v1.spec.endpoint_picker_ref.map(|picker| ExtensionRef {
            name: picker.name,
            port_number: picker.port.map(|port| port.number),
            failure_mode: picker.failure_mode,
            rest: picker.rest,
        }),
        rest: v1.spec.rest,
    };
    let mut pool = InferencePoolAlpha::new("", spec);
    pool.metadata = v1.metadata;
    Some(Object::InferencePoolAlpha(Box::new(pool)))
}

/// The old form in the old version: exactly what the Go operator made of it.
fn alpha(facts: &Facts, mut pool: InferencePoolAlpha) -> Object {
    name(facts, &mut pool.metadata);
    pool.spec.selector.extend(facts.identity.pool_labels());
    pool.spec.extension_ref.get_or_insert_default().name = names::epp_service(&facts.identity.name);
    Object::InferencePoolAlpha(Box::new(pool))
}

fn from_alpha(pool: &InferencePoolAlpha) -> InferencePool {
    let mut v1 = InferencePool::new(
        "",
        InferencePoolSpec {
            selector: LabelSelector {
                match_labels: pool.spec.selector.clone(),
            },
            target_ports: pool
                .spec
                .target_port_number
                .map(|number| PoolPort { number })
                .into_iter()
                .collect(),
            endpoint_picker_ref: pool.spec.extension_ref.as_ref().map(|extension| {
                EndpointPickerRef {
                    name: extension.name.clone(),
                    port: extension.port_number.map(|number| PoolPort { number }),
                    failure_mode: extension.failure_mode.clone(),
                    rest: extension.rest.clone(),
                }
            }),
            rest: pool.spec.rest.clone(),
        },
    );
    v1.metadata = pool.metadata.clone();
    v1
}

fn name(facts: &Facts, meta: &mut ObjectMeta) {
    meta.name = Some(names::inference_pool(&facts.identity.name));
    meta.namespace.clone_from(&facts.identity.namespace);
}

/// The InferenceModel, where the base asks for one and the cluster serves the old API.
pub(super) fn inference_model(facts: &Facts) -> Option<Object> {
    let mut model = facts.base.model.clone()?;
    if !facts.served.inference_model {
        return None;
    }
    model.metadata.name = Some(facts.identity.name.clone());
    model
        .metadata
        .namespace
        .clone_from(&facts.identity.namespace);
    model.metadata.labels = Some(facts.identity.common.clone());
    model.spec.model_name.clone_from(&facts.identity.model_name);
    let pool: &mut PoolRef = model.spec.pool_ref.get_or_insert_default();
    pool.name = names::inference_pool(&facts.identity.name);
    Some(Object::InferenceModel(Box::new(model)))
}
