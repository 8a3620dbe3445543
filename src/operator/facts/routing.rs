//! gatewayRefs, base route and what the cluster serves -> how requests get from the
//! gateway to the EPP and on to the engines. PURE.
#![deny(clippy::disallowed_methods)]

use serde_json::{Value, json};

use super::{Context, Engines, Epp};
use crate::api::foreign::HTTPRoute;
use crate::api::modelservice::{ParentReference, RoutingExtension};
use crate::operator::builtin;
use crate::operator::finding::Finding;
use crate::operator::names::{self, Role};
use crate::operator::resolved::{ElderRoute, PoolVersion};

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// Controllers whose gateways read EnvoyFilters.
const ISTIO_CONTROLLER: &str = "istio.io/";

/// How requests get from the gateway to the EPP and on to the engines.
#[derive(Clone, Debug)]
pub struct Routing {
    /// How the gateway is made to ask the EPP; never `Auto`.
    pub extension: RoutingExtension,
    /// The InferencePool is rendered in this version.
    pub pool_version: Option<PoolVersion>,
    /// The port on which endpoints serve, as the EPP names them to gateway and sidecar.
    pub serving_port: u16,
    /// The HTTPRoute; `None` where nobody asks for one, or the cluster knows none.
    pub route: Option<RouteFacts>,
    /// The EnvoyFilter that switches the EPP on for it.
    pub filter: Option<FilterFacts>,
    /// Why requests for `/` reach somebody else, where they do.
    pub shadowed: Option<String>,
    /// The body mode of the ext_proc filter that asks the EPP on our behalf, if one does.
    pub managed_body_mode: Option<&'static str>,
}

/// The HTTPRoute.
#[derive(Clone, Debug)]
pub struct RouteFacts {
    /// The base's parents and `gatewayRefs`.
    pub parents: Vec<ParentReference>,
    /// Its rules; `None` where they are somebody else's, or lead nowhere.
    pub rules: Option<Vec<Value>>,
}

/// What the EnvoyFilter is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterFacts {
    /// Gateways, in the ModelService's namespace.
    pub gateways: Vec<String>,
    /// Names Istio gives to the routes that lead to the decode Service.
    pub route_names: Vec<String>,
    /// Host name of the EPP's Service.
    pub epp_host: String,
    /// There are several replicas of the EPP.
    pub epp_replicated: bool,
    /// The EPP may be asked at any time whether it lives.
    pub epp_answers_pings: bool,
    /// Host name of the decode Service.
    pub decode_host: String,
    /// Ports of the decode Service that those routes lead to, each once.
    pub decode_ports: Vec<i32>,
}

/// Decides all of it. A decode Service that is routed to and that nobody wrote is made.
pub(super) fn decide(
    context: &Context<'_>,
    decode: Option<&mut Engines>,
    epp: Option<&Epp>,
    serving_port: u16,
    findings: &mut Vec<Finding>,
) -> Routing {
    let served = context.resolved.served;
    let wanted = context.base.pool.is_some() || context.base.has_builtin_epp();
    if context.base.model.is_some() && !served.inference_model {
        let text = "the base config has an inferenceModel, but the cluster does not serve \
                    inference.networking.x-k8s.io/v1alpha2: none is made";
        findings.push(Finding::new(text).detail("InferencePool v1 needs none"));
    }
    let mut routing = Routing {
        extension: extension(context, findings),
        pool_version: served.inference_pool.filter(|_| wanted),
        serving_port,
        route: None,
        filter: None,
        shadowed: None,
        managed_body_mode: None,
    };
    route(context, &mut routing, decode, epp, findings);
    let builtin_epp = context.base.has_builtin_epp();
    routing.managed_body_mode = match routing.extension {
        RoutingExtension::EnvoyFilter => Some("FULL_DUPLEX_STREAMED"),
        // Gateways that know InferencePools use this mode; a base that brings its own
        // EPP says itself what it wants.
        RoutingExtension::InferencePool if builtin_epp && routing.pool_version.is_some() => {
            Some("FULL_DUPLEX_STREAMED")
        }
        _ => None,
    };
    routing
}

