//! A base ConfigMap's values -> typed objects, each in the form it was written in. PURE.
#![deny(clippy::disallowed_methods)]

mod forms;
mod place;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::decode;
use super::finding::Finding;
use super::invalid::Error;
use super::resolved::BaseConfig;
use super::template::Renderer;
use crate::api::ModelService;
use crate::api::foreign::v1alpha2::{InferenceModel, InferencePool as InferencePoolAlpha};
use crate::api::foreign::{HTTPRoute, InferencePool};
use crate::api::modelservice::{ContainerSpec, PdSpec};
use crate::contract;
use crate::nearest::nearest;

/// How errors name the ModelService where it is the source.
pub(in crate::operator) const MODEL_SERVICE: &str = "ModelService";

pub use self::forms::Form;
pub use self::place::{Place, Sources};

/// Keys of a base config.
const KEYS: &[&str] = &[
    "configMaps",
    "decodeDeployment",
    "decodeService",
    "eppDeployment",
    "eppService",
    "httpRoute",
    "inferenceModel",
    "inferencePool",
    "prefillDeployment",
    "prefillService",
];

/// A base config, read.
#[derive(Clone, Debug, Default)]
pub struct Base {
    /// `ConfigMap namespace/name`; empty without one.
    pub(in crate::operator) source: String,
    pub(in crate::operator) config_maps: Vec<ConfigMap>,
    /// Their rendered text, to find lines in.
    pub(in crate::operator) config_maps_text: String,
    pub(in crate::operator) decode: Option<Arc<BaseDeployment>>,
    pub(in crate::operator) prefill: Option<Arc<BaseDeployment>>,
    pub(in crate::operator) epp: Option<Arc<BaseDeployment>>,
    pub(in crate::operator) decode_service: Option<Service>,
    pub(in crate::operator) prefill_service: Option<Service>,
    pub(in crate::operator) epp_service: Option<Service>,
    pub(in crate::operator) pool: Option<BasePool>,
    pub(in crate::operator) model: Option<InferenceModel>,
    pub(in crate::operator) route: Option<HTTPRoute>,
}

/// A Deployment, whether it was written in shorthand, and the text it was read from.
#[derive(Clone, Debug)]
pub struct BaseDeployment {
    pub(in crate::operator) object: Deployment,
    /// The rendered value, to find lines in.
    pub(in crate::operator) text: String,
    pub(in crate::operator) form: Form,
}

impl BaseDeployment {
    /// The built-in base fills what is absent.
    pub(in crate::operator) fn is_filled(&self) -> bool {
        self.form != Form::Full
    }
}

/// An InferencePool in whichever form it was written.
#[derive(Clone, Debug)]
pub enum BasePool {
    /// `inference.networking.k8s.io/v1`.
    V1(Box<InferencePool>),
    /// `inference.networking.x-k8s.io/v1alpha2`.
    Alpha(Box<InferencePoolAlpha>),
}

impl Base {
    /// True when the EPP is made from the built-in base, in whole or below a shorthand value.
    pub(in crate::operator) fn has_builtin_epp(&self) -> bool {
        let base = self.epp.as_ref();
        base.map_or(!self.is_old_form(), |base| base.is_filled())
    }

    /// True when a Deployment is written in full: the form of the Go operator's bases.
    pub(in crate::operator) fn is_old_form(&self) -> bool {
        [&self.decode, &self.prefill, &self.epp]
            .into_iter()
            .flatten()
            .any(|base| !base.is_filled())
    }
}

/// Renders the args of the ModelService's prefill and decode containers; nothing else of
/// a ModelService is a template.
pub(in crate::operator) fn render_args(
    ms: &ModelService,
    renderer: &Renderer,
) -> Result<ModelService, Error> {
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
pub(in crate::operator) fn read(
    ms: &ModelService,
    base: Option<&BaseConfig>,
    renderer: &Renderer,
    findings: &mut Vec<Finding>,
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
        findings,
    };
    reader.unknown_keys();
    let (config_maps, config_maps_text) = reader.config_maps()?;
    let containers = |section: &Option<PdSpec>| -> Vec<ContainerSpec> {
        section
            .as_ref()
            .map_or_else(Vec::new, |s| s.containers.clone())
    };
    let of_epp = ms.spec.endpoint_picker.as_ref();
    let of_epp = of_epp.map_or_else(Vec::new, |section| section.containers.clone());
    let (of_decode, of_prefill) = (containers(&ms.spec.decode), containers(&ms.spec.prefill));
    let engine = contract::CONTAINER_ENGINE;
    Ok(Base {
        source: reader.source.clone(),
        config_maps,
        config_maps_text,
        decode: reader.deployment("decodeDeployment", engine, &of_decode)?,
        decode_service: reader.typed("decodeService")?,
        epp: reader.deployment("eppDeployment", contract::CONTAINER_EPP, &of_epp)?,
        epp_service: reader.typed("eppService")?,
        route: reader.foreign("httpRoute")?,
        model: reader.foreign("inferenceModel")?,
        pool: reader.pool()?,
        prefill: reader.deployment("prefillDeployment", engine, &of_prefill)?,
        prefill_service: reader.typed("prefillService")?,
    })
}

