//! Base EPP + `spec.endpointPicker` -> the EPP's Deployment and Service. PURE.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use kube::core::Selector;

use super::place::Sources;
use super::routing::Routing;
use super::{Context, Error, Workload, checks};
use crate::contract;
use crate::operator::resolve::EPP_SECRET_KEY;
use crate::operator::resolved::Generated;
use crate::operator::{builtin, merge, names};

/// The EPP; `None` for an old-form base without one.
pub(super) fn epp(context: &Context<'_>, routing: &Routing) -> Result<Option<Workload>, Error> {
    let base = context.base.epp.as_ref();
    let section = context.ms.spec.endpoint_picker.as_ref();
    let builtin = context.base.has_builtin_epp();
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
        let secret = names::epp_secret(&context.name);
        let entry = builtin::secret_var(contract::ENV_POOL_SECRET, &secret, EPP_SECRET_KEY);
        let container = builtin::main_container(pod, contract::CONTAINER_EPP);
        builtin::add_env(container, [entry]);
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

/// The secret to make for the EPP's replicas (empty offline), where they read ours.
pub(super) fn secret(context: &Context<'_>, epp: &Workload) -> Option<Generated> {
    let name = names::epp_secret(&context.name);
    let ours = container(epp)?.env.iter().flatten().any(|entry| {
        let source = entry.value_from.as_ref();
        let key = source.and_then(|source| source.secret_key_ref.as_ref());
        key.is_some_and(|key| key.name == name)
    });
    ours.then(|| context.resolved.epp_secret.clone().unwrap_or_default())
}

/// True when the container starts this project's EPP, which may be pinged as often as one
/// likes. Go's gRPC servers end a connection that pings more than once in five minutes.
pub(super) fn answers_pings(epp: &Workload) -> bool {
    container(epp).is_some_and(|container| builtin::starts(container, builtin::EPP_PROGRAM))
}

fn container(epp: &Workload) -> Option<&Container> {
    let pod = epp.deployment.spec.template.spec.as_ref()?;
    pod.containers
        .iter()
        .find(|container| container.name == contract::CONTAINER_EPP)
}

/// Tells the EPP which body mode the filter uses that asks it on our behalf.
pub(super) fn tell_body_mode(context: &Context<'_>, routing: &Routing, epp: &mut Workload) {
    if let Some(mode) = routing.managed_body_mode(context.base.has_builtin_epp()) {
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
        let selector: Selector = context.labels.clone().into_iter().collect();
        vec![
            format!("--endpoint-selector={selector}"),
            format!("--endpoint-target-ports={}", contract::PORT_SERVING),
        ]
    };
    args.push(format!("--grpc-port={}", contract::PORT_EPP_GRPC));
    args.push(format!("--grpc-health-port={}", contract::PORT_EPP_HEALTH));
    args.push(format!("--metrics-port={}", contract::PORT_EPP_METRICS));
    args
}
