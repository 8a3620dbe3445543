//! gatewayRefs, base route and what the cluster serves -> how requests get from the
//! gateway to the EPP and on to the engines. PURE.

use serde_json::{Value, json};

use super::workloads::needed_decode_service;
use super::{Context, EnvoyFilterPlan, Workload, epp};
use crate::api::foreign::HTTPRoute;
use crate::api::modelservice::{ParentReference, RoutingExtension};
use crate::contract;
use crate::operator::names::{self, Role};
use crate::operator::resolved::PoolVersion;

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// Controllers whose gateways read EnvoyFilters.
const ISTIO_CONTROLLER: &str = "istio.io/";

/// What was decided about routing.
#[derive(Clone, Debug)]
pub(super) struct Routing {
    /// How the gateway is made to ask the EPP; never `Auto`.
    pub(super) extension: RoutingExtension,
    /// The InferencePool is rendered in this version.
    pub(super) pool_version: Option<PoolVersion>,
}

impl Routing {
    /// The body mode of the ext_proc filter that asks the EPP on our behalf, if one does.
    pub(super) fn managed_body_mode(&self, builtin_epp: bool) -> Option<&'static str> {
        match self.extension {
            RoutingExtension::EnvoyFilter => Some("FULL_DUPLEX_STREAMED"),
            // Gateways that know InferencePools use this mode; a base that brings its own
            // EPP says itself what it wants.
            RoutingExtension::InferencePool if builtin_epp && self.pool_version.is_some() => {
                Some("FULL_DUPLEX_STREAMED")
            }
            _ => None,
        }
    }
}

/// Decides the extension and the pool's version.
pub(super) fn decide(context: &Context<'_>, warnings: &mut Vec<String>) -> Routing {
    let served = context.resolved.served;
    let asked = context.ms.spec.routing.extension.unwrap_or_default();
    let istio = context.resolved.gateways.iter().any(|gateway| {
        gateway
            .controller
            .as_deref()
            .is_some_and(|c| c.starts_with(ISTIO_CONTROLLER))
    });
    let mut extension = match asked {
        RoutingExtension::Auto if served.envoy_filter && istio => RoutingExtension::EnvoyFilter,
        RoutingExtension::Auto if served.inference_pool.is_some() => {
            RoutingExtension::InferencePool
        }
        RoutingExtension::Auto => RoutingExtension::None,
        other => other,
    };
    if extension == RoutingExtension::EnvoyFilter && !served.envoy_filter {
        warnings.push("spec.routing.extension is EnvoyFilter, but the cluster does not serve networking.istio.io/v1alpha3: none is made".to_owned());
        extension = RoutingExtension::None;
    }
    if extension == RoutingExtension::EnvoyFilter && own_gateways(context).is_empty() {
        warnings.push(
            "an EnvoyFilter reaches only Gateways of its own namespace, and spec.routing.gatewayRefs names none: none is made"
                .to_owned(),
        );
        extension = RoutingExtension::None;
    }
    let wanted = context.base.pool.is_some() || context.base.has_builtin_epp();
    Routing {
        extension,
        pool_version: served.inference_pool.filter(|_| wanted),
    }
}

/// Gateways among the refs that live in the ModelService's namespace.
fn own_gateways(context: &Context<'_>) -> Vec<String> {
    let own = context.namespace.as_deref();
    context
        .ms
        .spec
        .routing
        .gateway_refs
        .iter()
        .filter(|reference| reference.namespace.is_none() || reference.namespace.as_deref() == own)
        .map(|reference| reference.name.clone())
        .collect()
}

/// The HTTPRoute, and the EnvoyFilter that switches the EPP on for it.
pub(super) fn route(
    context: &Context<'_>,
    routing: &mut Routing,
    decode: Option<&mut Workload>,
    epp: Option<&Workload>,
    warnings: &mut Vec<String>,
) -> (Option<HTTPRoute>, Option<EnvoyFilterPlan>) {
    let references = &context.ms.spec.routing.gateway_refs;
    if context.base.route.is_none() && references.is_empty() {
        return (None, None);
    }
    if !context.resolved.served.http_route {
        warnings.push(
            "the cluster does not serve gateway.networking.k8s.io/v1: no HTTPRoute is made"
                .to_owned(),
        );
        if routing.extension == RoutingExtension::EnvoyFilter {
            routing.extension = RoutingExtension::None;
        }
        return (None, None);
    }
    let mut route = context
        .base
        .route
        .clone()
        .unwrap_or_else(|| HTTPRoute::new("", crate::api::foreign::HTTPRouteSpec::default()));
    route.metadata.name = Some(names::http_route(&context.name));
    route.metadata.namespace.clone_from(&context.namespace);
    merge_parents(context, &mut route.spec.parent_refs, references);
    let by_service = routing.extension == RoutingExtension::EnvoyFilter;
    let has_rules = route
        .spec
        .rules
        .as_ref()
        .is_some_and(|rules| !rules.is_empty());
    if !has_rules && !context.resolved.route_rules_foreign {
        let to_service = by_service || routing.pool_version.is_none() || epp.is_none();
        let backend = if to_service {
            decode.map(|decode| service_backend(context, decode))
        } else {
            Some(pool_backend(context, routing.pool_version))
        };
        route.spec.rules = backend.map(|backend| vec![rule(&backend)]);
        if route.spec.rules.is_none() {
            warnings.push(
                "the HTTPRoute has no rules and there is nothing to send requests to".to_owned(),
            );
        }
    }
    let envoy_filter = epp.filter(|_| by_service).and_then(|epp| {
        // What the live route says when its rules are somebody else's.
        let live = &context.resolved.route_rules;
        let rules = route.spec.rules.as_deref().unwrap_or(live);
        envoy_filter(context, rules, epp, warnings)
    });
    if envoy_filter.is_none() && by_service {
        // The EPP must not wait for a filter that does not exist.
        routing.extension = RoutingExtension::None;
    }
    (Some(route), envoy_filter)
}

