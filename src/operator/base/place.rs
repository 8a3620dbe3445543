//! A merged field -> where its author wrote it: object, key and line of the base config, or
//! the field of the ModelService. PURE. For messages only, never for a decision.

use std::fmt;
use std::sync::Arc;

use super::{Base, BaseDeployment};
use crate::api::ModelService;
use crate::api::modelservice::ContainerSpec;
use crate::operator::decode;
use crate::operator::names::Role;

/// Where somebody wrote something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// In the base config.
    Base {
        /// `ConfigMap namespace/name`.
        object: String,
        /// Key of the ConfigMap, such as `eppDeployment`.
        key: &'static str,
        /// Line in the rendered value, from 1, where it could be found.
        line: Option<u64>,
    },
    /// In the ModelService.
    Spec {
        /// Path of the field, such as `spec.decode.containers[vllm]`.
        field: String,
    },
    /// Nobody wrote it: the operator's own default.
    Operator,
}

impl Place {
    /// True when an edit of the base config is what helps.
    pub fn is_base(&self) -> bool {
        matches!(self, Self::Base { .. })
    }

    /// ` (line 3)`, or nothing.
    pub fn line_note(&self) -> String {
        match self {
            Self::Base {
                line: Some(line), ..
            } => format!(" (line {line})"),
            _ => String::new(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base { object, key, .. } => write!(f, "{object}: {key}"),
            Self::Spec { field } => write!(f, "ModelService: {field}"),
            Self::Operator => write!(f, "the operator's own base"),
        }
    }
}

/// One Deployment's two sources: the base config and a section of the ModelService.
#[derive(Clone, Debug)]
pub struct Sources {
    object: String,
    /// How the child is called, after the key of the base config it usually has.
    key: &'static str,
    /// The key it was really made from.
    base_key: &'static str,
    base: Option<Arc<BaseDeployment>>,
    /// `spec.decode`, `spec.prefill` or `spec.endpointPicker`.
    section: &'static str,
    containers: Vec<ContainerSpec>,
    init_containers: Vec<ContainerSpec>,
}

impl Sources {
    /// Those of the decode or the prefill engines.
    pub fn of_role(ms: &ModelService, base: &Base, role: Role) -> Self {
        let (spec, section, key, own) = match role {
            Role::Decode => (
                &ms.spec.decode,
                "spec.decode",
                "decodeDeployment",
                &base.decode,
            ),
            Role::Prefill => (
                &ms.spec.prefill,
                "spec.prefill",
                "prefillDeployment",
                &base.prefill,
            ),
        };
        // Without a base of its own the prefill engine is what a shorthand decode base says.
        let inherited = base.decode.as_ref().filter(|base| base.is_filled());
        let inherits = role == Role::Prefill && own.is_none() && inherited.is_some();
        Self {
            object: base.source.clone(),
            key,
            base_key: if inherits { "decodeDeployment" } else { key },
            base: own.as_ref().or(inherited.filter(|_| inherits)).cloned(),
            section,
            containers: spec
                .as_ref()
                .map_or_else(Vec::new, |s| s.containers.clone()),
            init_containers: spec
                .as_ref()
                .map_or_else(Vec::new, |s| s.init_containers.clone()),
        }
    }

    /// Those of the EPP.
    pub fn of_epp(ms: &ModelService, base: &Base) -> Self {
        let spec = ms.spec.endpoint_picker.as_ref();
        Self {
            object: base.source.clone(),
            key: "eppDeployment",
            base_key: "eppDeployment",
            base: base.epp.clone(),
            section: "spec.endpointPicker",
            containers: spec.map_or_else(Vec::new, |s| s.containers.clone()),
            init_containers: spec.map_or_else(Vec::new, |s| s.init_containers.clone()),
        }
    }

    /// How the child is called, after the key of the base config it usually has.
    pub fn key(&self) -> &'static str {
        self.key
    }

    /// The Deployment as a whole.
    pub fn whole(&self) -> Place {
        match &self.base {
            Some(_) => self.in_base(None),
            None if self.containers.is_empty() => Place::Operator,
            None => Place::Spec {
                field: self.section.to_owned(),
            },
        }
    }

