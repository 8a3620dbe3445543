//! The Istio EnvoyFilter of one ModelService: its external processor, switched on for its
//! own routes only, and a cluster that obeys the EPP's header. PURE.
//!
//! The filter has a name of its own and is disabled; a patch of each route enables it. So
//! any number of ModelServices share one Gateway. The cluster patch gives the destination
//! header its meaning, with an ordinary policy below for when the EPP is not there.

use serde_json::{Value, json};

use super::accounts::meta;
use crate::api::foreign::{ConfigPatch, EnvoyFilter, EnvoyFilterSpec, Patch, TargetRef};
use crate::contract;
use crate::operator::children::Object;
use crate::operator::names;
use crate::operator::plan::{EnvoyFilterPlan, Plan};

/// How long the EPP may take to answer one message before the gateway goes on without it.
const MESSAGE_TIMEOUT: &str = "2s";

const EXT_PROC: &str = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3";

/// The EnvoyFilter.
pub(super) fn envoy_filter(plan: &Plan, filter: &EnvoyFilterPlan) -> Object {
    let namespace = plan.namespace.as_deref().unwrap_or("default");
    let filter_name = format!("llm-d.ext_proc.{namespace}.{}", plan.name);
    let mut patches = vec![processor(&filter_name, filter)];
    patches.extend(
        filter
            .route_names
            .iter()
            .map(|route| switch_on(&filter_name, route)),
    );
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
    object.metadata = meta(plan, names::envoy_filter(&plan.name));
    Object::EnvoyFilter(Box::new(object))
}

/// The external processor, in front of the router and disabled.
fn processor(filter_name: &str, filter: &EnvoyFilterPlan) -> ConfigPatch {
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
        json!({
            "name": filter_name,
            "disabled": true,
            "typed_config": {
                "@type": format!("{EXT_PROC}.ExternalProcessor"),
                "grpc_service": {
                    "envoy_grpc": {
                        "cluster_name":
                            format!("outbound|{}||{}", contract::PORT_EPP_GRPC, filter.epp_host),
                    },
                },
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
        }),
    )
}

/// Enables the processor for one route.
fn switch_on(filter_name: &str, route: &str) -> ConfigPatch {
    patch(
        "HTTP_ROUTE",
        json!({
            "context": "GATEWAY",
            "routeConfiguration": {"vhost": {"route": {"name": route}}},
        }),
        "MERGE",
        json!({
            "typed_per_filter_config": {
                filter_name: {
                    "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
                    "config": {"@type": format!("{EXT_PROC}.ExtProcPerRoute"), "overrides": {}},
                },
            },
        }),
    )
}

/// Lets the EPP's header choose the host of the decode cluster.
fn obey_header(filter: &EnvoyFilterPlan, port: i32) -> ConfigPatch {
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
