//! What users write -> what the scheduler is told. PURE: variables and text are arguments. The
//! EPP runs on it and the operator checks with it, so that a bad weight is a condition on the
//! ModelService and not a crash loop.

mod document;
mod env;
mod fields;
mod handlers;
mod node;
mod parts;
mod print;
mod profiles;
#[cfg(test)]
mod tests;
mod types;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use self::document::KIND;
use self::fields::Report;
use super::pipeline::Pipeline;
use crate::nearest::nearest;

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
    /// In an `EndpointPickerConfig`.
    Document {
        /// Its line, from 1, where it is known. First, so that errors sort as they are read.
        line: Option<u64>,
        /// Its path, such as `plugins[2].type`; empty for the document as a whole.
        path: String,
    },
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
            Self::Document { path, line } => {
                let path = if path.is_empty() { KIND } else { path };
                match line {
                    Some(line) => write!(f, "line {line}: {path}"),
                    None => f.write_str(path),
                }
            }
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
    /// Upstream's EPP has it and this one does not: right in a configuration of upstream's.
    pub upstream_only: bool,
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

    /// Reads an `EndpointPickerConfig`, YAML or JSON, which counts as a whole: of the
    /// environment only what it says about Redis counts beside it.
    ///
    /// # Errors
    /// Everything that cannot be understood, not only the first.
    pub fn from_document(
        text: &str,
        env: &BTreeMap<String, String>,
    ) -> Result<(Self, Vec<SettingWarning>), Vec<SettingError>> {
        let mut report = Report::default();
        let pipeline = document::read(text, &mut report);
        let (redis_addr, index_update_interval) =
            env::beside_a_document(env, &mut report.errors, &mut report.warnings);
        match pipeline {
            Some(pipeline) if report.errors.is_empty() => {
                let config = Self {
                    pipeline,
                    redis_addr,
                    index_update_interval,
                };
                report.warnings.sort_by(|a, b| a.at.cmp(&b.at));
                Ok((config, report.warnings))
            }
            _ => {
                report.errors.sort_by(|a, b| a.at.cmp(&b.at));
                Err(report.errors)
            }
        }
    }

    /// The pipeline as an `EndpointPickerConfig`, which reads back as the same.
    pub fn to_document(&self) -> serde_json::Value {
        print::document(&self.pipeline)
    }
}

/// True for what HTTP allows as the name of a header.
fn is_header_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~".contains(&b))
}
