//! What users write, in the forms they write it in, and what comes of it: ports, forms,
//! inheritance, devices, rollouts, platforms.

use serde_json::{Value, json};

use super::view::{View, plan};
use super::*;
use crate::operator::children::{ChildKey, Object};
use crate::operator::resolved::{BaseConfig, ElderRoute, LiveEngines, PoolVersion};
use crate::operator::{events, status};

/// A service `m` of these parts over this base, on a cluster with everything.
fn made(spec: Value, base: &[(&str, &str)]) -> View {
    made_on(Served::default(), spec, base)
}

fn made_on(served: Served, spec: Value, base: &[(&str, &str)]) -> View {
    let mut ms = json!({
        "apiVersion": "llm-d.ai/v1alpha1", "kind": "ModelService",
        "metadata": {"name": "m", "namespace": "ns"},
        "spec": {"modelArtifacts": {"uri": "hf://o/m"}, "routing": {"modelName": "o/m"}},
    });
    for (key, value) in spec.as_object().unwrap() {
        ms["spec"][key] = value.clone();
    }
    let data = base.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let resolved = Resolved {
        base: Some(BaseConfig {
            namespace: "ns".to_owned(),
            name: "b".to_owned(),
            data: data.collect(),
        }),
        served: Served {
            inference_pool: Some(PoolVersion::V1),
            http_route: true,
            ..served
        },
        ..Resolved::default()
    };
    let ms = serde_json::from_value(ms).unwrap();
    plan(&Settings::default(), &ms, &resolved).unwrap()
}

fn child(view: &View, key: ChildKey) -> Value {
    view.children.get(key).map_or(Value::Null, Object::to_value)
}

fn pod(view: &View, key: ChildKey) -> Value {
    child(view, key)["spec"]["template"]["spec"].clone()
}

/// A container or native sidecar by name.
fn container(view: &View, key: ChildKey, name: &str) -> Value {
    let pod = pod(view, key);
    let lists = ["containers", "initContainers"];
    let mut all = lists
        .iter()
        .filter_map(|list| pod[list].as_array())
        .flatten();
    all.find(|c| c["name"] == name).cloned().unwrap_or_default()
}

fn told(view: &View, text: &str) -> bool {
    view.warnings.iter().any(|warning| warning.contains(text))
}

const GPU: &str = "nvidia.com/gpu";

#[test]
fn everything_follows_the_ports_that_flags_say() {
    let spec = json!({
        "decode": {}, "prefill": {},
        "routing": {"modelName": "o/m", "ports": [{"name": "app", "port": 8080}, {"name": "in", "port": 8200}]},
    });
    let base = "containers:\n- name: routing-proxy\n  image: s\n  args: [\"--port={{ \"app\" | getPort }}\", \"--vllm-port={{ \"in\" | getPort }}\"]\n- name: vllm\n  image: v\n  args: [\"--port\", \"{{ \"in\" | getPort }}\"]\n";
    let epp = "env: [{name: ENABLE_KVCACHE_AWARE_SCORER, value: true}]";
    let view = made(spec, &[("decodeDeployment", base), ("eppDeployment", epp)]);
    let engine = container(&view, ChildKey::DecodeDeployment, "vllm");
    let sidecar = container(&view, ChildKey::DecodeDeployment, "routing-proxy");
    let prefill = container(&view, ChildKey::PrefillDeployment, "vllm");
    for (container, port) in [(&engine, 8200), (&sidecar, 8080), (&prefill, 8080)] {
        assert_eq!(container["ports"][0]["containerPort"], port);
        assert_eq!(container["readinessProbe"]["httpGet"]["port"], port);
    }
    for key in [
        ChildKey::DecodeService,
        ChildKey::PrefillService,
        ChildKey::PrefillPods,
    ] {
        assert_eq!(
            child(&view, key)["spec"]["ports"][0]["targetPort"],
            8080,
            "{key:?}"
        );
    }
    let pool = child(&view, ChildKey::InferencePool);
    assert_eq!(pool["spec"]["targetPorts"][0]["number"], 8080);
    assert!(engine["args"].to_string().contains("kv@$(POD_IP):8080@o/m"));
    assert!(prefill["args"].to_string().contains("--port=8080"));
    assert!(!prefill["args"].to_string().contains("8200"));
    assert!(
        view.warnings.iter().all(|w| w.contains("shorthand")),
        "{:?}",
        view.warnings
    );
}

