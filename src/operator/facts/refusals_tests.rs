//! What a plan refuses, and in which words; what it derives from rules, ports and
//! ConfigMaps. Beside `tests`, which shows whole plans.

use k8s_openapi::api::core::v1::EnvVar;
use serde_json::{Value, json};

use super::view::{View, Workload, plan};
use super::*;
use crate::contract;
use crate::operator::resolved::{
    BaseConfig, GatewayFacts, Generated, PoolVersion, RedisFacts, Served,
};

/// A base of full Deployments, as the Go operator's users have.
const OLD_DECODE: &str = "\
apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      containers:
      - name: vllm
        image: engine:1
        command: [vllm, serve]
";
const OLD_EPP: &str = "\
apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      containers:
      - name: epp
        image: epp:1
        env:
        - name: ENABLE_LOAD_AWARE_SCORER
          value: true
";

fn model_service() -> ModelService {
    serde_json::from_value(json!({
        "apiVersion": "llm-d.ai/v1alpha1", "kind": "ModelService",
        "metadata": {"name": "m", "namespace": "ns"},
        "spec": {
            "modelArtifacts": {"uri": "hf://org/model"},
            "routing": {"modelName": "org/model", "gatewayRefs": [{"name": "gw"}]},
            "decode": {"replicas": 2},
        },
    }))
    .unwrap()
}

fn resolved(values: &[(&str, &str)]) -> Resolved {
    Resolved {
        base: Some(BaseConfig {
            namespace: "ns".to_owned(),
            name: "base".to_owned(),
            data: values
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }),
        served: Served {
            inference_pool: Some(PoolVersion::V1),
            inference_model: false,
            http_route: true,
            envoy_filter: true,
            openshift: false,
        },
        gateways: vec![GatewayFacts {
            namespace: "ns".to_owned(),
            name: "gw".to_owned(),
            class: Some("istio".to_owned()),
            controller: Some("istio.io/gateway-controller".to_owned()),
        }],
        redis: RedisFacts {
            password: Some(Generated("pass".to_owned())),
            foreign_service: false,
        },
        ..Resolved::default()
    }
}

fn planned(values: &[(&str, &str)]) -> Result<View, Error> {
    plan(&Settings::default(), &model_service(), &resolved(values))
}

fn refusal(values: &[(&str, &str)]) -> (String, &'static str) {
    let error = planned(values).unwrap_err();
    (error.to_string(), error.reason())
}

fn env(workload: &Workload, container: &str) -> Vec<EnvVar> {
    let pod = workload.deployment.spec.template.spec.as_ref().unwrap();
    let container = pod.containers.iter().find(|c| c.name == container).unwrap();
    container.env.clone().unwrap_or_default()
}

fn value(workload: &Workload, container: &str, name: &str) -> Option<String> {
    let entry = env(workload, container)
        .into_iter()
        .find(|e| e.name == name);
    entry.and_then(|entry| entry.value)
}

// === where a mistake is ===

#[test]
fn a_wrong_setting_of_the_base_names_config_map_key_and_line() {
    let epp = "env:\n- name: ENABLE_LOAD_AWARE_SCORER\n  value: true\n- name: LOAD_AWARE_SCORER_WEIGHT\n  value: -1\n";
    let (text, _) = refusal(&[("eppDeployment", epp)]);
    assert!(
        text.starts_with("ConfigMap ns/base: eppDeployment, container epp, env LOAD_AWARE_SCORER_WEIGHT: \"-1\" is negative")
            && text.ends_with("(line 4)"),
        "{text}"
    );
}

#[test]
fn a_wrong_setting_of_the_modelservice_does_not_blame_the_base() {
    let mut ms = model_service();
    ms.spec.endpoint_picker = serde_json::from_value(json!({"containers": [
        {"name": "epp", "env": [{"name": "LOAD_AWARE_SCORER_WEIGHT", "value": "-1"}]},
    ]}))
    .unwrap();
    let base = resolved(&[(
        "eppDeployment",
        "env:\n- name: LOAD_AWARE_SCORER_WEIGHT\n  value: 2\n",
    )]);
    let error = plan(&Settings::default(), &ms, &base).unwrap_err();
    assert!(
        error.to_string().starts_with(
            "ModelService: spec.endpointPicker.containers[epp].env[LOAD_AWARE_SCORER_WEIGHT]: "
        ),
        "{error}"
    );
    assert!(!error.blames_base_config());
}