struct Reader<'a> {
    source: String,
    base: &'a BaseConfig,
    renderer: &'a Renderer,
    findings: &'a mut Vec<Finding>,
}

impl Reader<'_> {
    /// The rendered text and its YAML; `None` when absent or blank.
    fn value(&mut self, key: &str) -> Result<Option<(String, Value)>, Error> {
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
        let Some(mut value) = value else {
            return Ok(None);
        };
        let dropped = match &mut value {
            Value::Array(items) => items.iter_mut().flat_map(clean_metadata).collect(),
            other => clean_metadata(other),
        };
        for field in dropped {
            // A field that tools leave in what they print is no news.
            if ![
                "creationTimestamp",
                "managedFields",
                "resourceVersion",
                "uid",
                "generation",
                "selfLink",
            ]
            .contains(&field)
            {
                let text = format!("{}: {key}: metadata.{field} was dropped", self.source);
                self.findings.push(Finding::new(text));
            }
        }
        Ok(Some((text, value)))
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
        self.findings.extend(
            warnings
                .into_iter()
                .map(|warning| Finding::new(format!("{}: {warning}", self.source))),
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

    fn deployment(
        &mut self,
        key: &'static str,
        main: &str,
        overlay: &[ContainerSpec],
    ) -> Result<Option<Arc<BaseDeployment>>, Error> {
        let Some((text, value)) = self.value(key)? else {
            return Ok(None);
        };
        let shaped = forms::shape(value, main);
        for (path, what) in shaped.moved {
            let place = self.place(key, decode::line_of_field(&text, None, last(&path)));
            self.findings
                .push(Finding::at(place, format!("{path} {what}")));
        }
        let object: Deployment = self.fit(key, &text, shaped.value)?;
        let form = match shaped.form {
            Form::Full if !can_run(&object, main, overlay) => Form::Partial,
            form => form,
        };
        let told = match form {
            Form::Full => None,
            Form::Partial => Some(
                "is a Deployment whose main container has neither image nor command: what is \
                 missing was completed from the built-in base",
            ),
            Form::Short => Some("is shorthand and was completed from the built-in base"),
        };
        if let Some(told) = told {
            let text = format!("{}: {key} {told}", self.source);
            self.findings.push(Finding::new(text));
        }
        Ok(Some(Arc::new(BaseDeployment { object, text, form })))
    }

    fn place(&self, key: &'static str, line: Option<u64>) -> Place {
        Place::Base {
            object: self.source.clone(),
            key,
            line,
        }
    }

    /// Keys that nobody reads: misspelt, or of another program.
    fn unknown_keys(&mut self) {
        for key in self.base.data.keys() {
            if KEYS.contains(&key.as_str()) {
                continue;
            }
            let near = nearest(key, KEYS.iter().copied()).or_else(|| {
                let mut known = KEYS.iter().copied();
                known.find(|known| known.starts_with(key.as_str()) && key.len() > 2)
            });
            let hint = match near {
                Some(near) => format!("did you mean {near}?"),
                None => format!("known keys are {}", KEYS.join(", ")),
            };
            let text = format!("{}: nobody reads the key {key}", self.source);
            self.findings.push(Finding::new(text).detail(hint));
        }
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

/// The last name of a dotted path.
fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// True for a Deployment that says what its main container runs, or has containers of its own
/// making only: what the Go operator's bases look like. An empty one is a bare child, which the
/// ModelService's containers fill.
fn can_run(deployment: &Deployment, main: &str, overlay: &[ContainerSpec]) -> bool {
    let says = |image: Option<&String>| image.is_some_and(|image| !image.is_empty());
    let overlaid = |name: &str| {
        let mut specs = overlay.iter().filter(|spec| spec.name == name);
        specs.any(|spec| says(spec.image.as_ref()) || spec.command.is_some())
    };
    let pod = deployment.spec.template.spec.as_ref();
    let containers = pod.map_or(&[][..], |pod| pod.containers.as_slice());
    match containers.iter().find(|container| container.name == main) {
        Some(container) => {
            says(container.image.as_ref())
                || container.command.as_ref().is_some_and(|c| !c.is_empty())
                || overlaid(main)
        }
        None => true,
    }
}

/// Parts of metadata that are not a base config's to say: they would keep an object from being
/// deleted, or have it deleted with somebody else's.
const NOT_OURS: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Takes them out of an object, and returns which there were.
fn clean_metadata(value: &mut Value) -> Vec<&'static str> {
    let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Vec::new();
    };
    let found = NOT_OURS.iter().filter(|name| meta.remove(**name).is_some());
    found.copied().collect()
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
