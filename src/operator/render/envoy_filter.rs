//! The Istio EnvoyFilter of one ModelService: what a client may not say is removed, the EPP
//! is asked, and a cluster obeys the EPP's header. PURE.
//!
//! Both HTTP filters have names of their own and are disabled; a patch of each route enables
//! them. So any number of ModelServices share one Gateway. The patch of the decode cluster
//! gives the destination header its meaning, with an ordinary policy below for when the EPP
//! is not there; the patch of the EPP's cluster makes the gateway notice that.

use serde_json::{Value, json};

use crate::api::foreign::{ConfigPatch, EnvoyFilter, EnvoyFilterSpec, Patch, TargetRef};
use crate::contract;
use crate::operator::children::Object;
use crate::operator::facts::{Facts, FilterFacts};
use crate::operator::names;

/// How long the EPP may take to answer a message about the answer. In full-duplex mode Envoy
/// knows no time limit for messages about the request (seen with 1.40): the limits below are
/// what ends the wait for an EPP that is gone.
const MESSAGE_TIMEOUT: &str = "2s";
/// How long a connection to the EPP may take to be made.
const CONNECT_TIMEOUT: &str = "1s";
/// How often a connection to the EPP is asked for a sign of life, and how long it may take.
/// Together the longest that a request waits for an EPP that stopped.
const PING_INTERVAL: &str = "1s";
const PING_TIMEOUT: &str = "1s";
/// How long an EPP that failed is not asked: requests go on without it at once. The first
/// time at least as long as its readiness takes to end it as an endpoint, so that it is not
/// tried in vain before; longer each time after, up to the second.
const EJECTION: &str = "10s";
const LONGEST_EJECTION: &str = "30s";

const EXT_PROC: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3";
const HEADER_MUTATION: &str =
    "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The EnvoyFilter.
pub(super) fn envoy_filter(facts: &Facts) -> Option<Object> {
    let filter = facts.routing.filter.as_ref()?;
    let identity = &facts.identity;
    let namespace = identity.namespace_or_default();
    let names = FilterNames {
        headers: format!("llm-d.headers.{namespace}.{}", identity.name),
        processor: format!("llm-d.ext_proc.{namespace}.{}", identity.name),
    };
    // Each goes directly before the router, so the one written first runs first.
    let mut patches = vec![
        before_router(headers(&names.headers)),
        before_router(processor(&names.processor, filter)),
    ];
    patches.extend(
        filter
            .route_names
            .iter()
            .map(|route| switch_on(&names, route)),
    );
    patches.push(watch_epp(filter));
    patches.extend(
        filter
            .decode_ports
            .iter()
            .map(|port| obey_header(filter, *port)),
    );
    let spec = EnvoyFilterSpec {
        target_refs: filter
            .gateways
            .iter()
            .map(|name| TargetRef {
                group: "gateway.networking.k8s.io".to_owned(),
                kind: "Gateway".to_owned(),
                name: name.clone(),
            })
            .collect(),
        config_patches: patches,
        ..EnvoyFilterSpec::default()
    };
    let mut object = EnvoyFilter::new("", spec);
    object.metadata = identity.meta(names::envoy_filter(&identity.name));
    Some(Object::EnvoyFilter(Box::new(object)))
}

/// Names of the two HTTP filters.
struct FilterNames {
    headers: String,
    processor: String,
}

fn before_router(filter: Value) -> ConfigPatch {
    patch(
        "HTTP_FILTER",
        json!({
            "context": "GATEWAY",
            "listener": {"filterChain": {"filter": {
                "name": "envoy.filters.network.http_connection_manager",
                "subFilter": {"name": "envoy.filters.http.router"},
            }}},
        }),
        "INSERT_BEFORE",
        filter,
    )
}

/// Removes what a client must not say. The EPP does that too, but requests pass without it
/// when it is away, and the sidecar and the decode cluster believe these headers. By exact
/// name: the Envoy of older Istio releases knows no other way.
fn headers(filter_name: &str) -> Value {
    let names = contract::ROUTING_HEADERS
        .iter()
        .chain(contract::CONTROL_HEADERS);
    let removals: Vec<Value> = names.map(|name| json!({"remove": name})).collect();
    json!({
        "name": filter_name,
        "disabled": true,
        "typed_config": {
            "@type": format!("{HEADER_MUTATION}.HeaderMutation"),
            "mutations": {"request_mutations": removals},
        },
    })
}

