//! `spec.modelArtifacts` -> where the weights are. PURE.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::invalid::Error;
use super::merge::MODEL_MOUNT_PATH;
use crate::api::modelservice::ModelArtifacts;

/// Where the weights are.
#[derive(Clone, Debug, PartialEq)]
pub enum Artifacts {
    /// Downloaded from Hugging Face.
    HuggingFace {
        /// `org/model`.
        repo: String,
        /// Secret with the key `HF_TOKEN`.
        secret: Option<String>,
        /// Limit of the volume.
        size: Option<Quantity>,
    },
    /// On a volume claim.
    Claim {
        /// Name of the claim.
        claim: String,
        /// Path on the volume.
        path: String,
    },
}

impl Artifacts {
    /// Reads the URI.
    ///
    /// # Errors
    /// For another scheme, or a URI that lacks a part.
    pub fn parse(artifacts: &ModelArtifacts) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Spec {
            field: "spec.modelArtifacts.uri".to_owned(),
            message: format!("{:?} {reason}", artifacts.uri),
        };
        if let Some(repo) = artifacts.uri.strip_prefix("hf://") {
            if repo.is_empty() {
                return Err(wrong("names no model; write hf://organisation/model"));
            }
            return Ok(Self::HuggingFace {
                repo: repo.to_owned(),
                secret: artifacts
                    .auth_secret_name
                    .clone()
                    .filter(|name| !name.is_empty()),
                size: artifacts.size.clone(),
            });
        }
        if let Some(rest) = artifacts.uri.strip_prefix("pvc://") {
            return match rest.split_once('/') {
                Some((claim, path)) if !claim.is_empty() && !path.is_empty() => Ok(Self::Claim {
                    claim: claim.to_owned(),
                    path: path.to_owned(),
                }),
                _ => Err(wrong(
                    "needs a claim and a path; write pvc://claim/path/to/model",
                )),
            };
        }
        Err(wrong(
            "has an unknown scheme; hf:// and pvc:// are supported",
        ))
    }

    /// `.HFModelName`: empty for other schemes.
    pub fn hf_model_name(&self) -> &str {
        match self {
            Self::HuggingFace { repo, .. } => repo,
            Self::Claim { .. } => "",
        }
    }

    /// `.ModelPath`.
    pub fn model_path(&self) -> &str {
        match self {
            Self::HuggingFace { repo, .. } => repo,
            Self::Claim { path, .. } => path,
        }
    }

    /// `.MountedModelPath`.
    pub fn mounted_path(&self) -> String {
        match self {
            Self::HuggingFace { .. } => MODEL_MOUNT_PATH.to_owned(),
            Self::Claim { path, .. } => format!("{MODEL_MOUNT_PATH}/{path}"),
        }
    }

    /// What to hand to `vllm serve`.
    pub fn serve_argument(&self) -> String {
        match self {
            Self::HuggingFace { repo, .. } => repo.clone(),
            Self::Claim { .. } => self.mounted_path(),
        }
    }

    /// A claim is mounted read-only.
    pub fn read_only(&self) -> bool {
        matches!(self, Self::Claim { .. })
    }
}
