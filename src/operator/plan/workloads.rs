//! Base Deployments + ModelService sections -> the Deployments and Services of decode,
//! prefill and EPP. PURE.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, Service};

use super::base::BaseDeployment;
use super::place::{Place, Sources};
use super::routing::Routing;
use super::{Context, Error, Workload, checks, kv_events};
use crate::contract;
use crate::operator::names::{self, Role};
use crate::operator::{builtin, decode, merge};
use crate::scheduling::config::Settings as EppSettings;

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
        if let Some(replicas) = section.replicas {
            deployment.spec.replicas = Some(replicas);
        }
        let pod = merge::pod_spec(&mut deployment);
        merge::containers(
            &mut pod.containers,
            &section.containers,
            Some(&context.artifacts),
        );
        if !section.init_containers.is_empty() {
            let init = pod.init_containers.get_or_insert_default();
            merge::containers(init, &section.init_containers, Some(&context.artifacts));
        }
        if let Some(types) = &section.accelerator_types {
            merge::accelerators(pod, types);
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
        if let Some(replicas) = section.replicas {
            deployment.spec.replicas = Some(replicas);
        }
        let pod = merge::pod_spec(&mut deployment);
        merge::containers(&mut pod.containers, &section.containers, None);
        if !section.init_containers.is_empty() {
            merge::containers(
                pod.init_containers.get_or_insert_default(),
                &section.init_containers,
                None,
            );
        }
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

/// The EPP's settings, read by the EPP's own code.
pub(super) fn epp_settings(
    context: &Context<'_>,
    deployment: &Deployment,
    warnings: &mut Vec<String>,
) -> Result<EppSettings, Error> {
    let env: BTreeMap<String, String> = deployment
        .spec
        .template
        .spec
        .iter()
        .flat_map(|pod| pod.containers.iter())
        .filter(|container| container.name == contract::CONTAINER_EPP)
        .flat_map(|container| container.env.iter().flatten())
        .filter_map(|entry| Some((entry.name.clone(), entry.value.clone()?)))
        .collect();
    let sources = Sources::epp(context);
    let place = |name: &str| sources.env(contract::CONTAINER_EPP, name);
    match EppSettings::from_env(&env) {
        Ok((settings, notes)) => {
            // The Go EPP's own scorers are silent no-ops in a base of its own image.
            warnings.extend(notes.into_iter().map(|note| {
                let place = place(&note.name);
                let line = place.line_note();
                format!("{place}, env {} {}{line}", note.name, note.message)
            }));
            Ok(settings)
        }
        Err(errors) => Err(Error::EppSettings {
            errors: errors
                .into_iter()
                .map(|error| (place(&error.name), error))
                .collect(),
        }),
    }
}
