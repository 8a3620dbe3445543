//! CRD files -> the API server, applied and established. IO.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;

/// Only these groups are needed; the Istio file holds more.
const GROUPS: &[&str] = &[
    "gateway.networking.k8s.io",
    "inference.networking.k8s.io",
    "inference.networking.x-k8s.io",
    "networking.istio.io",
];

/// How long the API server may take to establish them, on a machine that is busy.
const LIMIT: Duration = Duration::from_mins(5);

/// Applies every CRD in the files and waits until they can be used.
///
/// # Errors
/// When a file cannot be read or a CRD is refused.
pub async fn apply(client: &Client, files: &[PathBuf]) -> Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut names = Vec::new();
    for file in files {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        for document in text.split("\n---") {
            let Ok(value) = serde_yaml::from_str::<Value>(document) else {
                continue;
            };
            let group = value["spec"]["group"].as_str().unwrap_or_default();
            if value["kind"] != "CustomResourceDefinition" || !GROUPS.contains(&group) {
                continue;
            }
            let name = value["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            api.patch(
                &name,
                &PatchParams::apply("rig").force(),
                &Patch::Apply(&value),
            )
            .await
            .with_context(|| format!("apply CRD {name}"))?;
            names.push(name);
        }
    }
    let started = Instant::now();
    loop {
        let list = api.list(&kube::api::ListParams::default()).await?;
        let established = |name: &String| {
            list.items.iter().any(|crd| {
                crd.name_any() == *name
                    && crd
                        .status
                        .iter()
                        .flat_map(|s| s.conditions.iter().flatten())
                        .any(|c| c.type_ == "Established" && c.status == "True")
            })
        };
        if names.iter().all(established) {
            return Ok(());
        }
        if started.elapsed() > LIMIT {
            bail!(
                "these CRDs are not established: {:?}",
                names
                    .iter()
                    .filter(|name| !established(name))
                    .collect::<Vec<_>>()
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
