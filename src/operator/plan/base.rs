//! A base ConfigMap's values -> typed objects, shorthand understood. PURE.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::Error;
use crate::api::ModelService;
use crate::api::foreign::v1alpha2::{InferenceModel, InferencePool as InferencePoolAlpha};
use crate::api::foreign::{HTTPRoute, InferencePool};
use crate::api::modelservice::ContainerSpec;
use crate::contract;
use crate::operator::decode;
use crate::operator::resolved::BaseConfig;
use crate::operator::template::Renderer;

/// How errors name the ModelService where it is the source.
pub(super) const MODEL_SERVICE: &str = "ModelService";

/// Keys of a container; at the top of a `*Deployment` value they mean the main container.
const CONTAINER_KEYS: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resources",
    "securityContext",
    "startupProbe",
    "volumeMounts",
    "workingDir",
];
/// Keys of a pod spec; at the top of a `*Deployment` value they mean `spec.template.spec`.
const POD_KEYS: &[&str] = &[
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostname",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "runtimeClassName",
    "schedulerName",
    "shareProcessNamespace",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
];

/// A base config, read.
#[derive(Default)]
pub(super) struct Base {
    /// `ConfigMap namespace/name`; empty without one.
    pub(super) source: String,
    pub(super) config_maps: Vec<ConfigMap>,
    /// Their rendered text, to find lines in.
    pub(super) config_maps_text: String,
    pub(super) decode: Option<BaseDeployment>,
    pub(super) prefill: Option<BaseDeployment>,
    pub(super) epp: Option<BaseDeployment>,
    pub(super) decode_service: Option<Service>,
    pub(super) prefill_service: Option<Service>,
    pub(super) epp_service: Option<Service>,
    pub(super) pool: Option<BasePool>,
    pub(super) model: Option<InferenceModel>,
    pub(super) route: Option<HTTPRoute>,
}

/// A Deployment, whether it was written in shorthand, and the text it was read from.
#[derive(Clone)]
pub(super) struct BaseDeployment {
    pub(super) object: Deployment,
    /// The rendered value, to find lines in.
    pub(super) text: String,
    pub(super) shorthand: bool,
}

/// An InferencePool in whichever form it was written.
pub(super) enum BasePool {
    V1(Box<InferencePool>),
    Alpha(Box<InferencePoolAlpha>),
}

impl Base {
    /// True when the EPP is made from the built-in base, in whole or below a shorthand value.
    pub(super) fn has_builtin_epp(&self) -> bool {
        let base = self.epp.as_ref();
        base.map_or(!self.is_old_form(), |base| base.shorthand)
    }

    /// True when a Deployment is written in full: the form of the Go operator's bases.
    pub(super) fn is_old_form(&self) -> bool {
        [&self.decode, &self.prefill, &self.epp]
            .into_iter()
            .flatten()
            .any(|base| !base.shorthand)
    }
}

/// Renders the args of the ModelService's prefill and decode containers; nothing else of
/// a ModelService is a template.
pub(super) fn render_args(ms: &ModelService, renderer: &Renderer) -> Result<ModelService, Error> {
    let mut ms = ms.clone();
    for (role, section) in [
        ("decode", &mut ms.spec.decode),
        ("prefill", &mut ms.spec.prefill),
    ] {
        let Some(section) = section else { continue };
        for (list, containers) in [
            ("containers", &mut section.containers),
            ("initContainers", &mut section.init_containers),
        ] {
            for container in containers.iter_mut() {
                render_container(container, &format!("spec.{role}.{list}"), renderer)?;
            }
        }
    }
    Ok(ms)
}

fn render_container(
    container: &mut ContainerSpec,
    path: &str,
    renderer: &Renderer,
) -> Result<(), Error> {
    for (index, arg) in container.args.iter_mut().flatten().enumerate() {
        let key = format!("{path}[{}].args[{index}]", container.name);
        *arg = renderer
            .render(&key, arg)
            .map_err(|error| Error::Template {
                source_object: MODEL_SERVICE.to_owned(),
                error,
            })?;
    }
    Ok(())
}

/// Reads every value of the base.
pub(super) fn read(
    base: Option<&BaseConfig>,
    renderer: &Renderer,
    warnings: &mut Vec<String>,
) -> Result<Base, Error> {
    let Some(base) = base else {
        return Ok(Base::default());
    };
    let mut reader = Reader {
        source: if base.namespace.is_empty() {
            format!("ConfigMap {}", base.name)
        } else {
            format!("ConfigMap {}/{}", base.namespace, base.name)
        },
        base,
        renderer,
        warnings,
    };
    let (config_maps, config_maps_text) = reader.config_maps()?;
    Ok(Base {
        source: reader.source.clone(),
        config_maps,
        config_maps_text,
        decode: reader.deployment("decodeDeployment", contract::CONTAINER_ENGINE)?,
        decode_service: reader.typed("decodeService")?,
        epp: reader.deployment("eppDeployment", contract::CONTAINER_EPP)?,
        epp_service: reader.typed("eppService")?,
        route: reader.foreign("httpRoute")?,
        model: reader.foreign("inferenceModel")?,
        pool: reader.pool()?,
        prefill: reader.deployment("prefillDeployment", contract::CONTAINER_ENGINE)?,
        prefill_service: reader.typed("prefillService")?,
    })
}

struct Reader<'a> {
    source: String,
    base: &'a BaseConfig,
    renderer: &'a Renderer,
    warnings: &'a mut Vec<String>,
}

