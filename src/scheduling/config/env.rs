//! Environment variables -> the scheduler's configuration: the set of v0.1 and the names that
//! the article gave to more. PURE: the variables are an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{SchedulingConfig, SettingError, SettingOrigin, SettingWarning};
use crate::scheduling::filter::Filter;
use crate::scheduling::picker::Picker;
use crate::scheduling::pipeline::{
    Decider, Pipeline, Profile, ProfileHandler, Weight, WeightedScorer,
};
use crate::scheduling::scorer::{MatchLength, Scorer, SessionAffinity};
use crate::telemetry::duration;

/// `PD_PROMPT_LEN_THRESHOLD` where unset, in characters of prompt (v0.1's default).
const DEFAULT_PD_THRESHOLD: usize = 100;
/// `LOAD_AWARE_SCORER_QUEUE_THRESHOLD` where unset (v0.1's default).
pub(super) const DEFAULT_QUEUE_THRESHOLD: u64 = 128;
/// The largest weight.
const MAX_WEIGHT: u64 = Weight::MAX as u64;

/// A scorer of the environment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Load,
    Session,
    Prefix,
    KvCache,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Load, Self::Session, Self::Prefix, Self::KvCache];

    /// The stem of its variables: `ENABLE_<stem>`, `<stem>_WEIGHT`.
    fn stem(self) -> &'static str {
        match self {
            Self::Load => "LOAD_AWARE_SCORER",
            Self::Session => "SESSION_AWARE_SCORER",
            Self::Prefix => "PREFIX_AWARE_SCORER",
            Self::KvCache => "KVCACHE_AWARE_SCORER",
        }
    }
}

/// Variables about Redis, which an `EndpointPickerConfig` says nothing about: they count beside
/// one.
const BESIDE_A_DOCUMENT: &[&str] = &[
    "KVCACHE_INDEXER_REDIS_ADDR",
    "KVCACHE_INDEXER_REDIS_PASSWORD",
    "KVCACHE_INDEX_UPDATE_INTERVAL",
    "PREFILL_KVCACHE_INDEXER_REDIS_ADDR",
];
/// The other variables without a scorer's name.
const KNOWN: &[&str] = &[
    "PD_ENABLED",
    "PD_PROMPT_LEN_THRESHOLD",
    "PD_CACHE_AWARE_ROUTING",
    "SESSION_SCORING_ALGORITHM",
    "SESSION_HEADER_NAMES",
    "SESSION_STICKY_DURATION",
    "LOAD_AWARE_SCORER_QUEUE_THRESHOLD",
];

/// Reads the variables of llm-d-inference-scheduler v0.1 and those of this project.
/// `ENABLE_<S>` counts when it is `true` in any case; weights are whole numbers, 1
/// where unset. With no scorer enabled at all, the load scorer alone acts.
pub(super) fn read(
    env: &BTreeMap<String, String>,
) -> Result<(SchedulingConfig, Vec<SettingWarning>), Vec<SettingError>> {
    let mut read = Reader::new(env);
    let pipeline = read.pipeline();
    let (redis_addr, index_update_interval) = read.beside();
    read.warn_about_unknown();
    read.warn_about_idle();
    if !read.errors.is_empty() {
        read.errors.sort_by(|a, b| a.at.cmp(&b.at));
        return Err(read.errors);
    }
    let config = SchedulingConfig {
        pipeline,
        redis_addr,
        index_update_interval,
    };
    Ok((config, read.warnings))
}

/// What the variables say beside a document that has the pipeline. Those that it overrules are
/// warned about.
pub(super) fn beside_a_document(
    env: &BTreeMap<String, String>,
    errors: &mut Vec<SettingError>,
    warnings: &mut Vec<SettingWarning>,
) -> (Option<String>, Option<Duration>) {
    let mut read = Reader::new(env);
    let beside = read.beside();
    for name in env.keys().filter(|name| is_ours(name)) {
        if !BESIDE_A_DOCUMENT.contains(&name.as_str()) {
            read.warn(
                name,
                "does nothing: the configuration file counts as a whole",
            );
        }
    }
    errors.append(&mut read.errors);
    warnings.append(&mut read.warnings);
    beside
}

/// True for names that settings of this EPP, right or misspelt, have.
fn is_ours(name: &str) -> bool {
    let bare = name.strip_prefix("PREFILL_").unwrap_or(name);
    bare.starts_with("SESSION_")
        || bare.starts_with("KVCACHE_")
        || bare.starts_with("PD_")
        || (bare.starts_with("ENABLE_") && (bare.contains("_SCOR") || bare.contains("_FILTER")))
        || bare.contains("_SCORER_QUEUE_")
        || bare.ends_with("_SCORER_WEIGHT")
        || bare.ends_with("_FILTER_WEIGHT")
}

