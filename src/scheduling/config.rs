//! Environment variables -> what the scheduler is told to do. PURE: the variables are an
//! argument. The EPP runs on it and the operator checks with it, so that a bad weight is a
//! condition on the ModelService and not a crash loop.

use std::collections::BTreeMap;
use std::time::Duration;

/// The largest weight.
const MAX_WEIGHT: u32 = 1_000_000;
/// `PD_PROMPT_LEN_THRESHOLD` where unset, in characters of prompt (v0.1's default).
const DEFAULT_PD_THRESHOLD: usize = 100;
/// `LOAD_AWARE_SCORER_QUEUE_THRESHOLD` where unset (v0.1's default).
const DEFAULT_QUEUE_THRESHOLD: u64 = 128;

/// Which scorer.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ScorerKind {
    /// Prefers endpoints with less in flight.
    Load,
    /// Prefers the endpoint this session went to before.
    Session,
    /// Prefers endpoints that were sent the same prefix before.
    Prefix,
    /// Prefers endpoints whose engine reports the prefix in its KV cache.
    KvCache,
}

impl ScorerKind {
    /// All scorers.
    pub const ALL: [Self; 4] = [Self::Load, Self::Session, Self::Prefix, Self::KvCache];

    /// The stem of its variables: `ENABLE_<stem>`, `<stem>_WEIGHT`.
    pub fn stem(self) -> &'static str {
        match self {
            Self::Load => "LOAD_AWARE_SCORER",
            Self::Session => "SESSION_AWARE_SCORER",
            Self::Prefix => "PREFIX_AWARE_SCORER",
            Self::KvCache => "KVCACHE_AWARE_SCORER",
        }
    }
}

/// A weight: 0 switches a scorer off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Weight(pub u32);

/// The scorers of one profile, with their weights.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ProfileConfig {
    /// Enabled scorers.
    pub scorers: Vec<(ScorerKind, Weight)>,
}

impl ProfileConfig {
    /// True when that scorer acts.
    pub fn enables(&self, kind: ScorerKind) -> bool {
        self.scorers
            .iter()
            .any(|(scorer, weight)| *scorer == kind && weight.0 > 0)
    }
}

/// How sessions are recognised.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SessionSettings {
    /// Headers looked at, in order; the first one present names the session.
    pub headers: Vec<String>,
    /// How long a session stays with an endpoint after its last request.
    pub sticky: Duration,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            headers: vec!["x-session-id".to_owned()],
            sticky: Duration::from_hours(1),
        }
    }
}

/// Everything the scheduler is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Chooses the decode endpoint.
    pub decode: ProfileConfig,
    /// Chooses the prefill endpoint.
    pub prefill: ProfileConfig,
    /// Prefill on an endpoint of its own for long prompts.
    pub pd_enabled: bool,
    /// Prompts shorter than this many characters are prefilled where they are decoded.
    pub pd_threshold: usize,
    /// Count only the part of a prompt that the decode endpoint lacks against the threshold.
    pub pd_cache_aware: bool,
    /// Requests waiting at an engine from which on it is saturated and its sessions move.
    pub queue_threshold: u64,
    /// Sessions.
    pub session: SessionSettings,
    /// Redis of the KV index.
    pub redis_addr: Option<String>,
    /// How often deltas of the index are exchanged through Redis.
    pub index_update_interval: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            decode: ProfileConfig::default(),
            prefill: ProfileConfig::default(),
            pd_enabled: false,
            pd_threshold: DEFAULT_PD_THRESHOLD,
            pd_cache_aware: true,
            queue_threshold: DEFAULT_QUEUE_THRESHOLD,
            session: SessionSettings::default(),
            redis_addr: None,
            index_update_interval: None,
        }
    }
}

/// A variable that cannot be understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{name}: {value:?} {reason}")]
pub struct ConfigError {
    /// Name of the variable.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// A variable that is understood to do nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Warning {
    /// Name of the variable.
    pub name: String,
    /// Why it does nothing.
    pub message: String,
}

