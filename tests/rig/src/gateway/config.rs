//! Gateways, HTTPRoutes, Services and ready pods -> Envoy resources with istiod's names. PURE
//! on the objects it is given.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::{CLASS, Listen};
use crate::paths::Paths;
use crate::world::World;

/// One Gateway in Envoy's terms.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub(super) namespace: String,
    pub(super) gateway: String,
    /// Name in the Gateway's spec.
    pub(super) section: String,
    pub(super) port: u16,
    pub(super) listen: Listen,
    /// HTTP filters in order; the router is last.
    pub(super) filters: Vec<Value>,
    pub(super) routes: Vec<Value>,
    /// HTTPRoutes attached: `namespace/name`.
    pub(super) attached: Vec<String>,
}

impl Listen {
    /// Where another listener of this port listens.
    fn beside(&self, port: u16) -> Self {
        match self {
            Self::Address(address) => Self::Address(SocketAddr::new(address.ip(), port)),
            Self::Socket(path) => Self::Socket(path.with_extension(port.to_string())),
        }
    }

    fn envoy(&self) -> Value {
        match self {
            Self::Address(address) => json!({"socket_address": {
                "address": address.ip().to_string(), "port_value": address.port()}}),
            Self::Socket(path) => json!({"pipe": {"path": path}}),
        }
    }

    /// As Envoy's administration page tells it.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Address(address) => address.to_string(),
            Self::Socket(path) => path.display().to_string(),
        }
    }

    /// The address that clients use.
    pub(super) fn ip(&self) -> IpAddr {
        match self {
            Self::Address(address) => address.ip(),
            Self::Socket(_) => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

/// Everything Envoy is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    pub(super) listeners: Vec<Listener>,
    pub(super) clusters: BTreeMap<String, Value>,
    pub(super) endpoints: BTreeMap<String, Vec<SocketAddr>>,
    pub(super) access_log: String,
}

/// The name istiod gives to one port of a Service.
pub(super) fn cluster_name(port: i32, service: &str, namespace: &str) -> String {
    format!("outbound|{port}||{service}.{namespace}.svc.cluster.local")
}

pub(super) fn build(world: &World, listen: &Listen, paths: &Paths) -> Config {
    let mut config = Config {
        access_log: paths.logs().join("envoy-access.log").display().to_string(),
        ..Config::default()
    };
    for service in world.services.state() {
        for port in service
            .spec
            .iter()
            .flat_map(|spec| spec.ports.iter().flatten())
        {
            let name = cluster_name(
                port.port,
                &service.name_any(),
                &service.namespace().unwrap_or_default(),
            );
            config
                .clusters
                .insert(name.clone(), cluster(&name, &service, port));
            config
                .endpoints
                .insert(name, world.endpoints(&service, port));
        }
    }
    let routes = world.foreign("HTTPRoute");
    for gateway in world.foreign("Gateway") {
        if gateway.data["spec"]["gatewayClassName"] != CLASS {
            continue;
        }
        for spec in gateway.data["spec"]["listeners"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let port = spec["port"]
                .as_u64()
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or(80);
            // The first listener has the address that was announced; others follow beside it.
            let place = if config.listeners.is_empty() {
                listen.clone()
            } else {
                listen.beside(port)
            };
            config
                .listeners
                .push(listener(&gateway, spec, port, place, &routes));
        }
    }
    config
}

fn cluster(name: &str, service: &Service, port: &ServicePort) -> Value {
    let mut cluster = json!({
        "name": name, "type": "EDS", "connect_timeout": "10s", "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [{"max_connections": 4_294_967_295_u32, "max_pending_requests": 4_294_967_295_u32, "max_requests": 4_294_967_295_u32, "max_retries": 4_294_967_295_u32}]},
    });
    let named = port.name.as_deref().unwrap_or_default();
    let http2 = matches!(
        port.app_protocol.as_deref(),
        Some("http2" | "grpc" | "kubernetes.io/h2c")
    ) || (port.app_protocol.is_none()
        && ["grpc", "http2"]
            .iter()
            .any(|prefix| named == *prefix || named.starts_with(&format!("{prefix}-"))));
    if http2 {
        cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }});
    }
    let _ = service;
    cluster
}

