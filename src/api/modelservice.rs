//! `ModelService` (`llm-d.ai/v1alpha1`): spec and status as users write and read
//! them. PURE data. Field documentation becomes the CRD's, so it is written for users.
// `KubeSchema` copies each type into a function of its own and trips over the copy.
#![allow(unreachable_pub)]

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, ObjectReference, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a text may look like that templates paste into YAML, command lines and scripts: no
/// whitespace, nothing that quotes, nests, comments or expands there, no dash in front (it
/// would be read as a flag). The same rule as [`is_pasted_safely`].
const PASTED_TEXT: &str =
    r#"^[^-\p{Z}\p{C}"'`{}\[\]()<>|&;$\\,#*!?%^][^\p{Z}\p{C}"'`{}\[\]()<>|&;$\\,#*!?%^]*$"#;

/// True for a text that keeps its meaning, and everything around it, wherever a template
/// pastes it: the rule of the CRD's pattern, for objects that never passed the CRD.
pub fn is_pasted_safely(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.chars().any(|c| {
            c.is_whitespace()
                || c.is_control()
                // Marks that are not seen: zero width, direction, byte order.
                || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
                || "\"'`{}[]()<>|&;$\\,#*!?%^".contains(c)
        })
}

/// A KV-cache-aware LLM service: decode and prefill engines, the Endpoint Picker
/// that routes to them, and the objects around them.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[kube(
    group = "llm-d.ai",
    version = "v1alpha1",
    kind = "ModelService",
    plural = "modelservices",
    singular = "modelservice",
    shortname = "msvc",
    namespaced,
    status = "ModelServiceStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A KV-cache-aware LLM service made of one model's engines and the routing to them.",
    scale(
        spec_replicas_path = ".spec.decode.replicas",
        status_replicas_path = ".status.decodeReplicas",
        label_selector_path = ".status.decodeSelector"
    ),
    printcolumn(
        name = "Model",
        type_ = "string",
        json_path = ".spec.routing.modelName"
    ),
    printcolumn(name = "Decode", type_ = "string", json_path = ".status.decodeReady"),
    printcolumn(name = "Prefill", type_ = "string", json_path = ".status.prefillReady"),
    printcolumn(name = "EPP", type_ = "string", json_path = ".status.eppReady"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "URL",
        type_ = "string",
        json_path = ".status.url",
        priority = 1
    ),
    printcolumn(
        name = "Decouple Scaling",
        type_ = "boolean",
        json_path = ".spec.decoupleScaling",
        priority = 1
    ),
    printcolumn(
        name = "Decode AVAIL",
        type_ = "integer",
        json_path = ".status.decodeAvailable",
        priority = 1
    ),
    printcolumn(
        name = "Prefill AVAIL",
        type_ = "integer",
        json_path = ".status.prefillAvailable",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ModelServiceSpec {
    /// The ConfigMap whose values are templates of the objects behind this service. Only
    /// `name` and `namespace` are read; without a namespace, the ModelService's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_config_map_ref: Option<ObjectReference>,
    /// The name the model is served under and how requests reach it.
    pub routing: Routing,
    /// Where the model's weights come from.
    pub model_artifacts: ModelArtifacts,
    /// True leaves the replicas of decode and prefill to an autoscaler after creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decouple_scaling: Option<bool>,
    /// Engines that answer requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode: Option<PdSpec>,
    /// Engines that compute the KV cache of long prompts for the decode engines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill: Option<PdSpec>,
    /// The Endpoint Picker (EPP), which chooses an engine for each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_picker: Option<EndpointPickerSpec>,
}

/// The name the model is served under and how requests reach it.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Routing {
    /// The `model` that requests name. Cannot be changed later.
    #[schemars(length(min = 1, max = 256), regex(pattern = PASTED_TEXT))]
    #[x_kube(validation = ("self == oldSelf", "modelName is immutable"))]
    pub model_name: String,
    /// Named ports for the template function `getPort`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NamedPort>,
    /// Gateways (parentRefs of the HTTPRoute) through which requests arrive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub gateway_refs: Vec<ParentReference>,
    /// How the gateway is made to ask the EPP. `Auto` takes `EnvoyFilter` behind an Istio
    /// gateway and `InferencePool` elsewhere; `None` leaves the gateway to you.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extension: Option<RoutingExtension>,
}

/// How the gateway is made to ask the EPP.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum RoutingExtension {
    /// Decide by the Gateway's class and the APIs the cluster serves.
    #[default]
    Auto,
    /// The HTTPRoute points at an InferencePool; the gateway knows what to do.
    InferencePool,
    /// An Istio EnvoyFilter adds the external processor to the route.
    EnvoyFilter,
    /// Someone else configures the gateway.
    None,
}

/// A port by name, for `getPort`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct NamedPort {
    /// The name templates use.
    pub name: String,
    /// The port number.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// A Gateway API parent reference.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentReference {
    /// API group of the parent; `gateway.networking.k8s.io` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), default = "gateway_group")]
    pub group: Option<String>,
    /// Kind of the parent; `Gateway` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"),
        default = "gateway_kind"
    )]
    pub kind: Option<String>,
    /// Namespace of the parent; the ModelService's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub namespace: Option<String>,
    /// Name of the parent.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// One listener of the Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
    /// One port of the Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "schemars needs the field's own type"
)]
fn gateway_group() -> Option<String> {
    Some("gateway.networking.k8s.io".to_owned())
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "schemars needs the field's own type"
)]
fn gateway_kind() -> Option<String> {
    Some("Gateway".to_owned())
}