/// Variables that other programs of the family read or set; silence about them is right.
const KNOWN: &[&str] = &[
    "KVCACHE_INDEXER_REDIS_ADDR",
    "KVCACHE_INDEXER_REDIS_PASSWORD",
    "KVCACHE_INDEX_UPDATE_INTERVAL",
    "PREFILL_KVCACHE_INDEXER_REDIS_ADDR",
    "PD_ENABLED",
    "PD_PROMPT_LEN_THRESHOLD",
    "PD_CACHE_AWARE_ROUTING",
    "SESSION_SCORING_ALGORITHM",
    "SESSION_HEADER_NAMES",
    "SESSION_STICKY_DURATION",
    "LOAD_AWARE_SCORER_QUEUE_THRESHOLD",
];

impl Settings {
    /// Reads the variables of llm-d-inference-scheduler v0.1 and those of this project.
    /// `ENABLE_<S>` counts when it is `true` in any case; weights are whole numbers, 1
    /// where unset. With no scorer enabled at all, the load scorer alone acts.
    ///
    /// # Errors
    /// Every variable that cannot be understood, not only the first.
    pub fn from_env(
        env: &BTreeMap<String, String>,
    ) -> Result<(Self, Vec<Warning>), Vec<ConfigError>> {
        let mut read = Reader {
            env,
            errors: Vec::new(),
            warnings: Vec::new(),
        };
        let mut settings = Self {
            decode: read.profile(""),
            prefill: read.profile("PREFILL_"),
            pd_enabled: read.flag("PD_ENABLED"),
            pd_threshold: read
                .whole("PD_PROMPT_LEN_THRESHOLD", usize::MAX as u64)
                .map_or(DEFAULT_PD_THRESHOLD, |bytes| bytes as usize),
            // v0.1 always looked at the uncached part; only an explicit `false` stops that.
            pd_cache_aware: read.text("PD_CACHE_AWARE_ROUTING").is_none()
                || read.flag("PD_CACHE_AWARE_ROUTING"),
            queue_threshold: read
                .whole("LOAD_AWARE_SCORER_QUEUE_THRESHOLD", u64::MAX)
                .map_or(DEFAULT_QUEUE_THRESHOLD, |requests| requests.max(1)),
            session: read.session(),
            redis_addr: read.text("KVCACHE_INDEXER_REDIS_ADDR"),
            index_update_interval: read.duration("KVCACHE_INDEX_UPDATE_INTERVAL"),
        };
        for profile in [&mut settings.decode, &mut settings.prefill] {
            if profile.scorers.is_empty() {
                profile.scorers.push((ScorerKind::Load, Weight(1)));
            }
        }
        read.warn_about_unknown();
        if read.errors.is_empty() {
            Ok((settings, read.warnings))
        } else {
            Err(read.errors)
        }
    }

    /// True when a profile keeps sessions together.
    pub fn uses_sessions(&self) -> bool {
        self.decode.enables(ScorerKind::Session)
            || (self.pd_enabled && self.prefill.enables(ScorerKind::Session))
    }

    /// True when a profile scores by the engines' own KV cache, so engines must publish
    /// KV events.
    pub fn kv_scorer_enabled(&self) -> bool {
        self.decode.enables(ScorerKind::KvCache)
            || (self.pd_enabled && self.prefill.enables(ScorerKind::KvCache))
    }
}

