//! Plans as users see them: the article's objects, bad input, and the Go operator's own
//! presets (conformance folder beside the checkout, or `LLM_D_SHARED`).

use std::io::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::view::{View, plan};
use super::*;
use crate::operator::cli::generate::generate;
use crate::operator::resolved::{
    BaseConfig, GatewayFacts, Generated, PoolVersion, RedisFacts, Served,
};

const MODEL_SERVICE: &str = include_str!("../../../examples/llama-3-2-1b/modelservice.yaml");
const BASE: &str = include_str!("../../../examples/llama-3-2-1b/configmap.yaml");

fn model_service() -> ModelService {
    let mut ms: ModelService = serde_yaml::from_str(MODEL_SERVICE).unwrap();
    ms.metadata.namespace = Some("llm-d".to_owned());
    ms
}

fn resolved() -> Resolved {
    let map: ConfigMap = serde_yaml::from_str(BASE).unwrap();
    Resolved {
        base: Some(BaseConfig {
            namespace: "llm-d".to_owned(),
            name: map.metadata.name.unwrap(),
            data: map.data.unwrap(),
        }),
        served: Served {
            inference_pool: Some(PoolVersion::V1),
            inference_model: false,
            http_route: true,
            envoy_filter: true,
            openshift: false,
        },
        gateways: vec![GatewayFacts {
            namespace: "llm-d".to_owned(),
            name: "llm-d-gateway".to_owned(),
            class: Some("istio".to_owned()),
            controller: Some("istio.io/gateway-controller".to_owned()),
        }],
        redis: RedisFacts {
            password: Some(Generated("pass".to_owned())),
            foreign_service: false,
        },
        epp_secret: Some(Generated("drawn".to_owned())),
        route_rules_foreign: false,
        route_rules: Vec::new(),
        ..Resolved::default()
    }
}

fn with_base(key: &str, value: &str) -> Result<View, Error> {
    let mut resolved = resolved();
    resolved
        .base
        .as_mut()
        .unwrap()
        .data
        .insert(key.to_owned(), value.to_owned());
    plan(&Settings::default(), &model_service(), &resolved)
}

#[test]
fn the_articles_manifests_become_a_whole_service() {
    let settings = Settings {
        epp_cluster_role: "epp".to_owned(),
        ..Settings::default()
    };
    let plan = plan(&settings, &model_service(), &resolved()).unwrap();
    let text: String = plan
        .children
        .items
        .iter()
        .map(|child| {
            let value = serde_yaml::to_string(&child.object.to_value()).unwrap();
            format!("--- # {}\n{value}", child.key.as_str())
        })
        .collect();
    insta::assert_snapshot!("article", text);
}

#[test]
fn rendering_twice_gives_the_same() {
    let plan = || plan(&Settings::default(), &model_service(), &resolved()).unwrap();
    let render = |view: View| view.children.items;
    assert_eq!(render(plan()), render(plan()));
}

