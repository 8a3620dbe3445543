//! Facts -> the EPP's Deployment. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::EnvVar;
use kube::core::Selector;

use super::config_hash;
use crate::contract;
use crate::operator::children::Object;
use crate::operator::facts::{Epp, Facts};
use crate::operator::resolved::{EPP_SECRET_KEY, REDIS_PASSWORD_KEY};
use crate::operator::{builtin, merge, names};

/// The Deployment.
pub(super) fn deployment(facts: &Facts) -> Option<Object> {
    let epp = facts.epp.as_ref()?;
    let identity = &facts.identity;
    let mut deployment = epp.written.deployment.clone();
    merge::identity(
        &mut deployment,
        &names::epp_deployment(&identity.name),
        identity.namespace.as_deref(),
        &identity.epp_labels(),
    );
    if epp.written.filled {
        deployment.spec.replicas.get_or_insert(1);
    }
    let pod = merge::pod_spec(&mut deployment);
    pod.service_account_name = Some(names::epp_service_account(&identity.name));
    if epp.written.filled {
        builtin::fill_epp(pod, &facts.settings.epp_image, args(facts));
    }
    let told = env(facts, epp);
    if !told.is_empty() {
        let container = builtin::main_container(pod, contract::CONTAINER_EPP);
        builtin::add_env(container, told);
    }
    config_hash::annotate(&mut deployment, &facts.config_maps);
    Some(Object::Deployment(Box::new(deployment)))
}

/// What the EPP is told by variables that nobody has set.
fn env(facts: &Facts, epp: &Epp) -> Vec<EnvVar> {
    let mut env = Vec::new();
    if epp.written.filled {
        let secret = names::epp_secret(&facts.identity.name);
        env.push(builtin::secret_var(
            contract::ENV_POOL_SECRET,
            &secret,
            EPP_SECRET_KEY,
        ));
    }
    if facts.redis.ours().is_some() {
        env.push(builtin::secret_var(
            contract::ENV_REDIS_PASSWORD,
            contract::REDIS_NAME,
            REDIS_PASSWORD_KEY,
        ));
    }
    if let Some(ports) = epp.kv_events {
        let replay = ports.replay_port.to_string();
        env.extend([
            builtin::var(contract::ENV_MODEL, &facts.identity.model_name),
            builtin::var(contract::ENV_KV_EVENTS_PORT, &ports.events_port.to_string()),
            builtin::var(contract::ENV_KV_REPLAY_PORT, &replay),
        ]);
    }
    if let Some(mode) = facts.routing.managed_body_mode {
        env.push(builtin::var(contract::ENV_MANAGED_BODY_MODE, mode));
    }
    env
}

/// Arguments of a container that has none.
fn args(facts: &Facts) -> Vec<String> {
    let identity = &facts.identity;
    let mut args = if facts.routing.pool_version.is_some() {
        vec![
            format!("--pool-name={}", names::inference_pool(&identity.name)),
            format!(
                "--pool-namespace={}",
                identity.namespace.as_deref().unwrap_or_default()
            ),
        ]
    } else {
        let selector: Selector = identity.pool_labels().into_iter().collect();
        vec![
            format!("--endpoint-selector={selector}"),
            format!("--endpoint-target-ports={}", facts.routing.serving_port),
        ]
    };
    args.push(format!("--grpc-port={}", contract::PORT_EPP_GRPC));
    args.push(format!("--grpc-health-port={}", contract::PORT_EPP_HEALTH));
    args.push(format!("--metrics-port={}", contract::PORT_EPP_METRICS));
    args
}
