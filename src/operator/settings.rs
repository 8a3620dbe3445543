//! What the administrator decided by flags, as the pure stages see it. PURE data.
#![deny(clippy::disallowed_methods)]

use super::guard::Allowed;

/// Engine image of the built-in bases.
pub const DEFAULT_VLLM_IMAGE: &str = "ghcr.io/llm-d/llm-d:v0.2.0";
/// This project's image: operator, EPP, routing sidecar and simulator.
pub const DEFAULT_LLM_D_IMAGE: &str =
    concat!("ghcr.io/llm-d/llm-d-operator:", env!("CARGO_PKG_VERSION"));
/// Redis-compatible server of the index.
pub const DEFAULT_REDIS_IMAGE: &str = "docker.io/valkey/valkey:9";

/// Administrator's choices.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Engine image where the base config names none.
    pub vllm_image: String,
    /// Routing sidecar image where the base config names none.
    pub routing_proxy_image: String,
    /// EPP image where the base config names none.
    pub epp_image: String,
    /// Image of the Redis we render.
    pub redis_image: String,
    /// ClusterRole each EPP's RoleBinding refers to.
    pub epp_cluster_role: String,
    /// Pull secrets of the EPP's ServiceAccount.
    pub epp_pull_secrets: Vec<String>,
    /// Pull secrets of the prefill and decode pods' ServiceAccount.
    pub pd_pull_secrets: Vec<String>,
    /// Base ConfigMaps and `configMaps` children may live in other namespaces.
    pub allow_cross_namespace: bool,
    /// What templates may ask for beyond their namespace.
    pub allowed: Allowed,
    /// Host names that routes may have, exact or `*.suffix`; empty for any.
    pub allowed_hostnames: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            vllm_image: DEFAULT_VLLM_IMAGE.to_owned(),
            routing_proxy_image: DEFAULT_LLM_D_IMAGE.to_owned(),
            epp_image: DEFAULT_LLM_D_IMAGE.to_owned(),
            redis_image: DEFAULT_REDIS_IMAGE.to_owned(),
            epp_cluster_role: String::new(),
            epp_pull_secrets: Vec::new(),
            pd_pull_secrets: Vec::new(),
            allow_cross_namespace: false,
            allowed: Allowed::default(),
            allowed_hostnames: Vec::new(),
        }
    }
}
