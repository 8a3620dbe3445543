//! A pipeline -> the `EndpointPickerConfig` that reads back as the same. PURE.

use serde_json::{Map, Value, json};

use super::document::{API_VERSION, KIND};
use crate::scheduling::filter::{Filter, Requirement};
use crate::scheduling::pipeline::{Decider, Pipeline, Profile, ProfileHandler};
use crate::scheduling::scorer::{MatchLength, Scorer, SessionAffinity};

/// The document, its keys in the order in which people write them.
pub(super) fn document(pipeline: &Pipeline) -> Value {
    let mut plugins = Plugins::default();
    let profiles: Vec<Value> = pipeline
        .profiles()
        .map(|profile| print_profile(profile, &mut plugins))
        .collect();
    let parameters = match &pipeline.handler {
        ProfileHandler::Single => json!({}),
        ProfileHandler::Disagg { prefill, decider } => {
            let decider = plugins.declare(decider.name(), decider_parameters(*decider));
            json!({
                "profiles": {"decode": pipeline.decode.name, "prefill": prefill.name},
                "deciders": {"prefill": decider},
            })
        }
    };
    plugins.declare(pipeline.handler.name(), parameters);
    json!({
        "apiVersion": API_VERSION,
        "kind": KIND,
        "plugins": plugins.0.iter().map(Plugin::print).collect::<Vec<_>>(),
        "schedulingProfiles": profiles,
    })
}

struct Plugin {
    name: String,
    type_name: &'static str,
    parameters: Value,
}

/// The plugins declared so far: each different one once.
#[derive(Default)]
struct Plugins(Vec<Plugin>);

impl Plugins {
    /// The name of the plugin of that type and those parameters.
    fn declare(&mut self, type_name: &'static str, parameters: Value) -> String {
        let same = |known: &&Plugin| known.type_name == type_name && known.parameters == parameters;
        if let Some(known) = self.0.iter().find(same) {
            return known.name.clone();
        }
        let others = self.0.iter().filter(|known| known.type_name == type_name);
        let name = match others.count() {
            0 => type_name.to_owned(),
            others => format!("{type_name}-{}", others + 1),
        };
        self.0.push(Plugin {
            name: name.clone(),
            type_name,
            parameters,
        });
        name
    }
}

impl Plugin {
    fn print(&self) -> Value {
        let mut fields = Map::new();
        if self.name != self.type_name {
            fields.insert("name".to_owned(), json!(self.name));
        }
        fields.insert("type".to_owned(), json!(self.type_name));
        if self.parameters != json!({}) {
            fields.insert("parameters".to_owned(), self.parameters.clone());
        }
        Value::Object(fields)
    }
}

fn print_profile(profile: &Profile, plugins: &mut Plugins) -> Value {
    let mut list = Vec::new();
    for filter in &profile.filters {
        let name = plugins.declare(filter.name(), filter_parameters(filter));
        list.push(json!({"pluginRef": name}));
    }
    for weighted in &profile.scorers {
        let scorer = &weighted.scorer;
        let name = plugins.declare(scorer.name(), scorer_parameters(scorer));
        list.push(json!({"pluginRef": name, "weight": number(weighted.weight.get())}));
    }
    let name = plugins.declare(profile.picker.name(), json!({}));
    list.push(json!({"pluginRef": name}));
    json!({"name": profile.name, "plugins": list})
}

fn filter_parameters(filter: &Filter) -> Value {
    let requirement = |requirement: &Requirement| {
        let mut fields = json!({
            "key": requirement.key,
            "operator": requirement.operator.as_str(),
        });
        if requirement.operator.wants_values() {
            fields["values"] = json!(requirement.values);
        }
        fields
    };
    match filter {
        Filter::Decode | Filter::Prefill => json!({}),
        Filter::ByLabel {
            label,
            values,
            allows_no_label,
        } => json!({"label": label, "validValues": values, "allowsNoLabel": allows_no_label}),
        Filter::LabelSelector(requirements) => {
            json!({"matchExpressions": requirements.iter().map(requirement).collect::<Vec<_>>()})
        }
    }
}

fn scorer_parameters(scorer: &Scorer) -> Value {
    match scorer {
        Scorer::LeastLoad | Scorer::Queue | Scorer::RunningRequests | Scorer::KvUtilization => {
            json!({})
        }
        Scorer::LoadAware { queue_threshold } => json!({"threshold": queue_threshold}),
        Scorer::ActiveRequests {
            idle_threshold,
            max_busy_score,
        } => json!({"idleThreshold": idle_threshold, "maxBusyScore": max_busy_score}),
        Scorer::PrefixCache(length) | Scorer::PreciseCache(length) => {
            if *length == MatchLength::default() {
                return json!({});
            }
            json!({
                "matchLengthWeight": length.weight,
                "matchLengthScaleTokens": length.scale_tokens,
            })
        }
        Scorer::SessionAffinity(SessionAffinity {
            headers,
            sticky,
            queue_threshold,
        }) => {
            let sources: Vec<_> = headers.iter().map(|name| json!({"header": name})).collect();
            json!({
                "strategy": "session_id",
                "sessionIdConfig": {
                    "sources": sources,
                    "evictionTtlSeconds": number(sticky.as_secs_f64()),
                },
                "queueThreshold": queue_threshold,
            })
        }
    }
}

/// `2` and not `2.0`, as people write.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 {
        json!(value as u64)
    } else {
        json!(value)
    }
}

fn decider_parameters(decider: Decider) -> Value {
    match decider {
        Decider::Always => json!({}),
        Decider::CharThreshold { chars, cache_aware } => {
            json!({"chars": chars, "cacheAware": cache_aware})
        }
        Decider::PrefixBased {
            non_cached_tokens,
            prompt_tokens,
        } => json!({"nonCachedTokens": non_cached_tokens, "promptTokens": prompt_tokens}),
    }
}