#[test]
fn only_mistakes_of_the_base_blame_it() {
    let mut ms = model_service();
    ms.spec.model_artifacts.uri = "s3://bucket".to_owned();
    let error = plan(&Settings::default(), &ms, &resolved(&[])).unwrap_err();
    assert!(!error.blames_base_config(), "{error}");
    let error = planned(&[("decodeDeployment", "containers: [\n")]).unwrap_err();
    assert!(error.blames_base_config(), "{error}");
}

#[test]
fn a_refused_config_map_names_its_line() {
    let maps = "- metadata:\n    name: good\n- metadata:\n    name: bad\n    namespace: other\n";
    let (text, reason) = refusal(&[("configMaps", maps)]);
    assert_eq!(reason, "CrossNamespaceNotAllowed");
    assert!(
        text.starts_with("ConfigMap ns/base: configMaps: ConfigMap other/bad")
            && text.ends_with("(line 4)"),
        "{text}"
    );
}

// === what is refused ===

#[test]
fn a_pod_that_reaches_for_the_node_is_refused_unless_the_administrator_agrees() {
    for (lines, what) in [
        ("hostNetwork: true\n", "hostNetwork"),
        (
            "securityContext: {seccompProfile: {type: Unconfined}}\n",
            "unconfined seccomp",
        ),
        (
            "securityContext: {appArmorProfile: {type: Unconfined}}\n",
            "unconfined AppArmor",
        ),
        (
            "volumes:\n- name: h\n  hostPath: {path: /}\n",
            "hostPath volume \"h\"",
        ),
    ] {
        let value = format!("{lines}containers:\n- name: vllm\n");
        // Here `securityContext` is the container's, as shorthand has it, or the pod's.
        let (text, reason) = refusal(&[("decodeDeployment", &value)]);
        assert_eq!(reason, "PrivilegedNotAllowed", "{text}");
        assert!(text.contains(what), "{text}");
    }
    for (field, what) in [
        (
            "securityContext: {privileged: true}",
            "privileged container \"x\"",
        ),
        (
            "securityContext: {capabilities: {add: [SYS_ADMIN]}}",
            "capability SYS_ADMIN",
        ),
        (
            "securityContext: {procMount: Unmasked}",
            "procMount Unmasked",
        ),
        (
            "securityContext: {seccompProfile: {type: Unconfined}}",
            "unconfined seccomp",
        ),
        (
            "securityContext: {appArmorProfile: {type: Unconfined}}",
            "unconfined AppArmor",
        ),
        ("ports: [{containerPort: 1, hostPort: 2}]", "hostPort 2"),
    ] {
        for list in ["containers", "initContainers"] {
            let value = format!("{list}:\n- name: x\n  image: i\n  {field}\n");
            let (text, reason) = refusal(&[("decodeDeployment", &value)]);
            assert_eq!(reason, "PrivilegedNotAllowed", "{text}");
            assert!(text.contains(what) && text.ends_with("(line 4)"), "{text}");
            let allowed = Settings {
                allowed: crate::operator::guard::Allowed::all(),
                ..Settings::default()
            };
            let base = resolved(&[("decodeDeployment", &value)]);
            assert!(plan(&allowed, &model_service(), &base).is_ok());
        }
    }
}

#[test]
fn the_capability_to_bind_low_ports_is_harmless() {
    let value = "containers:\n- name: x\n  image: i\n  securityContext: {capabilities: {add: [NET_BIND_SERVICE]}}\n";
    assert!(planned(&[("decodeDeployment", value)]).is_ok());
}

#[test]
fn text_that_would_change_a_template_is_refused_offline_too() {
    for (field, text) in [
        ("modelName", "a\", b: \"c"),
        ("modelName", "a\nhostNetwork: true"),
        ("modelName", "a}"),
        ("modelName", "$(HF_TOKEN)"),
        ("uri", "hf://--trust-remote-code"),
        ("uri", "hf://a]b"),
        ("authSecretName", "a\"b"),
    ] {
        let mut ms = model_service();
        match field {
            "modelName" => ms.spec.routing.model_name = text.to_owned(),
            "uri" => ms.spec.model_artifacts.uri = text.to_owned(),
            _ => ms.spec.model_artifacts.auth_secret_name = Some(text.to_owned()),
        }
        let error = plan(&Settings::default(), &ms, &resolved(&[])).unwrap_err();
        assert_eq!(error.reason(), "SpecInvalid", "{error}");
        assert!(error.to_string().contains(field), "{error}");
    }
}