struct Reader<'a> {
    env: &'a BTreeMap<String, String>,
    errors: Vec<ConfigError>,
    warnings: Vec<Warning>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<String> {
        self.env
            .get(name)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    fn wrong(&mut self, name: &str, value: &str, reason: String) {
        self.errors.push(ConfigError {
            name: name.to_owned(),
            value: value.to_owned(),
            reason,
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
                self.warnings.push(Warning {
                    name: name.to_owned(),
                    message,
                });
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

    fn profile(&mut self, prefix: &str) -> ProfileConfig {
        let mut scorers = Vec::new();
        for kind in ScorerKind::ALL {
            let weight = self
                .whole(
                    &format!("{prefix}{}_WEIGHT", kind.stem()),
                    u64::from(MAX_WEIGHT),
                )
                .map_or(1, |weight| weight as u32);
            if self.flag(&format!("{prefix}ENABLE_{}", kind.stem())) {
                scorers.push((kind, Weight(weight)));
            }
        }
        ProfileConfig { scorers }
    }

    fn session(&mut self) -> SessionSettings {
        let mut session = SessionSettings::default();
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
            let valid = |name: &String| {
                name.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~".contains(&b))
            };
            if let Some(bad) = headers.iter().find(|name| !valid(name)) {
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

    /// `500ms`, `30s`, `5m`, `1h`, or a bare number of seconds.
    fn duration(&mut self, name: &str) -> Option<Duration> {
        let value = self.text(name)?;
        let digits = value
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(value.len());
        let (number, unit) = value.split_at(digits);
        let seconds_per_unit = match unit.trim() {
            "ms" => Some(0.001),
            "" | "s" => Some(1.0),
            "m" => Some(60.0),
            "h" => Some(3600.0),
            _ => None,
        };
        let parsed = number
            .parse::<f64>()
            .ok()
            .zip(seconds_per_unit)
            .and_then(|(number, unit)| Duration::try_from_secs_f64(number * unit).ok());
        if parsed.is_none() {
            self.wrong(
                name,
                &value,
                "is not a duration such as 500ms, 30s, 5m or 1h".to_owned(),
            );
        }
        parsed
    }

    /// A misspelt scorer would otherwise just not act.
    fn warn_about_unknown(&mut self) {
        for name in self.env.keys() {
            let bare = name.strip_prefix("PREFILL_").unwrap_or(name);
            let ours = bare.starts_with("SESSION_")
                || bare.starts_with("KVCACHE_")
                || bare.starts_with("PD_")
                || (bare.starts_with("ENABLE_")
                    && (bare.ends_with("_SCORER") || bare.ends_with("_FILTER")))
                || bare.contains("_SCORER_QUEUE_")
                || bare.ends_with("_SCORER_WEIGHT")
                || bare.ends_with("_FILTER_WEIGHT");
            let known = KNOWN.contains(&name.as_str())
                || ScorerKind::ALL.iter().any(|kind| {
                    let stem = kind.stem();
                    bare.strip_prefix("ENABLE_") == Some(stem)
                        || bare.strip_suffix("_WEIGHT") == Some(stem)
                });
            if ours && !known {
                self.warnings.push(Warning {
                    name: name.clone(),
                    message: "is not a setting of this EPP and does nothing".to_owned(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<(Settings, Vec<Warning>), Vec<ConfigError>> {
        let env = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Settings::from_env(&env)
    }

    #[test]
    fn the_articles_settings_are_understood() {
        let (settings, warnings) = read(&[
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
            ("PREFILL_SESSION_AWARE_SCORER_WEIGHT", "15"),
        ])
        .unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(settings.kv_scorer_enabled() && settings.pd_enabled);
        assert_eq!(
            settings.session.headers,
            ["session-id", "x-session-id", "authorization"]
        );
        assert_eq!(
            settings.index_update_interval,
            Some(Duration::from_millis(500))
        );
        assert!(
            settings
                .decode
                .scorers
                .contains(&(ScorerKind::Session, Weight(20)))
        );
    }

    #[test]
    fn every_bad_variable_is_named() {
        let errors = read(&[
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
        let (_, warnings) = read(&[("ENABLE_KV_CACHE_AWARE_SCORER", "true")]).unwrap();
        assert_eq!(warnings[0].name, "ENABLE_KV_CACHE_AWARE_SCORER");
    }

    #[test]
    fn without_any_scorer_load_decides() {
        let (settings, _) = read(&[]).unwrap();
        assert_eq!(settings.decode.scorers, [(ScorerKind::Load, Weight(1))]);
    }
}
