//! What people wrote about decode or prefill -> what their pods, Services and the EPP must
//! agree on. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, Service};

use super::{Context, KvEvents, Ports, Prefillers, Written, kv_events, pool, ports, told, written};
use crate::api::modelservice::{AcceleratorTypes, Parallelism, PdSpec};
use crate::contract;
use crate::operator::artifacts::Artifacts;
use crate::operator::base::{BaseDeployment, Sources};
use crate::operator::engine::CommandLine;
use crate::operator::finding::Finding;
use crate::operator::names::Role;
use crate::operator::{builtin, merge};

/// The engines of one role.
#[derive(Clone, Debug)]
pub struct Engines {
    /// Decode or prefill.
    pub role: Role,
    /// What people wrote.
    pub written: Written,
    /// Nobody wrote an image for the engine.
    pub lacks_image: bool,
    /// How one engine spreads over GPUs.
    pub parallelism: Option<Parallelism>,
    /// Prefill and decode hand over KV caches by NIXL.
    pub nixl: bool,
    /// Where the pods listen.
    pub ports: Ports,
    /// What the engine is told to publish; `None` where it says so itself, or nobody listens.
    pub publishes: Option<KvEvents>,
    /// What the sidecar is told of the prefill pods.
    pub prefillers: Prefillers,
    /// A headless Service lists these pods.
    pub listed_by_name: bool,
    /// The Service in front of them, without name and labels.
    pub service: Option<Service>,
}

impl Engines {
    /// The routing sidecar as people wrote it.
    pub fn sidecar(&self) -> Option<&Container> {
        self.written.container(contract::CONTAINER_SIDECAR)
    }

    /// True when the pods have a routing sidecar.
    pub fn has_sidecar(&self) -> bool {
        has_sidecar(self.role, &self.written)
    }
}

fn has_sidecar(role: Role, written: &Written) -> bool {
    written.container(contract::CONTAINER_SIDECAR).is_some()
        || (role == Role::Decode && written.filled)
}

/// Engines that answer requests; `None` when neither base nor ModelService has them.
pub(super) fn decode(
    context: &Context<'_>,
    artifacts: &Artifacts,
    scored: bool,
    findings: &mut Vec<Finding>,
) -> Option<Engines> {
    let base = context.base.decode.as_deref();
    let section = context.ms.spec.decode.as_ref();
    if base.is_none() && section.is_none() {
        return None;
    }
    let mut deployment = base.map(|base| base.object.clone()).unwrap_or_default();
    let accelerators = section.and_then(|section| section.accelerator_types.as_ref());
    overlay(&mut deployment, section, accelerators, artifacts);
    let parallelism = section.and_then(|section| section.parallelism.clone());
    let serving = pool::asked_port(context).unwrap_or(contract::PORT_SERVING);
    Some(engines(
        context,
        (Role::Decode, base, &context.base.decode_service),
        (deployment, parallelism),
        (scored, serving),
        findings,
    ))
}

/// Engines that compute the KV cache of prompts. Without a base of their own they run what decode
/// runs, on nodes like decode's.
pub(super) fn prefill(
    context: &Context<'_>,
    artifacts: &Artifacts,
    scored: bool,
    decode: Option<&Engines>,
    findings: &mut Vec<Finding>,
) -> Option<Engines> {
    let base = context.base.prefill.as_deref();
    let section = context.ms.spec.prefill.as_ref();
    if base.is_none() && section.is_none() {
        return None;
    }
    let of_decode = context.ms.spec.decode.as_ref().filter(|_| base.is_none());
    let mut deployment = match base {
        Some(base) => base.object.clone(),
        None => inherited(context.base.decode.as_deref(), decode, section),
    };
    let accelerators = section
        .and_then(|section| section.accelerator_types.as_ref())
        .or_else(|| of_decode?.accelerator_types.as_ref());
    overlay(&mut deployment, section, accelerators, artifacts);
    let parallelism = section
        .and_then(|section| section.parallelism.clone())
        .or_else(|| of_decode?.parallelism.clone());
    // The EPP names prefill endpoints by the port of the pool, which is decode's.
    let serving = pool::asked_port(context)
        .or_else(|| Some(decode?.ports.serving))
        .unwrap_or(contract::PORT_SERVING);
    Some(engines(
        context,
        (Role::Prefill, base, &context.base.prefill_service),
        (deployment, parallelism),
        (scored, serving),
        findings,
    ))
}

/// What the ModelService's section says, over a base.
fn overlay(
    deployment: &mut Deployment,
    section: Option<&PdSpec>,
    accelerators: Option<&AcceleratorTypes>,
    artifacts: &Artifacts,
) {
    if let Some(section) = section {
        merge::section(
            deployment,
            section.replicas,
            &section.containers,
            &section.init_containers,
            Some(artifacts),
        );
    }
    if let Some(types) = accelerators {
        merge::accelerators(merge::pod_spec(deployment), types);
    }
}