#[test]
fn ports_of_commands_of_the_users_own_are_read_and_scripts_are_left_alone() {
    for (command, port, added) in [
        ("[vllm, serve, m]", 8001, true),
        (
            "[python3, -m, vllm.entrypoints.openai.api_server, --port, \"9\"]",
            9,
            false,
        ),
        ("[sh, -c, \"exec vllm serve m --port 9100\"]", 9100, false),
        ("[python3, -m, sglang.launch_server]", 30000, false),
    ] {
        let base = format!("containers:\n- name: vllm\n  image: v\n  command: {command}\n");
        let view = made(json!({"decode": {}}), &[("decodeDeployment", &base)]);
        let engine = container(&view, ChildKey::DecodeDeployment, "vllm");
        let probe = &engine["readinessProbe"]["httpGet"]["port"];
        assert_eq!(probe, port, "{command}");
        assert_eq!(
            engine["args"].to_string().contains("--port="),
            added,
            "{command}"
        );
        let sidecar = container(&view, ChildKey::DecodeDeployment, "routing-proxy");
        let wanted = format!("--vllm-port={port}");
        assert!(sidecar["args"].to_string().contains(&wanted), "{command}");
    }
    let script =
        "containers:\n- name: vllm\n  image: v\n  command: [sh, -c, \"./run.sh --port $P\"]\n";
    let view = made(json!({"decode": {}}), &[("decodeDeployment", script)]);
    assert!(
        told(&view, "does not tell its port; 8001 is assumed"),
        "{:?}",
        view.warnings
    );
}

#[test]
fn ports_that_contradict_each_other_are_told() {
    let base = "containers:\n- name: routing-proxy\n  args: [--vllm-port=8200]\n- name: vllm\n  args: [--port=8300]\n";
    let view = made(json!({"decode": {}}), &[("decodeDeployment", base)]);
    assert!(told(
        &view,
        "forwards to port 8200, but the engine listens on 8300"
    ));
    let base = "containers:\n- name: vllm\n  args: [--port=8000]\n";
    let view = made(json!({"decode": {}}), &[("decodeDeployment", base)]);
    assert!(told(&view, "both listen on port 8000"));
}

#[test]
fn a_full_deployment_that_only_holds_args_is_filled() {
    let base = "spec:\n  template:\n    spec:\n      containers:\n      - name: vllm\n        args: [--max-model-len, \"4096\"]\n";
    let view = made(
        json!({"decode": {}, "prefill": {}}),
        &[("decodeDeployment", base)],
    );
    let engine = container(&view, ChildKey::DecodeDeployment, "vllm");
    assert_eq!(engine["command"], json!(["vllm", "serve"]));
    assert_eq!(engine["args"][0], "o/m");
    assert!(!container(&view, ChildKey::DecodeDeployment, "routing-proxy").is_null());
    assert!(view.epp.is_some() && view.pool.is_some());
    assert!(told(&view, "has neither image nor command"));
}

#[test]
fn keys_of_a_deployment_can_be_said_in_shorthand() {
    let base = "strategy: {type: Recreate}\nprogressDeadlineSeconds: 3600\nminReadySeconds: 5\nannotations: {a: b}\nlabels: {c: d}\ncontainers: [{name: vllm}]\n";
    let epp = "replicas: 2\nsecurityContext: {fsGroup: 1}\n";
    let view = made(
        json!({"decode": {}}),
        &[("decodeDeployment", base), ("eppDeployment", epp)],
    );
    let spec = child(&view, ChildKey::DecodeDeployment)["spec"].clone();
    assert_eq!(spec["strategy"]["type"], "Recreate");
    assert_eq!(spec["progressDeadlineSeconds"], 3600);
    assert_eq!(spec["minReadySeconds"], 5);
    assert_eq!(spec["template"]["metadata"]["annotations"]["a"], "b");
    assert_eq!(spec["template"]["metadata"]["labels"]["c"], "d");
    assert_eq!(child(&view, ChildKey::EppDeployment)["spec"]["replicas"], 2);
    let pod = pod(&view, ChildKey::EppDeployment);
    assert_eq!(pod["securityContext"]["fsGroup"], 1);
}

