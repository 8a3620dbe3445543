//! A profile handler's and a decider's parameters -> what they are in a pipeline. PURE.

use super::SettingOrigin;
use super::fields::{Fields, Report};
use crate::scheduling::pipeline::Decider;

/// A profile handler, before the profiles and plugins that it names are looked up.
#[derive(Clone, Debug)]
pub(super) enum Handler {
    Single,
    Disagg {
        decode: String,
        prefill: String,
        decider: Option<DeciderRef>,
    },
}

/// How a profile handler says which decider it has.
#[derive(Clone, Debug)]
pub(super) enum DeciderRef {
    /// By the plugin's name, and where that was written.
    Named(String, SettingOrigin),
    /// By itself.
    Own(Decider),
}

/// Reads a decider.
pub(super) fn decider(
    type_name: &str,
    parameters: &mut Fields<'_>,
    report: &mut Report,
) -> Decider {
    let mut whole = |name| {
        let item = parameters.take(name);
        item.and_then(|item| item.whole(report, 0))
    };
    match type_name {
        "always-disagg-pd-decider" => Decider::Always,
        "char-threshold-pd-decider" => {
            let chars = whole("chars").map_or(100, |chars| chars as usize);
            let aware = parameters.take("cacheAware");
            Decider::CharThreshold {
                chars,
                cache_aware: aware.and_then(|item| item.flag(report)).unwrap_or(true),
            }
        }
        _ => {
            let non_cached_tokens = whole("nonCachedTokens").unwrap_or(0) as usize;
            let prompt_tokens = whole("promptTokens").unwrap_or(0) as usize;
            if non_cached_tokens == 0 {
                report.warn(
                    parameters.at(),
                    "nonCachedTokens is 0: no prompt is ever computed on a prefill endpoint",
                );
            }
            Decider::PrefixBased {
                non_cached_tokens,
                prompt_tokens,
            }
        }
    }
}

/// Names of profiles where nobody says.
const DECODE: &str = "decode";
const PREFILL: &str = "prefill";

/// Reads a profile handler.
pub(super) fn handler(
    type_name: &str,
    parameters: &mut Fields<'_>,
    report: &mut Report,
) -> Handler {
    match type_name {
        "single-profile-handler" => Handler::Single,
        "pd-profile-handler" => pd_handler(parameters, report),
        _ => disagg_handler(parameters, report),
    }
}

fn disagg_handler(parameters: &mut Fields<'_>, report: &mut Report) -> Handler {
    let no_encoding = "no profile chooses where images are encoded";
    for old in ["encodeProfile", "encodeDeciderPluginName"] {
        parameters.refuse(old, no_encoding, report);
    }
    if let Some((order, item)) = parameters.text("stageOrder", report)
        && order != "decode-first"
    {
        let message = format!("{order:?} does not exist here; decode-first does");
        report.absent(item.at(), message);
    }
    let old = (
        flat(parameters, "decodeProfile", "profiles.decode", report),
        flat(parameters, "prefillProfile", "profiles.prefill", report),
    );
    let mut profiles = parameters.fields("profiles", report);
    let decode = profiles.text("decode", report).map(|(name, _)| name);
    let prefill = profiles.text("prefill", report).map(|(name, _)| name);
    profiles.idle("encode", no_encoding, report);
    profiles.finish(report);
    let mut decider = old_decider(parameters, report);
    let mut deciders = parameters.fields("deciders", report);
    if let Some((name, item)) = deciders.text("prefill", report) {
        decider = Some(DeciderRef::Named(name.to_owned(), item.at()));
    }
    deciders.refuse("encode", no_encoding, report);
    deciders.finish(report);
    if decider.is_none() {
        report.warn(
            parameters.at(),
            "has no deciders.prefill: no prompt is ever computed on a prefill endpoint",
        );
    }
    Handler::Disagg {
        decode: decode.or(old.0).unwrap_or(DECODE).to_owned(),
        prefill: prefill.or(old.1).unwrap_or(PREFILL).to_owned(),
        decider,
    }
}

fn pd_handler(parameters: &mut Fields<'_>, report: &mut Report) -> Handler {
    let decode = flat(parameters, "decodeProfile", "profiles.decode", report);
    let prefill = flat(parameters, "prefillProfile", "profiles.prefill", report);
    let hit = "how much of a prompt an endpoint holds is known without";
    for name in [
        "prefixPluginType",
        "prefixPluginName",
        "prefixMatchInfoProducerName",
        "hashBlockSize",
    ] {
        parameters.idle(name, hit, report);
    }
    parameters.idle("primaryPort", "endpoints have their own ports", report);
    let mut decider = old_decider(parameters, report);
    if let Some(item) = parameters.take("threshold")
        && let Some(chars) = item.whole(report, 0)
    {
        let new = "is deprecated; write a char-threshold-pd-decider with chars";
        report.warn(item.at(), new);
        let own = Decider::CharThreshold {
            chars: chars as usize,
            cache_aware: true,
        };
        if decider.replace(DeciderRef::Own(own)).is_some() {
            let message = "is given beside a decider; one of the two is wanted";
            report.error(item.at(), message);
        }
    }
    let default = || DeciderRef::Named("prefix-based-pd-decider".to_owned(), parameters.at());
    Handler::Disagg {
        decode: decode.unwrap_or(DECODE).to_owned(),
        prefill: prefill.unwrap_or(PREFILL).to_owned(),
        decider: Some(decider.unwrap_or_else(default)),
    }
}

/// A name in a flat parameter of old, with a word about where it is now.
fn flat<'a>(
    parameters: &mut Fields<'a>,
    old: &'static str,
    new: &str,
    report: &mut Report,
) -> Option<&'a str> {
    let (name, item) = parameters.text(old, report)?;
    let message = format!("is deprecated; write {new} of a disagg-profile-handler");
    report.warn(item.at(), message);
    Some(name)
}

fn old_decider(parameters: &mut Fields<'_>, report: &mut Report) -> Option<DeciderRef> {
    let mut found = None;
    for old in ["deciderPluginName", "prefillDeciderPluginName"] {
        let at = parameters.at();
        if let Some(name) = flat(parameters, old, "deciders.prefill", report) {
            found = Some(DeciderRef::Named(name.to_owned(), at));
        }
    }
    found
}
