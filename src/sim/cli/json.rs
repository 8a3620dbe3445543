//! vLLM's flags with JSON in them -> what they say. PURE. Unknown fields are left alone:
//! they are for the real engine.

use serde::Deserialize;
use serde_json::Value;

/// `--kv-events-config`: where KV events go.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct KvEvents {
    enable_kv_cache_events: bool,
    publisher: Option<String>,
    /// `tcp://*:PORT` listens, `tcp://HOST:PORT` connects.
    pub endpoint: String,
    /// Where missed batches are asked for.
    pub replay_endpoint: Option<String>,
    /// Batches kept for that.
    pub buffer_steps: usize,
    /// Batches that wait to be sent.
    pub max_queue_size: usize,
    /// First frame of every message.
    pub topic: String,
}

impl Default for KvEvents {
    fn default() -> Self {
        Self {
            enable_kv_cache_events: false,
            publisher: None,
            endpoint: "tcp://*:5557".to_owned(),
            replay_endpoint: None,
            buffer_steps: 10_000,
            max_queue_size: 100_000,
            topic: String::new(),
        }
    }
}

impl KvEvents {
    /// Reads the flag; `None` where it switches events off.
    ///
    /// # Errors
    /// What it should have been.
    pub fn read(text: &str) -> Result<Option<Self>, &'static str> {
        let config: Self = serde_json::from_str(text)
            .map_err(|_| "a JSON object with vLLM's KV event settings")?;
        match config.publisher.as_deref() {
            _ if !config.enable_kv_cache_events => Ok(None),
            None | Some("zmq") => Ok(Some(config)),
            Some("null") => Ok(None),
            Some(_) => Err("one whose publisher is zmq or null"),
        }
    }
}

/// `--kv-transfer-config`: how KV cache is passed between engines.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KvTransfer {
    /// True where NIXL is among the connectors: the one this engine plays.
    pub nixl: bool,
    /// The engine's name, where the flag fixes it.
    pub engine_id: Option<String>,
    /// What a failed transfer means: compute the prompt here, or fail the request.
    pub recompute_on_failure: bool,
}

impl KvTransfer {
    /// Reads the flag.
    ///
    /// # Errors
    /// What it should have been.
    pub fn read(text: &str) -> Result<Self, &'static str> {
        let value: Value = serde_json::from_str(text)
            .ok()
            .filter(Value::is_object)
            .ok_or("a JSON object with vLLM's KV transfer settings")?;
        Ok(Self {
            nixl: names_nixl(&value, 0),
            engine_id: value["engine_id"].as_str().map(str::to_owned),
            recompute_on_failure: value["kv_load_failure_policy"] != "fail",
        })
    }
}

/// Looks for NIXL here and in the connectors of a `MultiConnector`.
fn names_nixl(value: &Value, depth: usize) -> bool {
    let own = value["kv_connector"].as_str();
    let inner = value["kv_connector_extra_config"]["connectors"].as_array();
    own.is_some_and(|name| name.contains("Nixl"))
        || depth < 4
            && inner
                .into_iter()
                .flatten()
                .any(|connector| names_nixl(connector, depth + 1))
}

/// `--lora-modules`: `name=path`, or an object with both.
pub(super) fn lora(text: &str) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Module {
        name: String,
        path: String,
    }
    if text.starts_with('{') {
        let module: Module = serde_json::from_str(text).ok()?;
        return Some((module.name, module.path));
    }
    let (name, path) = text.split_once('=')?;
    Some((name.to_owned(), path.to_owned()))
}
