//! What a plan says about the EndpointPickerConfig of its EPP.

use serde_json::json;

use crate::api::ModelService;
use crate::operator::facts::view::{View, plan};
use crate::operator::invalid::Error;
use crate::operator::resolved::{BaseConfig, Resolved};
use crate::operator::settings::Settings;

const BAD: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: latency-scorer
";
const BY_KV_EVENTS: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: precise-prefix-cache-scorer
";

fn model_service() -> ModelService {
    serde_json::from_value(json!({
        "apiVersion": "llm-d.ai/v1alpha1", "kind": "ModelService",
        "metadata": {"name": "m", "namespace": "ns"},
        "spec": {
            "modelArtifacts": {"uri": "hf://org/model"},
            "routing": {"modelName": "org/model"},
            "decode": {"replicas": 2},
        },
    }))
    .unwrap()
}

fn planned(ms: &ModelService, base: &[(&str, String)]) -> Result<View, Error> {
    let data = base
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()));
    let base = BaseConfig {
        namespace: "ns".to_owned(),
        name: "base".to_owned(),
        data: data.collect(),
    };
    let resolved = Resolved {
        base: Some(base),
        ..Resolved::default()
    };
    plan(&Settings::default(), ms, &resolved)
}

/// A full EPP with these args.
fn epp(image: &str, args: &[&str]) -> (&'static str, String) {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": {"spec": {
        "containers": [{
            "name": "epp", "image": image, "args": args,
            "env": [{"name": "CONFIG", "value": BAD}, {"name": "PD_ENABLED", "value": "true"}],
            "volumeMounts": [{"name": "config", "mountPath": "/etc/epp/"}],
        }],
        "volumes": [{"name": "config", "configMap": {"name": "epp-config", "items": [{"key": "epp.yaml", "path": "config.yaml"}]}}],
    }}}});
    ("eppDeployment", deployment.to_string())
}

fn config_map(text: &str) -> (&'static str, String) {
    let maps = json!([{"metadata": {"name": "epp-config"}, "data": {"epp.yaml": text}}]);
    ("configMaps", maps.to_string())
}

fn refusal(base: &[(&str, String)]) -> String {
    let error = planned(&model_service(), base).unwrap_err();
    assert_eq!(error.reason(), "EPPSettingsInvalid");
    assert!(error.blames_base_config());
    error.to_string()
}

#[test]
fn a_bad_document_is_refused_in_every_spelling_of_its_flag() {
    let equals = format!("--config-text={BAD}");
    let spellings: [&[&str]; 4] = [
        &["--config-text", BAD],
        &["-configText", BAD, "--v=4"],
        &[&equals],
        &["--config-text=$(CONFIG)"],
    ];
    for args in spellings {
        assert_eq!(
            refusal(&[epp("epp:1", args)]),
            "ConfigMap ns/base: eppDeployment, container epp, --config-text: line 5: plugins[1].type: \"latency-scorer\" does not exist here",
            "{args:?}"
        );
    }
}

#[test]
fn a_bad_document_in_a_config_map_of_the_base_is_refused_where_it_is() {
    let args = ["--config-file", "/etc/epp/config.yaml"];
    assert_eq!(
        refusal(&[epp("epp:1", &args), config_map(BAD)]),
        "ConfigMap ns/base: configMaps, ConfigMap epp-config, key epp.yaml: line 5: plugins[1].type: \"latency-scorer\" does not exist here"
    );
}

#[test]
fn a_bad_document_of_the_modelservice_does_not_blame_the_base() {
    let mut ms = model_service();
    let containers = json!({"containers": [{"name": "epp", "args": ["--config-text", BAD]}]});
    ms.spec.endpoint_picker = serde_json::from_value(containers).unwrap();
    let error = planned(&ms, &[]).unwrap_err();
    assert!(!error.blames_base_config());
    assert!(
        error
            .to_string()
            .starts_with("ModelService: spec.endpointPicker.containers[epp].args, "),
        "{error}"
    );
}

#[test]
fn two_documents_are_refused() {
    let args = [
        "--config-file=/etc/epp/config.yaml",
        "--config-text",
        BY_KV_EVENTS,
    ];
    assert!(refusal(&[epp("epp:1", &args)]).contains("one of them is wanted"));
}

#[test]
fn what_only_upstream_has_is_right_in_its_own_image() {
    let args = ["--config-text", BAD];
    let image = "ghcr.io/llm-d/llm-d-router-endpoint-picker:v0.10.0";
    let plan = planned(&model_service(), &[epp(image, &args)]).unwrap();
    assert!(
        plan.warnings.iter().any(|w| w.contains("latency-scorer")),
        "{:?}",
        plan.warnings
    );
    let misspelt = BAD.replace("latency-", "latecy-");
    refusal(&[epp(image, &["--config-text", &misspelt])]);
}

#[test]
fn engines_publish_kv_events_when_the_document_scores_by_them() {
    let publishes = |base: &[(&str, String)]| {
        let plan = planned(&model_service(), base).unwrap();
        let pod = plan.decode.unwrap().deployment.spec.template.spec.unwrap();
        let mut words = pod.containers.iter().flat_map(|c| c.args.iter().flatten());
        let published = words.any(|word| word.contains("kv-events-config"));
        (published, plan.warnings)
    };
    let decode = (
        "decodeDeployment",
        json!({"args": ["--seed=1"]}).to_string(),
    );
    let by_file = ["--config-file", "/etc/epp/config.yaml"];
    let (published, warnings) = publishes(&[
        decode.clone(),
        epp("epp:1", &by_file),
        config_map(BY_KV_EVENTS),
    ]);
    assert!(published);
    assert!(
        warnings.iter().any(|w| w.contains("PD_ENABLED")),
        "the environment does nothing beside a document: {warnings:?}"
    );
    let (published, warnings) = publishes(&[decode, epp("epp:1", &by_file)]);
    assert!(!published);
    assert!(
        warnings.iter().any(|w| w.contains("is not checked")),
        "{warnings:?}"
    );
}
