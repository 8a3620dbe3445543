//! A container's environment and arguments as the kubelet computes them. PURE: ConfigMaps and
//! Secrets are looked up through the caller's maps.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, Pod, Secret};
use kube::ResourceExt as _;

/// What a container's environment refers to.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) config_maps: BTreeMap<String, ConfigMap>,
    pub(super) secrets: BTreeMap<String, Secret>,
}

/// Names of ConfigMaps and Secrets that a container's environment needs.
pub(super) fn needed(container: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for source in container
        .env
        .iter()
        .flatten()
        .filter_map(|var| var.value_from.as_ref())
    {
        maps.extend(source.config_map_key_ref.iter().map(|key| key.name.clone()));
        secrets.extend(source.secret_key_ref.iter().map(|key| key.name.clone()));
    }
    for source in container.env_from.iter().flatten() {
        maps.extend(source.config_map_ref.iter().map(|map| map.name.clone()));
        secrets.extend(source.secret_ref.iter().map(|secret| secret.name.clone()));
    }
    (maps, secrets)
}

/// The environment in order, `$(VAR)` expanded.
pub(super) fn resolve(
    container: &Container,
    pod: &Pod,
    pod_ip: &str,
    node_ip: &str,
    sources: &Sources,
) -> Result<Vec<(String, String)>, String> {
    let mut env: Vec<(String, String)> = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.clone().unwrap_or_default();
        if let Some(map) = source
            .config_map_ref
            .as_ref()
            .and_then(|map| sources.config_maps.get(&map.name))
        {
            env.extend(
                map.data
                    .iter()
                    .flatten()
                    .map(|(key, value)| (format!("{prefix}{key}"), value.clone())),
            );
        }
        if let Some(secret) = source
            .secret_ref
            .as_ref()
            .and_then(|secret| sources.secrets.get(&secret.name))
        {
            for (key, value) in secret.data.iter().flatten() {
                env.push((
                    format!("{prefix}{key}"),
                    String::from_utf8_lossy(&value.0).into_owned(),
                ));
            }
        }
    }
    for var in container.env.iter().flatten() {
        let value = match &var.value_from {
            None => Some(expand(var.value.as_deref().unwrap_or_default(), &env)),
            Some(from) => from_source(var, from, pod, pod_ip, node_ip, sources)?,
        };
        if let Some(value) = value {
            env.retain(|(name, _)| *name != var.name);
            env.push((var.name.clone(), value));
        }
    }
    Ok(env)
}

fn from_source(
    var: &EnvVar,
    from: &EnvVarSource,
    pod: &Pod,
    pod_ip: &str,
    node_ip: &str,
    sources: &Sources,
) -> Result<Option<String>, String> {
    if let Some(field) = &from.field_ref {
        return field_value(&field.field_path, pod, pod_ip, node_ip)
            .map(Some)
            .ok_or_else(|| {
                format!(
                    "env {}: field {:?} is not supported",
                    var.name, field.field_path
                )
            });
    }
    if let Some(key) = &from.config_map_key_ref {
        let found = sources
            .config_maps
            .get(&key.name)
            .and_then(|map| map.data.as_ref()?.get(&key.key).cloned());
        if found.is_none() && !key.optional.unwrap_or_default() {
            return Err(format!(
                "couldn't find key {} in ConfigMap {}",
                key.key, key.name
            ));
        }
        return Ok(found);
    }
    if let Some(key) = &from.secret_key_ref {
        let found = sources
            .secrets
            .get(&key.name)
            .and_then(|secret| secret.data.as_ref()?.get(&key.key));
        if found.is_none() && !key.optional.unwrap_or_default() {
            return Err(format!(
                "couldn't find key {} in Secret {}",
                key.key, key.name
            ));
        }
        return Ok(found.map(|value| String::from_utf8_lossy(&value.0).into_owned()));
    }
    Ok(None)
}

/// The downward API's fields.
pub(super) fn field_value(path: &str, pod: &Pod, pod_ip: &str, node_ip: &str) -> Option<String> {
    let spec = pod.spec.as_ref();
    let quoted =
        |map: &BTreeMap<String, String>, key: &str| map.get(key).cloned().unwrap_or_default();
    Some(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "spec.nodeName" => spec?.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec?.service_account_name.clone().unwrap_or_default(),
        "status.podIP" | "status.podIPs" => pod_ip.to_owned(),
        "status.hostIP" | "status.hostIPs" => node_ip.to_owned(),
        _ => {
            let (map, key) = if let Some(rest) = path.strip_prefix("metadata.labels['") {
                (pod.labels(), rest)
            } else {
                (
                    pod.annotations(),
                    path.strip_prefix("metadata.annotations['")?,
                )
            };
            quoted(map, key.strip_suffix("']")?)
        }
    })
}

/// Where pods share the host's loopback there is no DNS, so no name stands for several pods:
/// the sidecar is told the whole range by address instead.
pub(super) fn without_dns(env: &mut [(String, String)]) {
    for (name, value) in env {
        if name == "LLM_D_PREFILL_SERVICE"
            && let Some((_, port)) = value.rsplit_once(':')
        {
            (*name, *value) = (
                "LLM_D_ALLOWED_PREFILLERS".to_owned(),
                format!("127.0.0.0/8:{port}"),
            );
        }
    }
}

/// Replaces `$(NAME)`; unknown names stay, `$$(` is an escaped `$(`.
pub(super) fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(escaped) = after.strip_prefix('$') {
            out.push('$');
            rest = escaped;
        } else if let Some((name, tail)) = after
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match env.iter().find(|(key, _)| key == name) {
                Some((_, value)) => out.push_str(value),
                None => out.push_str(&rest[at..=at + 2 + name.len()]),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_dns_the_prefill_pods_are_the_whole_loopback_range() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut env = vec![
            pair(
                "LLM_D_PREFILL_SERVICE",
                "m-prefill-pods.ns.svc.cluster.local:8000",
            ),
            pair("OTHER", "a.ns.svc.cluster.local:1"),
        ];
        let other = env[1].clone();
        without_dns(&mut env);
        let list = pair("LLM_D_ALLOWED_PREFILLERS", "127.0.0.0/8:8000");
        assert_eq!(env, [list, other]);
    }

    #[test]
    fn references_are_expanded_and_everything_else_stays() {
        let env = vec![("A".to_owned(), "1".to_owned())];
        assert_eq!(expand("x$(A)y$(B)z$$(A)$", &env), "x1y$(B)z$(A)$");
    }
}
