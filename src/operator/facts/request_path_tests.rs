//! What stands between a client and the engines: what the gateway removes, how soon it goes
//! on without the EPP, which prefill pods a sidecar may ask, what pods may use up.

use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec};
use serde_json::{Value, json};

use super::view::{View, Workload, plan};
use super::*;
use crate::contract;
use crate::operator::children::{ChildKey, Object};
use crate::operator::resolved::{BaseConfig, GatewayFacts, Generated, PoolVersion, Served};

fn model_service() -> Value {
    json!({
        "apiVersion": "llm-d.ai/v1alpha1", "kind": "ModelService",
        "metadata": {"name": "m", "namespace": "ns"},
        "spec": {
            "modelArtifacts": {"uri": "hf://org/model"},
            "routing": {"modelName": "org/model", "gatewayRefs": [{"name": "gw"}]},
            "decode": {"replicas": 1}, "prefill": {"replicas": 1},
        },
    })
}

/// A plan of the ModelService above with these changes (a JSON merge) over such a base.
fn planned(changes: Value, base: &[(&str, &str)]) -> View {
    let mut ms = model_service();
    json_merge(&mut ms, changes);
    let ms: ModelService = serde_json::from_value(ms).unwrap();
    let resolved = Resolved {
        base: Some(BaseConfig {
            namespace: "ns".to_owned(),
            name: "base".to_owned(),
            data: base
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
        epp_secret: Some(Generated("drawn".to_owned())),
        ..Resolved::default()
    };
    plan(&Settings::default(), &ms, &resolved).unwrap()
}

fn json_merge(into: &mut Value, changes: Value) {
    match (into, changes) {
        (Value::Object(into), Value::Object(changes)) => {
            for (key, value) in changes {
                json_merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, changes) => *into = changes,
    }
}

fn child(plan: &View, key: ChildKey) -> Option<Value> {
    plan.children.get(key).map(Object::to_value)
}

/// Values of the EnvoyFilter's patches of one kind, in order.
fn patches(plan: &View, apply_to: &str) -> Vec<Value> {
    let filter = child(plan, ChildKey::EnvoyFilter).unwrap();
    let all = filter["spec"]["configPatches"].as_array().unwrap().clone();
    all.into_iter()
        .filter(|patch| patch["applyTo"] == apply_to)
        .map(|patch| patch["patch"]["value"].clone())
        .collect()
}

fn pod(workload: Option<&Workload>) -> PodSpec {
    let template = &workload.unwrap().deployment.spec.template;
    template.spec.clone().unwrap()
}

fn container(pod: &PodSpec, name: &str) -> Container {
    let mut all = pod
        .containers
        .iter()
        .chain(pod.init_containers.iter().flatten());
    all.find(|container| container.name == name)
        .unwrap()
        .clone()
}

fn entry(container: &Container, name: &str) -> Option<EnvVar> {
    let mut env = container.env.iter().flatten();
    env.find(|entry| entry.name == name).cloned()
}

// === the gateway ===

#[test]
fn what_a_client_must_not_say_is_removed_before_the_epp_is_asked() {
    let plan = planned(json!({}), &[]);
    let filters = patches(&plan, "HTTP_FILTER");
    // Each is put directly before the router: the first written runs first.
    let types: Vec<_> = filters
        .iter()
        .map(|filter| filter["typed_config"]["@type"].as_str().unwrap())
        .collect();
    assert!(
        types[0].ends_with(".HeaderMutation") && types[1].ends_with(".ExternalProcessor"),
        "{types:?}"
    );
    let removed: Vec<_> = filters[0]["typed_config"]["mutations"]["request_mutations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mutation| mutation["remove"].as_str().unwrap())
        .collect();
    for name in contract::ROUTING_HEADERS
        .iter()
        .chain(contract::CONTROL_HEADERS)
    {
        assert!(removed.contains(name), "{name} comes through");
    }
    // Other tenants of the gateway are not touched: off, but on this model's routes.
    let route = &patches(&plan, "HTTP_ROUTE")[0]["typed_per_filter_config"];
    for filter in &filters {
        assert_eq!(filter["disabled"], true);
        let name = filter["name"].as_str().unwrap();
        assert!(name.ends_with(".ns.m"), "{name}");
        assert!(route[name]["config"].is_object(), "{name} is never enabled");
    }
}

#[test]
fn the_epp_is_called_by_a_name_that_may_stand_in_a_uri() {
    let filters = patches(&planned(json!({}), &[]), "HTTP_FILTER");
    let service = &filters[1]["typed_config"]["grpc_service"];
    let authority = service["envoy_grpc"]["authority"].as_str().unwrap();
    let parsed: http::uri::Authority = authority.parse().unwrap();
    assert_eq!(parsed.as_str(), "m-epp-service.ns.svc.cluster.local:9002");
}

#[test]
fn an_epp_that_is_gone_is_noticed_within_seconds_and_then_not_asked() {
    let cluster = &patches(&planned(json!({}), &[]), "CLUSTER")[0];
    let outliers = &cluster["outlier_detection"];
    assert_eq!(outliers["consecutive_local_origin_failure"], 1);
    // Also the only one, and also when all are gone.
    assert_eq!(outliers["max_ejection_percent"], 100);
    let panic = &cluster["common_lb_config"]["healthy_panic_threshold"]["value"];
    assert_eq!(panic, 0);
    let keepalive = keepalive(cluster);
    assert_eq!(keepalive, json!({"interval": "1s", "timeout": "1s"}));
}

fn keepalive(cluster: &Value) -> Value {
    let options = &cluster["typed_extension_protocol_options"];
    options["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]["explicit_http_config"]["http2_protocol_options"]
        ["connection_keepalive"]
        .clone()
}

#[test]
fn somebody_elses_epp_is_not_pinged_between_requests() {
    let theirs =
        "containers:\n- name: epp\n  image: ghcr.io/llm-d/llm-d-inference-scheduler:v0.7.0\n";
    let cluster = &patches(&planned(json!({}), &[("eppDeployment", theirs)]), "CLUSTER")[0];
    assert!(keepalive(cluster)["interval"].is_null(), "{cluster}");
    assert_eq!(keepalive(cluster)["connection_idle_interval"], "1s");
}

#[test]
fn another_replica_of_the_epp_is_tried_where_there_is_one() {
    let retry = |replicas: i32| {
        let changes = json!({"spec": {"endpointPicker": {"replicas": replicas}}});
        let filters = patches(&planned(changes, &[]), "HTTP_FILTER");
        filters[1]["typed_config"]["grpc_service"]["retry_policy"].clone()
    };
    assert!(retry(1).is_null());
    assert_eq!(retry(2)["num_retries"], 1);
}

// === the EPP's secret ===

#[test]
fn replicas_of_an_epp_share_a_secret_that_is_made_for_them() {
    let plan = planned(json!({}), &[]);
    let epp = container(&pod(plan.epp.as_ref()), contract::CONTAINER_EPP);
    let source = entry(&epp, contract::ENV_POOL_SECRET).unwrap().value_from;
    let key = source.unwrap().secret_key_ref.unwrap();
    let secret = child(&plan, ChildKey::EppSecret).unwrap();
    assert_eq!(secret["metadata"]["name"], key.name);
    assert_eq!(secret["data"][&key.key], "ZHJhd24=");
    assert!(!format!("{plan:?}").contains("drawn"), "it can be logged");
}

#[test]
fn a_secret_of_the_users_own_is_used_instead() {
    let own =
        "env:\n- name: LLM_D_POOL_SECRET\n  valueFrom:\n    secretKeyRef: {name: mine, key: k}\n";
    let plan = planned(json!({}), &[("eppDeployment", own)]);
    assert!(child(&plan, ChildKey::EppSecret).is_none());
    let epp = container(&pod(plan.epp.as_ref()), contract::CONTAINER_EPP);
    let entries = epp.env.iter().flatten();
    let named = entries.filter(|entry| entry.name == contract::ENV_POOL_SECRET);
    assert_eq!(named.count(), 1);
}

// === which prefill pods a sidecar may ask ===

const FULL_PREFILL: &str = "apiVersion: apps/v1\nkind: Deployment\nspec:\n  template:\n    spec:\n      containers:\n      - name: vllm\n        image: e:1\n";

fn sidecar(plan: &View) -> Container {
    container(&pod(plan.decode.as_ref()), contract::CONTAINER_SIDECAR)
}

fn prefill_service(plan: &View) -> Option<String> {
    entry(&sidecar(plan), contract::ENV_PREFILL_SERVICE)?.value
}

#[test]
fn a_sidecar_may_ask_the_ready_prefill_pods_and_nobody_else() {
    let plan = planned(json!({}), &[]);
    assert_eq!(
        prefill_service(&plan).as_deref(),
        Some("m-prefill-pods.ns.svc.cluster.local:8000")
    );
    let address = entry(&sidecar(&plan), contract::ENV_POD_IP).unwrap();
    let field = address.value_from.unwrap().field_ref.unwrap();
    assert_eq!(field.field_path, "status.podIP");
    let service = child(&plan, ChildKey::PrefillPods).unwrap();
    assert_eq!(service["metadata"]["name"], "m-prefill-pods");
    let spec = &service["spec"];
    assert_eq!(spec["clusterIP"], "None");
    assert!(spec["publishNotReadyAddresses"].is_null());
    // It selects what the prefill Deployment makes.
    let template = plan
        .prefill
        .as_ref()
        .unwrap()
        .deployment
        .spec
        .template
        .clone();
    let labels = template.metadata.unwrap().labels.unwrap();
    for (key, value) in spec["selector"].as_object().unwrap() {
        assert_eq!(labels.get(key).map(String::as_str), value.as_str());
    }
    assert_eq!(spec["selector"]["llm-d.ai/role"], "prefill");
}

#[test]
fn the_port_a_sidecar_may_ask_is_the_pools() {
    let pool = "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nspec:\n  targetPorts:\n  - number: 8200\n";
    let plan = planned(json!({}), &[("inferencePool", pool)]);
    assert_eq!(
        prefill_service(&plan).as_deref(),
        Some("m-prefill-pods.ns.svc.cluster.local:8200")
    );
}

#[test]
fn without_a_prefill_role_there_is_nobody_to_ask() {
    let plan = planned(json!({"spec": {"prefill": null}}), &[]);
    assert_eq!(prefill_service(&plan), None);
    assert!(entry(&sidecar(&plan), contract::ENV_POD_IP).is_some());
    assert!(child(&plan, ChildKey::PrefillPods).is_none());
}

#[test]
fn a_list_of_the_users_own_is_kept() {
    for own in [
        "args: [--allowed-prefillers=10.0.0.0/8:8000]",
        "args: [--prefill-service, mine:8000]",
        "env: [{name: LLM_D_ALLOWED_PREFILLERS, value: 10.0.0.0/8:8000}]",
    ] {
        let base = format!("containers:\n- name: routing-proxy\n  {own}\n");
        let plan = planned(json!({}), &[("decodeDeployment", &base)]);
        assert_eq!(prefill_service(&plan), None, "{own}");
        assert!(child(&plan, ChildKey::PrefillPods).is_none(), "{own}");
    }
}

#[test]
fn a_headless_service_of_the_prefill_role_is_list_enough() {
    let service = "spec:\n  clusterIP: None\n  ports:\n  - port: 8000\n";
    let plan = planned(json!({}), &[("prefillService", service)]);
    assert_eq!(
        prefill_service(&plan).as_deref(),
        Some("m-service-prefill.ns.svc.cluster.local:8000")
    );
    assert!(child(&plan, ChildKey::PrefillPods).is_none());
}

#[test]
fn in_a_full_deployment_only_our_own_sidecar_is_told() {
    let decode = |command: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nspec:\n  template:\n    spec:\n      containers:\n      - name: vllm\n        image: e:1\n      initContainers:\n      - name: routing-proxy\n        image: s:1\n{command}"
        )
    };
    let told = |command: &str| {
        let decode = decode(command);
        let base = [
            ("decodeDeployment", decode.as_str()),
            ("prefillDeployment", FULL_PREFILL),
        ];
        let plan = planned(json!({}), &base);
        let service = child(&plan, ChildKey::PrefillPods).is_some();
        (prefill_service(&plan).is_some(), service, sidecar(&plan))
    };
    let (told_ours, service, _) = told("        command: [/routing-proxy]\n");
    assert!(told_ours && service);
    let (told_theirs, service, sidecar) = told("");
    assert!(!told_theirs && !service && sidecar.env.is_none());
}

// === what pods may use up ===

#[test]
fn built_in_containers_have_memory_limits_and_the_users_win() {
    let limit = |container: &Container| {
        let resources = container.resources.clone().unwrap();
        Some(resources.limits?.get("memory")?.0.clone())
    };
    let plan = planned(json!({}), &[]);
    let epp = container(&pod(plan.epp.as_ref()), contract::CONTAINER_EPP);
    assert_eq!(limit(&epp).as_deref(), Some("1Gi"));
    assert_eq!(limit(&sidecar(&plan)).as_deref(), Some("512Mi"));
    let own = "resources:\n  requests:\n    memory: 4Gi\n";
    let plan = planned(json!({}), &[("eppDeployment", own)]);
    let epp = container(&pod(plan.epp.as_ref()), contract::CONTAINER_EPP);
    assert_eq!(limit(&epp), None);
}

#[test]
fn an_epp_that_hangs_leaves_the_service_in_six_seconds_and_is_restarted_in_25() {
    let plan = planned(json!({}), &[]);
    let epp = container(&pod(plan.epp.as_ref()), contract::CONTAINER_EPP);
    let longest = |probe: k8s_openapi::api::core::v1::Probe| {
        probe.period_seconds.unwrap() * probe.failure_threshold.unwrap()
            + probe.timeout_seconds.unwrap()
    };
    assert!(longest(epp.readiness_probe.unwrap()) <= 6);
    let liveness = epp.liveness_probe.unwrap();
    let grace = liveness.termination_grace_period_seconds.unwrap();
    assert!(i64::from(longest(liveness)) + grace <= 25);
    // Liveness waits for the first sync, however long the API server takes.
    assert!(longest(epp.startup_probe.unwrap()) >= 300);
}
