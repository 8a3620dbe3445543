//! Envoy resources -> files that Envoy watches, replaced by rename. IO.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::config::{Config, Listener};
use crate::paths::Paths;

/// Envoy's folder.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    written: BTreeMap<PathBuf, String>,
}

impl Files {
    /// Writes the bootstrap and empty resource files.
    pub(super) fn create(paths: &Paths, admin: &Path) -> Result<Self> {
        let dir = paths.state().join("envoy");
        fs::create_dir_all(dir.join("eds"))?;
        let mut files = Self {
            dir,
            written: BTreeMap::new(),
        };
        let source = |name: &str| json!({"path_config_source": {"path": files.dir.join(name)}});
        let bootstrap = json!({
            "node": {"id": "router~rig", "cluster": "rig"},
            "admin": {"address": {"pipe": {"path": admin}}},
            "dynamic_resources": {"cds_config": source("cds.json"), "lds_config": source("lds.json")},
            "overload_manager": {"resource_monitors": [{"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": 10_000}}]},
        });
        files.put("bootstrap.json", &bootstrap)?;
        files.put("cds.json", &json!({"resources": []}))?;
        files.put("lds.json", &json!({"resources": []}))?;
        Ok(files)
    }

    /// Where Envoy starts reading.
    pub(super) fn bootstrap(&self) -> PathBuf {
        self.dir.join("bootstrap.json")
    }

    /// Writes what changed: endpoints and clusters before the routes and listeners that use
    /// them. True when anything did.
    pub(super) fn write(&mut self, config: &Config) -> Result<bool> {
        let mut changed = false;
        for (name, endpoints) in &config.endpoints {
            changed |= self.put(
                &eds_file(name),
                &json!({"resources": [Config::eds(name, endpoints)]}),
            )?;
        }
        let clusters: Vec<Value> = config
            .clusters
            .iter()
            .map(|(name, cluster)| {
                let mut cluster = cluster.clone();
                cluster["@type"] = "type.googleapis.com/envoy.config.cluster.v3.Cluster".into();
                cluster["eds_cluster_config"] =
                    json!({"eds_config": {"path_config_source": {"path": self.dir.join(eds_file(name))}}});
                cluster
            })
            .collect();
        changed |= self.put("cds.json", &json!({"resources": clusters}))?;
        for listener in &config.listeners {
            changed |= self.put(
                &rds_file(listener),
                &json!({"resources": [Config::rds(listener)]}),
            )?;
        }
        let dir = self.dir.clone();
        let listeners = config.lds(|listener| dir.join(rds_file(listener)).display().to_string());
        changed |= self.put("lds.json", &json!({"resources": listeners}))?;
        Ok(changed)
    }

    fn put(&mut self, name: &str, value: &Value) -> Result<bool> {
        let path = self.dir.join(name);
        let text = serde_json::to_string_pretty(value)?;
        if self.written.get(&path) == Some(&text) {
            return Ok(false);
        }
        replace(&path, &text).with_context(|| format!("write {}", path.display()))?;
        self.written.insert(path, text);
        Ok(true)
    }
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

fn eds_file(cluster: &str) -> String {
    format!("eds/{}.json", cluster.replace('|', "_"))
}

fn rds_file(listener: &Listener) -> String {
    format!("rds-{}.json", listener.port)
}