fn redis_at(address: &str) -> String {
    format!("env:\n- name: KVCACHE_INDEXER_REDIS_ADDR\n  value: {address}\n")
}

#[test]
fn the_shared_redis_has_one_port_and_no_tls() {
    for address in [
        "llm-d-operator-redis-master:6379",
        "rediss://llm-d-operator-redis-master.ns:8100",
    ] {
        let (text, _) = refusal(&[("eppDeployment", &redis_at(address))]);
        assert!(
            text.contains("env KVCACHE_INDEXER_REDIS_ADDR")
                && text.contains("write llm-d-operator-redis-master.ns.svc.cluster.local:8100")
                && text.ends_with("(line 2)"),
            "{text}"
        );
    }
    for address in [
        "llm-d-operator-redis-master.ns.svc:8100",
        "redis://llm-d-operator-redis-master",
    ] {
        let plan = planned(&[("eppDeployment", &redis_at(address))]).unwrap();
        assert_eq!(plan.redis.unwrap().port, 8100);
    }
}

#[test]
fn a_redis_of_somebody_else_may_have_any_port() {
    let value = redis_at("llm-d-operator-redis-master:6379");
    let mut base = resolved(&[("eppDeployment", &value)]);
    base.redis.foreign_service = true;
    let plan = plan(&Settings::default(), &model_service(), &base).unwrap();
    let external = plan.external_redis.unwrap();
    assert!(plan.redis.is_none());
    assert_eq!(
        external.place.to_string(),
        "ConfigMap ns/base: eppDeployment"
    );
    assert_eq!(external.place.line_note(), " (line 2)");
}

// === the old form ===

#[test]
fn a_full_deployment_without_an_image_gets_the_image_and_nothing_else() {
    let value = OLD_DECODE.replace("        image: engine:1\n", "");
    let plan = planned(&[("decodeDeployment", &value)]).unwrap();
    let decode = plan.decode.unwrap().deployment.spec.template.spec.unwrap();
    assert!(decode.init_containers.is_none());
    let [engine] = decode.containers.as_slice() else {
        panic!("a container was added: {:?}", decode.containers)
    };
    assert_eq!(
        engine.image.as_deref(),
        Some(crate::operator::settings::DEFAULT_VLLM_IMAGE)
    );
    assert!(engine.args.is_none() && engine.readiness_probe.is_none() && engine.ports.is_none());
}

#[test]
fn a_role_without_a_base_of_its_own_is_filled_beside_an_old_one() {
    let mut ms = model_service();
    ms.spec.prefill = Some(crate::api::modelservice::PdSpec::default());
    let base = resolved(&[("decodeDeployment", OLD_DECODE)]);
    let plan = plan(&Settings::default(), &ms, &base).unwrap();
    let prefill = plan.prefill.unwrap().deployment.spec.template.spec.unwrap();
    assert!(prefill.containers[0].readiness_probe.is_some());
}

// === routing ===

fn route_with(rules: &Value) -> View {
    let route = json!({"spec": {"rules": rules}}).to_string();
    planned(&[("httpRoute", &route)]).unwrap()
}

fn to_decode(port: i32) -> Value {
    json!({"backendRefs": [{"name": "m-service-decode", "port": port}]})
}

#[test]
fn the_cluster_patch_follows_the_ports_of_the_rules() {
    let filter = route_with(&json!([to_decode(80), to_decode(80), to_decode(81)]))
        .envoy_filter
        .unwrap();
    assert_eq!(filter.decode_ports, [80, 81]);
    assert_eq!(filter.route_names.len(), 3);
    let filter = planned(&[]).unwrap().envoy_filter.unwrap();
    assert_eq!(filter.decode_ports, [8000]);
}

