//! The base's `configMaps` -> ConfigMaps with a name and a namespace we may write to. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::ConfigMap;

use super::Context;
use crate::operator::base::Place;
use crate::operator::decode;
use crate::operator::invalid::Error;

pub(super) fn place(context: &Context<'_>) -> Result<Vec<ConfigMap>, Error> {
    let own = &context.identity.namespace;
    let mut maps = context.base.config_maps.clone();
    for map in &mut maps {
        let refuse = |message: String, reason| Error::Merged {
            object: "configMaps",
            place: Place::Base {
                object: context.base.source.clone(),
                key: "configMaps",
                line: map.metadata.name.as_deref().and_then(|name| {
                    decode::line_of_item(&context.base.config_maps_text, None, name)
                }),
            },
            message,
            reason,
        };
        if map.metadata.name.as_ref().is_none_or(String::is_empty) {
            let message = "an entry has no metadata.name".to_owned();
            return Err(refuse(message, "BaseConfigInvalid"));
        }
        let namespace = map
            .metadata
            .namespace
            .clone()
            .filter(|namespace| !namespace.is_empty());
        match namespace {
            Some(other)
                if Some(&other) != own.as_ref() && !context.settings.allow_cross_namespace =>
            {
                return Err(refuse(
                    format!(
                        "ConfigMap {other}/{} is in another namespace; the operator allows that \
                         only with --allow-cross-namespace",
                        map.metadata.name.as_deref().unwrap_or_default()
                    ),
                    "CrossNamespaceNotAllowed",
                ));
            }
            Some(_) => {}
            None => map.metadata.namespace.clone_from(own),
        }
    }
    Ok(maps)
}
