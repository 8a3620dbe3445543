//! A ModelService -> everything `plan` may know about the cluster. IO, reads only.
//!
//! A thing that does not exist is a value or a user error; only a failing API server
//! makes this stage fail in a way that is retried.

use base64::Engine as _;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;

use super::facts::hostnames;
use super::names::{self, Role};
use super::neighbours::{Elder, Neighbours};
use super::resolved::{
    BaseConfig, ElderRoute, GatewayFacts, Generated, LiveEngines, REDIS_PASSWORD_KEY, RedisFacts,
    Resolved, Served,
};
use super::settings::Settings;
use crate::api::ModelService;
use crate::api::foreign::{Gateway, GatewayClass, HTTPRoute};
use crate::contract;

/// Why the facts could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The base ConfigMap does not exist.
    #[error(
        "base ConfigMap {namespace}/{name} (spec.baseConfigMapRef) does not exist; create it or correct the reference"
    )]
    BaseConfigMapNotFound {
        /// Namespace looked in.
        namespace: String,
        /// Name looked for.
        name: String,
    },
    /// The base ConfigMap is elsewhere and the administrator has not allowed that.
    #[error(
        "base ConfigMap {namespace}/{name} (spec.baseConfigMapRef) is in another namespace; \
         the operator allows that only with --allow-cross-namespace"
    )]
    CrossNamespace {
        /// Namespace of the reference.
        namespace: String,
        /// Name of the reference.
        name: String,
    },
    /// The reference names nothing.
    #[error("spec.baseConfigMapRef has no name")]
    NamelessReference,
    /// The API server failed.
    #[error("read {what}")]
    Read {
        /// Kind, namespace and name of the object.
        what: String,
        /// What went wrong.
        #[source]
        source: kube::Error,
    },
}

/// Fetches everything.
///
/// # Errors
/// A user error when the base ConfigMap is missing or out of bounds; otherwise what the
/// API server said.
pub async fn resolve(
    client: &Client,
    settings: &Settings,
    served: Served,
    neighbours: Neighbours,
    ms: &ModelService,
) -> Result<Resolved, Error> {
    let namespace = ms.namespace().unwrap_or_default();
    let name = ms.name_any();
    let (base, gateways, redis, route_rules, elder_route, live_decode, live_prefill) = tokio::try_join!(
        base_config(client, settings, ms, &namespace),
        gateways(client, served, ms, &namespace),
        redis(client, &namespace),
        foreign_route_rules(client, served, ms, &namespace),
        elder_route(client, served, neighbours.elder),
        live_engines(client, &namespace, names::deployment(&name, Role::Decode)),
        live_engines(client, &namespace, names::deployment(&name, Role::Prefill)),
    )?;
    Ok(Resolved {
        base,
        served,
        gateways,
        redis,
        // `apply` keeps the one that is there, so it need not be read.
        epp_secret: fresh_secret(),
        route_rules_foreign: route_rules.is_some(),
        route_rules: route_rules.unwrap_or_default(),
        live_decode,
        live_prefill,
        namesakes: neighbours.namesakes,
        elder_route,
    })
}

async fn elder_route(
    client: &Client,
    served: Served,
    elder: Option<Elder>,
) -> Result<Option<ElderRoute>, Error> {
    let Some(elder) = elder.filter(|_| served.http_route) else {
        return Ok(None);
    };
    let name = names::http_route(&elder.name);
    let route = Api::<HTTPRoute>::namespaced(client.clone(), &elder.namespace)
        .get_opt(&name)
        .await
        .map_err(read("HTTPRoute", &elder.namespace, &name))?;
    Ok(route.map(|route| ElderRoute {
        route: format!("{}/{name}", elder.namespace),
        modelservice: elder.name,
        gateway: elder.gateway,
        hostnames: hostnames(&route),
        rules: route.spec.rules.unwrap_or_default(),
    }))
}

async fn live_engines(
    client: &Client,
    namespace: &str,
    name: String,
) -> Result<Option<LiveEngines>, Error> {
    let found = Api::<Deployment>::namespaced(client.clone(), namespace)
        .get_opt(&name)
        .await
        .map_err(read("Deployment", namespace, &name))?;
    Ok(found.map(|deployment| {
        let wanted = deployment.spec.replicas.unwrap_or(1);
        let status = deployment.status.clone().unwrap_or_default();
        let updated = status.updated_replicas.unwrap_or(0);
        let template = deployment.spec.template.metadata.clone();
        LiveEngines {
            rolled_out: status.observed_generation >= deployment.metadata.generation
                && updated >= wanted
                && status.replicas.unwrap_or(0) == updated
                && status.available_replicas.unwrap_or(0) >= wanted,
            selector: deployment.spec.selector.match_labels.unwrap_or_default(),
            template_labels: template.and_then(|meta| meta.labels).unwrap_or_default(),
        }
    }))
}

