//! Every name that two programs must agree on: API groups, labels, ports,
//! headers, environment variables, metadata keys, the KV event topic.
//!
//! PURE: constants and two formatters. A name that only one program uses does
//! not belong here; a literal copy of one of these names elsewhere is a defect.

/// The API group of `ModelService`.
pub const GROUP: &str = "llm-d.ai";

// === labels ===

/// On every prefill and decode pod: it serves inference.
pub const LABEL_INFERENCE_SERVING: &str = "llm-d.ai/inferenceServing";
/// The sanitized model name; also part of the InferencePool's selector.
pub const LABEL_MODEL: &str = "llm-d.ai/model";
/// On every prefill and decode pod: whose it is. Models' names may be shared, this is not.
pub const LABEL_MODEL_SERVICE: &str = "llm-d.ai/modelservice";
/// `prefill` or `decode`.
pub const LABEL_ROLE: &str = "llm-d.ai/role";
/// On the EPP's pods and Service: the EPP Deployment's name.
pub const LABEL_EPP: &str = "llm-d.ai/epp";
/// On objects several ModelServices of one namespace share (Redis).
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`] and the field manager of every apply.
pub const MANAGER: &str = "llm-d-operator";
/// Role label value of decode pods.
pub const ROLE_DECODE: &str = "decode";
/// Role label value of prefill pods.
pub const ROLE_PREFILL: &str = "prefill";
/// Role label value of pods that do both (upstream's spelling).
pub const ROLE_BOTH: &str = "both";

/// On a pod template: hash of every ConfigMap and Secret the pods were rendered from.
pub const ANNOTATION_CONFIG_HASH: &str = "llm-d.ai/config-hash";

// === ports ===

/// What clients of a decode or prefill pod connect to.
pub const PORT_SERVING: u16 = 8000;
/// The engine behind the routing sidecar.
pub const PORT_ENGINE_BEHIND_SIDECAR: u16 = 8001;
/// The EPP's ext_proc gRPC port.
pub const PORT_EPP_GRPC: u16 = 9002;
/// The EPP's gRPC health port.
pub const PORT_EPP_HEALTH: u16 = 9003;
/// Prometheus metrics of the EPP.
pub const PORT_EPP_METRICS: u16 = 9090;
/// The Redis the operator renders.
pub const PORT_REDIS: u16 = 8100;
/// KV events of an engine: ZeroMQ PUB. Far from NIXL's side channel (5557 + rank).
pub const PORT_KV_EVENTS: u16 = 15556;
/// KV events of an engine: ZeroMQ ROUTER that replays missed batches.
pub const PORT_KV_REPLAY: u16 = 15656;

/// gRPC service name that health probes ask for.
pub const GRPC_EXT_PROC_SERVICE: &str = "envoy.service.ext_proc.v3.ExternalProcessor";

// === headers ===

/// Where Envoy shall send the request: `ip:port`. Set by the EPP only.
pub const HEADER_DESTINATION: &str = "x-gateway-destination-endpoint";
/// Which prefill endpoint the sidecar shall use: `ip:port`.
pub const HEADER_PREFILLER: &str = "x-prefiller-host-port";
/// The older form of [`HEADER_PREFILLER`]: `http://ip:port`.
pub const HEADER_PREFILLER_URL: &str = "x-prefiller-url";
/// Correlates one request through gateway, EPP and engine.
pub const HEADER_REQUEST_ID: &str = "x-request-id";
/// Why the EPP refused a request.
pub const HEADER_DROPPED_REASON: &str = "x-llm-d-request-dropped-reason";

/// Headers that steer routing: a client must never be able to set them, so the
/// EPP removes each one it does not set itself.
pub const ROUTING_HEADERS: &[&str] = &[
    HEADER_DESTINATION,
    HEADER_PREFILLER,
    HEADER_PREFILLER_URL,
    "x-encoder-hosts-ports",
    "x-data-parallel-host-port",
    "x-data-parallel-rank",
    "x-kv-cache-source-host-port",
    "x-gateway-destination-endpoint-served",
    "x-gateway-destination-endpoint-scores",
    "x-gateway-destination-endpoint-subset",
    "x-gateway-model-name-rewrite",
    "x-llm-d-request-dropped-reason",
    "x-prefiller-decode-first",
];