#[test]
fn keys_that_nobody_reads_are_told_with_the_nearest_name() {
    let base = [
        ("decodeDeploymnet", "containers: []"),
        ("epp", "env: []"),
        ("notes", "x"),
    ];
    let view = made(json!({"decode": {}}), &base);
    assert!(told(
        &view,
        "the key decodeDeploymnet: did you mean decodeDeployment?"
    ));
    assert!(told(&view, "the key epp: did you mean eppDeployment?"));
    assert!(told(
        &view,
        "the key notes: known keys are configMaps, decodeDeployment"
    ));
}

#[test]
fn findings_survive_an_error() {
    let ms = json!({
        "apiVersion": "llm-d.ai/v1alpha1", "kind": "ModelService",
        "metadata": {"name": "m", "namespace": "ns"},
        "spec": {"modelArtifacts": {"uri": "hf://o/m"}, "routing": {"modelName": "o/m"}},
    });
    let data = [("decodeDeploymnet", "x"), ("decodeDeployment", "spec: [")];
    let data = data.map(|(k, v)| (k.to_owned(), v.to_owned()));
    let resolved = Resolved {
        base: Some(BaseConfig {
            data: data.into(),
            ..BaseConfig::default()
        }),
        ..Resolved::default()
    };
    let mut findings = Vec::new();
    let ms = serde_json::from_value(ms).unwrap();
    let error = decide(&Settings::default(), &ms, &resolved, &mut findings).unwrap_err();
    let now = jiff::Timestamp::UNIX_EPOCH.into();
    let status = status::compute(&ms, None, Some(&error.into()), &findings, &now);
    let conditions = status.conditions.iter();
    let base = conditions.clone().find(|c| c.type_ == "BaseConfigResolved");
    let message = &base.unwrap().message;
    assert!(message.contains("not valid YAML"), "{message}");
    assert!(
        message.contains("did you mean decodeDeployment?"),
        "{message}"
    );
    // One mistake is one event, though a condition that sums up says less.
    assert_eq!(events::between(None, &status).len(), 1);
}

#[test]
fn a_prefill_role_without_a_base_takes_the_decode_pod() {
    let base = "tolerations: [{key: gpu, operator: Exists}]\nnodeSelector: {pool: a}\nruntimeClassName: nvidia\nimagePullSecrets: [{name: mirror}]\nvolumes: [{name: v, emptyDir: {}}]\ncontainers:\n- name: routing-proxy\n  image: s\n- name: vllm\n  image: v:1\n  envFrom: [{secretRef: {name: s}}]\n  volumeMounts: [{name: v, mountPath: /v}]\n";
    let gpus = json!({"limits": {GPU: "2"}, "requests": {GPU: "2"}});
    let spec = json!({
        "decode": {
            "containers": [{"name": "vllm", "resources": gpus}],
            "acceleratorTypes": {"labelKey": "gpu", "labelValues": ["h100"]},
        },
        "prefill": {},
    });
    let view = made(spec, &[("decodeDeployment", base)]);
    let pod = pod(&view, ChildKey::PrefillDeployment);
    assert_eq!(pod["tolerations"][0]["key"], "gpu");
    assert_eq!(pod["nodeSelector"]["pool"], "a");
    assert_eq!(pod["runtimeClassName"], "nvidia");
    assert_eq!(pod["imagePullSecrets"][0]["name"], "mirror");
    assert!(pod["affinity"].to_string().contains("h100"));
    let engine = container(&view, ChildKey::PrefillDeployment, "vllm");
    assert_eq!(engine["image"], "v:1");
    assert_eq!(engine["resources"], gpus);
    assert_eq!(engine["envFrom"][0]["secretRef"]["name"], "s");
    assert_eq!(engine["volumeMounts"][0]["mountPath"], "/v");
    assert!(container(&view, ChildKey::PrefillDeployment, "routing-proxy").is_null());
}

