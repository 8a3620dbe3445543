//! Services -> what makes them reachable from outside the cluster, or lead there. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::{Service, ServiceSpec};

use super::{Allowed, Permission, Refusal, Refusals};

/// Looks at a Service: no address or port but those that the cluster chooses.
pub fn service(service: &Service, allowed: &Allowed) -> Vec<Refusal> {
    let mut refusals = Refusals {
        allowed,
        found: Vec::new(),
    };
    let Some(spec) = &service.spec else {
        return refusals.found;
    };
    let ServiceSpec {
        allocate_load_balancer_node_ports: _,
        cluster_ip: _,
        cluster_ips: _,
        external_ips,
        external_name,
        external_traffic_policy: _,
        health_check_node_port,
        internal_traffic_policy: _,
        ip_families: _,
        ip_family_policy: _,
        load_balancer_class,
        load_balancer_ip,
        load_balancer_source_ranges: _,
        ports,
        publish_not_ready_addresses: _,
        selector: _,
        session_affinity: _,
        session_affinity_config: _,
        traffic_distribution: _,
        type_,
    } = spec;
    let mut add = |field, what: String| {
        refusals.add(Permission::ExternalServices, None, field, what);
    };
    match type_.as_deref() {
        // A node port of the cluster's choice: public presets ask for one.
        None | Some("" | "ClusterIP" | "NodePort") => {}
        Some(other) => add("type", format!("a Service of type {other}")),
    }
    if let Some(addresses) = external_ips.as_ref().filter(|list| !list.is_empty()) {
        add(
            "externalIPs",
            format!("the external addresses {}", addresses.join(", ")),
        );
    }
    if let Some(name) = external_name {
        add("externalName", format!("the external name {name}"));
    }
    if let Some(class) = load_balancer_class {
        add(
            "loadBalancerClass",
            format!("the load balancer class {class}"),
        );
    }
    if let Some(address) = load_balancer_ip {
        add(
            "loadBalancerIP",
            format!("the load balancer address {address}"),
        );
    }
    let node_ports = ports.iter().flatten().filter_map(|port| port.node_port);
    for port in node_ports
        .chain(*health_check_node_port)
        .filter(|port| *port != 0)
    {
        add("nodePort", format!("the node port {port}"));
    }
    refusals.found
}