/// Where the model's weights come from.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelArtifacts {
    /// `hf://org/model` (downloaded from Hugging Face) or `pvc://claim/path` (a volume claim).
    #[schemars(length(min = 1, max = 2048), regex(pattern = PASTED_TEXT))]
    pub uri: String,
    /// Secret with the key `HF_TOKEN`, for models that need one. Pods read it when they start:
    /// restart them after a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 253),
        regex(pattern = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$")
    )]
    pub auth_secret_name: Option<String>,
    /// Size limit of the volume a downloaded model goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,
}

/// Engines of one role: decode or prefill.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PdSpec {
    /// How many pods; 0 is allowed. An explicit null leaves it to the base config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), default = "one")]
    pub replicas: Option<i32>,
    /// How one engine spreads over GPUs. Acts where neither args nor resources already say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<Parallelism>,
    /// Which nodes the pods may run on, by accelerator label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator_types: Option<AcceleratorTypes>,
    /// Containers, merged by name over those of the base config.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<ContainerSpec>,
    /// Init containers, merged by name over those of the base config.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<ContainerSpec>,
}

#[allow(
    clippy::unnecessary_wraps,
    reason = "schemars needs the field's own type"
)]
fn one() -> Option<i32> {
    Some(1)
}

/// How one engine spreads over GPUs.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Parallelism {
    /// Tensor parallel size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), default = "one")]
    pub tensor: Option<i32>,
    /// Pipeline parallel size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub pipeline: Option<i32>,
    /// Data parallel size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub data: Option<i32>,
}

/// Which nodes pods may run on, by accelerator label.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AcceleratorTypes {
    /// Label that names a node's accelerator, such as `nvidia.com/gpu.product`.
    pub label_key: String,
    /// Accepted values of that label.
    #[schemars(length(min = 1))]
    pub label_values: Vec<String>,
}

/// What a ModelService may say about one container.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSpec {
    /// Name of the container; the one of the base config with this name is overlaid.
    pub name: String,
    /// Image; replaces the base config's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Command; replaces the base config's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// Arguments, put before those of the base config. Each is a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Environment, merged by name; an entry here replaces the base config's of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub env: Option<Vec<EnvVar>>,
    /// Sources of environment, added to those of the base config.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_from: Option<Vec<EnvFromSource>>,
    /// Resource limits and requests, merged per resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// True mounts the model's volume at `/model-cache`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_model_volume: Option<bool>,
}

/// The Endpoint Picker.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointPickerSpec {
    /// How many EPP pods; each is able to decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0), default = "one")]
    pub replicas: Option<i32>,
    /// Containers, merged by name over those of the base config.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<ContainerSpec>,
    /// Init containers, merged by name over those of the base config.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init_containers: Vec<ContainerSpec>,
}

/// What the operator last saw. Never a wish.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelServiceStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready prefill pods over wanted, such as `1/2`.
    #[serde(default)]
    pub prefill_ready: String,
    /// Available prefill pods.
    #[serde(default)]
    pub prefill_available: i32,
    /// Ready decode pods over wanted.
    #[serde(default)]
    pub decode_ready: String,
    /// Available decode pods.
    #[serde(default)]
    pub decode_available: i32,
    /// Ready EPP pods over wanted.
    #[serde(default)]
    pub epp_ready: String,
    /// Available EPP pods.
    #[serde(default)]
    pub epp_available: i32,
    /// Decode pods that exist; what `kubectl scale` and autoscalers read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_replicas: Option<i32>,
    /// Label selector of the decode pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_selector: Option<String>,
    /// Name of the prefill Deployment, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill_deployment_ref: Option<String>,
    /// Name of the decode Deployment, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_deployment_ref: Option<String>,
    /// Name of the EPP Deployment, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epp_deployment_ref: Option<String>,
    /// Name of the HTTPRoute, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_route_ref: Option<String>,
    /// Name of the InferenceModel, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inference_model_ref: Option<String>,
    /// Name of the InferencePool, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inference_pool_ref: Option<String>,
    /// Name of the EnvoyFilter, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envoy_filter_ref: Option<String>,
    /// Name of the ServiceAccount of the prefill pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill_service_account_ref: Option<String>,
    /// Name of the ServiceAccount of the decode pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_service_account_ref: Option<String>,
    /// Name of the RoleBinding of the EPP's ServiceAccount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epp_role_binding: Option<String>,
    /// Names of the ConfigMaps made from the base config's `configMaps`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub config_map_names: Vec<String>,
    /// Where requests go, when the Gateway has an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Every object made, or about to be made, for this ModelService; what is no longer wanted
    /// is pruned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inventory: Vec<InventoryEntry>,
    /// `Ready`, `Reconciling`, `Stalled`, `BaseConfigResolved`, `WorkloadsReady`,
    /// `RouterReady`, and each Deployment's own conditions with its role in front.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// One object the operator made.
#[derive(
    Clone, Debug, Default, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "camelCase")]
pub struct InventoryEntry {
    /// `group/version`, or `v1`.
    pub api_version: String,
    /// Kind of the object.
    pub kind: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_names_and_uris_are_safe_to_paste() {
        for text in [
            "llama-3-2-1b",
            "meta-llama/Llama-3.2-1B",
            "org/model:tag",
            "hf://org/Model-1.2",
            "pvc://llama-pvc/path/to/llama_4",
            "oci://registry.example:5000/org/model@sha256:00ff",
            "通义千问",
        ] {
            assert!(is_pasted_safely(text), "{text:?}");
        }
    }

    #[test]
    fn what_ends_a_quote_a_list_or_a_word_is_not() {
        for character in "\"'`{}[]()<>|&;$\\,#*!?%^ \t\n\r\0\u{85}\u{2028}\u{feff}".chars() {
            let text = format!("a{character}b");
            assert!(!is_pasted_safely(&text), "{text:?}");
        }
        assert!(!is_pasted_safely("--trust-remote-code") && !is_pasted_safely(""));
    }
}
