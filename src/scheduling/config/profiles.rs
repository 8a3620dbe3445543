//! Profiles and the plugins they name -> a pipeline, with what is not written filled in as
//! upstream does. PURE.

use super::fields::{Fields, Item, Report};
use super::handlers::{DeciderRef, Handler};
use super::parts::Part;
use super::types::Kind;
use super::{SettingOrigin, nearest};
use crate::scheduling::picker::Picker;
use crate::scheduling::pipeline::{
    Decider, Pipeline, Profile, ProfileHandler, Weight, WeightedScorer,
};

/// A plugin that a document declares.
pub(super) struct Plugin<'a> {
    pub(super) name: &'a str,
    pub(super) part: Part,
    pub(super) at: SettingOrigin,
    /// Somebody names it.
    pub(super) used: bool,
}

/// The plugin that is named; whoever names another is told.
fn named<'a, 'b>(
    plugins: &'b mut [Plugin<'a>],
    name: &str,
    at: &SettingOrigin,
    report: &mut Report,
) -> Option<&'b mut Plugin<'a>> {
    let Some(index) = plugins.iter().position(|plugin| plugin.name == name) else {
        let mut message = format!("there is no plugin {name:?}");
        if let Some(near) = nearest(name, plugins.iter().map(|plugin| plugin.name)) {
            message.push_str(&format!("; did you mean {near}?"));
        }
        report.error(at.clone(), message);
        return None;
    };
    Some(&mut plugins[index])
}

/// A profile, and where it was written.
pub(super) type Placed = (Profile, SettingOrigin);

