//! The text of an `EndpointPickerConfig` -> a pipeline, or everything that is wrong with it. PURE.
//!
//! Strict: what is not known is an error, since a setting that silently does nothing costs its
//! author a day. Deprecated names and fields are taken, with a word about the new ones.

use super::fields::{Fields, Item, Report};
use super::node;
use super::parts::{self, DeciderRef, Handler, Part};
use super::types::{self, Kind};
use super::{SettingOrigin, nearest};
use crate::scheduling::picker::Picker;
use crate::scheduling::pipeline::{
    Decider, Pipeline, Profile, ProfileHandler, Weight, WeightedScorer,
};

/// What documents are.
pub(super) const KIND: &str = "EndpointPickerConfig";
/// Their version.
pub(super) const API_VERSION: &str = "llm-d.ai/v1alpha1";
const OLD_API_VERSION: &str = "inference.networking.x-k8s.io/v1alpha1";

/// Names of the plugins that a document declares, and their types.
pub(super) struct Declared<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Declared<'a> {
    /// The type of a plugin of that name; a type's own name stands for one that is declared
    /// nowhere, as upstream adds plugins that others want.
    pub(super) fn type_of<'b>(&self, name: &'b str) -> Option<&'b str>
    where
        'a: 'b,
    {
        let declared = self.0.iter().find(|(known, _)| *known == name);
        match declared {
            Some((_, type_name)) => Some(type_name),
            None => types::find(name).map(|known| known.name),
        }
    }
}

struct Plugin<'a> {
    name: &'a str,
    part: Part,
    at: SettingOrigin,
    used: bool,
}

/// Reads a document. `None` when an error was reported.
pub(super) fn read(text: &str, report: &mut Report) -> Option<Pipeline> {
    let errors = report.errors.len();
    let pipeline = parse(text, report);
    pipeline.filter(|_| report.errors.len() == errors)
}

fn parse(text: &str, report: &mut Report) -> Option<Pipeline> {
    let root = match node::parse(text) {
        Ok(root) => root,
        Err((line, message)) => {
            let path = String::new();
            report.error(SettingOrigin::Document { path, line }, message);
            return None;
        }
    };
    let mut fields = Item::root(&root).fields(report)?;
    header(&mut fields, report);
    feature_gates(&mut fields, report);
    let items = fields.list("plugins", report);
    let mut plugins = plugins(&items, report);
    let profiles = profiles(&mut fields, &mut plugins, report);
    requests(&mut fields, &plugins, report);
    data_layer(&mut fields, &plugins, report);
    let sheds = "requests are neither queued nor shed by the EPP";
    fields.refuse("flowControl", sheds, report);
    fields.refuse("saturationDetector", sheds, report);
    let at = fields.at();
    fields.finish(report);
    let pipeline = assemble(profiles, &mut plugins, &at, report);
    for plugin in plugins.iter().filter(|plugin| !plugin.used) {
        let message = match plugin.part.kind() {
            Kind::Scorer | Kind::Filter | Kind::Picker => "is in no profile and does nothing",
            Kind::Decider => "is no handler's decider and does nothing",
            Kind::Handler | Kind::Elsewhere(_) => continue,
        };
        report.warn(plugin.at.clone(), message);
    }
    pipeline
}

fn header(fields: &mut Fields<'_>, report: &mut Report) {
    match fields.text("apiVersion", report) {
        Some((API_VERSION, _)) => {}
        Some((OLD_API_VERSION, item)) => report.warn(
            item.at(),
            format!("{OLD_API_VERSION} is deprecated; write {API_VERSION}"),
        ),
        Some((other, item)) => {
            report.error(
                item.at(),
                format!("{other:?} is not known; write {API_VERSION}"),
            );
        }
        None => report.error(fields.at(), format!("apiVersion is wanted: {API_VERSION}")),
    }
    match fields.text("kind", report) {
        Some((KIND, _)) => {}
        Some((other, item)) => {
            report.error(item.at(), format!("{other:?} is not known; write {KIND}"));
        }
        None => report.error(fields.at(), format!("kind is wanted: {KIND}")),
    }
}

/// Gates of parts that upstream has behind one: those that always act here are taken.
fn feature_gates(fields: &mut Fields<'_>, report: &mut Report) {
    for item in fields.list("featureGates", report) {
        let Some(text) = item.text(report) else {
            continue;
        };
        let (gate, on) = text.split_once('=').unwrap_or((text, "true"));
        match (gate.trim(), on.trim()) {
            (_, "false") => {}
            ("dataLayer" | "prepareDataPlugins", "true") => {
                report.warn(item.at(), format!("{gate:?} does nothing: it is always on"));
            }
            (gate, "true") => report.absent(item.at(), format!("{gate:?} does not exist here")),
            _ => report.error(
                item.at(),
                format!("{text:?} is neither a name nor name=false"),
            ),
        }
    }
}