#[test]
fn the_name_of_a_rule_is_dropped_since_another_teams_route_may_have_it() {
    let mut named = to_decode(8000);
    named["name"] = json!("team-b.chat-http-route.0");
    let elsewhere = json!({"backendRefs": [{"name": "website", "port": 80}]});
    let pool = json!({"backendRefs": [
        {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "m-service-decode"},
    ]});
    let view = route_with(&json!([elsewhere, named, pool, to_decode(8000)]));
    let filter = view.envoy_filter.unwrap();
    assert_eq!(
        filter.route_names,
        ["ns.m-http-route.1", "ns.m-http-route.3"]
    );
    let rules = view.route.unwrap().spec.rules.unwrap();
    assert!(rules.iter().all(|rule| rule["name"].is_null()), "{rules:?}");
    assert!(
        view.warnings
            .iter()
            .any(|w| w.contains("team-b.chat-http-route.0"))
    );
}

#[test]
fn a_live_rule_with_a_name_stops_the_filter() {
    let mut base = resolved(&[]);
    let mut named = to_decode(8000);
    named["name"] = json!("login");
    base.route_rules_foreign = true;
    base.route_rules = vec![named];
    let view = plan(&Settings::default(), &model_service(), &base).unwrap();
    assert!(view.envoy_filter.is_none());
    assert!(
        view.warnings
            .iter()
            .any(|w| w.contains("has the name login: no EnvoyFilter"))
    );
}

#[test]
fn the_live_rules_of_somebody_else_decide_what_is_switched_on() {
    let mut base = resolved(&[]);
    base.route_rules_foreign = true;
    base.route_rules = vec![json!({"backendRefs": []}), to_decode(9000), to_decode(8000)];
    let plan = plan(&Settings::default(), &model_service(), &base).unwrap();
    assert!(plan.route.unwrap().spec.rules.is_none());
    let filter = plan.envoy_filter.unwrap();
    assert_eq!(
        filter.route_names,
        ["ns.m-http-route.1", "ns.m-http-route.2"]
    );
    assert_eq!(filter.decode_ports, [9000, 8000]);
}

#[test]
fn without_a_rule_to_the_engines_no_filter_is_made_nor_waited_for() {
    let plan = route_with(&json!([{"backendRefs": [{"name": "website", "port": 80}]}]));
    assert!(plan.envoy_filter.is_none());
    assert!(
        plan.warnings
            .iter()
            .any(|w| w.contains("no EnvoyFilter is made")),
        "{:?}",
        plan.warnings
    );
    let epp = plan.epp.unwrap();
    assert_eq!(value(&epp, "epp", contract::ENV_MANAGED_BODY_MODE), None);
}

// === pool versions ===

fn pool_with(version: PoolVersion, base_pool: &str) -> Value {
    let mut base = resolved(&[("inferencePool", base_pool)]);
    base.served.inference_pool = Some(version);
    let plan = plan(&Settings::default(), &model_service(), &base).unwrap();
    plan.pool.unwrap().to_value()
}

const POOL_V1: &str = "\
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
spec:
  selector: {matchLabels: {tier: gold}}
  targetPorts: [{number: 8888}]
  endpointPickerRef: {name: x, port: {number: 9999}, failureMode: FailClose}
";
const POOL_ALPHA: &str = "\
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferencePool
spec:
  selector: {tier: gold}
  targetPortNumber: 8888
  extensionRef: {name: x, portNumber: 9999, failureMode: FailClose}
";

#[test]
fn a_pool_is_rendered_in_the_version_the_cluster_serves() {
    for written in [POOL_V1, POOL_ALPHA] {
        let v1 = pool_with(PoolVersion::V1, written);
        assert_eq!(v1["apiVersion"], "inference.networking.k8s.io/v1");
        assert_eq!(v1["spec"]["selector"]["matchLabels"]["tier"], "gold");
        assert_eq!(v1["spec"]["targetPorts"], json!([{"number": 8888}]));
        let picker =
            json!({"name": "m-epp-service", "port": {"number": 9999}, "failureMode": "FailClose"});
        assert_eq!(v1["spec"]["endpointPickerRef"], picker);

        let alpha = pool_with(PoolVersion::V1Alpha2, written);
        assert_eq!(
            alpha["apiVersion"],
            "inference.networking.x-k8s.io/v1alpha2"
        );
        assert_eq!(alpha["spec"]["selector"]["tier"], "gold");
        assert_eq!(alpha["spec"]["targetPortNumber"], 8888);
        let picker =
            json!({"name": "m-epp-service", "portNumber": 9999, "failureMode": "FailClose"});
        assert_eq!(alpha["spec"]["extensionRef"], picker);
    }
}

