//! Base Deployments + ModelService sections -> the Deployments and Services of decode and
//! prefill, and the ConfigMaps beside them. PURE.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, Service};

use super::base::BaseDeployment;
use super::place::{Place, Sources};
use super::{Context, Error, Workload, checks, kv_events};
use crate::contract;
use crate::operator::names::{self, Role};
use crate::operator::{builtin, decode, merge};

/// ConfigMaps of the base, named and in a namespace we may write to.
pub(super) fn config_maps(context: &Context<'_>) -> Result<Vec<ConfigMap>, Error> {
    let mut maps = context.base.config_maps.clone();
    for map in &mut maps {
        let refuse = |message: String, reason| Error::Merged {
            object: "configMaps",
            place: Place::Base {
                object: context.base.source.clone(),
                key: "configMaps",
                line: map.metadata.name.as_deref().and_then(|name| {
                    decode::line_of_item(&context.base.config_maps_text, None, name)
                }),
            },
            message,
            reason,
        };
        if map.metadata.name.as_ref().is_none_or(String::is_empty) {
            return Err(refuse(
                "an entry has no metadata.name".to_owned(),
                "BaseConfigInvalid",
            ));
        }
        let namespace = map
            .metadata
            .namespace
            .clone()
            .filter(|namespace| !namespace.is_empty());
        match namespace {
            Some(other)
                if Some(&other) != context.namespace.as_ref()
                    && !context.settings.allow_cross_namespace =>
            {
                return Err(refuse(
                    format!(
                        "ConfigMap {other}/{} is in another namespace; the operator allows that \
                         only with --allow-cross-namespace",
                        map.metadata.name.as_deref().unwrap_or_default()
                    ),
                    "CrossNamespaceNotAllowed",
                ));
            }
            Some(_) => {}
            None => map.metadata.namespace.clone_from(&context.namespace),
        }
    }
    Ok(maps)
}

/// The Deployment and Service of one role; `None` when neither base nor ModelService
/// has it.
pub(super) fn role(
    context: &Context<'_>,
    role: Role,
    scored: bool,
) -> Result<Option<Workload>, Error> {
    let (base, section, base_service) = match role {
        Role::Decode => (
            &context.base.decode,
            &context.ms.spec.decode,
            &context.base.decode_service,
        ),
        Role::Prefill => (
            &context.base.prefill,
            &context.ms.spec.prefill,
            &context.base.prefill_service,
        ),
    };
    if base.is_none() && section.is_none() {
        return Ok(None);
    }
    let sources = match role {
        Role::Decode => Sources::decode(context),
        Role::Prefill => Sources::prefill(context),
    };
    let builtin = base
        .as_ref()
        .map_or(!context.base.is_old_form(), |base| base.shorthand);
    let mut deployment = match base {
        Some(base) => base.object.clone(),
        None => inherited(context.base.decode.as_ref(), role),
    };
    let labels = context.role_labels(role);
    let name = names::deployment(&context.name, role);
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
            Some(&context.artifacts),
        );
        if let Some(types) = &section.accelerator_types {
            merge::accelerators(merge::pod_spec(&mut deployment), types);
        }
    }
    let pod = merge::pod_spec(&mut deployment);
    pod.service_account_name = Some(names::pd_service_account(&context.name));
    merge::model_volume(pod, &context.artifacts);
    let images = sources.images(pod);
    let lacks_image = pod
        .containers
        .iter()
        .any(|container| container.name == contract::CONTAINER_ENGINE && container.image.is_none());
    if builtin || (base.is_none() && (lacks_image || pod.containers.is_empty())) {
        fill(context, role, pod);
    } else if lacks_image {
        // A Deployment written in full gets what it cannot run without, and no more.
        builtin::main_container(pod, contract::CONTAINER_ENGINE).image =
            Some(context.settings.vllm_image.clone());
    }
    kv_events::publish(context, scored, pod);
    let template = &deployment.spec.template;
    if let Some(pod) = &template.spec {
        checks::pod(context, &sources, template.metadata.as_ref(), pod)?;
    }
    let service = match base_service {
        Some(service) => Some(service.clone()),
        None if builtin => Some(builtin::role_service()),
        None => None,
    };
    let service = service.map(|service| role_service(context, role, service));
    let keep_live_replicas = context.ms.spec.decouple_scaling == Some(true);
    Ok(Some(Workload {
        deployment,
        service,
        keep_live_replicas,
        images,
    }))
}