/// The variables of which one must be set for this one to matter; `None` where it always does.
fn switches_of(name: &str) -> Option<Vec<String>> {
    if let Some(scorer) = name.strip_suffix("_WEIGHT") {
        let stem = scorer.strip_prefix("PREFILL_").unwrap_or(scorer);
        let prefix = &scorer[..scorer.len() - stem.len()];
        let known = Kind::ALL.iter().any(|kind| kind.stem() == stem);
        return known.then(|| vec![format!("{prefix}ENABLE_{stem}")]);
    }
    let session = ["", "PREFILL_"].map(|prefix| format!("{prefix}ENABLE_SESSION_AWARE_SCORER"));
    match name {
        "PD_PROMPT_LEN_THRESHOLD" | "PD_CACHE_AWARE_ROUTING" => Some(vec!["PD_ENABLED".to_owned()]),
        "SESSION_SCORING_ALGORITHM"
        | "SESSION_HEADER_NAMES"
        | "SESSION_STICKY_DURATION"
        | "LOAD_AWARE_SCORER_QUEUE_THRESHOLD" => Some(session.into()),
        _ if name.starts_with("PREFILL_ENABLE_") => Some(vec!["PD_ENABLED".to_owned()]),
        _ => None,
    }
}

struct Reader<'a> {
    env: &'a BTreeMap<String, String>,
    errors: Vec<SettingError>,
    warnings: Vec<SettingWarning>,
}