#[test]
fn limits_and_requests_of_devices_stay_equal() {
    let base = "spec:\n  template:\n    spec:\n      containers:\n      - name: vllm\n        image: v\n        resources: {limits: {nvidia.com/gpu: 1}, requests: {cpu: 16, nvidia.com/gpu: 1}}\n";
    for overlay in [
        json!({"limits": {GPU: "8"}}),
        json!({"requests": {GPU: "8"}}),
    ] {
        let decode = json!({
            "parallelism": {"tensor": 8},
            "containers": [{"name": "vllm", "resources": overlay}],
        });
        let view = made(json!({"decode": decode}), &[("decodeDeployment", base)]);
        let engine = container(&view, ChildKey::DecodeDeployment, "vllm");
        assert_eq!(engine["resources"]["limits"][GPU], "8");
        assert_eq!(engine["resources"]["requests"][GPU], "8");
        assert_eq!(engine["resources"]["requests"]["cpu"], "16");
        assert!(told(&view, "spec.decode.parallelism has no effect"));
    }
}

#[test]
fn no_gpu_is_added_beside_another_device() {
    for resources in [
        json!({"limits": {"habana.ai/gaudi": "2"}}),
        json!({"limits": {"nvidia.com/mig-3g.40gb": "1"}}),
        json!({"claims": [{"name": "gpu"}]}),
    ] {
        let decode = json!({
            "parallelism": {"tensor": 2},
            "containers": [{"name": "vllm", "resources": resources}],
        });
        let view = made(json!({"decode": decode}), &[]);
        let engine = container(&view, ChildKey::DecodeDeployment, "vllm");
        assert_eq!(
            engine["resources"]["limits"][GPU],
            Value::Null,
            "{resources}"
        );
    }
    // A network device is no accelerator.
    let decode = json!({
        "parallelism": {"tensor": 2},
        "containers": [{"name": "vllm", "resources": {"limits": {"rdma/ib": "1"}}}],
    });
    let view = made(json!({"decode": decode}), &[]);
    let engine = container(&view, ChildKey::DecodeDeployment, "vllm");
    assert_eq!(engine["resources"]["limits"][GPU], "2");
}

#[test]
fn a_rollout_waits_for_the_model_and_needs_no_spare_gpu() {
    let view = made(json!({"decode": {"parallelism": {"tensor": 1}}}), &[]);
    let spec = child(&view, ChildKey::DecodeDeployment)["spec"].clone();
    assert_eq!(spec["strategy"]["rollingUpdate"]["maxSurge"], 0);
    assert_eq!(spec["progressDeadlineSeconds"], 4200);
    let without = made(json!({"decode": {}}), &[]);
    assert!(child(&without, ChildKey::DecodeDeployment)["spec"]["strategy"].is_null());
    let full = "spec:\n  progressDeadlineSeconds: 12\n  template:\n    spec:\n      containers:\n      - name: vllm\n        image: v\n        startupProbe: {httpGet: {path: /, port: 1}, periodSeconds: 5, failureThreshold: 720}\n";
    let view = made(json!({"decode": {}}), &[("decodeDeployment", full)]);
    assert!(
        told(
            &view,
            "(line 2): a rollout is given up after 12 s, but the startup probe gives the engine 3600 s"
        ),
        "{:?}",
        view.warnings
    );
}

