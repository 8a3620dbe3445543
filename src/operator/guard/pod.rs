//! A pod template -> what it asks for beyond its containers and namespace. PURE.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::{
    Container, Lifecycle, LifecycleHandler, PodSpec, Probe, Toleration,
};
use kube::core::ObjectMeta;

use super::{Allowed, Permission, Refusal, Refusals, security, volume};

/// Where AppArmor and seccomp profiles were written before the fields existed.
const PROFILE_ANNOTATIONS: &[&str] = &[
    "container.apparmor.security.beta.kubernetes.io/",
    "seccomp.security.alpha.kubernetes.io/",
    "container.seccomp.security.alpha.kubernetes.io/",
];
/// Annotations by which a pod gets other networks, or a container runtime instructions.
const REACHING_ANNOTATIONS: &[&str] = &[
    "k8s.v1.cni.cncf.io/",
    "v1.multus-cni.io/",
    "io.kubernetes.cri-o.",
    "io.containerd.",
    "io.katacontainers.",
    "kubernetes.io/config.",
];
/// Taints of nodes that run the cluster itself.
const CONTROL_PLANE_TAINTS: &[&str] = &[
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
    "node-role.kubernetes.io/etcd",
];

/// Looks at a pod template: everything it asks for, in a fixed order.
pub fn pod(meta: Option<&ObjectMeta>, pod: &PodSpec, allowed: &Allowed) -> Vec<Refusal> {
    let mut refusals = Refusals {
        allowed,
        found: Vec::new(),
    };
    let PodSpec {
        containers,
        init_containers,
        ephemeral_containers,
        host_ipc,
        host_network,
        host_pid,
        node_name,
        priority,
        priority_class_name,
        security_context,
        tolerations,
        volumes,
        // Names of the pod and how it finds others.
        dns_config: _,
        dns_policy: _,
        enable_service_links: _,
        host_aliases: _,
        hostname: _,
        hostname_override: _,
        set_hostname_as_fqdn: _,
        subdomain: _,
        // Where the scheduler puts it, and when. A runtime class and claims are how devices are had.
        affinity: _,
        node_selector: _,
        overhead: _,
        preemption_policy: _,
        readiness_gates: _,
        resource_claims: _,
        resources: _,
        runtime_class_name: _,
        scheduler_name: _,
        scheduling_gates: _,
        scheduling_group: _,
        topology_spread_constraints: _,
        // How long it lives.
        active_deadline_seconds: _,
        eviction_responders: _,
        restart_policy: _,
        termination_grace_period_seconds: _,
        // The operator's own account is put in their place.
        automount_service_account_token: _,
        service_account: _,
        service_account_name: _,
        // `true` is the default, `false` is safer; what is shared is the pod's own.
        host_users: _,
        image_pull_secrets: _,
        os: _,
        share_process_namespace: _,
    } = pod;
    for (asked, field) in [
        (host_network, "hostNetwork"),
        (host_pid, "hostPID"),
        (host_ipc, "hostIPC"),
    ] {
        if *asked == Some(true) {
            refusals.add(Permission::HostNamespaces, None, field, field);
        }
    }
    for one in volumes.iter().flatten() {
        volume::volume(one, &mut refusals);
    }
    if let Some(context) = security_context {
        security::of_pod(context, &mut refusals);
    }
    if let Some(node) = node_name.as_deref().filter(|node| !node.is_empty()) {
        let what = format!("the node {node} by name");
        refusals.add(Permission::NodeName, None, "nodeName", what);
    }
    let class = priority_class_name.as_deref().unwrap_or_default();
    if class.starts_with("system-") {
        let what = format!("the priority class {class}");
        refusals.add(Permission::SystemPriority, None, "priorityClassName", what);
    }
    if let Some(priority) = priority.filter(|priority| *priority > 1_000_000_000) {
        let what = format!("the priority {priority}");
        refusals.add(Permission::SystemPriority, None, "priority", what);
    }
    for toleration in tolerations.iter().flatten() {
        tolerates(toleration, &mut refusals);
    }
    for one in containers.iter().chain(init_containers.iter().flatten()) {
        container(one, &mut refusals);
    }
    for one in ephemeral_containers.iter().flatten() {
        // They are added to running pods only; a template that has one is odd in any case.
        let what = format!("the ephemeral container {:?}", one.name);
        refusals.add(Permission::Privileged, None, "ephemeralContainers", what);
    }
    annotations(meta, &mut refusals);
    refusals.found
}

