//! Base pool and what the cluster serves -> the InferencePool and the InferenceModel. PURE.

use super::Context;
use super::base::BasePool;
use super::routing::Routing;
use crate::api::foreign::v1alpha2::{
    ExtensionRef, InferenceModel, InferencePool as InferencePoolAlpha,
    InferencePoolSpec as InferencePoolAlphaSpec, PoolRef,
};
use crate::api::foreign::{
    EndpointPickerRef, InferencePool, InferencePoolSpec, LabelSelector, PoolPort,
};
use crate::contract;
use crate::operator::children::Object;
use crate::operator::names;
use crate::operator::resolved::PoolVersion;

/// The port on which endpoints serve, as the EPP names them to gateway and sidecar. Of
/// several (one for each data-parallel rank) the first.
pub(super) fn serving_port(context: &Context<'_>) -> i32 {
    let port = match &context.base.pool {
        Some(BasePool::V1(pool)) => pool.spec.target_ports.first().map(|port| port.number),
        Some(BasePool::Alpha(pool)) => pool.spec.target_port_number,
        None => None,
    };
    port.unwrap_or(i32::from(contract::PORT_SERVING))
}

/// The InferencePool, in the version the cluster serves, whichever form the base has.
pub(super) fn pool(context: &Context<'_>, routing: &Routing, has_epp: bool) -> Option<Object> {
    let version = routing.pool_version?;
    if context.base.pool.is_none() && !has_epp {
        return None;
    }
    let mut v1 = match &context.base.pool {
        Some(BasePool::V1(pool)) => pool.as_ref().clone(),
        Some(BasePool::Alpha(pool)) if version == PoolVersion::V1Alpha2 => {
            return Some(alpha(context, pool.as_ref().clone()));
        }
        Some(BasePool::Alpha(pool)) => from_alpha(pool),
        None => InferencePool::new("", InferencePoolSpec::default()),
    };
    name(context, &mut v1.metadata);
    v1.spec.selector.match_labels.extend(context.labels.clone());
    if v1.spec.target_ports.is_empty() {
        v1.spec.target_ports = vec![PoolPort {
            number: i32::from(contract::PORT_SERVING),
        }];
    }
    let picker = v1.spec.endpoint_picker_ref.get_or_insert_default();
    picker.name = names::epp_service(&context.name);
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
fn alpha(context: &Context<'_>, mut pool: InferencePoolAlpha) -> Object {
    name(context, &mut pool.metadata);
    pool.spec.selector.extend(context.labels.clone());
    pool.spec.extension_ref.get_or_insert_default().name = names::epp_service(&context.name);
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

fn name(context: &Context<'_>, meta: &mut kube::core::ObjectMeta) {
    meta.name = Some(names::inference_pool(&context.name));
    meta.namespace.clone_from(&context.namespace);
}

/// The InferenceModel, where the base asks for one and the cluster serves the old API.
pub(super) fn inference_model(context: &Context<'_>) -> Option<InferenceModel> {
    let mut model = context.base.model.clone()?;
    if !context.resolved.served.inference_model {
        return None;
    }
    model.metadata.name = Some(context.name.clone());
    model.metadata.namespace.clone_from(&context.namespace);
    model.metadata.labels = Some(context.labels.clone());
    model
        .spec
        .model_name
        .clone_from(&context.ms.spec.routing.model_name);
    let pool: &mut PoolRef = model.spec.pool_ref.get_or_insert_default();
    pool.name = names::inference_pool(&context.name);
    Some(model)
}