fn filter(name: &str, kind: &str) -> Value {
    json!({"name": name, "typed_config": {"@type": format!("type.googleapis.com/{kind}")}})
}

fn listener(
    gateway: &DynamicObject,
    spec: &Value,
    port: u16,
    listen: Listen,
    routes: &[std::sync::Arc<DynamicObject>],
) -> Listener {
    let (namespace, name) = (gateway.namespace().unwrap_or_default(), gateway.name_any());
    let section = spec["name"].as_str().unwrap_or_default().to_owned();
    let mut listener = Listener {
        namespace: namespace.clone(),
        gateway: name.clone(),
        section: section.clone(),
        port,
        listen,
        filters: vec![
            filter(
                "envoy.filters.http.grpc_stats",
                "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
            ),
            filter(
                "envoy.filters.http.fault",
                "envoy.extensions.filters.http.fault.v3.HTTPFault",
            ),
            filter(
                "envoy.filters.http.cors",
                "envoy.extensions.filters.http.cors.v3.Cors",
            ),
            filter(
                "envoy.filters.http.router",
                "envoy.extensions.filters.http.router.v3.Router",
            ),
        ],
        routes: Vec::new(),
        attached: Vec::new(),
    };
    for route in routes {
        let parents = route.data["spec"]["parentRefs"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let mine = parents.iter().any(|parent| {
            parent["name"] == name.as_str()
                && parent["namespace"]
                    .as_str()
                    .unwrap_or(&route.namespace().unwrap_or_default())
                    == namespace
                && parent["sectionName"]
                    .as_str()
                    .is_none_or(|wanted| wanted == section)
        });
        let from_same = spec["allowedRoutes"]["namespaces"]["from"]
            .as_str()
            .unwrap_or("Same")
            == "Same";
        if !mine || (from_same && route.namespace().as_deref() != Some(&namespace)) {
            continue;
        }
        listener.attached.push(format!(
            "{}/{}",
            route.namespace().unwrap_or_default(),
            route.name_any()
        ));
        listener.routes.extend(envoy_routes(route));
    }
    listener
}

fn envoy_routes(route: &DynamicObject) -> Vec<Value> {
    let mut out = Vec::new();
    let namespace = route.namespace().unwrap_or_default();
    for (index, rule) in route.data["spec"]["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let name = rule["name"].as_str().map_or_else(
            || format!("{namespace}.{}.{index}", route.name_any()),
            str::to_owned,
        );
        let any = vec![json!({"path": {"type": "PathPrefix", "value": "/"}})];
        let matches = rule["matches"]
            .as_array()
            .filter(|all| !all.is_empty())
            .cloned()
            .unwrap_or(any);
        for one in &matches {
            let mut entry = json!({"name": name, "match": envoy_match(one)});
            let backends = rule["backendRefs"].as_array().cloned().unwrap_or_default();
            if let [backend] = backends.as_slice() {
                entry["route"] = json!({"cluster": backend_cluster(backend, &namespace)});
            } else if backends.is_empty() {
                entry["direct_response"] = json!({"status": 500});
            } else {
                let weighted: Vec<_> = backends
                    .iter()
                    .map(|backend| json!({"name": backend_cluster(backend, &namespace), "weight": backend["weight"].as_u64().unwrap_or(1)}))
                    .collect();
                entry["route"] = json!({"weighted_clusters": {"clusters": weighted}});
            }
            if entry["route"].is_object() {
                entry["route"]["timeout"] = json!(seconds(
                    rule["timeouts"]["request"].as_str().unwrap_or("0s")
                ));
                entry["route"]["retry_policy"] = json!({
                    "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                    "num_retries": 2, "host_selection_retry_max_attempts": "5",
                    "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}],
                });
            }
            out.push(entry);
        }
    }
    out
}

