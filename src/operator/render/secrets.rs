//! Facts -> Secrets with one generated text. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::core::ObjectMeta;

use crate::operator::children::Object;
use crate::operator::facts::Facts;
use crate::operator::names;
use crate::operator::resolved::{EPP_SECRET_KEY, Generated};

/// What the replicas of the EPP share.
pub(super) fn of_epp(facts: &Facts) -> Option<Object> {
    let secret = facts.epp.as_ref()?.secret.as_ref()?;
    let name = names::epp_secret(&facts.identity.name);
    Some(generated(facts.identity.meta(name), EPP_SECRET_KEY, secret))
}

/// A Secret with one generated text.
pub(super) fn generated(metadata: ObjectMeta, key: &str, text: &Generated) -> Object {
    let bytes = ByteString(text.0.clone().into_bytes());
    Object::Secret(Box::new(Secret {
        metadata,
        data: Some([(key.to_owned(), bytes)].into()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }))
}
