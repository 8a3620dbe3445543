//! The EPP's container -> how it will schedule, read by the EPP's own code: its environment, or
//! the EndpointPickerConfig that its flags name. PURE.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, KeyToPath, PodSpec};
use kube::ResourceExt as _;

use super::{Context, Epp};
use crate::contract;
use crate::operator::base::{Place, Sources};
use crate::operator::finding::Finding;
use crate::operator::invalid::{EppSetting, Error};
use crate::scheduling::config::{SchedulingConfig, SettingError, SettingOrigin};

/// What other children need to know of it.
#[derive(Debug, Default)]
pub(super) struct EppScheduling {
    /// Redis, through which its replicas share what they know.
    pub(super) redis_addr: Option<String>,
    /// It scores by KV events, so engines must publish them.
    pub(super) uses_kv_events: bool,
}

/// Parts of images of upstream's EPP: what only upstream has is right there.
const UPSTREAM_IMAGES: &[&str] = &[
    "llm-d-inference-scheduler",
    "llm-d-router",
    "gateway-api-inference-extension",
];

/// An EndpointPickerConfig, and where it was found.
struct Document {
    text: String,
    place: Place,
    holder: String,
}

/// Reads it as the EPP will.
pub(super) fn read(
    context: &Context<'_>,
    epp: &Epp,
    config_maps: &[ConfigMap],
    findings: &mut Vec<Finding>,
) -> Result<EppScheduling, Error> {
    if !epp.written.filled && epp.written.container(contract::CONTAINER_EPP).is_none() {
        return Ok(EppScheduling::default());
    }
    let pod = &epp.written.pod();
    let container = &Container {
        image: epp.container.image.clone().or_else(|| {
            let fallback = || context.settings.epp_image.clone();
            epp.written.filled.then(fallback)
        }),
        ..epp.container.clone()
    };
    let env: BTreeMap<String, String> = container
        .env
        .iter()
        .flatten()
        .filter_map(|entry| Some((entry.name.clone(), entry.value.clone()?)))
        .collect();
    let sources = &epp.written.sources;
    let namespace = context.identity.namespace.as_deref();
    let maps: Vec<&ConfigMap> = config_maps
        .iter()
        .filter(|map| map.metadata.namespace.as_deref() == namespace)
        .collect();
    let flags = flags(container, &env);
    let document = match (flags.file, flags.text) {
        (None, None) => None,
        (Some(_), Some(_)) => return Err(both(sources)),
        (None, Some(text)) => Some(Document {
            text,
            place: sources.flag(contract::CONTAINER_EPP, |arg| is_flag(arg, TEXT)),
            holder: holder("--config-text"),
        }),
        (Some(path), None) => {
            let Some((map, key, text)) = mounted(pod, container, &maps, &path) else {
                let place = sources.flag(contract::CONTAINER_EPP, |arg| is_flag(arg, FILE));
                let flag = holder("--config-file");
                findings.push(Finding::new(format!(
                    "{place}, {flag} {path}: is in no ConfigMap of the base config, so it is not \
                     checked, and engines are not told to publish KV events for it"
                )));
                return Ok(unread(&env));
            };
            Some(Document {
                text: text.to_owned(),
                place: sources.config_maps(),
                holder: format!("ConfigMap {map}, key {key}"),
            })
        }
    };
    let result = match &document {
        Some(document) => SchedulingConfig::from_document(&document.text, &env),
        None => SchedulingConfig::from_env(&env),
    };
    let place = |at: &SettingOrigin| match (at, &document) {
        (SettingOrigin::Document { .. }, Some(document)) => {
            (document.place.clone(), document.holder.clone())
        }
        (at, _) => (
            sources.env(contract::CONTAINER_EPP, &at.to_string()),
            holder("env"),
        ),
    };
    match result {
        Ok((config, notes)) => {
            // The Go EPP's own scorers are silent no-ops in a base of its own image.
            findings.extend(notes.into_iter().map(|note| {
                let (place, holder) = place(&note.at);
                let line = place.line_note();
                let text = format!("{place}, {holder} {} {}{line}", note.at, note.message);
                Finding::new(text)
            }));
            Ok(EppScheduling {
                redis_addr: config.redis_addr,
                uses_kv_events: config.pipeline.uses_kv_events(),
            })
        }
        Err(errors) => {
            let placed = |error: SettingError| {
                let (place, holder) = place(&error.at);
                EppSetting {
                    place,
                    holder,
                    error,
                }
            };
            let errors: Vec<_> = errors.into_iter().map(placed).collect();
            if is_upstreams(container) && errors.iter().all(|wrong| wrong.error.upstream_only) {
                findings.extend(errors.iter().map(|error| Finding::new(error.to_string())));
                return Ok(unread(&env));
            }
            Err(Error::EppSettings { errors })
        }
    }
}