fn extension(context: &Context<'_>, findings: &mut Vec<Finding>) -> RoutingExtension {
    let served = context.resolved.served;
    let asked = context.ms.spec.routing.extension.unwrap_or_default();
    let istio = context.resolved.gateways.iter().any(|gateway| {
        gateway
            .controller
            .as_deref()
            .is_some_and(|c| c.starts_with(ISTIO_CONTROLLER))
    });
    let extension = match asked {
        RoutingExtension::Auto if served.envoy_filter && istio => RoutingExtension::EnvoyFilter,
        RoutingExtension::Auto if served.inference_pool.is_some() => {
            RoutingExtension::InferencePool
        }
        RoutingExtension::Auto => RoutingExtension::None,
        other => other,
    };
    if extension != RoutingExtension::EnvoyFilter {
        return extension;
    }
    if !served.envoy_filter {
        findings.push(Finding::new("spec.routing.extension is EnvoyFilter, but the cluster does not serve networking.istio.io/v1alpha3: none is made"));
        return RoutingExtension::None;
    }
    if own_gateways(context).is_empty() {
        findings.push(Finding::new(
            "an EnvoyFilter reaches only Gateways of its own namespace, and spec.routing.gatewayRefs names none: none is made",
        ));
        return RoutingExtension::None;
    }
    extension
}