/// The EnvoyFilter for the rules that lead to the decode Service; `None` where none does.
fn envoy_filter(
    context: &Context<'_>,
    rules: &[Value],
    epp: &Workload,
    warnings: &mut Vec<String>,
) -> Option<EnvoyFilterPlan> {
    let namespace = context.namespace.as_deref().unwrap_or("default");
    let route_name = names::http_route(&context.name);
    let service = names::service(&context.name, Role::Decode);
    let (mut route_names, mut decode_ports) = (Vec::new(), Vec::new());
    for (index, rule) in rules.iter().enumerate() {
        let ports = ports_to(rule, &service, namespace);
        if ports.is_empty() {
            continue;
        }
        // How Istio names the route of a rule: by the rule's own name where it has one.
        let name = match rule["name"].as_str().filter(|name| !name.is_empty()) {
            Some(name) => name.to_owned(),
            None => format!("{namespace}.{route_name}.{index}"),
        };
        route_names.push(name);
        for port in ports {
            if !decode_ports.contains(&port) {
                decode_ports.push(port);
            }
        }
    }
    if route_names.is_empty() {
        warnings.push(format!(
            "no rule of the HTTPRoute leads to Service {service}: no EnvoyFilter is made and the gateway does not ask the EPP"
        ));
        return None;
    }
    Some(EnvoyFilterPlan {
        gateways: own_gateways(context),
        route_names,
        epp_host: context.host(&names::epp_service(&context.name)),
        epp_replicated: epp.deployment.spec.replicas.is_some_and(|count| count > 1),
        epp_answers_pings: epp::answers_pings(epp),
        decode_host: context.host(&service),
        decode_ports,
    })
}

/// Ports of a Service that a rule sends requests to.
fn ports_to(rule: &Value, service: &str, namespace: &str) -> Vec<i32> {
    let backends = rule["backendRefs"].as_array();
    backends
        .into_iter()
        .flatten()
        .filter(|backend| {
            let is = |field: &str, default: &str, wanted: &str| {
                backend[field].as_str().unwrap_or(default) == wanted
            };
            is("kind", "Service", "Service")
                && is("group", "", "")
                && is("namespace", namespace, namespace)
                && is("name", "", service)
        })
        .filter_map(|backend| backend["port"].as_i64()?.try_into().ok())
        .collect()
}

/// The decode Service, made where the base brings none, at its first port.
fn service_backend(context: &Context<'_>, decode: &mut Workload) -> Value {
    let service = decode
        .service
        .get_or_insert_with(|| needed_decode_service(context));
    let port = first_port(service).unwrap_or(i32::from(contract::PORT_SERVING));
    json!({"name": names::service(&context.name, Role::Decode), "port": port})
}

fn pool_backend(context: &Context<'_>, version: Option<PoolVersion>) -> Value {
    let group = match version {
        Some(PoolVersion::V1Alpha2) => "inference.networking.x-k8s.io",
        _ => "inference.networking.k8s.io",
    };
    json!({
        "group": group,
        "kind": "InferencePool",
        "name": names::inference_pool(&context.name),
    })
}

/// `/` to one backend, without a time limit: an answer may stream for minutes.
fn rule(backend: &Value) -> Value {
    json!({
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": [backend],
        "timeouts": {"request": "0s"},
    })
}

fn first_port(service: &k8s_openapi::api::core::v1::Service) -> Option<i32> {
    service
        .spec
        .as_ref()?
        .ports
        .as_ref()?
        .first()
        .map(|port| port.port)
}

/// gatewayRefs over the base's parentRefs: the same parent is overlaid, others appended.
fn merge_parents(
    context: &Context<'_>,
    parents: &mut Vec<ParentReference>,
    references: &[ParentReference],
) {
    let identity = |reference: &ParentReference| {
        (
            reference
                .namespace
                .clone()
                .or_else(|| context.namespace.clone()),
            reference.name.clone(),
            reference.section_name.clone(),
            reference.port,
        )
    };
    for reference in references {
        let mut reference = reference.clone();
        reference
            .group
            .get_or_insert_with(|| GATEWAY_GROUP.to_owned());
        reference.kind.get_or_insert_with(|| "Gateway".to_owned());
        match parents
            .iter_mut()
            .find(|parent| identity(parent) == identity(&reference))
        {
            Some(parent) => *parent = reference,
            None => parents.push(reference),
        }
    }
}
