//! What people wrote that cannot be made into objects: each error says object, key and line,
//! and has a reason for conditions. PURE.
#![deny(clippy::disallowed_methods)]

use super::base::{self, Place};
use super::decode;
use crate::scheduling::config::{SettingError, SettingOrigin};

/// Why nothing can be made of it. Every variant says where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A template cannot be rendered.
    #[error("{source_object}: {error}")]
    Template {
        /// `ConfigMap ns/name` or `ModelService`.
        source_object: String,
        /// Key, line, column and reason.
        error: crate::gotemplate::Error,
    },
    /// A rendered value cannot be read.
    #[error("{source_object}: {error}")]
    Decode {
        /// `ConfigMap ns/name`.
        source_object: String,
        /// Key, line, path and reason.
        error: decode::Error,
    },
    /// A field of the ModelService is wrong.
    #[error("{field}: {message}")]
    Spec {
        /// Path of the field.
        field: String,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The merged object would be refused, or the administrator does not allow it.
    #[error("{}: {message}{}", merged(place, object), place.line_note())]
    Merged {
        /// Child key, such as `decodeDeployment`.
        object: &'static str,
        /// Where it was written.
        place: Place,
        /// What is wrong.
        message: String,
        /// `Privileged` and `CrossNamespace` refusals have reasons of their own.
        reason: &'static str,
    },
    /// The EPP's settings are wrong.
    #[error("{}", list(errors))]
    EppSettings {
        /// Every wrong setting, and where it was written.
        errors: Vec<EppSetting>,
    },
}

/// A wrong setting of the EPP.
#[derive(Debug)]
pub struct EppSetting {
    /// Where it, or the document that it is in, was written.
    pub place: Place,
    /// What is read there: `env`, a flag, or a key of a ConfigMap.
    pub holder: String,
    /// What is wrong.
    pub error: SettingError,
}

impl std::fmt::Display for EppSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            place,
            holder,
            error,
        } = self;
        match (&error.at, place) {
            // The field names container and variable.
            (SettingOrigin::Variable(_), Place::Spec { .. }) => write!(f, "{place}: {error}"),
            (SettingOrigin::Variable(_), _) => {
                write!(f, "{place}, {holder} {error}{}", place.line_note())
            }
            (SettingOrigin::Document { .. }, _) => write!(f, "{place}, {holder}: {error}"),
        }
    }
}

/// The place, with the child's key where the place does not say it.
fn merged(place: &Place, object: &str) -> String {
    match place {
        Place::Base { .. } => place.to_string(),
        Place::Spec { .. } | Place::Operator => format!("{object} ({place})"),
    }
}

fn list(errors: &[EppSetting]) -> String {
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl Error {
    /// One CamelCase word, from a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Template { .. } => "TemplateInvalid",
            Self::Decode { .. } => "BaseConfigInvalid",
            Self::Spec { .. } => "SpecInvalid",
            Self::Merged { reason, .. } => reason,
            Self::EppSettings { .. } => "EPPSettingsInvalid",
        }
    }

    /// True when the base config is what is wrong, not the ModelService.
    pub fn blames_base_config(&self) -> bool {
        match self {
            Self::Template { source_object, .. } => source_object != base::MODEL_SERVICE,
            Self::Decode { .. } => true,
            Self::Spec { .. } => false,
            Self::Merged { place, .. } => place.is_base(),
            Self::EppSettings { errors } => errors.iter().any(|error| error.place.is_base()),
        }
    }
}