/// What is known of an EPP whose document cannot be read here.
fn unread(env: &BTreeMap<String, String>) -> EppScheduling {
    EppScheduling {
        redis_addr: env.get(contract::ENV_REDIS_ADDR).cloned(),
        uses_kv_events: false,
    }
}

fn both(sources: &Sources) -> Error {
    let error = SettingError {
        at: SettingOrigin::Document {
            line: None,
            path: String::new(),
        },
        message: "is given by --config-file and by --config-text; one of them is wanted".to_owned(),
        upstream_only: false,
    };
    let wrong = EppSetting {
        place: sources.flag(contract::CONTAINER_EPP, |arg| is_flag(arg, TEXT)),
        holder: holder("args"),
        error,
    };
    Error::EppSettings {
        errors: vec![wrong],
    }
}

fn holder(what: &str) -> String {
    format!("container {}, {what}", contract::CONTAINER_EPP)
}

fn is_upstreams(container: &Container) -> bool {
    let image = container.image.as_deref().unwrap_or_default();
    UPSTREAM_IMAGES.iter().any(|part| image.contains(part))
}

/// Names of flags without what tells the spellings of upstream's versions apart:
/// `--config-file`, `--configFile`, `-configFile`.
const FILE: &str = "configfile";
const TEXT: &str = "configtext";

/// Where a container's flags say its configuration is.
#[derive(Default)]
struct Flags {
    file: Option<String>,
    text: Option<String>,
}

fn is_flag(arg: &str, wanted: &str) -> bool {
    let bare = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-'));
    let name = bare.and_then(|bare| bare.split('=').next());
    name.is_some_and(|name| name.replace('-', "").eq_ignore_ascii_case(wanted))
}

/// Reads the container's flags; of duplicates the last counts, and an empty one as none.
fn flags(container: &Container, env: &BTreeMap<String, String>) -> Flags {
    let mut words = container
        .command
        .iter()
        .flatten()
        .chain(container.args.iter().flatten());
    let mut flags = Flags::default();
    while let Some(word) = words.next() {
        let flag = if is_flag(word, TEXT) {
            &mut flags.text
        } else if is_flag(word, FILE) {
            &mut flags.file
        } else {
            continue;
        };
        let value = match word.split_once('=') {
            Some((_, value)) => Some(value),
            None => words.next().map(String::as_str),
        };
        let value = expanded(value.unwrap_or_default(), env);
        *flag = Some(value).filter(|value| !value.trim().is_empty());
    }
    flags
}

/// A word as the kubelet hands it on: `$(NAME)` is that variable, where it has a value.
fn expanded(word: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find("$(") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let name = from[2..].find(')').map(|end| &from[2..2 + end]);
        if let Some((name, value)) = name.and_then(|name| Some((name, env.get(name)?))) {
            out.push_str(value);
            rest = &from[name.len() + 3..];
        } else {
            out.push_str("$(");
            rest = &from[2..];
        }
    }
    out + rest
}

/// The ConfigMap, key and text behind a path in the container, where this plan renders it.
fn mounted<'a>(
    pod: &PodSpec,
    container: &Container,
    maps: &[&'a ConfigMap],
    path: &str,
) -> Option<(String, String, &'a str)> {
    container.volume_mounts.iter().flatten().find_map(|mount| {
        let below = path.strip_prefix(mount.mount_path.trim_end_matches('/'))?;
        // A mount of one file is named in full; other mounts are folders.
        let file = match (&mount.sub_path, below.strip_prefix('/')) {
            (Some(file), None) if below.is_empty() => file.as_str(),
            (None, Some(file)) => file,
            _ => return None,
        };
        let mut volumes = pod.volumes.iter().flatten();
        let volume = volumes.find(|volume| volume.name == mount.name)?;
        let whole = volume.config_map.iter().map(|map| (&map.name, &map.items));
        let projected = volume.projected.iter().flat_map(|p| &p.sources).flatten();
        let projected = projected.filter_map(|source| source.config_map.as_ref());
        let mut sources = whole.chain(projected.map(|map| (&map.name, &map.items)));
        sources.find_map(|(name, items)| {
            let key = key_of(items.as_deref(), file)?;
            let map = maps.iter().rfind(|map| map.name_any() == *name)?;
            let text = map.data.as_ref()?.get(key)?;
            Some((name.clone(), key.to_owned(), text.as_str()))
        })
    })
}

/// The key of the ConfigMap that is shown as this file.
fn key_of<'a>(items: Option<&'a [KeyToPath]>, file: &'a str) -> Option<&'a str> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Some(file);
    };
    let item = items.iter().find(|item| item.path == file)?;
    Some(&item.key)
}

#[cfg(test)]
mod tests;
