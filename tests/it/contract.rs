//! What one program writes and another reads, without a cluster between them: the command
//! line and settings the operator renders for the EPP.
#![cfg(all(feature = "operator", feature = "epp"))]

use clap::Parser as _;
use llm_d_operator::api::ModelService;
use llm_d_operator::epp::cli::{Args, normalize};
use llm_d_operator::epp::discover::Source;
use llm_d_operator::operator::plan::plan;
use llm_d_operator::operator::resolved::{PoolVersion, Resolved, Served};
use llm_d_operator::operator::settings::Settings;

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
    let plan = plan(&Settings::default(), &ms, &resolved).expect("a plan");
    let deployment = plan.epp.expect("an EPP").deployment;
    let pod = deployment.spec.template.spec.expect("a pod");
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
        ]
    );
}
