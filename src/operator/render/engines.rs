//! Facts -> the Deployment of decode or prefill engines: what people wrote, filled from the
//! built-in base where they asked for that. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::config_hash;
use crate::contract;
use crate::operator::children::Object;
use crate::operator::facts::{Engines, Facts, KV_EVENTS_FLAG, Prefillers};
use crate::operator::names::{self, Role};
use crate::operator::{builtin, merge};

/// The Deployment of one role.
pub(super) fn deployment(facts: &Facts, engines: &Engines) -> Object {
    let identity = &facts.identity;
    let labels = identity.role(engines.role);
    let mut deployment = engines.written.deployment.clone();
    merge::identity(
        &mut deployment,
        &names::deployment(&identity.name, engines.role),
        identity.namespace.as_deref(),
        &labels.pods,
    );
    if let Some(selector) = &labels.kept_selector {
        deployment.spec.selector.match_labels = Some(selector.clone());
    }
    let pod = merge::pod_spec(&mut deployment);
    pod.service_account_name = Some(names::pd_service_account(&identity.name));
    merge::model_volume(pod, &facts.artifacts);
    if engines.written.filled {
        fill(facts, engines, pod);
    } else if engines.lacks_image {
        // A Deployment written in full gets what it cannot run without, and no more.
        builtin::main_container(pod, contract::CONTAINER_ENGINE).image =
            Some(facts.settings.vllm_image.clone());
    }
    publish_kv_events(facts, engines, pod);
    tell_prefillers(facts, engines, pod);
    if engines.written.filled {
        builtin::fill_rollout(&mut deployment);
    }
    config_hash::annotate(&mut deployment, &facts.config_maps);
    Object::Deployment(Box::new(deployment))
}

fn fill(facts: &Facts, engines: &Engines, pod: &mut PodSpec) {
    let engine = builtin::Engine {
        image: &facts.settings.vllm_image,
        ports: engines.ports,
        served_name: &facts.identity.model_name,
        artifacts: &facts.artifacts,
        parallelism: engines.parallelism.as_ref(),
        user: facts.fixed_user(),
        nixl: engines.nixl,
    };
    builtin::fill_engine(pod, &engine);
    if engines.role == Role::Decode {
        builtin::fill_sidecar(
            pod,
            &facts.settings.routing_proxy_image,
            engines.ports,
            engines.nixl,
        );
    }
}

/// Makes the engine publish what its KV cache holds, under a topic that says whose it is.
fn publish_kv_events(facts: &Facts, engines: &Engines, pod: &mut PodSpec) {
    let Some(ports) = engines.publishes else {
        return;
    };
    let topic = contract::kv_topic(
        "$(POD_IP)",
        facts.routing.serving_port,
        &facts.identity.model_name,
    );
    let config = serde_json::json!({
        "enable_kv_cache_events": true,
        "publisher": "zmq",
        "endpoint": format!("tcp://*:{}", ports.events_port),
        "replay_endpoint": format!("tcp://*:{}", ports.replay_port),
        "topic": topic,
    });
    let engine = builtin::main_container(pod, contract::CONTAINER_ENGINE);
    builtin::add_env(
        engine,
        [builtin::field_var(contract::ENV_POD_IP, "status.podIP")],
    );
    let args = engine.args.get_or_insert_default();
    args.push(format!("{KV_EVENTS_FLAG}={config}"));
}

/// Tells the sidecar its own address and which prefill endpoints it may ask. By environment
/// variables, which a sidecar of somebody else does not mind, where an unknown flag would end
/// it.
fn tell_prefillers(facts: &Facts, engines: &Engines, pod: &mut PodSpec) {
    let name = &facts.identity.name;
    let service = match engines.prefillers {
        Prefillers::Untold => return,
        Prefillers::Address => None,
        Prefillers::RoleService => Some(names::service(name, Role::Prefill)),
        Prefillers::NewService => Some(names::prefill_pods(name)),
    };
    let Some(sidecar) = sidecar(pod) else { return };
    let address = builtin::field_var(contract::ENV_POD_IP, "status.podIP");
    builtin::add_env(sidecar, [address]);
    if let Some(service) = service {
        let host = facts.identity.host(&service);
        let target = format!("{host}:{}", facts.routing.serving_port);
        let entry = builtin::var(contract::ENV_PREFILL_SERVICE, &target);
        builtin::add_env(sidecar, [entry]);
    }
}

fn sidecar(pod: &mut PodSpec) -> Option<&mut Container> {
    let init = pod.init_containers.iter_mut().flatten();
    pod.containers
        .iter_mut()
        .chain(init)
        .find(|container| container.name == contract::CONTAINER_SIDECAR)
}