    /// An env entry of a container: the ModelService's entry replaces the base's.
    pub fn env(&self, container: &str, name: &str) -> Place {
        let spec = self.specs(container).find(|(_, spec)| {
            let mut entries = spec.env.iter().flatten();
            entries.any(|entry| entry.name == name)
        });
        if let Some((field, _)) = spec {
            return Place::Spec {
                field: format!("{field}.env[{name}]"),
            };
        }
        match &self.base {
            Some(base) => self.in_base(decode::line_of_item(&base.text, Some(container), name)),
            None => Place::Operator,
        }
    }

    /// A flag of a container: args of the base come last, and the last one counts.
    pub fn flag(&self, container: &str, is_it: impl Fn(&str) -> bool) -> Place {
        let has = |args: Option<&Vec<String>>| args.into_iter().flatten().any(|arg| is_it(arg));
        let in_base = self.base.as_ref().filter(|base| {
            let pod = base.object.spec.template.spec.as_ref();
            let mut containers = pod.into_iter().flat_map(|pod| &pod.containers);
            containers.any(|own| {
                own.name == container && (has(own.args.as_ref()) || has(own.command.as_ref()))
            })
        });
        if let Some(base) = in_base {
            let args = decode::line_of_field(&base.text, Some(container), "args");
            let below = usize::try_from(args.unwrap_or(1))
                .unwrap_or(1)
                .saturating_sub(1);
            let mut lines = base.text.lines().enumerate().skip(below);
            let said = lines.find(|(_, line)| {
                let mut words = line.split([' ', '"', '\'', ',', '[', ']']);
                words.any(|word| !word.is_empty() && is_it(word))
            });
            let exact = said.map(|(index, _)| index as u64 + 1);
            return self.in_base(exact.or(args));
        }
        match self.specs(container).next() {
            Some((field, _)) => Place::Spec {
                field: format!("{field}.args"),
            },
            None => Place::Operator,
        }
    }

    /// A container.
    pub fn container(&self, name: &str) -> Place {
        let line = self
            .base
            .as_ref()
            .and_then(|base| decode::line_of_item(&base.text, None, name));
        match (line, self.specs(name).next()) {
            (None, Some((field, _))) => Place::Spec { field },
            _ if self.base.is_some() => self.in_base(line),
            _ => Place::Operator,
        }
    }

    /// A field that only a base config can hold, of a container or of the pod.
    pub fn field(&self, container: Option<&str>, field: &str) -> Place {
        match &self.base {
            Some(base) => self.in_base(decode::line_of_field(&base.text, container, field)),
            None => Place::Operator,
        }
    }

    /// The ConfigMaps of the base config.
    pub fn config_maps(&self) -> Place {
        Place::Base {
            object: self.object.clone(),
            key: "configMaps",
            line: None,
        }
    }

    /// Where a container's image was written.
    pub fn image(&self, container: &str) -> Place {
        let says = |image: Option<&String>| image.is_some_and(|image| !image.is_empty());
        if let Some((field, _)) = self
            .specs(container)
            .find(|(_, spec)| says(spec.image.as_ref()))
        {
            return Place::Spec {
                field: format!("{field}.image"),
            };
        }
        let in_base = self.base.as_ref().filter(|base| {
            let pod = base.object.spec.template.spec.as_ref();
            pod.is_some_and(|pod| {
                pod.containers
                    .iter()
                    .chain(pod.init_containers.iter().flatten())
                    .any(|c| c.name == container && says(c.image.as_ref()))
            })
        });
        match in_base {
            Some(base) => self.in_base(decode::line_of_field(&base.text, Some(container), "image")),
            None => Place::Operator,
        }
    }

    /// The ModelService's own words about a container; of duplicates the last counts.
    fn specs(&self, name: &str) -> impl Iterator<Item = (String, &ContainerSpec)> {
        let (section, name) = (self.section, name.to_owned());
        [
            ("containers", &self.containers),
            ("initContainers", &self.init_containers),
        ]
        .into_iter()
        .filter_map(move |(list, specs)| {
            let spec = specs.iter().rev().find(|spec| spec.name == name)?;
            Some((format!("{section}.{list}[{name}]"), spec))
        })
    }

    fn in_base(&self, line: Option<u64>) -> Place {
        Place::Base {
            object: self.object.clone(),
            key: self.base_key,
            line,
        }
    }
}