#[test]
fn every_pod_is_restricted_and_openshift_chooses_the_users() {
    let epp =
        "env: [{name: KVCACHE_INDEXER_REDIS_ADDR, value: \"llm-d-operator-redis-master.ns:8100\"}]";
    let pods = |openshift| {
        let served = Served {
            openshift,
            ..Served::default()
        };
        let spec = json!({"decode": {}, "prefill": {}});
        let view = made_on(served, spec, &[("eppDeployment", epp)]);
        let keys = [
            ChildKey::DecodeDeployment,
            ChildKey::PrefillDeployment,
            ChildKey::EppDeployment,
            ChildKey::RedisDeployment,
        ];
        keys.map(|key| pod(&view, key))
    };
    for pod in pods(false).into_iter().chain(pods(true)) {
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{pod}");
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        let lists = ["containers", "initContainers"];
        for container in lists
            .iter()
            .filter_map(|list| pod[list].as_array())
            .flatten()
        {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{container}");
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        }
    }
    let text = serde_json::to_string(&pods(true)).unwrap();
    assert!(!text.contains("runAsUser"), "{text}");
    // An image of ours has a user of its own.
    assert!(pods(false)[2]["securityContext"]["runAsUser"].is_null());
}

#[test]
fn who_runs_as_root_says_so_and_may() {
    let base = "containers:\n- name: vllm\n  securityContext: {runAsUser: 0}\n";
    let view = made(json!({"decode": {}}), &[("decodeDeployment", base)]);
    assert!(pod(&view, ChildKey::DecodeDeployment)["securityContext"].is_null());
}

#[test]
fn a_base_route_to_the_old_pool_leads_to_the_one_that_is_made() {
    let pool =
        "apiVersion: inference.networking.x-k8s.io/v1alpha2\nspec: {targetPortNumber: 8000}\n";
    let route = "spec:\n  rules:\n  - backendRefs:\n    - {group: inference.networking.x-k8s.io, kind: InferencePool, name: \"{{ .InferencePoolName }}\", port: 8000}\n";
    let base = [
        ("inferencePool", pool),
        ("httpRoute", route),
        ("inferenceModel", "spec: {}"),
    ];
    let view = made(json!({"decode": {}}), &base);
    let route = child(&view, ChildKey::HttpRoute);
    assert_eq!(
        route["spec"]["rules"][0]["backendRefs"][0]["group"],
        "inference.networking.k8s.io"
    );
    assert!(told(
        &view,
        "has an inferenceModel, but the cluster does not serve"
    ));
}

#[test]
fn what_cannot_act_or_is_not_rendered_is_told() {
    let full = "spec: {template: {spec: {containers: [{name: main, image: v}]}}}";
    let view = made(json!({"decode": {}}), &[("decodeDeployment", full)]);
    assert!(
        told(&view, "no container is named vllm, but main"),
        "{:?}",
        view.warnings
    );
    let decode = json!({"containers": [{"name": "vllm", "image": "{{ .X }}"}]});
    let view = made(json!({"decode": decode}), &[]);
    assert!(told(
        &view,
        "spec.decode.containers[vllm].image holds {{ }}"
    ));
    let flags = "containers:\n- name: vllm\n  args:\n  - --enable-prefix-caching\n  - --prefix-caching-hash-algo=builtin\n";
    let view = made(json!({"decode": {}}), &[("decodeDeployment", flags)]);
    assert!(
        told(
            &view,
            "decodeDeployment (line 5): --prefix-caching-hash-algo: vLLM from 0.32 on has no \"builtin\""
        ),
        "{:?}",
        view.warnings
    );
}

fn live(labels: &[(&str, &str)], template: &[(&str, &str)], rolled_out: bool) -> LiveEngines {
    let map = |labels: &[(&str, &str)]| {
        let pairs = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        pairs.collect()
    };
    LiveEngines {
        selector: map(labels),
        template_labels: map(template),
        rolled_out,
    }
}

