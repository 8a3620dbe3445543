//! What users write -> what the scheduler is told. PURE: variables and text are arguments. The
//! EPP runs on it and the operator checks with it, so that a bad weight is a condition on the
//! ModelService and not a crash loop.

mod env;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::pipeline::Pipeline;

/// Everything that settings say about scheduling.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulingConfig {
    /// What decisions are made by.
    pub pipeline: Pipeline,
    /// Redis, through which replicas share what they know of sessions.
    pub redis_addr: Option<String>,
    /// How often deltas of the KV index are exchanged through Redis.
    pub index_update_interval: Option<Duration>,
}

/// Where a setting was written.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum SettingOrigin {
    /// In this environment variable.
    Variable(String),
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// A setting that cannot be understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{at}: {message}")]
pub struct SettingError {
    /// Where it was written.
    pub at: SettingOrigin,
    /// Its value, what is wrong with it and what would be right.
    pub message: String,
}

/// A setting that does not do what it seems to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SettingWarning {
    /// Where it was written.
    pub at: SettingOrigin,
    /// What it does, or what to write in its place; goes on a sentence that names it.
    pub message: String,
}

impl SchedulingConfig {
    /// Reads environment variables alone.
    ///
    /// # Errors
    /// Every variable that cannot be understood, not only the first.
    pub fn from_env(
        env: &BTreeMap<String, String>,
    ) -> Result<(Self, Vec<SettingWarning>), Vec<SettingError>> {
        env::read(env)
    }
}

/// True for what HTTP allows as the name of a header.
fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~".contains(&b))
}
