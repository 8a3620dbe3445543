//! `generate`: a ModelService file and a base ConfigMap file -> the children as one YAML
//! map by child key, as the Go operator printed them. IO: reads two files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};

use super::RenderArgs;
use crate::api::ModelService;
use crate::operator::children::ChildKey;
use crate::operator::resolved::{BaseConfig, PoolVersion, Resolved, Served};
use crate::operator::settings::Settings;
use crate::operator::{check, decode, facts, render};

/// Flags of `generate`.
#[derive(Clone, Debug, Args)]
pub(super) struct GenerateArgs {
    /// File with the ModelService.
    #[arg(long, short = 'm', value_name = "FILE")]
    modelservice: PathBuf,
    /// File with the base ConfigMap.
    #[arg(long, short = 'b', value_name = "FILE")]
    baseconfig: Option<PathBuf>,
    #[command(flatten)]
    render: RenderArgs,
}

/// Prints the children.
pub(super) fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
    };
    let modelservice = read(&args.modelservice)?;
    let base = args.baseconfig.as_deref().map(read).transpose()?;
    let (children, warnings) = generate(&args.render.settings(), &modelservice, base.as_deref())?;
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    print!(
        "{}",
        serde_yaml::to_string(&children).context("write YAML")?
    );
    Ok(())
}

/// Renders without a cluster. Fields the API server would drop are dropped with a warning.
///
/// # Errors
/// When a file does not hold what it should, or the plan is not valid.
pub(crate) fn generate(
    settings: &Settings,
    modelservice: &str,
    base: Option<&str>,
) -> anyhow::Result<(BTreeMap<&'static str, Value>, Vec<String>)> {
    let mut warnings = Vec::new();
    let value =
        decode::yaml("ModelService", modelservice)?.context("the ModelService file is empty")?;
    anyhow::ensure!(
        value["kind"] == "ModelService",
        "the file given by -m holds no ModelService"
    );
    let ms: ModelService = decode::typed("ModelService", modelservice, value, &mut warnings)?;
    let base = base
        .map(|text| base_config(text, &mut warnings))
        .transpose()?;
    let resolved = Resolved {
        base,
        // What the Go operator assumed.
        served: Served {
            inference_pool: Some(PoolVersion::V1Alpha2),
            inference_model: true,
            http_route: true,
            envoy_filter: true,
            openshift: false,
        },
        ..Resolved::default()
    };
    let mut findings = Vec::new();
    let decided = facts::decide(settings, &ms, &resolved, &mut findings);
    warnings.extend(findings.iter().map(ToString::to_string));
    let facts = decided?;
    let desired = render::render(&facts);
    check::check(&facts, &desired)?;
    let mut children: BTreeMap<&'static str, Value> = BTreeMap::new();
    for child in desired.items {
        let mut value = child.object.to_value();
        let resource = child.object.api_resource();
        value["apiVersion"] = json!(resource.api_version);
        value["kind"] = json!(resource.kind);
        value["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "llm-d.ai/v1alpha1", "kind": "ModelService", "name": facts.identity.name, "uid": "",
        }]);
        if child.key == ChildKey::ConfigMaps {
            let list = children
                .entry(child.key.as_str())
                .or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(value);
            }
        } else {
            children.insert(child.key.as_str(), value);
        }
    }
    Ok((children, warnings))
}

fn base_config(text: &str, warnings: &mut Vec<String>) -> anyhow::Result<BaseConfig> {
    let value = decode::yaml("ConfigMap", text)?.context("the base config file is empty")?;
    anyhow::ensure!(
        value["kind"] == "ConfigMap",
        "the file given by -b holds no ConfigMap"
    );
    let map: k8s_openapi::api::core::v1::ConfigMap =
        decode::typed("ConfigMap", text, value, warnings)?;
    Ok(BaseConfig {
        namespace: map.metadata.namespace.unwrap_or_default(),
        name: map.metadata.name.unwrap_or_default(),
        data: map.data.unwrap_or_default(),
    })
}
