//! The EnvoyFilter that the operator renders -> what it makes of Envoy: filters in front of the
//! router, what is merged into the route and into the clusters. PURE but for `rendered` and `read`.
//!
//! A patch of a kind that is not understood here is an error: what is rendered must be tried.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::envoy::merge;
use crate::stage::Patches;

/// What the EnvoyFilter comes to.
#[derive(Clone, Debug, Default)]
pub struct Rendered {
    /// HTTP filters, in order.
    pub filters: Vec<Value>,
    /// Merged into the route.
    pub route: Value,
    /// Merged into clusters.
    pub patches: Patches,
}

/// Asks the operator for the EnvoyFilter of a ModelService in a file.
///
/// # Errors
/// When it renders none.
pub fn rendered(operator: &Path, model_service: &str, dir: &Path) -> Result<Value> {
    let file = dir.join("modelservice.yaml");
    std::fs::write(&file, model_service).with_context(|| format!("write {}", file.display()))?;
    let output = Command::new(operator)
        .args(["generate", "-m"])
        .arg(&file)
        .output()
        .with_context(|| format!("run {}", operator.display()))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{} generate: {error}",
        operator.display()
    );
    let text = String::from_utf8(output.stdout).context("YAML is text")?;
    let children: Value = serde_yaml::from_str(&text).context("read what the operator renders")?;
    children
        .as_object()
        .into_iter()
        .flat_map(serde_json::Map::values)
        .find(|child| child["kind"] == "EnvoyFilter")
        .cloned()
        .with_context(|| format!("the operator renders no EnvoyFilter: {error}"))
}

/// An EnvoyFilter from a file.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_yaml::from_str(&text).with_context(|| path.display().to_string())
}

/// Applies its patches as Istio does. The EPP's cluster is called `epp`.
///
/// # Errors
/// For patches that are not known here.
pub fn apply(filter: &Value, epp: &str) -> Result<Rendered> {
    let mut rendered = Rendered::default();
    let patches = filter["spec"]["configPatches"]
        .as_array()
        .context("the EnvoyFilter has no patches")?;
    for patch in patches {
        let mut value = patch["patch"]["value"].clone();
        rename(&mut value, epp);
        let operation = patch["patch"]["operation"].as_str().unwrap_or_default();
        let cluster = patch["match"]["cluster"]["name"]
            .as_str()
            .unwrap_or_default();
        match (patch["applyTo"].as_str().unwrap_or_default(), operation) {
            ("HTTP_FILTER", "INSERT_FIRST") => rendered.filters.insert(0, value),
            ("HTTP_FILTER", "INSERT_BEFORE") => {
                let manager = &patch["match"]["listener"]["filterChain"]["filter"];
                let before = &manager["subFilter"]["name"];
                let at = rendered
                    .filters
                    .iter()
                    .position(|filter| filter["name"] == *before)
                    .unwrap_or(rendered.filters.len());
                rendered.filters.insert(at, value);
            }
            ("HTTP_ROUTE", "MERGE") => merge(&mut rendered.route, &value),
            ("CLUSTER", "MERGE") if is_epp(cluster) => {
                merge(&mut rendered.patches.epp_cluster, &value);
            }
            ("CLUSTER", "MERGE") => merge(&mut rendered.patches.engine_cluster, &value),
            (what, operation) => bail!("the EnvoyFilter has a patch {operation} of {what}"),
        }
    }
    Ok(rendered)
}

/// Istio's name for the cluster of the EPP's Service.
fn is_epp(cluster: &str) -> bool {
    cluster.starts_with("outbound|9002|")
}

fn rename(value: &mut Value, epp: &str) {
    match value {
        Value::String(text) if is_epp(text) => epp.clone_into(text),
        Value::Array(list) => list.iter_mut().for_each(|value| rename(value, epp)),
        Value::Object(fields) => fields.values_mut().for_each(|value| rename(value, epp)),
        _ => {}
    }
}