fn backend_cluster(backend: &Value, namespace: &str) -> String {
    let port = backend["port"]
        .as_i64()
        .and_then(|port| i32::try_from(port).ok())
        .unwrap_or_default();
    let namespace = backend["namespace"].as_str().unwrap_or(namespace);
    cluster_name(
        port,
        backend["name"].as_str().unwrap_or_default(),
        namespace,
    )
}

fn envoy_match(one: &Value) -> Value {
    let value = one["path"]["value"].as_str().unwrap_or("/");
    let mut found = match one["path"]["type"].as_str().unwrap_or("PathPrefix") {
        "Exact" => json!({"path": value}),
        "RegularExpression" => json!({"safe_regex": {"regex": value}}),
        _ if value == "/" => json!({"prefix": "/"}),
        _ => json!({"path_separated_prefix": value.trim_end_matches('/')}),
    };
    let mut headers: Vec<Value> = one["headers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|header| json!({"name": header["name"], "string_match": {"exact": header["value"]}}))
        .collect();
    if let Some(method) = one["method"].as_str() {
        headers.push(json!({"name": ":method", "string_match": {"exact": method}}));
    }
    if !headers.is_empty() {
        found["headers"] = headers.into();
    }
    found
}

/// Gateway API durations (`1h30m`, `500ms`) in Envoy's form.
fn seconds(text: &str) -> String {
    let (mut total_ms, mut digits, mut rest) = (0.0, String::new(), text.chars().peekable());
    while let Some(c) = rest.next() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let number: f64 = digits.parse().unwrap_or(0.0);
        digits.clear();
        total_ms += number
            * match c {
                'h' => 3_600_000.0,
                'm' if rest.next_if_eq(&'s').is_some() => 1.0,
                'm' => 60_000.0,
                _ => 1000.0,
            };
    }
    format!("{}s", total_ms / 1000.0)
}

impl Config {
    /// LDS resources.
    pub(super) fn lds(&self, rds_file: impl Fn(&Listener) -> String) -> Vec<Value> {
        let listener = |listener: &Listener| {
            json!({
                "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
                "name": format!("{}_{}", Ipv4Addr::UNSPECIFIED, listener.port),
                "address": listener.listen.envoy(),
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.http_connection_manager",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                        "stat_prefix": format!("outbound_0.0.0.0_{}", listener.port),
                        "generate_request_id": true, "preserve_external_request_id": true,
                        "rds": {
                            "route_config_name": format!("http.{}", listener.port),
                            "config_source": {"path_config_source": {"path": rds_file(listener)}},
                        },
                        "http_filters": listener.filters,
                        "access_log": [{"name": "envoy.access_loggers.file", "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                            "path": self.access_log,
                            "log_format": {"json_format": {
                                "time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(:PATH)%",
                                "status": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "details": "%RESPONSE_CODE_DETAILS%",
                                "upstream": "%UPSTREAM_HOST%", "route": "%ROUTE_NAME%", "duration_ms": "%DURATION%",
                                "request_id": "%REQ(X-REQUEST-ID)%", "destination": "%REQ(X-GATEWAY-DESTINATION-ENDPOINT)%",
                            }},
                        }}],
                    },
                }]}],
            })
        };
        self.listeners.iter().map(listener).collect()
    }

    /// The route configuration of one listener.
    pub(super) fn rds(listener: &Listener) -> Value {
        json!({
            "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            "name": format!("http.{}", listener.port),
            "virtual_hosts": [{"name": format!("*:{}", listener.port), "domains": ["*"], "routes": listener.routes}],
        })
    }

    /// The endpoints of one cluster.
    pub(super) fn eds(name: &str, endpoints: &[SocketAddr]) -> Value {
        let hosts: Vec<_> = endpoints
            .iter()
            .map(|address| json!({"endpoint": {"address": {"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}}}}))
            .collect();
        json!({
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": name, "endpoints": [{"lb_endpoints": hosts}],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_the_gateway_api_become_envoys() {
        assert_eq!(seconds("0s"), "0s");
        assert_eq!(seconds("1m30s"), "90s");
        assert_eq!(seconds("500ms"), "0.5s");
    }
}
