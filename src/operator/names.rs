//! A ModelService's name -> the names and labels of everything behind it. PURE.
//!
//! Names are those of the Go operator for ModelService names of up to 47 characters,
//! because manifests and scripts out there spell them out. Longer names are cut and
//! carry a hash, where the Go operator let several objects fall onto one name.
#![deny(clippy::disallowed_methods)]

use sha2::{Digest as _, Sha256};

/// The longest label value and Service name.
const LIMIT: usize = 63;
/// ModelService names up to here keep the Go operator's child names.
const COMPATIBLE: usize = 47;

/// Roles of engine pods.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Answers requests.
    Decode,
    /// Computes the KV cache of prompts.
    Prefill,
}

impl Role {
    /// The value of the role label, and the key prefix in base configs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decode => crate::contract::ROLE_DECODE,
            Self::Prefill => crate::contract::ROLE_PREFILL,
        }
    }
}

/// Name of a role's Deployment.
pub fn deployment(ms: &str, role: Role) -> String {
    child(ms, &format!("-{}", role.as_str()))
}

/// Name of a role's Service.
pub fn service(ms: &str, role: Role) -> String {
    child(ms, &format!("-service-{}", role.as_str()))
}

/// Name of the headless Service whose addresses are those of the ready prefill pods.
pub fn prefill_pods(ms: &str) -> String {
    child(ms, "-prefill-pods")
}

/// Name of the account of prefill and decode pods.
///
/// `x-epp-sa` is the account of the EPP of `x`, so `x-epp` needs another one for its engines.
pub fn pd_service_account(ms: &str) -> String {
    if ms.len() <= COMPATIBLE && sanitize(ms).ends_with("-epp") {
        return hashed(ms, "-sa");
    }
    child(ms, "-sa")
}

/// The value of the label that says whose a pod is: the name, or what a label can hold of it
/// with a hash, so that no two ModelServices have the same.
pub fn label(ms: &str) -> String {
    if ms.len() <= LIMIT {
        ms.to_owned()
    } else {
        hashed(ms, "")
    }
}

/// Name of the EPP's Deployment, and the value of its label.
pub fn epp_deployment(ms: &str) -> String {
    child(ms, "-epp")
}

/// Name of the EPP's Service.
pub fn epp_service(ms: &str) -> String {
    child(ms, "-epp-service")
}

/// Name of the Secret that the replicas of the EPP share.
pub fn epp_secret(ms: &str) -> String {
    child(ms, "-epp-secret")
}

/// Name of the EPP's account.
pub fn epp_service_account(ms: &str) -> String {
    child(ms, "-epp-sa")
}

/// Name of the EPP's RoleBinding.
pub fn epp_role_binding(ms: &str) -> String {
    child(ms, "-epp-rolebinding")
}

/// Name of the InferencePool.
pub fn inference_pool(ms: &str) -> String {
    child(ms, "-inference-pool")
}

/// Name of the HTTPRoute.
pub fn http_route(ms: &str) -> String {
    child(ms, "-http-route")
}

/// Name of the EnvoyFilter.
pub fn envoy_filter(ms: &str) -> String {
    child(ms, "-epp")
}

fn child(ms: &str, suffix: &str) -> String {
    if ms.len() <= COMPATIBLE {
        return sanitize(&format!("{ms}{suffix}"));
    }
    hashed(ms, suffix)
}

fn hashed(ms: &str, suffix: &str) -> String {
    let digest = Sha256::digest(ms.as_bytes());
    let hash: String = digest
        .iter()
        .take(4)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut stem = sanitize(ms);
    stem.truncate(LIMIT - suffix.len() - hash.len() - 1);
    format!("{}-{hash}{suffix}", stem.trim_end_matches('-'))
}

/// A name made of `[a-z0-9-]`, at most 63 characters: lower case, every run of other
/// characters one dash, no dash at either end. Empty when nothing is left.
pub fn sanitize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.trim().chars().flat_map(char::to_lowercase) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' {
            out.push(c);
        } else if !out.ends_with('\u{0}') {
            // Marks a run of replaced characters, so that `a--b` stays and `a//b` is `a-b`.
            out.push('\u{0}');
        }
    }
    let out = out.replace('\u{0}', "-");
    let cut: String = out.trim_matches('-').chars().take(LIMIT).collect();
    cut.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_go_operators_up_to_47_characters() {
        assert_eq!(
            deployment("llama-3-2-1b", Role::Decode),
            "llama-3-2-1b-decode"
        );
        assert_eq!(
            service("llama-3-2-1b", Role::Prefill),
            "llama-3-2-1b-service-prefill"
        );
        assert_eq!(epp_service("llama-3-2-1b"), "llama-3-2-1b-epp-service");
        assert_eq!(deployment("my.model", Role::Decode), "my-model-decode");
        let longest = "a".repeat(47);
        assert_eq!(
            service(&longest, Role::Prefill),
            format!("{longest}-service-prefill")
        );
    }

    #[test]
    fn longer_names_fit_and_do_not_collide() {
        for length in 48..=253 {
            let (a, b) = (
                format!("{}a", "x".repeat(length - 1)),
                format!("{}b", "x".repeat(length - 1)),
            );
            let mut names = Vec::new();
            for ms in [&a, &b] {
                names.extend([
                    deployment(ms, Role::Decode),
                    deployment(ms, Role::Prefill),
                    service(ms, Role::Decode),
                    service(ms, Role::Prefill),
                    pd_service_account(ms),
                    epp_deployment(ms),
                    epp_service(ms),
                    epp_secret(ms),
                    prefill_pods(ms),
                    epp_service_account(ms),
                    epp_role_binding(ms),
                    inference_pool(ms),
                    http_route(ms),
                ]);
            }
            assert!(names.iter().all(|name| name.len() <= 63), "{names:?}");
            let count = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count);
        }
    }

    #[test]
    fn the_engines_of_x_epp_do_not_run_as_the_epp_of_x() {
        assert_eq!(pd_service_account("x"), "x-sa");
        assert_ne!(pd_service_account("x-epp"), epp_service_account("x"));
        assert!(pd_service_account("x-epp").ends_with("-sa"));
    }

    #[test]
    fn labels_tell_any_two_modelservices_apart() {
        assert_eq!(label("my.model"), "my.model");
        let (a, b) = (
            format!("{}a", "x".repeat(252)),
            format!("{}b", "x".repeat(252)),
        );
        assert!(label(&a).len() <= 63);
        assert_ne!(label(&a), label(&b));
    }

    #[test]
    fn model_names_become_label_values() {
        assert_eq!(
            sanitize("meta-llama/Llama-3.2-3B-Instruct"),
            "meta-llama-llama-3-2-3b-instruct"
        );
        assert_eq!(sanitize("  //  "), "");
    }
}