/// Gateways among the refs that live in the ModelService's namespace.
fn own_gateways(context: &Context<'_>) -> Vec<String> {
    let own = context.identity.namespace.as_deref();
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
fn route(
    context: &Context<'_>,
    routing: &mut Routing,
    decode: Option<&mut Engines>,
    epp: Option<&Epp>,
    findings: &mut Vec<Finding>,
) {
    let references = &context.ms.spec.routing.gateway_refs;
    let base = context.base.route.as_ref();
    if base.is_none() && references.is_empty() {
        return;
    }
    let by_service = routing.extension == RoutingExtension::EnvoyFilter;
    if !context.resolved.served.http_route {
        findings.push(Finding::new(
            "the cluster does not serve gateway.networking.k8s.io/v1: no HTTPRoute is made",
        ));
        if by_service {
            routing.extension = RoutingExtension::None;
        }
        return;
    }
    let mut parents = base.map_or_else(Vec::new, |route| route.spec.parent_refs.clone());
    merge_parents(context, &mut parents, references);
    let mut rules = base.and_then(|route| route.spec.rules.clone());
    for rule in rules.iter_mut().flatten() {
        drop_name(rule, findings);
        convert_pools(context, routing.pool_version, rule, findings);
    }
    let has_rules = rules.as_ref().is_some_and(|rules| !rules.is_empty());
    if !has_rules && !context.resolved.route_rules_foreign {
        let to_service = by_service || routing.pool_version.is_none() || epp.is_none();
        let backend = if to_service {
            decode.map(|decode| service_backend(context, decode))
        } else {
            Some(pool_backend(context, routing.pool_version))
        };
        rules = backend.map(|backend| vec![rule(&backend)]);
        if rules.is_none() {
            findings.push(Finding::new(
                "the HTTPRoute has no rules and there is nothing to send requests to",
            ));
        }
    }
    routing.filter = epp.filter(|_| by_service).and_then(|epp| {
        // What the live route says when its rules are somebody else's.
        let live = &context.resolved.route_rules;
        filter(context, rules.as_deref().unwrap_or(live), epp, findings)
    });
    if routing.filter.is_none() && by_service {
        // The EPP must not wait for a filter that does not exist.
        routing.extension = RoutingExtension::None;
    }
    let own_hostnames = base.map_or_else(Vec::new, hostnames);
    let live = &context.resolved.route_rules;
    let own_rules = rules.as_deref().unwrap_or(live);
    let elder = context.resolved.elder_route.as_ref();
    routing.shadowed = elder.and_then(|elder| shadowed(&own_hostnames, own_rules, elder));
    routing.route = Some(RouteFacts { parents, rules });
}

/// Host names of a route; empty for all.
pub fn hostnames(route: &HTTPRoute) -> Vec<String> {
    let names = route.spec.rest.get("hostnames").and_then(Value::as_array);
    let names = names.into_iter().flatten().filter_map(Value::as_str);
    names.map(str::to_owned).collect()
}

/// Of two routes that match the same requests, the older one wins all of them.
fn shadowed(hostnames: &[String], rules: &[Value], elder: &ElderRoute) -> Option<String> {
    let same_hosts = hostnames.is_empty() == elder.hostnames.is_empty()
        && (hostnames.is_empty() || hostnames.iter().all(|name| elder.hostnames.contains(name)));
    let lost: Vec<Value> = elder.rules.iter().flat_map(matches).collect();
    let mut own = rules.iter().flat_map(matches).peekable();
    let loses = same_hosts && own.peek().is_some() && own.all(|one| lost.contains(&one));
    loses.then(|| {
        format!(
            "HTTPRoute {} of ModelService {} is older and matches the same requests on Gateway {}: \
             none reaches this model. Give the routes different hostnames or matches, in the \
             httpRoute of a base config, or use another Gateway",
            elder.route, elder.modelservice, elder.gateway
        )
    })
}

/// What a rule matches, with the defaults of the Gateway API.
fn matches(rule: &Value) -> Vec<Value> {
    let path = json!({"type": "PathPrefix", "value": "/"});
    let written = rule["matches"].as_array().filter(|all| !all.is_empty());
    let all = written.cloned().unwrap_or_else(|| vec![json!({})]);
    let with_path = all.into_iter().map(|mut one| {
        if one["path"].is_null() {
            one["path"] = path.clone();
        }
        one
    });
    with_path.collect()
}

/// The EnvoyFilter for the rules that lead to the decode Service; `None` where none does.
fn filter(
    context: &Context<'_>,
    rules: &[Value],
    epp: &Epp,
    findings: &mut Vec<Finding>,
) -> Option<FilterFacts> {
    let identity = &context.identity;
    let namespace = identity.namespace_or_default();
    let route_name = names::http_route(&identity.name);
    let service = names::service(&identity.name, Role::Decode);
    let (mut route_names, mut decode_ports) = (Vec::new(), Vec::new());
    for (index, rule) in rules.iter().enumerate() {
        let ports = ports_to(rule, &service, namespace);
        if ports.is_empty() {
            continue;
        }
        // Istio names the route of a rule after the rule where it has a name. Such a name is
        // nobody's alone, so a filter that looks for it could find another's route.
        if let Some(name) = rule["name"].as_str().filter(|name| !name.is_empty()) {
            let text = format!(
                "a rule of the live HTTPRoute {route_name} has the name {name}: no EnvoyFilter is made"
            );
            let detail =
                "take the rule's name away, so that the gateway's route has one of its own";
            findings.push(Finding::new(text).detail(detail));
            return None;
        }
        route_names.push(format!("{namespace}.{route_name}.{index}"));
        for port in ports {
            if !decode_ports.contains(&port) {
                decode_ports.push(port);
            }
        }
    }
    if route_names.is_empty() {
        findings.push(Finding::new(format!(
            "no rule of the HTTPRoute leads to Service {service}: no EnvoyFilter is made and the gateway does not ask the EPP"
        )));
        return None;
    }
    Some(FilterFacts {
        gateways: own_gateways(context),
        route_names,
        epp_host: identity.host(&names::epp_service(&identity.name)),
        epp_replicated: epp.replicated,
        epp_answers_pings: epp.answers_pings,
        decode_host: identity.host(&service),
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

/// The decode Service, made where nobody wrote one, at its first port.
fn service_backend(context: &Context<'_>, decode: &mut Engines) -> Value {
    let serving = decode.ports.serving;
    let service = decode
        .service
        .get_or_insert_with(|| builtin::role_service(serving));
    let port = first_port(service).unwrap_or(i32::from(serving));
    json!({"name": names::service(&context.identity.name, Role::Decode), "port": port})
}

fn pool_backend(context: &Context<'_>, version: Option<PoolVersion>) -> Value {
    let group = pool_group(version.unwrap_or(PoolVersion::V1));
    json!({
        "group": group,
        "kind": "InferencePool",
        "name": names::inference_pool(&context.identity.name),
    })
}

/// Istio names a gateway's routes after their rules, and its filters find routes by name: a rule
/// with another route's name would pull the EPP's filter onto that route.
fn drop_name(rule: &mut Value, findings: &mut Vec<Finding>) {
    let name = rule.as_object_mut().and_then(|rule| rule.remove("name"));
    if let Some(name) = name.filter(|name| *name != "") {
        let text = format!("the name {name} of a rule of the httpRoute was dropped");
        let detail = "routes of a gateway are found by such names, and this one may be another's";
        findings.push(Finding::new(text).detail(detail));
    }
}

/// Backends of a rule that are this ModelService's pool get the group of the version in which
/// the pool is made.
fn convert_pools(
    context: &Context<'_>,
    version: Option<PoolVersion>,
    rule: &mut Value,
    findings: &mut Vec<Finding>,
) {
    let pool = names::inference_pool(&context.identity.name);
    let backends = rule.get_mut("backendRefs").and_then(Value::as_array_mut);
    for backend in backends.into_iter().flatten() {
        if backend["kind"] != "InferencePool" || backend["name"] != pool.as_str() {
            continue;
        }
        match version {
            Some(version) => backend["group"] = json!(pool_group(version)),
            None => findings.push(
                Finding::new(format!(
                    "a rule of the httpRoute leads to InferencePool {pool}, which is not made"
                ))
                .detail("the cluster serves no InferencePool; install its CRD"),
            ),
        }
    }
}

fn pool_group(version: PoolVersion) -> &'static str {
    match version {
        PoolVersion::V1 => "inference.networking.k8s.io",
        PoolVersion::V1Alpha2 => "inference.networking.x-k8s.io",
    }
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
                .or_else(|| context.identity.namespace.clone()),
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