/// Reads the profiles; one of everything where there are none.
pub(super) fn profiles(
    fields: &mut Fields<'_>,
    plugins: &mut [Plugin<'_>],
    report: &mut Report,
) -> Vec<Placed> {
    let at = fields.at();
    let items = fields.list("schedulingProfiles", report);
    if items.is_empty() {
        return vec![(everything(plugins), at)];
    }
    let mut profiles: Vec<Placed> = Vec::new();
    for item in items {
        let Some(mut fields) = item.fields(report) else {
            continue;
        };
        let name = fields.text("name", report);
        let Some((name, name_item)) = name else {
            report.error(item.at(), "name is wanted");
            continue;
        };
        if profiles.iter().any(|(other, _)| other.name == name) {
            let message = format!("{name:?} is the name of another profile");
            report.error(name_item.at(), message);
        }
        let mut profile = Profile {
            name: name.to_owned(),
            ..Profile::default()
        };
        let mut picker = None;
        for item in fields.list("plugins", report) {
            let Some(mut fields) = item.fields(report) else {
                continue;
            };
            reference(
                &item,
                &mut fields,
                plugins,
                &mut profile,
                &mut picker,
                report,
            );
            fields.finish(report);
        }
        profile.picker = picker.unwrap_or_else(|| first_picker(plugins));
        fields.finish(report);
        profiles.push((profile, item.at()));
    }
    profiles
}

/// One plugin of a profile.
fn reference(
    item: &Item<'_>,
    fields: &mut Fields<'_>,
    plugins: &mut [Plugin<'_>],
    profile: &mut Profile,
    picker: &mut Option<Picker>,
    report: &mut Report,
) {
    let weight = fields.take("weight");
    let Some((name, name_item)) = fields.text("pluginRef", report) else {
        report.error(item.at(), "pluginRef is wanted");
        return;
    };
    let Some(plugin) = named(plugins, name, &name_item.at(), report) else {
        return;
    };
    plugin.used = true;
    let weight = match weight {
        Some(item) if plugin.part.kind() == Kind::Scorer => {
            item.number(report, 0.0, Weight::MAX).and_then(Weight::new)
        }
        Some(item) => {
            report.warn(item.at(), "does nothing: only scorers have weights");
            None
        }
        None => None,
    };
    match &plugin.part {
        Part::Scorer(scorer) => profile.scorers.push(WeightedScorer {
            scorer: scorer.clone(),
            weight: weight.unwrap_or(Weight::ONE),
        }),
        Part::Filter(filter) => profile.filters.push(filter.clone()),
        Part::Picker(other) => {
            if picker.replace(*other).is_some() {
                report.error(name_item.at(), "is a second picker; a profile has one");
            }
        }
        Part::Broken(_) => {}
        part => {
            let message = format!(
                "{name:?} is {}; a profile has filters, scorers and a picker",
                part.kind().noun()
            );
            report.error(name_item.at(), message);
        }
    }
}

/// What upstream makes where no profile is written: one of all that can be in one.
fn everything(plugins: &mut [Plugin<'_>]) -> Profile {
    let mut profile = Profile {
        name: "default".to_owned(),
        picker: first_picker(plugins),
        ..Profile::default()
    };
    for plugin in plugins {
        match &plugin.part {
            Part::Scorer(scorer) => profile.scorers.push(WeightedScorer {
                scorer: scorer.clone(),
                weight: Weight::ONE,
            }),
            Part::Filter(filter) => profile.filters.push(filter.clone()),
            Part::Picker(_) => {}
            _ => continue,
        }
        plugin.used = true;
    }
    profile
}

/// The picker of profiles that name none: the first declared one, where upstream takes any.
fn first_picker(plugins: &mut [Plugin<'_>]) -> Picker {
    for plugin in plugins {
        if let Part::Picker(picker) = plugin.part {
            plugin.used = true;
            return picker;
        }
    }
    Picker::default()
}

/// Makes the pipeline of them that the declared profile handler wants.
pub(super) fn assemble(
    mut profiles: Vec<Placed>,
    plugins: &mut [Plugin<'_>],
    at: &SettingOrigin,
    report: &mut Report,
) -> Option<Pipeline> {
    let mut handlers = plugins
        .iter()
        .filter(|plugin| plugin.part.kind() == Kind::Handler);
    let handler = handlers
        .next()
        .map(|plugin| (plugin.part.clone(), plugin.at.clone()));
    for second in handlers {
        report.error(
            second.at.clone(),
            "is a second profile handler; there is one",
        );
    }
    let (handler, at) = match handler {
        Some((Part::Handler(handler), at)) => (handler, at),
        // Its parameters are wrong, which was said.
        Some(_) => return None,
        None => (Handler::Single, at.clone()),
    };
    let pipeline = match handler {
        Handler::Single => {
            let decode = profiles.remove(0).0;
            if let Some((_, second)) = profiles.first() {
                report.error(
                    second.clone(),
                    "is a second profile, which wants a disagg-profile-handler in plugins",
                );
            }
            Pipeline {
                handler: ProfileHandler::Single,
                decode,
            }
        }
        Handler::Disagg {
            decode,
            prefill,
            decider,
        } => {
            let decode = take_profile(&mut profiles, &decode, &at, report);
            let decider = decider.and_then(|decider| resolve(decider, plugins, report));
            let handler = match decider {
                None => ProfileHandler::Single,
                Some(decider) => ProfileHandler::Disagg {
                    prefill: take_profile(&mut profiles, &prefill, &at, report)?,
                    decider,
                },
            };
            for (profile, at) in profiles {
                let message = format!("profile {:?} is never run", profile.name);
                report.warn(at, message);
            }
            Pipeline {
                handler,
                decode: decode?,
            }
        }
    };
    one_table_of_sessions(&pipeline, &at, report);
    Some(pipeline)
}

fn take_profile(
    profiles: &mut Vec<Placed>,
    name: &str,
    at: &SettingOrigin,
    report: &mut Report,
) -> Option<Profile> {
    if let Some(index) = profiles
        .iter()
        .position(|(profile, _)| profile.name == name)
    {
        return Some(profiles.remove(index).0);
    }
    let message = format!("wants a profile {name:?}, which schedulingProfiles does not have");
    report.error(at.clone(), message);
    None
}

fn resolve(
    decider: DeciderRef,
    plugins: &mut [Plugin<'_>],
    report: &mut Report,
) -> Option<Decider> {
    let (name, at) = match decider {
        DeciderRef::Own(decider) => return Some(decider),
        DeciderRef::Named(name, at) => (name, at),
    };
    let plugin = named(plugins, &name, &at, report)?;
    plugin.used = true;
    match &plugin.part {
        Part::Decider(decider) => Some(*decider),
        Part::Broken(_) => None,
        part => {
            let message = format!("{name:?} is {}; a decider is wanted", part.kind().noun());
            report.error(at, message);
            None
        }
    }
}

/// Bindings of sessions are one table, so whoever looks at it must mean the same.
fn one_table_of_sessions(pipeline: &Pipeline, at: &SettingOrigin, report: &mut Report) {
    let Some(first) = pipeline.session_affinity() else {
        return;
    };
    if pipeline
        .session_affinities()
        .any(|other| (&other.headers, other.sticky) != (&first.headers, first.sticky))
    {
        let message = "session-affinity-scorers that act must agree on sources and evictionTtlSeconds: sessions are bound once";
        report.error(at.clone(), message);
    }
}