impl Reader<'_> {
    /// The rendered text and its YAML; `None` when absent or blank.
    fn value(&self, key: &str) -> Result<Option<(String, Value)>, Error> {
        let Some(text) = self.base.data.get(key) else {
            return Ok(None);
        };
        let text = self
            .renderer
            .render(key, text)
            .map_err(|error| Error::Template {
                source_object: self.source.clone(),
                error,
            })?;
        let value = decode::yaml(key, &text).map_err(|error| self.wrong(error))?;
        Ok(value.map(|value| (text, value)))
    }

    fn wrong(&self, error: decode::Error) -> Error {
        Error::Decode {
            source_object: self.source.clone(),
            error,
        }
    }

    fn fit<T: DeserializeOwned + JsonSchema>(
        &mut self,
        key: &str,
        text: &str,
        value: Value,
    ) -> Result<T, Error> {
        let mut warnings = Vec::new();
        let result = decode::typed(key, text, value, &mut warnings);
        self.warnings.extend(
            warnings
                .into_iter()
                .map(|warning| format!("{}: {warning}", self.source)),
        );
        result.map_err(|error| self.wrong(error))
    }

    fn typed<T: DeserializeOwned + JsonSchema>(&mut self, key: &str) -> Result<Option<T>, Error> {
        match self.value(key)? {
            Some((text, value)) => self.fit(key, &text, value).map(Some),
            None => Ok(None),
        }
    }

    /// Objects whose unknown fields are kept.
    fn foreign<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, Error> {
        let Some((text, mut value)) = self.value(key)? else {
            return Ok(None);
        };
        fill_object(&mut value);
        serde_json::from_value(value).map(Some).map_err(|error| {
            self.wrong(decode::Error::Field {
                key: key.to_owned(),
                line: None,
                path: text
                    .lines()
                    .next()
                    .unwrap_or_default()
                    .chars()
                    .take(40)
                    .collect(),
                message: error.to_string(),
            })
        })
    }

    fn deployment(&mut self, key: &str, main: &str) -> Result<Option<BaseDeployment>, Error> {
        let Some((text, value)) = self.value(key)? else {
            return Ok(None);
        };
        let (value, shorthand) = match expand_shorthand(&value, main) {
            Some(expanded) => (expanded, true),
            None => (value, false),
        };
        if shorthand {
            self.warnings.push(format!(
                "{}: {key} is shorthand and was completed from the built-in base",
                self.source
            ));
        }
        let object = self.fit(key, &text, value)?;
        Ok(Some(BaseDeployment {
            object,
            text,
            shorthand,
        }))
    }

    fn config_maps(&mut self) -> Result<(Vec<ConfigMap>, String), Error> {
        const KEY: &str = "configMaps";
        let Some((text, value)) = self.value(KEY)? else {
            return Ok((Vec::new(), String::new()));
        };
        let Value::Array(items) = value else {
            return Err(self.wrong(decode::Error::Field {
                key: KEY.to_owned(),
                line: Some(1),
                path: "value".to_owned(),
                message: "a list of ConfigMaps is wanted".to_owned(),
            }));
        };
        let maps = items
            .into_iter()
            .map(|item| self.fit(KEY, &text, item))
            .collect::<Result<_, _>>()?;
        Ok((maps, text))
    }

    fn pool(&mut self) -> Result<Option<BasePool>, Error> {
        const KEY: &str = "inferencePool";
        let Some((_, value)) = self.value(KEY)? else {
            return Ok(None);
        };
        let v1 = value
            .get("apiVersion")
            .and_then(Value::as_str)
            .is_some_and(|v| v.ends_with("k8s.io/v1"));
        if v1 {
            Ok(self.foreign(KEY)?.map(|pool| BasePool::V1(Box::new(pool))))
        } else {
            Ok(self
                .foreign(KEY)?
                .map(|pool| BasePool::Alpha(Box::new(pool))))
        }
    }
}

/// Gives an object the parts its type insists on; they are overwritten anyway.
fn fill_object(value: &mut Value) {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, field| !field.is_null());
        fields.entry("metadata").or_insert_with(|| json!({}));
        fields.entry("spec").or_insert_with(|| json!({}));
        drop_nulls(value);
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// `containers: …` or `env: …` at the top -> a Deployment; `None` when it is one already.
fn expand_shorthand(value: &Value, main: &str) -> Option<Value> {
    let fields = value.as_object()?;
    let full = ["apiVersion", "kind", "metadata", "spec"]
        .iter()
        .any(|key| fields.contains_key(*key));
    let known = fields
        .keys()
        .any(|key| POD_KEYS.contains(&key.as_str()) || CONTAINER_KEYS.contains(&key.as_str()));
    if full || !known {
        return None;
    }
    let mut pod = Map::new();
    let mut overlay = Map::new();
    for (key, field) in fields {
        let target = if CONTAINER_KEYS.contains(&key.as_str()) {
            &mut overlay
        } else {
            &mut pod
        };
        target.insert(key.clone(), field.clone());
    }
    if !overlay.is_empty() {
        let containers = pod
            .entry("containers")
            .or_insert_with(|| json!([]))
            .as_array_mut()?;
        let index = containers
            .iter()
            .position(|container| container.get("name").and_then(Value::as_str) == Some(main))
            .unwrap_or_else(|| {
                containers.push(json!({"name": main}));
                containers.len() - 1
            });
        containers[index].as_object_mut()?.extend(overlay);
    }
    Some(json!({"spec": {"template": {"spec": pod}}}))
}
