//! Each kind of reach alone, all of it together, and what engines need.

use serde_json::{Value, json};

use super::*;

fn refused(template: &Value, allowed: &Allowed) -> Vec<Refusal> {
    let meta = serde_json::from_value(template["metadata"].clone()).ok();
    let mut spec = template["spec"].clone();
    if spec["containers"].is_null() {
        spec["containers"] = json!([]);
    }
    super::pod(
        meta.as_ref(),
        &serde_json::from_value(spec).unwrap(),
        allowed,
    )
}

fn in_container(field: &str, value: Value) -> Value {
    let mut container = json!({"name": "c"});
    container[field] = value;
    json!({"spec": {"containers": [container]}})
}

fn in_volume(kind: &str, value: Value) -> Value {
    let mut volume = json!({"name": "v"});
    volume[kind] = value;
    json!({"spec": {"volumes": [volume]}})
}

fn security(value: Value) -> Value {
    in_container("securityContext", value)
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<(Permission, Value)> {
    let projected = |source: Value| in_volume("projected", json!({"sources": [source]}));
    let annotated =
        |name: &str, value: &str| json!({"metadata": {"annotations": {name: value}}, "spec": {}});
    let probe = json!({"httpGet": {"host": "169.254.169.254", "port": 80}});
    vec![
        (
            Permission::HostNamespaces,
            json!({"spec": {"hostNetwork": true}}),
        ),
        (
            Permission::HostNamespaces,
            json!({"spec": {"hostPID": true}}),
        ),
        (
            Permission::HostNamespaces,
            json!({"spec": {"hostIPC": true}}),
        ),
        (
            Permission::HostPath,
            in_volume("hostPath", json!({"path": "/"})),
        ),
        (
            Permission::HostPort,
            in_container("ports", json!([{"containerPort": 1, "hostPort": 2}])),
        ),
        (
            Permission::Privileged,
            security(json!({"privileged": true})),
        ),
        (
            Permission::Privileged,
            security(json!({"procMount": "Unmasked"})),
        ),
        (
            Permission::Privileged,
            security(json!({"windowsOptions": {"hostProcess": true}})),
        ),
        (
            Permission::Capabilities,
            security(json!({"capabilities": {"add": ["IPC_LOCK"]}})),
        ),
        (
            Permission::Profiles,
            security(json!({"seccompProfile": {"type": "Unconfined"}})),
        ),
        (
            Permission::Profiles,
            security(json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": "x"}})),
        ),
        (
            Permission::Profiles,
            json!({"spec": {"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "../x"}}}}),
        ),
        (
            Permission::Profiles,
            annotated(
                "container.apparmor.security.beta.kubernetes.io/c",
                "unconfined",
            ),
        ),
        (
            Permission::SeLinux,
            security(json!({"seLinuxOptions": {"type": "spc_t"}})),
        ),
        (
            Permission::SeLinux,
            security(json!({"seLinuxOptions": {"user": "u"}})),
        ),
        (
            Permission::Sysctls,
            json!({"spec": {"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}}),
        ),
        (
            Permission::NodeName,
            json!({"spec": {"nodeName": "control-plane-1"}}),
        ),
        (
            Permission::SystemPriority,
            json!({"spec": {"priorityClassName": "system-node-critical"}}),
        ),
        (
            Permission::ControlPlane,
            json!({"spec": {"tolerations": [{"operator": "Exists"}]}}),
        ),
        (
            Permission::ControlPlane,
            json!({"spec": {"tolerations": [{"key": "node-role.kubernetes.io/control-plane"}]}}),
        ),
        (
            Permission::ProbeHost,
            in_container("livenessProbe", probe.clone()),
        ),
        (
            Permission::ProbeHost,
            in_container(
                "readinessProbe",
                json!({"tcpSocket": {"host": "h", "port": 1}}),
            ),
        ),
        (
            Permission::ProbeHost,
            in_container("lifecycle", json!({"postStart": probe})),
        ),
        (
            Permission::NetworkVolumes,
            in_volume("nfs", json!({"server": "s", "path": "/"})),
        ),
        (
            Permission::NetworkVolumes,
            in_volume("iscsi", json!({"targetPortal": "p", "iqn": "i", "lun": 0})),
        ),
        (
            Permission::NetworkVolumes,
            in_volume("flexVolume", json!({"driver": "d"})),
        ),
        (
            Permission::NetworkVolumes,
            in_volume("gitRepo", json!({"repository": "r"})),
        ),
        (
            Permission::InlineCsi,
            in_volume("csi", json!({"driver": "d"})),
        ),
        (
            Permission::RawDevices,
            in_container(
                "volumeDevices",
                json!([{"name": "n", "devicePath": "/dev/sda"}]),
            ),
        ),
        (
            Permission::TokenAudience,
            projected(json!({"serviceAccountToken": {"audience": "sts", "path": "t"}})),
        ),
        (
            Permission::TokenAudience,
            projected(json!({"clusterTrustBundle": {"name": "a", "path": "b"}})),
        ),
        (
            Permission::Annotations,
            annotated("k8s.v1.cni.cncf.io/networks", "kube-system/host"),
        ),
        (
            Permission::Annotations,
            annotated("io.kubernetes.cri-o.userns-mode", "auto"),
        ),
    ]
}

#[test]
fn each_kind_alone_is_refused_and_permitted_by_its_name() {
    for (permission, template) in cases() {
        let found = refused(&template, &Allowed::default());
        let kinds: Vec<_> = found.iter().map(|refusal| refusal.permission).collect();
        assert_eq!(kinds, [permission], "{template}: {found:?}");
        let own = [permission].into_iter().collect();
        assert!(refused(&template, &own).is_empty(), "{template}");
        let mut others: Allowed = Permission::ALL
            .iter()
            .copied()
            .filter(|p| *p != permission)
            .collect();
        assert_eq!(refused(&template, &others).len(), 1, "{template}");
        others.permit(permission);
        assert_eq!(others, Allowed::all());
    }
    let told: std::collections::BTreeSet<_> = cases().into_iter().map(|(p, _)| p).collect();
    // Services have a test of their own.
    assert_eq!(told.len() + 1, Permission::ALL.len());
}

#[test]
fn what_engines_need_is_not_refused() {
    let template = json!({
        "metadata": {"annotations": {"prometheus.io/scrape": "true"}},
        "spec": {
            "runtimeClassName": "nvidia", "shareProcessNamespace": true, "hostUsers": false,
            "priorityClassName": "inference", "schedulerName": "volcano",
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}],
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "securityContext": {"runAsUser": 0, "fsGroup": 1, "supplementalGroups": [44]},
            "volumes": [
                {"name": "a", "persistentVolumeClaim": {"claimName": "weights"}},
                {"name": "b", "emptyDir": {"medium": "Memory"}},
                {"name": "c", "image": {"reference": "r"}},
                {"name": "d", "secret": {"secretName": "hf"}},
                {"name": "e", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
            ],
            "containers": [{
                "name": "vllm", "livenessProbe": {"httpGet": {"path": "/health", "port": 8000}},
                "securityContext": {"runAsUser": 0, "capabilities": {"add": ["NET_BIND_SERVICE"]}},
            }],
        },
    });
    assert_eq!(refused(&template, &Allowed::default()), []);
}

#[test]
fn services_stay_inside_the_cluster() {
    let look = |spec: Value, allowed: &Allowed| {
        super::service(
            &serde_json::from_value(json!({"spec": spec})).unwrap(),
            allowed,
        )
    };
    for spec in [
        json!({"type": "LoadBalancer"}),
        json!({"type": "ExternalName", "externalName": "x"}),
        json!({"externalIPs": ["10.96.0.1"]}),
        json!({"ports": [{"port": 1, "nodePort": 30443}]}),
        json!({"loadBalancerIP": "1.2.3.4"}),
    ] {
        assert!(
            !look(spec.clone(), &Allowed::default()).is_empty(),
            "{spec}"
        );
        let own = [Permission::ExternalServices].into_iter().collect();
        assert!(look(spec, &own).is_empty());
    }
    for spec in [
        json!({"clusterIP": "None"}),
        json!({"type": "NodePort"}),
        json!({"type": "ClusterIP", "ports": [{"port": 80}]}),
    ] {
        assert_eq!(look(spec, &Allowed::default()), []);
    }
}
