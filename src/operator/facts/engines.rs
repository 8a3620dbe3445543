//! What people wrote about decode or prefill -> what their pods, Services and the EPP must
//! agree on. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Container, Service};

use super::{Context, KvEvents, Prefillers, Written, kv_events};
use crate::api::modelservice::Parallelism;
use crate::contract;
use crate::operator::artifacts::Artifacts;
use crate::operator::base::{BaseDeployment, Sources};
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
    /// The port on which the engine itself listens.
    pub fn engine_port(&self) -> u16 {
        match self.role {
            Role::Decode => contract::PORT_ENGINE_BEHIND_SIDECAR,
            Role::Prefill => contract::PORT_SERVING,
        }
    }

    /// The routing sidecar as people wrote it.
    pub fn sidecar(&self) -> Option<&Container> {
        self.written.container(contract::CONTAINER_SIDECAR)
    }

    /// True when the pods have a routing sidecar.
    pub fn has_sidecar(&self) -> bool {
        self.sidecar().is_some() || (self.role == Role::Decode && self.written.filled)
    }
}

/// The engines of one role; `None` when neither base nor ModelService has them.
pub(super) fn engines(
    context: &Context<'_>,
    role: Role,
    artifacts: &Artifacts,
    scored: bool,
) -> Option<Engines> {
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
        return None;
    }
    let builtin = base
        .as_ref()
        .map_or(!context.base.is_old_form(), |base| base.is_filled());
    let mut deployment = match base {
        Some(base) => base.object.clone(),
        None => inherited(context.base.decode.as_deref(), role),
    };
    if let Some(section) = section {
        merge::section(
            &mut deployment,
            section.replicas,
            &section.containers,
            &section.init_containers,
            Some(artifacts),
        );
        if let Some(types) = &section.accelerator_types {
            merge::accelerators(merge::pod_spec(&mut deployment), types);
        }
    }
    let sources = Sources::of_role(context.ms, &context.base, role);
    let pod = merge::pod_spec(&mut deployment);
    let images = sources.images(pod);
    let lacks_image = pod
        .containers
        .iter()
        .any(|container| container.name == contract::CONTAINER_ENGINE && container.image.is_none());
    let filled = builtin || (base.is_none() && (lacks_image || pod.containers.is_empty()));
    let publishes = kv_events::publish(scored, filled, pod);
    let service = match base_service {
        Some(service) => Some(service.clone()),
        None if builtin => Some(builtin::role_service()),
        None => None,
    };
    let both_roles = context.ms.spec.prefill.is_some() || context.base.prefill.is_some();
    Some(Engines {
        role,
        written: Written {
            deployment,
            filled,
            sources,
            images,
            keep_live_replicas: context.ms.spec.decouple_scaling == Some(true),
        },
        lacks_image,
        parallelism: section.as_ref().and_then(|s| s.parallelism.clone()),
        nixl: both_roles && connector_is_nixl(context.base.decode.as_deref()),
        publishes,
        prefillers: Prefillers::Untold,
        listed_by_name: false,
        service,
    })
}

/// A prefill section without a base of its own runs what decode runs: image, args and env
/// of its engine container.
fn inherited(decode: Option<&BaseDeployment>, role: Role) -> Deployment {
    let mut deployment = Deployment::default();
    let engine = decode
        .filter(|decode| role == Role::Prefill && decode.is_filled())
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