#[test]
fn a_cluster_with_the_old_pool_only_gets_a_route_to_it() {
    let mut base = resolved(&[]);
    base.served.inference_pool = Some(PoolVersion::V1Alpha2);
    base.served.envoy_filter = false;
    let plan = plan(&Settings::default(), &model_service(), &base).unwrap();
    let backend = &plan.route.unwrap().spec.rules.unwrap()[0]["backendRefs"][0];
    assert_eq!(backend["group"], "inference.networking.x-k8s.io");
    assert_eq!(plan.pool.unwrap().api_resource().version, "v1alpha2");
}

// === scaling ===

#[test]
fn decoupled_scaling_leaves_the_replicas_of_both_roles_alone() {
    let mut ms = model_service();
    ms.spec.prefill = Some(crate::api::modelservice::PdSpec::default());
    for decoupled in [None, Some(false), Some(true)] {
        ms.spec.decouple_scaling = decoupled;
        let plan = plan(&Settings::default(), &ms, &resolved(&[])).unwrap();
        let keeps = decoupled == Some(true);
        assert_eq!(plan.decode.as_ref().unwrap().keep_live_replicas, keeps);
        assert_eq!(plan.prefill.as_ref().unwrap().keep_live_replicas, keeps);
        assert!(!plan.epp.as_ref().unwrap().keep_live_replicas);
        // What a first apply says all the same.
        assert_eq!(plan.decode.unwrap().deployment.spec.replicas, Some(2));
    }
}

// === configuration that rolls pods ===

fn hash(workload: &Workload) -> Option<String> {
    let meta = workload.deployment.spec.template.metadata.as_ref()?;
    meta.annotations
        .as_ref()?
        .get(contract::ANNOTATION_CONFIG_HASH)
        .cloned()
}

#[test]
fn pods_carry_a_hash_of_the_rendered_config_maps_they_use() {
    let uses = [
        "volumes:\n- name: v\n  configMap: {name: c}\n",
        "volumes:\n- name: v\n  projected: {sources: [{configMap: {name: c}}]}\n",
        "envFrom:\n- configMapRef: {name: c}\n",
        "env:\n- name: E\n  valueFrom: {configMapKeyRef: {name: c, key: k}}\n",
    ];
    let with = |decode: &str, map: &str| {
        let maps = format!("- metadata: {{name: {map}}}\n  data: {{k: one}}\n");
        planned(&[("decodeDeployment", decode), ("configMaps", &maps)]).unwrap()
    };
    for decode in uses {
        let plan = with(decode, "c");
        let first = hash(plan.decode.as_ref().unwrap()).unwrap();
        assert_eq!(hash(plan.epp.as_ref().unwrap()), None);
        let maps = "- metadata: {name: c}\n  data: {k: two}\n";
        let changed = planned(&[("decodeDeployment", decode), ("configMaps", maps)]).unwrap();
        assert_ne!(hash(changed.decode.as_ref().unwrap()).unwrap(), first);
        let unused = with(decode, "d");
        assert_eq!(hash(unused.decode.as_ref().unwrap()), None);
    }
}

// === KV events ===

const KV_SCORER: &str = "env:\n- name: ENABLE_KVCACHE_AWARE_SCORER\n  value: true\n";

fn told(plan: &View) -> [Option<String>; 3] {
    let epp = plan.epp.as_ref().unwrap();
    [
        contract::ENV_MODEL,
        contract::ENV_KV_EVENTS_PORT,
        contract::ENV_KV_REPLAY_PORT,
    ]
    .map(|name| value(epp, "epp", name))
}

fn some(texts: [&str; 3]) -> [Option<String>; 3] {
    texts.map(|text| Some(text.to_owned()))
}

#[test]
fn an_epp_that_scores_by_kv_events_is_told_where_they_are() {
    let plan = planned(&[("eppDeployment", KV_SCORER)]).unwrap();
    assert_eq!(told(&plan), some(["org/model", "15556", "15656"]));
    assert_eq!(told(&planned(&[]).unwrap()), [None, None, None]);
}