/// The external processor, disabled.
fn processor(filter_name: &str, filter: &FilterFacts) -> Value {
    let mut service = json!({
        "envoy_grpc": {
            "cluster_name": epp_cluster(filter),
            // Else it is the cluster's name, which no URI may hold.
            "authority": format!("{}:{}", filter.epp_host, contract::PORT_EPP_GRPC),
        },
    });
    if filter.epp_replicated {
        // Another replica is told what was sent so far (up to 64 KiB). With one alone the
        // pause before the second try would only spend the body.
        service["retry_policy"] = json!({
            "retry_on": "connect-failure,refused-stream,reset,unavailable",
            "num_retries": 1,
            "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        });
    }
    json!({
        "name": filter_name,
        "disabled": true,
        "typed_config": {
            "@type": format!("{EXT_PROC}.ExternalProcessor"),
            "grpc_service": service,
            // Trailers are asked for so that Envoy keeps the stream until the answer ends:
            // with nothing left to process it closes the stream at the response headers,
            // and a streamed answer would no longer count as in flight.
            "processing_mode": {
                "request_header_mode": "SEND",
                "request_body_mode": "FULL_DUPLEX_STREAMED",
                "request_trailer_mode": "SEND",
                "response_header_mode": "SEND",
                "response_body_mode": "NONE",
                "response_trailer_mode": "SEND",
            },
            "allow_mode_override": true,
            "failure_mode_allow": true,
            "message_timeout": MESSAGE_TIMEOUT,
        },
    })
}

fn epp_cluster(filter: &FilterFacts) -> String {
    format!("outbound|{}||{}", contract::PORT_EPP_GRPC, filter.epp_host)
}

/// Enables both filters for one route.
fn switch_on(names: &FilterNames, route: &str) -> ConfigPatch {
    let enabled = |config: Value| {
        json!({
            "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
            "config": config,
        })
    };
    patch(
        "HTTP_ROUTE",
        json!({
            "context": "GATEWAY",
            "routeConfiguration": {"vhost": {"route": {"name": route}}},
        }),
        "MERGE",
        json!({
            "typed_per_filter_config": {
                &names.headers: enabled(json!({
                    "@type": format!("{HEADER_MUTATION}.HeaderMutationPerRoute"),
                    "mutations": {},
                })),
                &names.processor: enabled(json!({
                    "@type": format!("{EXT_PROC}.ExtProcPerRoute"),
                    "overrides": {},
                })),
            },
        }),
    )
}

/// Makes the gateway notice an EPP that is gone, stopped or refuses, and not ask it for a
/// while. With no EPP left to ask Envoy knows that before it sends a byte of the request, so
/// the request goes on whole; after it has begun to send the body, it can only answer 500.
fn watch_epp(filter: &FilterFacts) -> ConfigPatch {
    let keepalive = if filter.epp_answers_pings {
        json!({"interval": PING_INTERVAL, "timeout": PING_TIMEOUT})
    } else {
        // Go's gRPC allows no pings but those that come with a request.
        json!({"connection_idle_interval": PING_INTERVAL, "timeout": PING_TIMEOUT})
    };
    patch(
        "CLUSTER",
        json!({"context": "GATEWAY", "cluster": {"name": epp_cluster(filter)}}),
        "MERGE",
        json!({
            "connect_timeout": CONNECT_TIMEOUT,
            "typed_extension_protocol_options": {
                HTTP_OPTIONS: {
                    "@type": format!("type.googleapis.com/{HTTP_OPTIONS}"),
                    "explicit_http_config": {
                        "http2_protocol_options": {"connection_keepalive": keepalive},
                    },
                },
            },
            "outlier_detection": {
                // One refused or lost connection is enough; an error that the EPP answers is
                // counted apart, so that a client who can cause one does not switch it off.
                "split_external_local_origin_errors": true,
                "consecutive_local_origin_failure": 1,
                "consecutive_5xx": 5,
                "interval": "1s",
                "base_ejection_time": EJECTION,
                "max_ejection_time": LONGEST_EJECTION,
                "max_ejection_percent": 100,
                // Shares of failures mean nothing among one or two replicas.
                "enforcing_success_rate": 0,
                "enforcing_local_origin_success_rate": 0,
            },
            "common_lb_config": {
                // Never ask those that are known to be gone, even when all are.
                "healthy_panic_threshold": {"value": 0},
                // Workers hear of it at once: Envoy would else hold back for a second what
                // happens within a second of the last change.
                "update_merge_window": "0s",
            },
        }),
    )
}

/// Lets the EPP's header choose the host of the decode cluster.
fn obey_header(filter: &FilterFacts, port: i32) -> ConfigPatch {
    let policy = |name: &str, message: &str, rest: Value| {
        let mut config = json!({
            "@type": format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{message}"),
        });
        if let (Some(config), Some(rest)) = (config.as_object_mut(), rest.as_object()) {
            config.extend(rest.clone());
        }
        json!({"typed_extension_config": {
            "name": format!("envoy.load_balancing_policies.{name}"),
            "typed_config": config,
        }})
    };
    let fallback = policy("least_request", "least_request.v3.LeastRequest", json!({}));
    let override_host = policy(
        "override_host",
        "override_host.v3.OverrideHost",
        json!({
            "override_host_sources": [{"header": contract::HEADER_DESTINATION}],
            "fallback_policy": {"policies": [fallback]},
        }),
    );
    patch(
        "CLUSTER",
        json!({
            "context": "GATEWAY",
            "cluster": {"name": format!("outbound|{port}||{}", filter.decode_host)},
        }),
        "MERGE",
        json!({"load_balancing_policy": {"policies": [override_host]}}),
    )
}

fn patch(apply_to: &str, matches: Value, operation: &str, value: Value) -> ConfigPatch {
    ConfigPatch {
        apply_to: apply_to.to_owned(),
        matches,
        patch: Patch {
            operation: operation.to_owned(),
            value,
        },
    }
}