#[test]
fn bad_input_names_object_key_and_line() {
    for (key, value, reason, text) in [
        (
            "decodeDeployment",
            "spec: [\n",
            "BaseConfigInvalid",
            "ConfigMap llm-d/basic-gpu-with-hybrid-cache: decodeDeployment line ",
        ),
        (
            "decodeDeployment",
            "containers:\n- name: vllm\n  image: {{ .Nope }}\n",
            "TemplateInvalid",
            "decodeDeployment line 3 column 13: there is no field .Nope",
        ),
        (
            "eppDeployment",
            "env:\n- name: LOAD_AWARE_SCORER_WEIGHT\n  value: \"-1\"\n",
            "EPPSettingsInvalid",
            "eppDeployment, container epp, env LOAD_AWARE_SCORER_WEIGHT: \"-1\" is negative",
        ),
        (
            "prefillDeployment",
            "spec:\n  replicas: two\n",
            "BaseConfigInvalid",
            "prefillDeployment line 2: spec.replicas: integer is wanted",
        ),
        (
            "decodeDeployment",
            "hostNetwork: true\ncontainers:\n- name: vllm\n",
            "PrivilegedNotAllowed",
            "decodeDeployment: asks for hostNetwork",
        ),
    ] {
        let error = with_base(key, value).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn an_unknown_port_name_is_an_error() {
    let error = with_base(
        "decodeService",
        "spec:\n  ports:\n  - port: {{ \"app\" | getPort }}\n",
    )
    .unwrap_err();
    assert!(
        error.to_string().contains("decodeService line 3"),
        "{error}"
    );
    assert!(
        error.to_string().contains("no port named \"app\""),
        "{error}"
    );
}

#[test]
fn rules_somebody_else_set_are_left_alone() {
    let resolved = Resolved {
        route_rules_foreign: true,
        ..resolved()
    };
    let plan = plan(&Settings::default(), &model_service(), &resolved).unwrap();
    assert!(plan.route.unwrap().spec.rules.is_none());
}

#[test]
fn without_istio_the_route_points_at_the_pool() {
    let mut resolved = resolved();
    resolved.gateways[0].controller = Some("example.com/other".to_owned());
    let plan = plan(&Settings::default(), &model_service(), &resolved).unwrap();
    assert!(plan.envoy_filter.is_none());
    assert_eq!(
        plan.route.unwrap().spec.rules.unwrap()[0]["backendRefs"][0]["kind"],
        "InferencePool"
    );
}

#[test]
fn the_epp_understands_the_settings_the_operator_renders() {
    let plan = plan(&Settings::default(), &model_service(), &resolved()).unwrap();
    let epp = plan.epp.unwrap();
    let pod = epp.deployment.spec.template.spec.unwrap();
    let env = pod.containers[0]
        .env
        .iter()
        .flatten()
        .filter_map(|e| Some((e.name.clone(), e.value.clone()?)))
        .collect();
    let (config, warnings) = crate::scheduling::config::SchedulingConfig::from_env(&env).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.pipeline.handler.name(), "disagg-profile-handler");
}

#[test]
fn zero_replicas_replace_those_of_the_base() {
    let mut resolved = resolved();
    let full = "spec:\n  replicas: 3\n  template:\n    spec:\n      containers:\n      - name: vllm\n        image: v\n";
    resolved
        .base
        .as_mut()
        .unwrap()
        .data
        .insert("decodeDeployment".to_owned(), full.to_owned());
    let mut ms = model_service();
    let mut replicas = |wanted| {
        ms.spec.decode.as_mut().unwrap().replicas = wanted;
        let plan = plan(&Settings::default(), &ms, &resolved).unwrap();
        plan.decode.unwrap().deployment.spec.replicas
    };
    assert_eq!(replicas(None), Some(3));
    assert_eq!(replicas(Some(0)), Some(0));
}

#[test]
fn parallelism_makes_flags_and_gpus_and_saturates_where_it_is_absurd() {
    let mut ms = model_service();
    let mut of = |parallelism: Value| {
        let decode = ms.spec.decode.as_mut().unwrap();
        decode.containers.clear();
        decode.parallelism = Some(serde_json::from_value(parallelism).unwrap());
        let without_base = Resolved {
            base: None,
            ..resolved()
        };
        let plan = plan(&Settings::default(), &ms, &without_base).unwrap();
        let pod = plan.decode.unwrap().deployment.spec.template.spec.unwrap();
        let engine = &pod.containers[0];
        let limits = engine.resources.clone().unwrap().limits.unwrap();
        (
            limits["nvidia.com/gpu"].0.clone(),
            engine.args.clone().unwrap().join(" "),
        )
    };
    let (gpus, args) = of(json!({"tensor": 4, "pipeline": 2}));
    assert_eq!(gpus, "8");
    assert!(args.contains("--tensor-parallel-size=4"), "{args}");
    assert!(args.contains("--pipeline-parallel-size=2"), "{args}");
    let (gpus, _) = of(json!({"tensor": i32::MAX, "pipeline": 3, "data": i32::MAX}));
    assert_eq!(gpus, i32::MAX.to_string());
    let (gpus, _) = of(json!({"tensor": 0, "pipeline": i32::MIN}));
    assert_eq!(gpus, "1");
}

#[test]
fn config_maps_in_other_namespaces_need_the_administrators_leave() {
    let maps = "- metadata: {name: m, namespace: elsewhere}\n- metadata: {name: n}\n";
    let error = with_base("configMaps", maps).unwrap_err();
    assert_eq!(error.reason(), "CrossNamespaceNotAllowed");
    assert!(
        error.to_string().contains("--allow-cross-namespace"),
        "{error}"
    );
    let allowed = Settings {
        allow_cross_namespace: true,
        ..Settings::default()
    };
    let mut resolved = resolved();
    let data = &mut resolved.base.as_mut().unwrap().data;
    data.insert("configMaps".to_owned(), maps.to_owned());
    let plan = plan(&allowed, &model_service(), &resolved).unwrap();
    let namespaces: Vec<_> = plan
        .config_maps
        .iter()
        .map(|map| map.metadata.namespace.as_deref().unwrap())
        .collect();
    assert_eq!(namespaces, ["elsewhere", "llm-d"]);
}

#[tokio::test]
async fn a_base_in_another_namespace_needs_the_administrators_leave() {
    use crate::operator::resolve;

    // Only fails when a provider is already installed, which is the wish.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // Nobody listens there: the reference is refused before anything is read.
    let nowhere = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let client = kube::Client::try_from(nowhere).unwrap();
    let mut ms = model_service();
    let reference = ms.spec.base_config_map_ref.as_mut().unwrap();
    reference.namespace = Some("elsewhere".to_owned());
    let facts = resolve::resolve(
        &client,
        &Settings::default(),
        Served::default(),
        crate::operator::neighbours::Neighbours::default(),
        &ms,
    )
    .await;
    let error = facts.unwrap_err();
    assert!(
        matches!(error, resolve::Error::CrossNamespace { .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("--allow-cross-namespace"),
        "{error}"
    );
}

#[test]
fn the_status_names_only_what_exists_and_each_account_by_its_role() {
    use crate::operator::apply::Outcome;
    use crate::operator::children::Children;
    use crate::operator::observe::Observed;
    use crate::operator::status::{self, Seen};

    let mut ms = model_service();
    let mut status = || {
        let plan = plan(&Settings::default(), &ms, &resolved()).unwrap();
        let outcome = Outcome {
            applied: Children::applied(plan.children.items),
            failed: Vec::new(),
            inventory: Vec::new(),
        };
        let seen = Seen {
            facts: &plan.facts,
            outcome: &outcome,
            observed: Some(&Observed::default()),
        };
        let now = jiff::Timestamp::UNIX_EPOCH.into();
        let status = status::compute(&ms, Some(&seen), None, &[], &now);
        ms.status = Some(status.clone());
        ms.spec.prefill = None;
        status
    };
    let with_prefill = status();
    let account = Some("llama-3-2-1b-sa".to_owned());
    assert_eq!(with_prefill.prefill_service_account_ref, account);
    assert_eq!(with_prefill.decode_service_account_ref, account);
    // No CRD of InferenceModels: the Go operator named one all the same.
    assert_eq!(with_prefill.inference_model_ref, None);
    let without = status();
    assert_eq!(without.prefill_deployment_ref, None);
    assert_eq!(without.prefill_service_account_ref, None);
    assert_eq!(without.prefill_ready, "");
    assert_eq!(without.decode_service_account_ref, account);
}

#[test]
fn the_columns_say_model_readiness_and_reason_and_keep_the_old_ones_wide() {
    use kube::CustomResourceExt as _;

    let crd = ModelService::crd();
    let columns = crd.spec.versions[0]
        .additional_printer_columns
        .clone()
        .unwrap();
    let with = |wide| -> Vec<&str> {
        columns
            .iter()
            .filter(|column| (column.priority.unwrap_or(0) > 0) == wide)
            .map(|column| column.name.as_str())
            .collect()
    };
    assert_eq!(
        with(false),
        [
            "Model", "Decode", "Prefill", "EPP", "Ready", "Reason", "Age"
        ]
    );
    assert_eq!(
        with(true),
        ["URL", "Decouple Scaling", "Decode AVAIL", "Prefill AVAIL"]
    );
}

#[test]
fn gateways_of_one_name_in_two_namespaces_stay_two_parents() {
    let route = "spec:\n  parentRefs:\n  - name: llm-d-gateway\n    namespace: elsewhere\n";
    let plan = with_base("httpRoute", route).unwrap();
    let parents = plan.route.unwrap().spec.parent_refs;
    let namespaces: Vec<_> = parents.iter().map(|p| p.namespace.as_deref()).collect();
    assert_eq!(parents.len(), 2, "{namespaces:?}");
    assert_eq!(namespaces[0], Some("elsewhere"));
}

#[test]
fn a_bad_template_in_a_key_nobody_reads_harms_nothing() {
    with_base("notes", "{{ .Nope }} {{ if }}").unwrap();
}

#[test]
fn no_template_of_a_base_ends_the_operator() {
    for text in [
        format!(
            "{{{{ if false }}}}{}{{{{ end }}}}",
            "{{ else if false }}".repeat(5_000)
        ),
        "{{ $x := \"a\" }}{{ range until 60 }}{{ $x = print $x $x }}{{ end }}".to_owned(),
        "a\n{{ printf \"%*d\" 2000000000 1 }}".to_owned(),
    ] {
        let error = with_base("decodeDeployment", &text).unwrap_err();
        assert_eq!(error.reason(), "TemplateInvalid");
        assert!(
            error.to_string().contains("decodeDeployment line "),
            "{error}"
        );
    }
}

/// Cases that equal the Go operator's output leaf by leaf.
const EQUAL: &[&str] = &[
    "simple-model",
    "basic-sim-preset",
    "basic-gpu-preset",
    "basic-gpu-with-nixl-preset",
    "basic-gpu-with-nixl-and-redis-lookup-preset",
    "pvc",
];

/// `None` only where the whole folder is absent and nobody said where it is.
fn shared() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared");
    match std::env::var_os("LLM_D_SHARED") {
        Some(folder) => Some(PathBuf::from(folder)),
        None => beside.exists().then_some(beside),
    }
}

/// Past the capture of the test harness, which hides what `eprintln!` prints.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[allow(clippy::disallowed_methods, reason = "a test reads its cases")]
#[test]
fn presets_render_as_the_go_operator_rendered_them() {
    let Some(shared) = shared() else {
        say("SKIPPED: operator conformance: no ../shared beside the checkout, no LLM_D_SHARED");
        return;
    };
    let folder = shared.join("conformance/operator");
    let cases =
        std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let settings = Settings {
        epp_cluster_role: "epp-cluster-role".to_owned(),
        pd_pull_secrets: vec!["pd-pull".to_owned()],
        ..Settings::default()
    };
    let mut failures = Vec::new();
    let mut equal = Vec::new();
    for case in cases.flatten() {
        let name = case.file_name().into_string().unwrap();
        let read = |file: &str| std::fs::read_to_string(case.path().join(file)).unwrap();
        let expected: Value = serde_yaml::from_str(&read("expected.yaml")).unwrap();
        let differences = match generate(
            &settings,
            &read("modelservice.yaml"),
            Some(&read("baseconfig.yaml")),
        ) {
            Ok((children, _)) => {
                let mut got = serde_json::to_value(&children).unwrap();
                without_own_label(&mut got);
                let mut differences = Vec::new();
                compare("", &normal(expected), &normal(got), &mut differences);
                differences
            }
            Err(error) => vec![format!("{error:#}")],
        };
        eprintln!("{name}: {} differences", differences.len());
        for difference in &differences {
            eprintln!("   {difference}");
        }
        if EQUAL.contains(&name.as_str()) {
            if !differences.is_empty() {
                failures.push(format!("{name}:\n   {}", differences.join("\n   ")));
            }
            equal.push(name);
        }
    }
    assert!(failures.is_empty(), "differ: {}", failures.join("\n"));
    equal.sort_by_key(|name| EQUAL.iter().position(|other| other == name));
    assert_eq!(equal, EQUAL, "cases that were read");
    say(&format!(
        "operator conformance: {} cases equal",
        equal.len()
    ));
}

/// The label that tells two ModelServices of one model apart, which the Go operator lacks.
fn without_own_label(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove(crate::contract::LABEL_MODEL_SERVICE);
            fields.values_mut().for_each(without_own_label);
        }
        Value::Array(items) => items.iter_mut().for_each(without_own_label),
        _ => {}
    }
}