/// Headers that tell the EPP how to treat a request: objective, fairness, latency targets,
/// model rewrite. A client must not choose its own priority, so a gateway filter that the
/// operator renders removes them too; both generations of names.
pub const CONTROL_HEADERS: &[&str] = &[
    "x-llm-d-inference-fairness-id",
    "x-llm-d-inference-objective",
    "x-llm-d-model-name-rewrite",
    "x-llm-d-slo-ttft-ms",
    "x-llm-d-slo-tpot-ms",
    "x-llm-d-video-fps",
    "x-llm-d-video-duration-seconds",
    "x-llm-d-video-resolution",
    "x-gateway-inference-fairness-id",
    "x-gateway-inference-objective",
    "x-slo-ttft-ms",
    "x-slo-tpot-ms",
];

// === ext_proc metadata ===

/// Metadata namespace in which Envoy's load balancer looks for the destination.
pub const METADATA_LB: &str = "envoy.lb";
/// Metadata namespace in which a gateway names the endpoints the EPP may pick from.
pub const METADATA_SUBSET: &str = "envoy.lb.subset_hint";
/// Key inside [`METADATA_SUBSET`].
pub const METADATA_SUBSET_KEY: &str = "x-gateway-destination-endpoint-subset";

// === environment ===

/// Redis of the KV index, `host:port` or a `redis://`/`rediss://` URL.
pub const ENV_REDIS_ADDR: &str = "KVCACHE_INDEXER_REDIS_ADDR";
/// Password of that Redis; always from a Secret.
pub const ENV_REDIS_PASSWORD: &str = "KVCACHE_INDEXER_REDIS_PASSWORD";
/// The model whose KV events the EPP believes: `routing.modelName`.
pub const ENV_MODEL: &str = "LLM_D_MODEL";
/// Port on which engines publish KV events; [`PORT_KV_EVENTS`] where unset.
pub const ENV_KV_EVENTS_PORT: &str = "KV_EVENTS_PORT";
/// Port on which engines replay KV events; [`PORT_KV_REPLAY`] where unset.
pub const ENV_KV_REPLAY_PORT: &str = "KV_REPLAY_PORT";
/// The body mode of the ext_proc filter the operator manages for this EPP:
/// `FULL_DUPLEX_STREAMED`, or unset where no filter is managed. A stream of another
/// mode comes from someone else's filter and is answered with no change.
pub const ENV_MANAGED_BODY_MODE: &str = "LLM_D_MANAGED_BODY_MODE";
/// Secret of the pool, from a Secret: session names are published (in Redis, in logs) only
/// as keyed hashes under it. Every replica of one EPP is given the same.
pub const ENV_POOL_SECRET: &str = "LLM_D_POOL_SECRET";
/// Where the sidecar finds the prefill endpoints it may ask: `host:port`, the host a name
/// whose addresses are those of the ready prefill pods.
pub const ENV_PREFILL_SERVICE: &str = "LLM_D_PREFILL_SERVICE";
/// Prefill endpoints the sidecar may ask, written by hand.
pub const ENV_ALLOWED_PREFILLERS: &str = "LLM_D_ALLOWED_PREFILLERS";
/// The pod's own address, by the downward API.
pub const ENV_POD_IP: &str = "POD_IP";
/// Address every listener of a program binds to; unset means all interfaces. The
/// sidecar also reaches its engine there. Lets several pods share one network namespace.
pub const ENV_BIND_HOST: &str = "LLM_D_BIND_HOST";

// === names ===

/// Host part of the Redis address that makes the operator render Redis itself.
pub const REDIS_NAME: &str = "llm-d-operator-redis-master";
/// The engine's container in decode and prefill pods.
pub const CONTAINER_ENGINE: &str = "vllm";
/// The routing sidecar's container.
pub const CONTAINER_SIDECAR: &str = "routing-proxy";
/// The EPP's container.
pub const CONTAINER_EPP: &str = "epp";

/// The topic under which an engine publishes KV events, which is how a subscriber
/// knows whose blocks they are: `kv@<pod ip>:<port>@<model>`.
pub fn kv_topic(host: &str, port: u16, model: &str) -> String {
    format!("kv@{host}:{port}@{model}")
}

/// Reads a topic of [`kv_topic`]'s form, or the older one without a port: the publisher's
/// address (`host` or `host:port`) and the model. `None` for anything else.
pub fn read_kv_topic(topic: &str) -> Option<(&str, &str)> {
    topic
        .strip_prefix("kv@")?
        .split_once('@')
        .filter(|(address, model)| !address.is_empty() && !model.is_empty())
}
