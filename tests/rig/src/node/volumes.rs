//! A pod's volumes -> folders with their content, and the mounts of each container. IO.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, ServiceAccount, Volume,
};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use super::env::field_value;
use crate::process::Mount;

/// Where the API server's admission puts a pod's token.
const ACCOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Makes every volume's folder below `dir`.
pub(super) async fn prepare(
    client: &Client,
    pod: &Pod,
    dir: &Path,
    pod_ip: &str,
    node_ip: &str,
) -> Result<()> {
    for volume in pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
    {
        let folder = dir.join(&volume.name);
        fs::create_dir_all(&folder)?;
        fill(client, pod, volume, &folder, pod_ip, node_ip)
            .await
            .with_context(|| format!("MountVolume.SetUp failed for volume {:?}", volume.name))?;
    }
    Ok(())
}

async fn fill(
    client: &Client,
    pod: &Pod,
    volume: &Volume,
    folder: &Path,
    pod_ip: &str,
    node_ip: &str,
) -> Result<()> {
    let namespace = pod.namespace().unwrap_or_default();
    if let Some(source) = &volume.config_map {
        let items = source.items.as_deref().unwrap_or_default();
        config_map(
            client,
            &namespace,
            &source.name,
            items,
            source.optional.unwrap_or_default(),
            folder,
        )
        .await?;
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.clone().unwrap_or_default();
        let items = source.items.as_deref().unwrap_or_default();
        secret(
            client,
            &namespace,
            &name,
            items,
            source.optional.unwrap_or_default(),
            folder,
        )
        .await?;
    }
    if let Some(source) = &volume.downward_api {
        downward(
            source.items.as_deref().unwrap_or_default(),
            pod,
            folder,
            pod_ip,
            node_ip,
        )?;
    }
    for source in volume
        .projected
        .iter()
        .flat_map(|projected| projected.sources.iter().flatten())
    {
        if let Some(map) = &source.config_map {
            let items = map.items.as_deref().unwrap_or_default();
            config_map(
                client,
                &namespace,
                &map.name,
                items,
                map.optional.unwrap_or_default(),
                folder,
            )
            .await?;
        }
        if let Some(from) = &source.secret {
            let items = from.items.as_deref().unwrap_or_default();
            secret(
                client,
                &namespace,
                &from.name,
                items,
                from.optional.unwrap_or_default(),
                folder,
            )
            .await?;
        }
        if let Some(items) = &source.downward_api {
            downward(
                items.items.as_deref().unwrap_or_default(),
                pod,
                folder,
                pod_ip,
                node_ip,
            )?;
        }
        if let Some(token) = &source.service_account_token {
            let text = request_token(
                client,
                pod,
                token.audience.clone(),
                token.expiration_seconds,
            )
            .await?;
            fs::write(folder.join(&token.path), text)?;
        }
    }
    Ok(())
}

async fn config_map(
    client: &Client,
    namespace: &str,
    name: &str,
    items: &[KeyToPath],
    optional: bool,
    folder: &Path,
) -> Result<()> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(name).await?;
    if found.is_none() && optional {
        return Ok(());
    }
    let map = found.with_context(|| format!("configmap {name:?} not found"))?;
    let text = map
        .data
        .into_iter()
        .flatten()
        .map(|(key, value)| (key, value.into_bytes()));
    let binary = map
        .binary_data
        .into_iter()
        .flatten()
        .map(|(key, value)| (key, value.0));
    write(text.chain(binary), items, folder)
}

async fn secret(
    client: &Client,
    namespace: &str,
    name: &str,
    items: &[KeyToPath],
    optional: bool,
    folder: &Path,
) -> Result<()> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = api.get_opt(name).await?;
    if found.is_none() && optional {
        return Ok(());
    }
    let secret = found.with_context(|| format!("secret {name:?} not found"))?;
    write(
        secret
            .data
            .into_iter()
            .flatten()
            .map(|(key, value)| (key, value.0)),
        items,
        folder,
    )
}

fn write(
    data: impl Iterator<Item = (String, Vec<u8>)>,
    items: &[KeyToPath],
    folder: &Path,
) -> Result<()> {
    for (key, bytes) in data {
        let place = match items.iter().find(|item| item.key == key) {
            Some(item) => folder.join(&item.path),
            None if items.is_empty() => folder.join(&key),
            None => continue,
        };
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(place, bytes)?;
    }
    Ok(())
}

fn downward(
    items: &[DownwardAPIVolumeFile],
    pod: &Pod,
    folder: &Path,
    pod_ip: &str,
    node_ip: &str,
) -> Result<()> {
    for item in items {
        let Some(field) = &item.field_ref else {
            continue;
        };
        let value = field_value(&field.field_path, pod, pod_ip, node_ip).unwrap_or_default();
        fs::write(folder.join(&item.path), value)?;
    }
    Ok(())
}

async fn request_token(
    client: &Client,
    pod: &Pod,
    audience: Option<String>,
    seconds: Option<i64>,
) -> Result<String> {
    let account = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.service_account_name.clone())
        .unwrap_or_else(|| "default".to_owned());
    let api: Api<ServiceAccount> =
        Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let request: TokenRequest = serde_json::from_value(json!({
        "spec": {
            "audiences": audience.into_iter().collect::<Vec<_>>(),
            "expirationSeconds": seconds,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid()},
        },
    }))?;
    let answer = api
        .create_token_request(&account, &PostParams::default(), &request)
        .await
        .with_context(|| format!("request a token of ServiceAccount {account}"))?;
    answer
        .status
        .and_then(|status| status.token)
        .context("a token request without an answer")
}

/// The mounts of one container.
pub(super) fn mounts(pod: &Pod, container: &Container, dir: &Path) -> Vec<Mount> {
    let volumes: Vec<_> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .collect();
    container
        .volume_mounts
        .iter()
        .flatten()
        .filter_map(|mount| {
            let volume = volumes.iter().find(|volume| volume.name == mount.name)?;
            let base = match &volume.host_path {
                Some(host) => PathBuf::from(&host.path),
                None => dir.join(&mount.name),
            };
            let source = mount
                .sub_path
                .as_ref()
                .map_or(base.clone(), |path| base.join(path));
            let read_only = mount.read_only.unwrap_or_default()
                || volume.config_map.is_some()
                || volume.secret.is_some();
            source.exists().then(|| Mount {
                source,
                target: PathBuf::from(&mount.mount_path),
                read_only,
            })
        })
        .collect()
}

/// The folder with a container's API token, when it has one.
pub(super) fn token_folder(pod: &Pod, container: &Container, dir: &Path) -> Option<PathBuf> {
    mounts(pod, container, dir)
        .into_iter()
        .find(|mount| mount.target == Path::new(ACCOUNT_PATH))
        .map(|mount| mount.source)
}