#[test]
fn ports_of_the_engines_own_setting_are_told() {
    let config = r#"--kv-events-config={"publisher":"zmq","endpoint":"tcp://*:7000","replay_endpoint":"tcp://*:7001"}"#;
    let decode = format!("args:\n- '{config}'\n");
    let plan = planned(&[("eppDeployment", KV_SCORER), ("decodeDeployment", &decode)]).unwrap();
    assert_eq!(told(&plan), some(["org/model", "7000", "7001"]));

    let connects = decode.replace("tcp://*:7000", "tcp://epp:7000");
    let plan = planned(&[
        ("eppDeployment", KV_SCORER),
        ("decodeDeployment", &connects),
    ])
    .unwrap();
    assert_eq!(told(&plan), some(["org/model", "15556", "15656"]));
    assert!(
        plan.warnings.iter().any(|w| w.contains("not heard")),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn what_the_user_tells_the_epp_stays() {
    let epp = format!("{KV_SCORER}- name: KV_EVENTS_PORT\n  value: 9\n");
    let plan = planned(&[("eppDeployment", &epp)]).unwrap();
    assert_eq!(told(&plan), some(["org/model", "9", "15656"]));
}

#[test]
fn an_old_form_epp_is_told_only_when_it_scores_by_kv_events() {
    let old = [("decodeDeployment", OLD_DECODE), ("eppDeployment", OLD_EPP)];
    assert_eq!(told(&planned(&old).unwrap()), [None, None, None]);
    let scoring = OLD_EPP.replace("LOAD_AWARE", "KVCACHE_AWARE");
    let plan = planned(&[
        ("decodeDeployment", OLD_DECODE),
        ("eppDeployment", &scoring),
    ])
    .unwrap();
    assert_eq!(told(&plan), some(["org/model", "15556", "15656"]));
}

#[test]
fn everything_a_hostile_base_asks_for_is_named_at_once() {
    let base = "metadata: {finalizers: [x/y]}\nspec:\n  template:\n    metadata:\n      labels: {llm-d.ai/epp: other-epp}\n    spec:\n      nodeName: n\n      volumes: [{name: v, nfs: {server: s, path: /}}]\n      containers: [{name: vllm, image: i, command: [sh]}]\n";
    let (text, reason) = refusal(&[("decodeDeployment", base)]);
    assert_eq!(reason, "PrivilegedNotAllowed");
    assert!(
        text.contains("the nfs volume \"v\", the node n by name"),
        "{text}"
    );
    assert!(text.contains("--allow=network-volumes,node-name"), "{text}");
    let settings = Settings {
        allowed: crate::operator::guard::Allowed::all(),
        ..Settings::default()
    };
    let view = plan(
        &settings,
        &model_service(),
        &resolved(&[("decodeDeployment", base)]),
    )
    .unwrap();
    let decode = view.decode.unwrap().deployment;
    assert!(decode.metadata.finalizers.is_none());
    let labels = decode.spec.template.metadata.unwrap().labels.unwrap();
    assert!(!labels.contains_key("llm-d.ai/epp"), "{labels:?}");
    let told = |text: &str| view.warnings.iter().any(|w| w.contains(text));
    assert!(
        told("metadata.finalizers was dropped")
            && told("the label llm-d.ai/epp of the pods was dropped")
    );
}

#[test]
fn services_and_host_names_of_a_base_need_the_administrators_leave() {
    let service = [(
        "decodeService",
        "spec: {type: LoadBalancer, ports: [{port: 443, nodePort: 30443}]}",
    )];
    let (text, reason) = refusal(&service);
    assert_eq!(reason, "PrivilegedNotAllowed");
    assert!(
        text.contains(
            "decodeService: asks for a Service of type LoadBalancer, the node port 30443"
        ),
        "{text}"
    );
    let base = resolved(&[("httpRoute", "spec: {hostnames: [victim.example.com]}")]);
    let settings = Settings {
        allowed_hostnames: vec!["*.team-a.example.com".to_owned()],
        ..Settings::default()
    };
    let error = plan(&settings, &model_service(), &base).unwrap_err();
    assert_eq!(error.reason(), "HostnameNotAllowed");
    assert!(error.to_string().contains("victim.example.com"), "{error}");
    assert!(plan(&Settings::default(), &model_service(), &base).is_ok());
}