fn engines(
    context: &Context<'_>,
    (role, base, base_service): (Role, Option<&BaseDeployment>, &Option<Service>),
    (mut deployment, parallelism): (Deployment, Option<Parallelism>),
    (scored, serving): (bool, u16),
    findings: &mut Vec<Finding>,
) -> Engines {
    let builtin = base.map_or(!context.base.is_old_form(), BaseDeployment::is_filled);
    let sources = Sources::of_role(context.ms, &context.base, role);
    let reserved = [contract::LABEL_EPP, contract::LABEL_MODEL_SERVICE];
    written::drop_labels(&mut deployment, &reserved, &sources, findings);
    let pod = merge::pod_spec(&mut deployment);
    let lacks_image = pod
        .containers
        .iter()
        .any(|container| container.name == contract::CONTAINER_ENGINE && container.image.is_none());
    let says_nothing = lacks_image || pod.containers.is_empty();
    // What was inherited from a decode role written in full is completed for its own role.
    let filled = builtin || base.is_none();
    debug_assert!(filled || !says_nothing || base.is_some(), "nobody fills it");
    let publishes = kv_events::publish(scored, filled, pod);
    let written = Written {
        deployment,
        filled,
        sources,
        keep_live_replicas: context.ms.spec.decouple_scaling == Some(true),
    };
    let ports = ports::decide(&written, has_sidecar(role, &written), serving, findings);
    told::tell(context, role, &written, parallelism.as_ref(), findings);
    let service = match base_service {
        Some(service) => Some(service.clone()),
        None if builtin => Some(builtin::role_service(ports.serving)),
        None => None,
    };
    let both_roles = context.ms.spec.prefill.is_some() || context.base.prefill.is_some();
    Engines {
        role,
        lacks_image,
        parallelism,
        nixl: both_roles && connector_is_nixl(context.base.decode.as_deref()),
        ports,
        publishes,
        prefillers: Prefillers::Untold,
        listed_by_name: false,
        service,
        written,
    }
}

/// The decode role's pod as a prefill pod: without the sidecar, and without the flags and probes
/// that belong to the engine's place behind it. Resources are those that the ModelService gives
/// decode; its other words about decode's containers are meant for decode.
fn inherited(
    base: Option<&BaseDeployment>,
    decode: Option<&Engines>,
    section: Option<&PdSpec>,
) -> Deployment {
    let mut deployment = Deployment::default();
    // Who says what to run says the rest too.
    let own_image = section.is_some_and(|section| {
        let mut containers = section.containers.iter();
        containers.any(|c| c.name == contract::CONTAINER_ENGINE && c.image.is_some())
    });
    let full = base.is_some_and(|base| !base.is_filled());
    if let Some(base) = base.filter(|_| !(full && own_image)) {
        deployment.spec.template = base.object.spec.template.clone();
        // Labels and annotations of a pod are said per role.
        deployment.spec.template.metadata = None;
    }
    let pod = merge::pod_spec(&mut deployment);
    let is_sidecar = |container: &Container| container.name == contract::CONTAINER_SIDECAR;
    pod.containers.retain(|container| !is_sidecar(container));
    if let Some(init) = &mut pod.init_containers {
        init.retain(|container| !is_sidecar(container));
    }
    let resources = decode
        .and_then(|decode| decode.written.container(contract::CONTAINER_ENGINE))
        .and_then(|engine| engine.resources.clone());
    if resources.is_some()
        || pod
            .containers
            .iter()
            .any(|c| c.name == contract::CONTAINER_ENGINE)
    {
        let engine = builtin::main_container(pod, contract::CONTAINER_ENGINE);
        engine.resources = resources;
        engine.ports = None;
        engine.startup_probe = None;
        engine.readiness_probe = None;
        engine.liveness_probe = None;
        if !CommandLine::of(engine).is_script() {
            for words in [&mut engine.command, &mut engine.args] {
                let port_of_decode = words.take().map(without_port);
                *words = port_of_decode.filter(|words| !words.is_empty());
            }
        }
    }
    deployment
}

/// Words without `--port VALUE` and `--port=VALUE`.
fn without_port(words: Vec<String>) -> Vec<String> {
    let mut kept = Vec::with_capacity(words.len());
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == "--port" {
            words.next();
        } else if !word.starts_with("--port=") {
            kept.push(word);
        }
    }
    kept
}

/// What the user's sidecar says about KV transfer; NIXL where it says nothing.
fn connector_is_nixl(decode: Option<&BaseDeployment>) -> bool {
    let pod = decode.and_then(|decode| decode.object.spec.template.spec.as_ref());
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
