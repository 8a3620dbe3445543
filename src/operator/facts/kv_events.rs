//! What the EPP scores by and what engines are told -> who publishes KV events, and where. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::Value;

use super::Engines;
use crate::contract;
use crate::operator::builtin;
use crate::operator::finding::Finding;

/// The engine's flag.
pub const FLAG: &str = "--kv-events-config";

/// Where an engine publishes KV events.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KvEvents {
    /// ZeroMQ PUB.
    pub events_port: u16,
    /// ZeroMQ ROUTER that replays missed batches.
    pub replay_port: u16,
}

impl Default for KvEvents {
    fn default() -> Self {
        Self {
            events_port: contract::PORT_KV_EVENTS,
            replay_port: contract::PORT_KV_REPLAY,
        }
    }
}

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

/// What an engine has to be told to publish, and nothing when it says so itself, or when
/// neither the EPP nor the pod asks for it.
pub(super) fn publish(scored: bool, filled: bool, pod: &PodSpec) -> Option<KvEvents> {
    if !scored && !reports_cache_index(pod) {
        return None;
    }
    let engine = pod
        .containers
        .iter()
        .find(|container| container.name == contract::CONTAINER_ENGINE);
    let says_so = engine.is_some_and(|engine| builtin::has_flag(engine, FLAG));
    let exists = filled || engine.is_some();
    (exists && !says_so).then(KvEvents::default)
}

/// Where the EPP hears the engines.
pub(super) fn heard(engines: [Option<&Engines>; 2], findings: &mut Vec<Finding>) -> KvEvents {
    let mut heard: Option<KvEvents> = None;
    for engines in engines.into_iter().flatten() {
        let found = match engines.publishes {
            Some(ports) => ports,
            None => match written(engines, findings) {
                Some(ports) => ports,
                None => continue,
            },
        };
        match heard {
            Some(first) if first != found => findings.push(Finding::new(format!(
                "decode and prefill publish KV events on different ports; the EPP listens on {} only",
                first.events_port
            ))),
            Some(_) => {}
            None => heard = Some(found),
        }
    }
    heard.unwrap_or_default()
}

/// What the user told the engine to publish.
fn written(engines: &Engines, findings: &mut Vec<Finding>) -> Option<KvEvents> {
    let config = events_config(engines.written.container(contract::CONTAINER_ENGINE)?)?;
    let ports = ports_of(&config);
    if ports.is_none() {
        findings.push(Finding::new(format!(
            "{FLAG} {config} has no endpoint such as tcp://*:{} that an EPP could connect to: \
             its events are not heard",
            contract::PORT_KV_EVENTS
        )));
    }
    ports
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
fn ports_of(config: &Value) -> Option<KvEvents> {
    let tcp = |field: &str| -> Option<(&str, u16)> {
        let endpoint = config.get(field)?.as_str()?.strip_prefix("tcp://")?;
        let (host, port) = endpoint.rsplit_once(':')?;
        Some((host, port.parse().ok().filter(|port| *port != 0)?))
    };
    let (host, events) = tcp("endpoint")?;
    if !host.contains('*') && !host.contains("::") {
        return None;
    }
    let replay = tcp("replay_endpoint").map(|(_, port)| port);
    Some(KvEvents {
        events_port: events,
        replay_port: replay.unwrap_or(contract::PORT_KV_REPLAY),
    })
}
