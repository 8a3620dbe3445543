//! Who publishes KV events and who hears them: the engines' `--kv-events-config` and the
//! ports the EPP is told. PURE.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::Value;

use super::{Context, Workload};
use crate::contract;
use crate::operator::{builtin, merge};

const FLAG: &str = "--kv-events-config";

/// The article's own switch for the same wish.
fn reports_cache_index(pod: &PodSpec) -> bool {
    pod.containers
        .iter()
        .filter(|container| container.name == contract::CONTAINER_ENGINE)
        .flat_map(|container| container.env.iter().flatten())
        .any(|entry| {
            entry.name == "VLLM_ENABLE_CACHE_INDEX_REPORTING"
                && entry.value.as_deref() == Some("true")
        })
}

/// Makes the engine publish what its KV cache holds, under a topic that says whose it is,
/// when the EPP scores by it or the pod asks for it; nothing when it says so itself.
pub(super) fn publish(context: &Context<'_>, scored: bool, pod: &mut PodSpec) {
    if !scored && !reports_cache_index(pod) {
        return;
    }
    let engine = pod
        .containers
        .iter_mut()
        .find(|container| container.name == contract::CONTAINER_ENGINE);
    let Some(engine) = engine else { return };
    if builtin::has_flag(engine, FLAG) {
        return;
    }
    let topic = contract::kv_topic(
        "$(POD_IP)",
        contract::PORT_SERVING,
        &context.ms.spec.routing.model_name,
    );
    let config = serde_json::json!({
        "enable_kv_cache_events": true,
        "publisher": "zmq",
        "endpoint": format!("tcp://*:{}", contract::PORT_KV_EVENTS),
        "replay_endpoint": format!("tcp://*:{}", contract::PORT_KV_REPLAY),
        "topic": topic,
    });
    builtin::add_env(
        engine,
        [builtin::field_var(contract::ENV_POD_IP, "status.podIP")],
    );
    engine
        .args
        .get_or_insert_default()
        .push(format!("{FLAG}={config}"));
}

/// Where engines publish.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Ports {
    events: u16,
    replay: u16,
}

/// Tells an EPP that scores by KV events which model they are about and where to hear them.
pub(super) fn tell(
    context: &Context<'_>,
    engines: [Option<&Workload>; 2],
    epp: &mut Workload,
    warnings: &mut Vec<String>,
) {
    let mut ports: Option<Ports> = None;
    for engine in engines.into_iter().flatten().filter_map(engine_container) {
        let Some(config) = events_config(engine) else {
            continue;
        };
        let Some(found) = ports_of(&config) else {
            warnings.push(format!(
                "{FLAG} {config} has no endpoint such as tcp://*:{} that an EPP could connect to: \
                 its events are not heard",
                contract::PORT_KV_EVENTS
            ));
            continue;
        };
        match ports {
            Some(first) if first != found => warnings.push(format!(
                "decode and prefill publish KV events on different ports; the EPP listens on {} only",
                first.events
            )),
            Some(_) => {}
            None => ports = Some(found),
        }
    }
    let ports = ports.unwrap_or(Ports {
        events: contract::PORT_KV_EVENTS,
        replay: contract::PORT_KV_REPLAY,
    });
    let pod = merge::pod_spec(&mut epp.deployment);
    let container = pod
        .containers
        .iter_mut()
        .find(|container| container.name == contract::CONTAINER_EPP);
    let Some(container) = container else { return };
    let model = &context.ms.spec.routing.model_name;
    builtin::add_env(
        container,
        [
            builtin::var(contract::ENV_MODEL, model),
            builtin::var(contract::ENV_KV_EVENTS_PORT, &ports.events.to_string()),
            builtin::var(contract::ENV_KV_REPLAY_PORT, &ports.replay.to_string()),
        ],
    );
}

fn engine_container(workload: &Workload) -> Option<&Container> {
    let pod = workload.deployment.spec.template.spec.as_ref()?;
    pod.containers
        .iter()
        .find(|container| container.name == contract::CONTAINER_ENGINE)
}

/// The JSON of the engine's flag; of several the last counts, as in the engine.
fn events_config(engine: &Container) -> Option<Value> {
    let words: Vec<&String> = engine
        .command
        .iter()
        .flatten()
        .chain(engine.args.iter().flatten())
        .collect();
    let at = words.iter().rposition(|word| {
        let rest = word.strip_prefix(FLAG);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })?;
    let text = match words[at].split_once('=') {
        Some((_, text)) => text,
        None => words.get(at + 1)?.as_str(),
    };
    serde_json::from_str(text).ok()
}

/// Ports of the engine. One that connects to somebody (vLLM does unless the endpoint holds
/// `*` or `::`) has no port to hear its events on.
fn ports_of(config: &Value) -> Option<Ports> {
    let tcp = |field: &str| -> Option<(&str, u16)> {
        let endpoint = config.get(field)?.as_str()?.strip_prefix("tcp://")?;
        let (host, port) = endpoint.rsplit_once(':')?;
        Some((host, port.parse().ok().filter(|port| *port != 0)?))
    };
    let (host, events) = tcp("endpoint")?;
    if !host.contains('*') && !host.contains("::") {
        return None;
    }
    Some(Ports {
        events,
        replay: tcp("replay_endpoint").map_or(contract::PORT_KV_REPLAY, |(_, port)| port),
    })
}
