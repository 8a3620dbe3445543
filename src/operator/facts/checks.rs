//! Texts of a ModelService that templates paste into YAML, command lines and scripts -> an error
//! for those that would change what is around them. PURE.
#![deny(clippy::disallowed_methods)]

use crate::api::ModelService;
use crate::api::modelservice::is_pasted_safely;
use crate::operator::invalid::Error;

/// The texts that templates paste into YAML, command lines and shell scripts. The schema
/// of the CRD says the same; `generate` and older objects do not pass it.
pub(super) fn pasted_texts(ms: &ModelService) -> Result<(), Error> {
    let artifacts = &ms.spec.model_artifacts;
    let repo = artifacts.uri.strip_prefix("hf://").unwrap_or_default();
    let texts = [
        (
            "spec.routing.modelName",
            ms.spec.routing.model_name.as_str(),
        ),
        ("spec.modelArtifacts.uri", artifacts.uri.as_str()),
        ("spec.modelArtifacts.uri", repo),
    ];
    for (field, text) in texts {
        if text.is_empty() || is_pasted_safely(text) {
            continue;
        }
        return Err(Error::Spec {
            field: field.to_owned(),
            message: format!(
                "{text:?} is pasted into templates: it may not begin with a dash, nor hold \
                 whitespace, control characters, quotes, brackets, braces, a backslash or any \
                 of ` , # * ! ? % ^ < > | & ; $"
            ),
        });
    }
    let secret = artifacts.auth_secret_name.as_deref().unwrap_or_default();
    let named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let valid = secret.len() <= 253
        && secret
            .bytes()
            .all(|byte| named(byte) || byte == b'-' || byte == b'.')
        && secret.bytes().next().is_none_or(named)
        && secret.bytes().last().is_none_or(named);
    if !valid {
        return Err(Error::Spec {
            field: "spec.modelArtifacts.authSecretName".to_owned(),
            message: format!(
                "{secret:?} is not the name of a Secret: lower-case letters, digits, dashes and dots are"
            ),
        });
    }
    Ok(())
}