/// A prefill section without a base of its own runs what decode runs: image, args and env
/// of its engine container.
fn inherited(decode: Option<&BaseDeployment>, role: Role) -> Deployment {
    let mut deployment = Deployment::default();
    let engine = decode
        .filter(|decode| role == Role::Prefill && decode.shorthand)
        .and_then(|decode| decode.object.spec.template.spec.as_ref())
        .and_then(|pod| {
            pod.containers
                .iter()
                .find(|c| c.name == contract::CONTAINER_ENGINE)
        });
    if let Some(engine) = engine {
        merge::pod_spec(&mut deployment).containers.push(Container {
            name: engine.name.clone(),
            image: engine.image.clone(),
            args: engine.args.clone(),
            env: engine.env.clone(),
            ..Container::default()
        });
    }
    deployment
}

fn fill(context: &Context<'_>, role: Role, pod: &mut PodSpec) {
    let both_roles = context.ms.spec.prefill.is_some() || context.base.prefill.is_some();
    let section = match role {
        Role::Decode => &context.ms.spec.decode,
        Role::Prefill => &context.ms.spec.prefill,
    };
    let nixl = both_roles && connector_is_nixl(context);
    let port = match role {
        Role::Decode => contract::PORT_ENGINE_BEHIND_SIDECAR,
        Role::Prefill => contract::PORT_SERVING,
    };
    let engine = builtin::Engine {
        image: &context.settings.vllm_image,
        port,
        served_name: &context.ms.spec.routing.model_name,
        artifacts: &context.artifacts,
        parallelism: section
            .as_ref()
            .and_then(|section| section.parallelism.as_ref()),
        nixl,
    };
    builtin::fill_engine(pod, &engine);
    if role == Role::Decode {
        builtin::fill_sidecar(pod, &context.settings.routing_proxy_image, nixl);
    }
}

/// What the user's sidecar says about KV transfer; NIXL where it says nothing.
fn connector_is_nixl(context: &Context<'_>) -> bool {
    let pod = context
        .base
        .decode
        .as_ref()
        .and_then(|decode| decode.object.spec.template.spec.as_ref());
    let sidecar = pod.and_then(|pod| {
        pod.containers
            .iter()
            .chain(pod.init_containers.iter().flatten())
            .find(|container| container.name == contract::CONTAINER_SIDECAR)
    });
    let Some(args) = sidecar.and_then(|sidecar| sidecar.args.as_ref()) else {
        return true;
    };
    let mut values = args
        .iter()
        .zip(args.iter().skip(1).map(Some).chain([None]))
        .filter_map(|(arg, next)| {
            for flag in ["--connector", "--kv-connector"] {
                if let Some(value) = arg.strip_prefix(flag) {
                    return value
                        .strip_prefix('=')
                        .map(str::to_owned)
                        .or_else(|| next.cloned());
                }
            }
            None
        });
    values
        .next()
        .is_none_or(|connector| connector.starts_with("nixl"))
}

fn role_service(context: &Context<'_>, role: Role, mut service: Service) -> Service {
    service.metadata.name = Some(names::service(&context.name, role));
    service.metadata.namespace.clone_from(&context.namespace);
    let spec = service.spec.get_or_insert_default();
    spec.selector
        .get_or_insert_default()
        .extend(context.role_labels(role));
    service
}

/// A Service to the decode engines for bases that bring none but are routed to by Service.
pub(super) fn needed_decode_service(context: &Context<'_>) -> Service {
    role_service(context, Role::Decode, builtin::role_service())
}