async fn base_config(
    client: &Client,
    settings: &Settings,
    ms: &ModelService,
    own_namespace: &str,
) -> Result<Option<BaseConfig>, Error> {
    let Some(reference) = &ms.spec.base_config_map_ref else {
        return Ok(None);
    };
    let name = reference.name.clone().unwrap_or_default();
    if name.is_empty() {
        return Err(Error::NamelessReference);
    }
    let namespace = reference
        .namespace
        .clone()
        .filter(|namespace| !namespace.is_empty())
        .unwrap_or_else(|| own_namespace.to_owned());
    if namespace != own_namespace && !settings.allow_cross_namespace {
        return Err(Error::CrossNamespace { namespace, name });
    }
    let found = Api::<ConfigMap>::namespaced(client.clone(), &namespace)
        .get_opt(&name)
        .await
        .map_err(read("ConfigMap", &namespace, &name))?;
    match found {
        Some(map) => Ok(Some(BaseConfig {
            namespace,
            name,
            data: map.data.unwrap_or_default(),
        })),
        None => Err(Error::BaseConfigMapNotFound { namespace, name }),
    }
}

async fn gateways(
    client: &Client,
    served: Served,
    ms: &ModelService,
    own_namespace: &str,
) -> Result<Vec<GatewayFacts>, Error> {
    let mut facts = Vec::new();
    for reference in &ms.spec.routing.gateway_refs {
        let namespace = reference
            .namespace
            .clone()
            .unwrap_or_else(|| own_namespace.to_owned());
        let mut fact = GatewayFacts {
            namespace,
            name: reference.name.clone(),
            ..GatewayFacts::default()
        };
        if served.http_route {
            let gateway = Api::<Gateway>::namespaced(client.clone(), &fact.namespace)
                .get_opt(&fact.name)
                .await
                .map_err(read("Gateway", &fact.namespace, &fact.name))?;
            if let Some(gateway) = gateway {
                let class = gateway.spec.gateway_class_name;
                fact.controller = Api::<GatewayClass>::all(client.clone())
                    .get_opt(&class)
                    .await
                    .map_err(read("GatewayClass", "", &class))?
                    .map(|class| class.spec.controller_name);
                fact.class = Some(class);
            }
        }
        facts.push(fact);
    }
    Ok(facts)
}

async fn redis(client: &Client, namespace: &str) -> Result<RedisFacts, Error> {
    let name = contract::REDIS_NAME;
    let service = Api::<Service>::namespaced(client.clone(), namespace)
        .get_opt(name)
        .await
        .map_err(read("Service", namespace, name))?;
    let foreign_service = service.is_some_and(|service| {
        service
            .labels()
            .get(contract::LABEL_MANAGED_BY)
            .map(String::as_str)
            != Some(contract::MANAGER)
    });
    let secret = Api::<Secret>::namespaced(client.clone(), namespace)
        .get_opt(name)
        .await
        .map_err(read("Secret", namespace, name))?;
    let existing = secret
        .and_then(|secret| secret.data)
        .and_then(|mut data| data.remove(REDIS_PASSWORD_KEY))
        .and_then(|bytes| String::from_utf8(bytes.0).ok())
        .filter(|password| !password.is_empty());
    let password = existing.map(Generated).or_else(fresh_secret);
    Ok(RedisFacts {
        password,
        foreign_service,
    })
}

/// 192 bits from the operating system, in characters that need no quoting anywhere.
fn fresh_secret() -> Option<Generated> {
    let mut bytes = [0_u8; 24];
    getrandom::fill(&mut bytes).ok()?;
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    Some(Generated(text))
}

/// The rules of the live route when somebody else set them, as users of the Go operator
/// had to.
async fn foreign_route_rules(
    client: &Client,
    served: Served,
    ms: &ModelService,
    namespace: &str,
) -> Result<Option<Vec<Value>>, Error> {
    if !served.http_route {
        return Ok(None);
    }
    let name = names::http_route(&ms.name_any());
    let route = Api::<HTTPRoute>::namespaced(client.clone(), namespace)
        .get_opt(&name)
        .await
        .map_err(read("HTTPRoute", namespace, &name))?;
    let foreign = route.filter(|route| {
        route.managed_fields().iter().any(|entry| {
            entry.manager.as_deref() != Some(contract::MANAGER)
                && entry.subresource.as_deref().unwrap_or_default().is_empty()
                && entry
                    .fields_v1
                    .as_ref()
                    .is_some_and(|fields| fields.0.pointer("/f:spec/f:rules").is_some())
        })
    });
    Ok(foreign.map(|route| route.spec.rules.unwrap_or_default()))
}

fn read(kind: &str, namespace: &str, name: &str) -> impl FnOnce(kube::Error) -> Error {
    let what = if namespace.is_empty() {
        format!("{kind} {name}")
    } else {
        format!("{kind} {namespace}/{name}")
    };
    move |source| Error::Read { what, source }
}