fn plugins<'a>(items: &[Item<'a>], report: &mut Report) -> Vec<Plugin<'a>> {
    struct Read<'a> {
        name: &'a str,
        type_name: &'a str,
        type_at: SettingOrigin,
        at: SettingOrigin,
        fields: Fields<'a>,
    }
    let mut read: Vec<Read<'a>> = Vec::new();
    for item in items {
        let Some(mut fields) = item.fields(report) else {
            continue;
        };
        let given = fields.text("name", report);
        let Some((type_name, type_item)) = fields.text("type", report) else {
            report.error(item.at(), "type is wanted");
            continue;
        };
        let name = given.as_ref().map_or(type_name, |(name, _)| name);
        if read.iter().any(|other| other.name == name) {
            let at = given.map_or_else(|| item.at(), |(_, item)| item.at());
            report.error(at, format!("{name:?} is the name of another plugin"));
            continue;
        }
        read.push(Read {
            name,
            type_name,
            type_at: type_item.at(),
            at: item.at(),
            fields,
        });
    }
    let declared = Declared(
        read.iter()
            .map(|read| (read.name, read.type_name))
            .collect(),
    );
    let mut plugins = Vec::new();
    for mut read in read {
        let parameters = read.fields.fields("parameters", report);
        let part = if let Some(known) = types::find(read.type_name) {
            say_what_it_is(known, &read.type_at, report);
            parts::make(known.name, known.kind, parameters, &declared, report)
        } else {
            unknown(read.type_name, read.type_at, report);
            // Whoever names it is not blamed too.
            Part::Broken(Kind::Elsewhere(""))
        };
        read.fields.finish(report);
        plugins.push(Plugin {
            name: read.name,
            part,
            at: read.at,
            used: false,
        });
    }
    plugins
}

fn say_what_it_is(known: &types::Type, at: &SettingOrigin, report: &mut Report) {
    if let Some(new_name) = known.new_name {
        let message = format!("{:?} is deprecated; write {new_name}", known.name);
        report.warn(at.clone(), message);
    }
    if let Kind::Elsewhere(who) = known.kind {
        let message = format!("{:?} does nothing here: {who}", known.name);
        report.warn(at.clone(), message);
    }
}

fn unknown(type_name: &str, at: SettingOrigin, report: &mut Report) {
    let mut message = format!("{type_name:?} does not exist here");
    if types::is_upstream_only(type_name) {
        report.absent(at, message);
        return;
    }
    let names = types::TYPES.iter().map(|known| known.name);
    if let Some(name) = nearest(type_name, names) {
        message.push_str(&format!("; did you mean {name}?"));
    }
    report.error(at, message);
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
type Placed = (Profile, SettingOrigin);

fn profiles(
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

fn requests(fields: &mut Fields<'_>, plugins: &[Plugin<'_>], report: &mut Report) {
    let parser = |item: &Item<'_>, report: &mut Report| {
        let Some(mut fields) = item.fields(report) else {
            return;
        };
        elsewhere(&mut fields, plugins, report);
        fields.finish(report);
    };
    if let Some(item) = fields.take("parser") {
        report.warn(item.at(), "is deprecated; write requestHandler.parsers");
        parser(&item, report);
    }
    let mut handler = fields.fields("requestHandler", report);
    if let Some(item) = handler.take("parser") {
        report.warn(item.at(), "is deprecated; write parsers");
        parser(&item, report);
    }
    for item in handler.list("parsers", report) {
        parser(&item, report);
    }
    handler.finish(report);
}

/// A reference to a plugin that has nothing to do here; it must at least exist.
fn elsewhere(fields: &mut Fields<'_>, plugins: &[Plugin<'_>], report: &mut Report) {
    let Some((name, item)) = fields.text("pluginRef", report) else {
        report.error(fields.at(), "pluginRef is wanted");
        return;
    };
    let declared = plugins.iter().any(|plugin| plugin.name == name);
    if !declared && types::find(name).is_none() {
        unknown(name, item.at(), report);
    }
}

fn data_layer(fields: &mut Fields<'_>, plugins: &[Plugin<'_>], report: &mut Report) {
    let mut layer = fields.fields("dataLayer", report);
    if let Some(item) = layer.take("injectDefaults")
        && item.flag(report) == Some(false)
    {
        report.warn(
            item.at(),
            "does nothing: what scorers need is always fetched",
        );
    }
    for item in layer.list("sources", report) {
        let Some(mut source) = item.fields(report) else {
            continue;
        };
        elsewhere(&mut source, plugins, report);
        for item in source.list("extractors", report) {
            if let Some(mut extractor) = item.fields(report) {
                elsewhere(&mut extractor, plugins, report);
                extractor.finish(report);
            }
        }
        source.finish(report);
    }
    let flags = "endpoints come from --pool-name, --endpoint-selector or --endpoints-file";
    layer.refuse("discovery", flags, report);
    let redis = "replicas share what they know through Redis (KVCACHE_INDEXER_REDIS_ADDR)";
    layer.refuse("peerDiscovery", redis, report);
    layer.refuse("crossReplicaSyncerPluginRef", redis, report);
    layer.refuse("crossReplicaSyncInterval", redis, report);
    layer.finish(report);
}

fn assemble(
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
