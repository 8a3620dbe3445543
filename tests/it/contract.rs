//! What one program writes and another reads, without a cluster between them: the command
//! line and settings the operator renders for the EPP.
#![cfg(all(feature = "operator", feature = "epp"))]

use clap::Parser as _;
use llm_d_operator::api::ModelService;
use llm_d_operator::epp::cli::{Args, normalize};
use llm_d_operator::epp::discover::Source;
use llm_d_operator::operator::children::ChildKey;
use llm_d_operator::operator::resolved::{PoolVersion, Resolved, Served};
use llm_d_operator::operator::settings::Settings;
use llm_d_operator::operator::{facts, render};

const MODEL_SERVICE: &str = include_str!("../../examples/llama-3-2-1b/modelservice.yaml");

/// The EPP as started by the rendered args, and what it does not know of them.
fn started(pool: Option<PoolVersion>) -> (Args, Vec<String>) {
    let mut ms: ModelService = serde_yaml::from_str(MODEL_SERVICE).expect("the example");
    ms.metadata.namespace = Some("llm-d".to_owned());
    let resolved = Resolved {
        served: Served {
            inference_pool: pool,
            http_route: true,
            ..Served::default()
        },
        ..Resolved::default()
    };
    let facts =
        facts::decide(&Settings::default(), &ms, &resolved, &mut Vec::new()).expect("facts");
    let children = render::render(&facts);
    let deployment = children.deployment(ChildKey::EppDeployment);
    let template = &deployment.expect("an EPP").spec.template;
    let pod = template.spec.clone().expect("a pod");
    let container = pod
        .containers
        .into_iter()
        .find(|c| c.name == "epp")
        .expect("a container");
    let words = ["epp".to_owned()]
        .into_iter()
        .chain(container.args.expect("args"));
    let (kept, ignored) = normalize(words.collect());
    let args = Args::try_parse_from(kept).expect("args the EPP knows");
    let port = |name: &str| {
        let ports = container.ports.iter().flatten();
        let port = ports.into_iter().find(|p| p.name.as_deref() == Some(name));
        port.expect("a named port").container_port
    };
    assert_eq!(port("grpc"), i32::from(args.grpc_port));
    assert_eq!(port("grpc-health"), i32::from(args.grpc_health_port));
    assert_eq!(port("metrics"), i32::from(args.metrics_port));
    (args, ignored)
}

#[test]
fn the_epp_reads_the_pool_from_the_args_the_operator_renders() {
    for version in [PoolVersion::V1, PoolVersion::V1Alpha2] {
        let (args, ignored) = started(Some(version));
        assert!(ignored.is_empty(), "{ignored:?}");
        let Source::Pool { namespace, name } = args.source("elsewhere").unwrap() else {
            panic!("not a pool");
        };
        assert_eq!(
            (namespace.as_str(), name.as_str()),
            ("llm-d", "llama-3-2-1b-inference-pool")
        );
    }
}

#[test]
fn without_pools_the_epp_reads_labels_and_ports_from_the_args_the_operator_renders() {
    let (args, ignored) = started(None);
    assert!(ignored.is_empty(), "{ignored:?}");
    // The pod's own namespace: the operator renders none beside a selector.
    let Source::Selector { namespace, target } = args.source("llm-d").unwrap() else {
        panic!("not a selector");
    };
    assert_eq!(namespace, "llm-d");
    assert_eq!(target.ports, [8000]);
    let labels: Vec<_> = target
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    assert_eq!(
        labels,
        [
            "llm-d.ai/inferenceServing=true",
            "llm-d.ai/model=llama-3-2-1b",
            "llm-d.ai/modelservice=llama-3-2-1b",
        ]
    );
}

const GOOD: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: queue-scorer}
- {type: decode-filter}
";
const BAD: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: queu-scorer}
- {type: latency-scorer}
";

/// `epp` with these arguments and variables, and nothing else in its environment.
fn epp(args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_epp"))
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .expect("the program runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn an_epp_that_cannot_start_ends_with_an_error() {
    let file = "/nowhere/endpoints.yaml";
    let ports = ["--grpc-port=0", "--grpc-health-port=0", "--metrics-port=0"];
    let args = [&["--endpoints-file", file][..], &ports].concat();
    let (code, _, stderr) = epp(&args, &[("LLM_D_BIND_HOST", "127.0.0.1")]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(file), "{stderr}");
}

#[test]
fn the_epp_takes_a_document_in_the_spellings_that_the_operator_looks_for() {
    let equals = format!("--config-text={GOOD}");
    for args in [
        vec!["epp", "--config-text", GOOD],
        vec!["epp", "-configText", GOOD, "--v=4"],
        vec!["epp", &equals],
    ] {
        let (kept, _) = normalize(args.into_iter().map(str::to_owned).collect());
        let args = Args::try_parse_from(kept).expect("args the EPP knows");
        assert_eq!(args.config_text.as_deref(), Some(GOOD));
    }
}

#[test]
fn what_the_epp_prints_it_reads_back() {
    let env = [
        ("ENABLE_SESSION_AWARE_SCORER", "true"),
        ("PD_ENABLED", "true"),
    ];
    for output in ["yaml", "json"] {
        let (code, printed, said) = epp(&["config", "--output", output], &env);
        assert_eq!((code, said.as_str()), (Some(0), ""));
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config");
        std::fs::write(&file, &printed).expect("a file");
        let file = file.to_str().expect("text");
        let (code, again, said) = epp(&["config", "--config-file", file, "--output", output], &[]);
        assert_eq!((code, again, said.as_str()), (Some(0), printed, ""));
    }
}

#[test]
fn a_wrong_configuration_is_an_exit_code_and_every_mistake() {
    let (code, printed, said) = epp(&["--config-text", BAD, "config"], &[]);
    assert_eq!((code, printed.as_str()), (Some(1), ""));
    let mistakes: Vec<_> = said.lines().collect();
    assert_eq!(
        mistakes,
        [
            "error: --config-text: line 4: plugins[0].type: \"queu-scorer\" does not exist here; did you mean queue-scorer?",
            "error: --config-text: line 5: plugins[1].type: \"latency-scorer\" does not exist here",
        ]
    );
    let (code, _, said) = epp(&["config"], &[("LOAD_AWARE_SCORER_WEIGHT", "heavy")]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("LOAD_AWARE_SCORER_WEIGHT: \"heavy\""),
        "{said}"
    );
    let (code, _, said) = epp(&["config", "--config-file", "/nowhere"], &[]);
    assert_eq!(code, Some(1));
    assert!(said.contains("/nowhere"), "{said}");
}

#[test]
fn variables_beside_a_document_are_warned_about() {
    let (code, _, said) = epp(
        &["config", "--config-text", GOOD],
        &[("PD_ENABLED", "true")],
    );
    assert_eq!(code, Some(0));
    assert!(
        said.starts_with("warning: PD_ENABLED does nothing"),
        "{said}"
    );
}
