//! Plans as users see them: the article's objects, bad input, and the Go operator's own
//! presets (conformance folder beside the checkout, or `LLM_D_SHARED`).

use std::path::PathBuf;

use serde_json::Value;

use super::*;
use crate::operator::cli::generate::generate;
use crate::operator::resolved::{BaseConfig, GatewayFacts, PoolVersion, RedisFacts, Served};

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
        },
        gateways: vec![GatewayFacts {
            namespace: "llm-d".to_owned(),
            name: "llm-d-gateway".to_owned(),
            class: Some("istio".to_owned()),
            controller: Some("istio.io/gateway-controller".to_owned()),
        }],
        redis: RedisFacts {
            password: Some("pass".to_owned()),
            foreign_service: false,
        },
        route_rules_foreign: false,
        route_rules: Vec::new(),
    }
}

fn with_base(key: &str, value: &str) -> Result<Plan, Error> {
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
    let children = crate::operator::render::render(&settings, &plan);
    let text: String = children
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
    let render = |plan| crate::operator::render::render(&Settings::default(), &plan).items;
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
    let (settings, warnings) = crate::scheduling::config::Settings::from_env(&env).unwrap();
    assert!(settings.pd_enabled && warnings.is_empty(), "{warnings:?}");
}

/// Cases that equal the Go operator's output leaf by leaf.
const EQUAL: &[&str] = &["simple-model", "basic-sim-preset", "basic-gpu-preset"];

#[allow(clippy::disallowed_methods, reason = "a test reads its cases")]
#[test]
fn presets_render_as_the_go_operator_rendered_them() {
    let shared = std::env::var_os("LLM_D_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let Ok(cases) = std::fs::read_dir(shared.join("conformance/operator")) else {
        eprintln!("SKIPPED: no conformance/operator beside the checkout");
        return;
    };
    let settings = Settings {
        epp_cluster_role: "epp-cluster-role".to_owned(),
        pd_pull_secrets: vec!["pd-pull".to_owned()],
        ..Settings::default()
    };
    let mut failures = Vec::new();
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
                let got = serde_json::to_value(&children).unwrap();
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
        if EQUAL.contains(&name.as_str()) && !differences.is_empty() {
            failures.push(name);
        }
    }
    assert!(failures.is_empty(), "differ: {failures:?}");
}

/// Drops what Go's encoder prints for fields nobody set.
fn normal(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter_map(|(key, value)| {
                let value = normal(value);
                let blank = match &value {
                    Value::Null => true,
                    Value::Object(inner) => inner.is_empty(),
                    Value::String(text) => text.is_empty(),
                    // An IntOrString of Go that was never set.
                    Value::Number(number) => key == "targetPort" && number.as_i64() == Some(0),
                    _ => false,
                };
                let ignored = blank || key == "status" && value.is_object();
                (!ignored).then_some((key, value))
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(normal).collect()),
        other => other,
    }
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
