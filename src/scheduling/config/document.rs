//! The text of an `EndpointPickerConfig` -> a pipeline, or everything that is wrong with it. PURE.
//!
//! Strict: what is not known is an error, since a setting that silently does nothing costs its
//! author a day. Deprecated names and fields are taken, with a word about the new ones.

use super::fields::{Fields, Item, Report};
use super::node;
use super::parts::{self, Part};
use super::profiles::{Plugin, assemble, profiles};
use super::types::{self, Kind};
use super::{SettingOrigin, nearest};
use crate::scheduling::pipeline::Pipeline;

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