/// Selector of the Deployment, labels of its pods, selector of Service and pool: whether each
/// tells whose the pods are.
fn tells(live_decode: Option<LiveEngines>, namesakes: &[&str]) -> [bool; 4] {
    let ms = json!({
        "apiVersion": "llm-d.ai/v1alpha1", "kind": "ModelService",
        "metadata": {"name": "m", "namespace": "ns"},
        "spec": {"modelArtifacts": {"uri": "hf://o/m"}, "routing": {"modelName": "o/m"}, "decode": {}},
    });
    let resolved = Resolved {
        served: Served {
            inference_pool: Some(PoolVersion::V1),
            ..Served::default()
        },
        live_decode,
        namesakes: namesakes.iter().map(|name| (*name).to_owned()).collect(),
        ..Resolved::default()
    };
    let ms = serde_json::from_value(ms).unwrap();
    let view = plan(&Settings::default(), &ms, &resolved).unwrap();
    let deployment = child(&view, ChildKey::DecodeDeployment);
    let says = |labels: &Value| labels["llm-d.ai/modelservice"] == "m";
    [
        says(&deployment["spec"]["selector"]["matchLabels"]),
        says(&deployment["spec"]["template"]["metadata"]["labels"]),
        says(&child(&view, ChildKey::DecodeService)["spec"]["selector"]),
        says(&child(&view, ChildKey::InferencePool)["spec"]["selector"]["matchLabels"]),
    ]
}

#[test]
fn pods_are_told_apart_by_their_modelservice() {
    assert_eq!(tells(None, &[]), [true; 4]);
    assert_eq!(tells(None, &["other"]), [true; 4]);
}

#[test]
fn engines_made_before_the_label_keep_serving_while_they_get_it() {
    let old = [("llm-d.ai/model", "o-m"), ("llm-d.ai/role", "decode")];
    let new = [old[0], old[1], ("llm-d.ai/modelservice", "m")];
    // Alone, nothing is touched: no pod is restarted.
    assert_eq!(tells(Some(live(&old, &old, true)), &[]), [false; 4]);
    // A namesake comes: the pods roll, and Services wait for them.
    let namesake = &["other"][..];
    let moving = [false, true, false, false];
    assert_eq!(tells(Some(live(&old, &old, true)), namesake), moving);
    assert_eq!(tells(Some(live(&old, &new, false)), namesake), moving);
    let moved = [false, true, true, true];
    assert_eq!(tells(Some(live(&old, &new, true)), namesake), moved);
    // And stay so when the namesake goes.
    assert_eq!(tells(Some(live(&old, &new, true)), &[]), moved);
    assert_eq!(tells(Some(live(&new, &new, false)), &[]), [true; 4]);
}

#[test]
fn a_route_that_an_older_one_takes_every_request_from_is_told() {
    let shadowed = |base: &[(&str, &str)], elder: Value| {
        let ms = json!({
            "apiVersion": "llm-d.ai/v1alpha1", "kind": "ModelService",
            "metadata": {"name": "m", "namespace": "ns"},
            "spec": {
                "modelArtifacts": {"uri": "hf://o/m"}, "decode": {},
                "routing": {"modelName": "o/m", "gatewayRefs": [{"name": "gw"}]},
            },
        });
        let data = base.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let resolved = Resolved {
            base: Some(BaseConfig {
                data: data.collect(),
                ..BaseConfig::default()
            }),
            served: Served {
                inference_pool: Some(PoolVersion::V1),
                http_route: true,
                ..Served::default()
            },
            elder_route: Some(ElderRoute {
                route: "ns/old-http-route".to_owned(),
                modelservice: "old".to_owned(),
                gateway: "ns/gw".to_owned(),
                hostnames: Vec::new(),
                rules: vec![elder],
            }),
            ..Resolved::default()
        };
        let ms = serde_json::from_value(ms).unwrap();
        let view = plan(&Settings::default(), &ms, &resolved).unwrap();
        view.facts.routing.shadowed.clone()
    };
    let text = shadowed(&[], json!({})).unwrap();
    assert!(
        text.starts_with("HTTPRoute ns/old-http-route of ModelService old is older"),
        "{text}"
    );
    let other = json!({"matches": [{"path": {"type": "PathPrefix", "value": "/old"}}]});
    assert_eq!(shadowed(&[], other), None);
    let hosts = [("httpRoute", "spec: {hostnames: [b.example.com]}")];
    assert_eq!(shadowed(&hosts, json!({})), None);
}