/// Fields that Go's encoder prints empty although nobody set them. Any other `{}` or `""`
/// says something: `emptyDir: {}` is a volume.
const PRINTED_EMPTY: &[&str] = &[
    "status",
    "loadBalancer",
    "strategy",
    "resources",
    "affinity",
];

/// Drops what Go's encoder prints for fields nobody set.
fn normal(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter_map(|(key, value)| {
                let value = normal(value);
                let unset = match &value {
                    Value::Null => true,
                    Value::Object(inner) => {
                        inner.is_empty() && PRINTED_EMPTY.contains(&key.as_str())
                    }
                    // An IntOrString of Go that was never set.
                    Value::Number(number) => key == "targetPort" && number.as_i64() == Some(0),
                    _ => false,
                };
                (!unset).then_some((key, value))
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(normal).collect()),
        other => other,
    }
}

#[test]
fn a_lost_empty_volume_is_a_difference() {
    let volume = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
    let lost = json!({"volumes": [{"name": "v"}]});
    let mut differences = Vec::new();
    compare("", &normal(volume.clone()), &normal(lost), &mut differences);
    assert_eq!(differences.len(), 1, "{differences:?}");
    compare(
        "",
        &normal(volume.clone()),
        &normal(volume),
        &mut differences,
    );
    assert_eq!(differences.len(), 1, "{differences:?}");
}

fn compare(path: &str, want: &Value, got: &Value, differences: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(want), Value::Object(got)) => {
            for key in want
                .keys()
                .chain(got.keys().filter(|key| !want.contains_key(*key)))
            {
                let null = Value::Null;
                let (want, got) = (
                    want.get(key).unwrap_or(&null),
                    got.get(key).unwrap_or(&null),
                );
                compare(&format!("{path}.{key}"), want, got, differences);
            }
        }
        (Value::Array(want), Value::Array(got)) if want.len() == got.len() => {
            for (index, (want, got)) in want.iter().zip(got).enumerate() {
                compare(&format!("{path}[{index}]"), want, got, differences);
            }
        }
        (want, got) if want == got => {}
        (want, got) => differences.push(format!("{path}: want {want}, got {got}")),
    }
}