impl<'a> Reader<'a> {
    fn new(env: &'a BTreeMap<String, String>) -> Self {
        Self {
            env,
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn pipeline(&mut self) -> Pipeline {
        let session = self.session();
        let decode = self.profile("", Filter::Decode, &session);
        // Read also where they do not act: what is wrong is said before it matters.
        let prefill = self.profile("PREFILL_", Filter::Prefill, &session);
        let chars = self
            .whole("PD_PROMPT_LEN_THRESHOLD", usize::MAX as u64)
            .map_or(DEFAULT_PD_THRESHOLD, |chars| chars as usize);
        // v0.1 always looked at the uncached part; only an explicit `false` stops that.
        let cache_aware =
            self.text("PD_CACHE_AWARE_ROUTING").is_none() || self.flag("PD_CACHE_AWARE_ROUTING");
        let handler = if self.flag("PD_ENABLED") {
            ProfileHandler::Disagg {
                prefill,
                decider: Decider::CharThreshold { chars, cache_aware },
            }
        } else {
            ProfileHandler::Single
        };
        Pipeline { handler, decode }
    }

    fn beside(&mut self) -> (Option<String>, Option<Duration>) {
        (
            self.text("KVCACHE_INDEXER_REDIS_ADDR"),
            self.duration("KVCACHE_INDEX_UPDATE_INTERVAL"),
        )
    }

    fn warn(&mut self, name: &str, message: impl Into<String>) {
        self.warnings.push(SettingWarning {
            at: SettingOrigin::Variable(name.to_owned()),
            message: message.into(),
        });
    }

    fn text(&self, name: &str) -> Option<String> {
        self.env
            .get(name)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    fn wrong(&mut self, name: &str, value: &str, reason: String) {
        self.errors.push(SettingError {
            at: SettingOrigin::Variable(name.to_owned()),
            message: format!("{value:?} {reason}"),
            upstream_only: false,
        });
    }

    fn flag(&mut self, name: &str) -> bool {
        let Some(value) = self.text(name) else {
            return false;
        };
        match value.to_ascii_lowercase().as_str() {
            "true" => true,
            "false" => false,
            // v0.1 took anything but `true` for off; so do we, but not in silence.
            _ => {
                let message =
                    format!("is {value:?}, which is neither true nor false; it counts as false");
                self.warn(name, message);
                false
            }
        }
    }

    fn whole(&mut self, name: &str, max: u64) -> Option<u64> {
        let value = self.text(name)?;
        match value.parse::<i128>() {
            Ok(number) if number < 0 => {
                self.wrong(
                    name,
                    &value,
                    format!("is negative; a whole number from 0 to {max} is wanted"),
                );
                None
            }
            Ok(number) if number <= i128::from(max) => u64::try_from(number).ok(),
            Ok(_) => {
                self.wrong(
                    name,
                    &value,
                    format!("is too large; at most {max} is wanted"),
                );
                None
            }
            Err(_) => {
                self.wrong(
                    name,
                    &value,
                    format!("is not a whole number from 0 to {max}"),
                );
                None
            }
        }
    }

    fn profile(&mut self, prefix: &str, filter: Filter, session: &SessionAffinity) -> Profile {
        let mut scorers = Vec::new();
        for kind in Kind::ALL {
            let stem = kind.stem();
            let weight = self
                .whole(&format!("{prefix}{stem}_WEIGHT"), MAX_WEIGHT)
                .and_then(|weight| Weight::new(weight as f64))
                .unwrap_or(Weight::ONE);
            if self.flag(&format!("{prefix}ENABLE_{stem}")) {
                let scorer = match kind {
                    Kind::Load => Scorer::LeastLoad,
                    Kind::Session => Scorer::SessionAffinity(session.clone()),
                    Kind::Prefix => Scorer::PrefixCache(MatchLength::default()),
                    Kind::KvCache => Scorer::PreciseCache(MatchLength::default()),
                };
                scorers.push(WeightedScorer { scorer, weight });
            }
        }
        if scorers.is_empty() {
            scorers.push(WeightedScorer {
                scorer: Scorer::LeastLoad,
                weight: Weight::ONE,
            });
        }
        let name = if prefix.is_empty() {
            "decode"
        } else {
            "prefill"
        };
        Profile {
            name: name.to_owned(),
            filters: vec![filter],
            scorers,
            picker: Picker::MaxScore,
        }
    }

    fn session(&mut self) -> SessionAffinity {
        let mut session = SessionAffinity {
            headers: vec!["x-session-id".to_owned()],
            sticky: Duration::from_hours(1),
            queue_threshold: self
                .whole("LOAD_AWARE_SCORER_QUEUE_THRESHOLD", u64::MAX)
                .map_or(DEFAULT_QUEUE_THRESHOLD, |requests| requests.max(1)),
        };
        if let Some(algorithm) = self.text("SESSION_SCORING_ALGORITHM")
            && algorithm != "sticky_hash"
        {
            self.wrong(
                "SESSION_SCORING_ALGORITHM",
                &algorithm,
                "is not known; sticky_hash is".to_owned(),
            );
        }
        if let Some(list) = self.text("SESSION_HEADER_NAMES") {
            let headers: Vec<String> = list
                .split(',')
                .map(|name| name.trim().to_ascii_lowercase())
                .filter(|name| !name.is_empty())
                .collect();
            if let Some(bad) = headers.iter().find(|name| !super::is_header_name(name)) {
                let reason = format!("contains {bad:?}, which is not a header name");
                self.wrong("SESSION_HEADER_NAMES", &list, reason);
            } else if !headers.is_empty() {
                session.headers = headers;
            }
        }
        if let Some(sticky) = self.duration("SESSION_STICKY_DURATION") {
            session.sticky = sticky;
        }
        session
    }

    /// A duration as Go writes it, or a bare number of seconds.
    fn duration(&mut self, name: &str) -> Option<Duration> {
        let value = self.text(name)?;
        let parsed = duration::parse(&value);
        if parsed.is_err() {
            self.wrong(
                name,
                &value,
                "is not a duration such as 500ms, 30s, 5m or 1h".to_owned(),
            );
        }
        parsed.ok()
    }

    /// A misspelt scorer would otherwise just not act.
    fn warn_about_unknown(&mut self) {
        let env = self.env;
        for name in env.keys().filter(|name| is_ours(name)) {
            let bare = name.strip_prefix("PREFILL_").unwrap_or(name);
            let known = KNOWN.contains(&name.as_str())
                || BESIDE_A_DOCUMENT.contains(&name.as_str())
                || Kind::ALL.iter().any(|kind| {
                    let stem = kind.stem();
                    bare.strip_prefix("ENABLE_") == Some(stem)
                        || bare.strip_suffix("_WEIGHT") == Some(stem)
                });
            if !known {
                self.warn(name, "is not a setting of this EPP and does nothing");
            }
        }
    }

    /// Settings of a part that nobody switched on. One that was switched off with a `false` is
    /// off on purpose, and its other settings wait for it.
    fn warn_about_idle(&mut self) {
        for name in self.env.keys() {
            if self.text(name).is_some()
                && let Some(switches) = switches_of(name)
                && !switches.iter().any(|switch| self.text(switch).is_some())
            {
                let names = switches.join(" and ");
                let verb = if switches.len() > 1 { "are" } else { "is" };
                self.warn(name, format!("does nothing: {names} {verb} not set"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(
        pairs: &[(&str, &str)],
    ) -> Result<(SchedulingConfig, Vec<SettingWarning>), Vec<SettingError>> {
        let env: BTreeMap<_, _> = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        super::read(&env)
    }

    fn weights(profile: &Profile) -> Vec<(&'static str, f64)> {
        let scorers = profile.scorers.iter();
        scorers
            .map(|weighted| (weighted.scorer.name(), weighted.weight.get()))
            .collect()
    }

    #[test]
    fn settings_of_what_is_not_switched_on_are_told() {
        let told = |name: &str, more: &[(&str, &str)]| {
            let env = [&[(name, "1")][..], more].concat();
            let (_, warnings) = from(&env).unwrap();
            let shown = warnings.iter();
            let shown: Vec<_> = shown
                .map(|warning| format!("{} {}", warning.at, warning.message))
                .collect();
            shown.join("\n")
        };
        for (name, switch) in [
            ("LOAD_AWARE_SCORER_WEIGHT", "ENABLE_LOAD_AWARE_SCORER"),
            (
                "PREFILL_PREFIX_AWARE_SCORER_WEIGHT",
                "PREFILL_ENABLE_PREFIX_AWARE_SCORER",
            ),
            ("PD_PROMPT_LEN_THRESHOLD", "PD_ENABLED"),
            ("SESSION_STICKY_DURATION", "ENABLE_SESSION_AWARE_SCORER"),
            (
                "SESSION_STICKY_DURATION",
                "PREFILL_ENABLE_SESSION_AWARE_SCORER",
            ),
        ] {
            let warning = told(name, &[]);
            assert!(warning.contains(switch), "{warning}");
            for value in ["true", "false"] {
                let with_pd = [(switch, value), ("PD_ENABLED", "true")];
                assert_eq!(told(name, &with_pd), "", "{name}");
            }
        }
        let prefill = [("PREFILL_ENABLE_LOAD_AWARE_SCORER", "true")];
        assert!(told("X", &prefill).contains("PD_ENABLED is not set"));
        let typo = [("ENABLE_LOAD_AWARE_SCORE", "true")];
        assert!(told("X", &typo).contains("is not a setting of this EPP"));
    }

    #[test]
    fn the_articles_settings_are_understood() {
        let (config, warnings) = from(&[
            ("ENABLE_KVCACHE_AWARE_SCORER", "true"),
            ("ENABLE_LOAD_AWARE_SCORER", "true"),
            ("ENABLE_SESSION_AWARE_SCORER", "true"),
            ("KVCACHE_AWARE_SCORER_WEIGHT", "10"),
            ("SESSION_AWARE_SCORER_WEIGHT", "20"),
            ("SESSION_SCORING_ALGORITHM", "sticky_hash"),
            (
                "SESSION_HEADER_NAMES",
                "session-id,x-session-id,Authorization",
            ),
            ("SESSION_STICKY_DURATION", "3600"),
            ("KVCACHE_INDEX_UPDATE_INTERVAL", "500ms"),
            ("PD_ENABLED", "true"),
            ("PREFILL_ENABLE_KVCACHE_AWARE_SCORER", "true"),
            ("PREFILL_ENABLE_SESSION_AWARE_SCORER", "true"),
            ("PREFILL_SESSION_AWARE_SCORER_WEIGHT", "15"),
        ])
        .unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(config.pipeline.uses_kv_events());
        let session = config.pipeline.session_affinity().unwrap();
        assert_eq!(
            session.headers,
            ["session-id", "x-session-id", "authorization"]
        );
        assert_eq!(session.sticky, Duration::from_hours(1));
        assert_eq!(
            config.index_update_interval,
            Some(Duration::from_millis(500))
        );
        let decode: Vec<_> = weights(&config.pipeline.decode);
        assert_eq!(
            decode,
            [
                ("least-load-scorer", 1.0),
                ("session-affinity-scorer", 20.0),
                ("precise-prefix-cache-scorer", 10.0)
            ]
        );
        let ProfileHandler::Disagg { prefill, decider } = &config.pipeline.handler else {
            panic!("{config:?}");
        };
        assert_eq!(
            weights(prefill),
            [
                ("session-affinity-scorer", 15.0),
                ("precise-prefix-cache-scorer", 1.0)
            ]
        );
        assert_eq!(
            *decider,
            Decider::CharThreshold {
                chars: 100,
                cache_aware: true
            }
        );
    }

    #[test]
    fn every_bad_variable_is_named() {
        let errors = from(&[
            ("LOAD_AWARE_SCORER_WEIGHT", "-1"),
            ("SESSION_STICKY_DURATION", "soon"),
        ])
        .unwrap_err();
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), 2, "{text:?}");
        assert!(
            text[0].starts_with("LOAD_AWARE_SCORER_WEIGHT: \"-1\" is negative"),
            "{text:?}"
        );
    }

    #[test]
    fn a_misspelt_scorer_is_loud() {
        let (_, warnings) = from(&[("ENABLE_KV_CACHE_AWARE_SCORER", "true")]).unwrap();
        assert_eq!(warnings[0].at.to_string(), "ENABLE_KV_CACHE_AWARE_SCORER");
    }

    #[test]
    fn without_any_scorer_load_decides() {
        let (config, _) = from(&[]).unwrap();
        assert_eq!(
            weights(&config.pipeline.decode),
            [("least-load-scorer", 1.0)]
        );
        assert_eq!(config.pipeline.handler, ProfileHandler::Single);
    }
}
