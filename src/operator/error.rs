//! What can go wrong in a reconcile, and what to do about it: the reason for conditions
//! and metrics, and whether trying again can help. PURE.
#![deny(clippy::disallowed_methods)]

use super::{apply, invalid, resolve};

/// A failed reconcile, by stage.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Facts could not be fetched.
    #[error(transparent)]
    Resolve(#[from] resolve::Error),
    /// What people wrote is wrong.
    #[error(transparent)]
    Invalid(#[from] invalid::Error),
    /// Some children could not be made.
    #[error("{}", joined(.0))]
    Apply(Vec<apply::Error>),
    /// The cluster could not be observed.
    #[error("read {what}")]
    Observe {
        /// What was read.
        what: &'static str,
        /// What went wrong.
        #[source]
        source: kube::Error,
    },
    /// The finalizer could not be put or removed.
    #[error("write the finalizers of {name}")]
    Finalizer {
        /// The ModelService.
        name: String,
        /// What went wrong.
        #[source]
        source: kube::Error,
    },
    /// The status could not be written.
    #[error("write the status of {name}")]
    Status {
        /// The ModelService.
        name: String,
        /// What went wrong.
        #[source]
        source: kube::Error,
    },
}

/// What to do about an error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Class {
    /// Trying again may help: back off.
    Transient,
    /// Only a change by a user helps: say so and wait for it.
    UserInput,
}

impl Error {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Resolve(resolve::Error::Read { .. })
            | Self::Observe { .. }
            | Self::Finalizer { .. }
            | Self::Status { .. } => Class::Transient,
            Self::Resolve(_) | Self::Invalid(_) => Class::UserInput,
            Self::Apply(errors) if errors.iter().all(apply::Error::is_permanent) => {
                Class::UserInput
            }
            Self::Apply(_) => Class::Transient,
        }
    }

    /// One CamelCase word, from a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Resolve(error) => match error {
                resolve::Error::BaseConfigMapNotFound { .. } => "BaseConfigMapNotFound",
                resolve::Error::CrossNamespace { .. } => "CrossNamespaceNotAllowed",
                resolve::Error::NamelessReference => "BaseConfigMapRefInvalid",
                resolve::Error::Read { .. } => "ReadFailed",
            },
            Self::Invalid(error) => error.reason(),
            Self::Apply(errors) => errors.first().map_or("ApplyFailed", apply::Error::reason),
            Self::Observe { .. } => "ReadFailed",
            Self::Finalizer { .. } => "FinalizerWriteFailed",
            Self::Status { .. } => "StatusWriteFailed",
        }
    }

    /// True when the base config is what is wrong.
    pub fn blames_base_config(&self) -> bool {
        match self {
            Self::Invalid(error) => error.blames_base_config(),
            Self::Resolve(error) => !matches!(error, resolve::Error::Read { .. }),
            Self::Apply(_)
            | Self::Observe { .. }
            | Self::Finalizer { .. }
            | Self::Status { .. } => false,
        }
    }
}

fn joined(errors: &[apply::Error]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