fn tolerates(toleration: &Toleration, refusals: &mut Refusals<'_>) {
    let key = toleration.key.as_deref().unwrap_or_default();
    let what = if key.is_empty() {
        "a toleration of every taint".to_owned()
    } else if CONTROL_PLANE_TAINTS.contains(&key) {
        format!("a toleration of {key}")
    } else {
        return;
    };
    refusals.add(Permission::ControlPlane, None, "tolerations", what);
}

fn container(container: &Container, refusals: &mut Refusals<'_>) {
    let Container {
        name,
        lifecycle,
        liveness_probe,
        ports,
        readiness_probe,
        security_context,
        startup_probe,
        volume_devices,
        // What runs, with what, and how it is restarted.
        args: _,
        command: _,
        env: _,
        env_from: _,
        image: _,
        image_pull_policy: _,
        resize_policy: _,
        resources: _,
        restart_policy: _,
        restart_policy_rules: _,
        stdin: _,
        stdin_once: _,
        termination_message_path: _,
        termination_message_policy: _,
        tty: _,
        volume_mounts: _,
        working_dir: _,
    } = container;
    if let Some(context) = security_context {
        security::of_container(context, name, refusals);
    }
    let host_ports = ports.iter().flatten().filter_map(|port| port.host_port);
    for port in host_ports.filter(|port| *port != 0) {
        let what = format!("hostPort {port}");
        refusals.add(Permission::HostPort, Some(name), "hostPort", what);
    }
    for device in volume_devices.iter().flatten() {
        let what = format!("the block device {}", device.device_path);
        refusals.add(Permission::RawDevices, Some(name), "volumeDevices", what);
    }
    for (probe, field) in [
        (startup_probe, "startupProbe"),
        (readiness_probe, "readinessProbe"),
        (liveness_probe, "livenessProbe"),
    ] {
        let host = probe.as_ref().and_then(probe_host);
        asks(host, name, field, refusals);
    }
    if let Some(lifecycle) = lifecycle {
        let Lifecycle {
            post_start,
            pre_stop,
            stop_signal: _,
        } = lifecycle;
        for handler in [post_start, pre_stop].into_iter().flatten() {
            asks(handler_host(handler), name, "lifecycle", refusals);
        }
    }
}

/// A request that the kubelet would send, with the node's network, to a host of the author's choice.
fn asks(host: Option<&str>, container: &str, field: &'static str, refusals: &mut Refusals<'_>) {
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        let what = format!("a {field} that asks the host {host}");
        refusals.add(Permission::ProbeHost, Some(container), field, what);
    }
}

fn probe_host(probe: &Probe) -> Option<&str> {
    let http = probe.http_get.as_ref().and_then(|get| get.host.as_deref());
    http.or_else(|| probe.tcp_socket.as_ref()?.host.as_deref())
}

fn handler_host(handler: &LifecycleHandler) -> Option<&str> {
    let http = handler
        .http_get
        .as_ref()
        .and_then(|get| get.host.as_deref());
    http.or_else(|| handler.tcp_socket.as_ref()?.host.as_deref())
}

fn annotations(meta: Option<&ObjectMeta>, refusals: &mut Refusals<'_>) {
    let all = meta.and_then(|meta| meta.annotations.as_ref());
    for (name, value) in all.into_iter().flatten() {
        let begins = |list: &[&str]| list.iter().any(|prefix| name.starts_with(prefix));
        if begins(PROFILE_ANNOTATIONS) && !value.contains("runtime/default") {
            let what = format!("an {value} profile (annotation {name})");
            refusals.add(Permission::Profiles, None, "annotations", what);
        }
        if begins(REACHING_ANNOTATIONS) {
            let what = format!("the annotation {name}");
            refusals.add(Permission::Annotations, None, "annotations", what);
        }
    }
}
