//! Base EPP + `spec.endpointPicker` -> the EPP's Deployment and Service. PURE.

use std::collections::BTreeMap;

use super::place::Sources;
use super::routing::Routing;
use super::{Context, Error, Workload, checks};
use crate::contract;
use crate::operator::names;
use crate::operator::{builtin, merge};

/// The EPP; `None` for an old-form base without one.
pub(super) fn epp(context: &Context<'_>, routing: &Routing) -> Result<Option<Workload>, Error> {
    let base = context.base.epp.as_ref();
    let section = context.ms.spec.endpoint_picker.as_ref();
    let builtin = base.map_or(!context.base.is_old_form(), |base| base.shorthand);
    if base.is_none() && !builtin {
        return Ok(None);
    }
    let mut deployment = base.map(|base| base.object.clone()).unwrap_or_default();
    let name = names::epp_deployment(&context.name);
    let labels = BTreeMap::from([(contract::LABEL_EPP.to_owned(), name.clone())]);
    merge::identity(
        &mut deployment,
        &name,
        context.namespace.as_deref(),
        &labels,
    );
    if let Some(section) = section {
        merge::section(
            &mut deployment,
            section.replicas,
            &section.containers,
            &section.init_containers,
            None,
        );
    }
    if builtin {
        deployment.spec.replicas.get_or_insert(1);
    }
    let pod = merge::pod_spec(&mut deployment);
    pod.service_account_name = Some(names::epp_service_account(&context.name));
    let sources = Sources::epp(context);
    let images = sources.images(pod);
    if builtin {
        builtin::fill_epp(pod, &context.settings.epp_image, epp_args(context, routing));
    }
    let template = &deployment.spec.template;
    if let Some(pod) = &template.spec {
        checks::pod(context, &sources, template.metadata.as_ref(), pod)?;
    }
    let service = match &context.base.epp_service {
        Some(service) => Some(service.clone()),
        None if builtin => Some(builtin::epp_service()),
        None => None,
    };
    let service = service.map(|mut service| {
        service.metadata.name = Some(names::epp_service(&context.name));
        service.metadata.namespace.clone_from(&context.namespace);
        service
            .metadata
            .labels
            .get_or_insert_default()
            .extend(labels.clone());
        let spec = service.spec.get_or_insert_default();
        spec.selector.get_or_insert_default().extend(labels.clone());
        service
    });
    Ok(Some(Workload {
        deployment,
        service,
        keep_live_replicas: false,
        images,
    }))
}

/// Tells the EPP which body mode the filter uses that asks it on our behalf.
pub(super) fn tell_body_mode(context: &Context<'_>, routing: &Routing, epp: &mut Workload) {
    let base = context.base.epp.as_ref();
    let builtin = base.map_or(!context.base.is_old_form(), |base| base.shorthand);
    if let Some(mode) = routing.managed_body_mode(builtin) {
        let pod = merge::pod_spec(&mut epp.deployment);
        let container = builtin::main_container(pod, contract::CONTAINER_EPP);
        let entry = builtin::var(contract::ENV_MANAGED_BODY_MODE, mode);
        builtin::add_env(container, [entry]);
    }
}

fn epp_args(context: &Context<'_>, routing: &Routing) -> Vec<String> {
    let mut args = if routing.pool_version.is_some() {
        vec![
            format!("--pool-name={}", names::inference_pool(&context.name)),
            format!(
                "--pool-namespace={}",
                context.namespace.as_deref().unwrap_or_default()
            ),
        ]
    } else {
        let selector: Vec<String> = context
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        vec![
            format!("--endpoint-selector={}", selector.join(",")),
            format!("--endpoint-target-ports={}", contract::PORT_SERVING),
        ]
    };
    args.push(format!("--grpc-port={}", contract::PORT_EPP_GRPC));
    args.push(format!("--grpc-health-port={}", contract::PORT_EPP_HEALTH));
    args.push(format!("--metrics-port={}", contract::PORT_EPP_METRICS));
    args
}
