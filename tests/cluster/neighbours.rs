//! Two ModelServices in one namespace: of one model, and behind one Gateway.

use anyhow::{Result, ensure};
use rig::up::Running;
use serde_json::{Value, json};

use crate::support::{LIMIT, MODEL, NS, answers, on_cluster, serve_example, text};

fn model_service(name: &str, model: &str, gateways: &Value) -> Value {
    json!({
        "apiVersion": "llm-d.ai/v1alpha1", "kind": "ModelService",
        "metadata": {"name": name, "namespace": NS},
        "spec": {
            "modelArtifacts": {"uri": "hf://Qwen/Qwen3-8B"},
            "decode": {"replicas": 1},
            "routing": {"modelName": model, "gatewayRefs": gateways},
        },
    })
}

/// Names of the pods to which a Service leads.
async fn endpoints(cluster: &Running, service: &str) -> Result<Vec<String>> {
    let selector = format!("kubernetes.io/service-name={service}");
    let slices = cluster
        .get(&["endpointslices", "-n", NS, "-l", &selector])
        .await?;
    let slices = slices["items"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<String> = slices
        .iter()
        .flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default())
        .map(|endpoint| text(&endpoint, "/targetRef/name"))
        .collect();
    names.sort();
    Ok(names)
}

#[test]
fn two_modelservices_of_one_model_keep_to_their_own_pods() -> Result<()> {
    on_cluster(|cluster| async move {
        serve_example(&cluster).await?;
        let service = format!("{MODEL}-service-decode");
        let before = endpoints(&cluster, &service).await?;
        ensure!(before.len() == 3, "{before:?}");
        let canary = model_service("canary", MODEL, &json!([]));
        cluster.apply(&canary).await?;
        cluster
            .wait_condition(NS, "canary", "Ready", "True", LIMIT)
            .await?;
        let own = endpoints(&cluster, "canary-service-decode").await?;
        ensure!(
            own.len() == 1 && own[0].starts_with("canary-decode-"),
            "{own:?}"
        );
        let after = endpoints(&cluster, &service).await?;
        ensure!(after == before, "{after:?}, not {before:?}");
        answers(&cluster).await
    })
}

#[test]
fn a_route_that_never_wins_is_not_ready_and_says_which_one_does() -> Result<()> {
    on_cluster(|cluster| async move {
        serve_example(&cluster).await?;
        let gateway = json!([{"name": "llm-d-gateway"}]);
        cluster
            .apply(&model_service("second", "qwen3-8b", &gateway))
            .await?;
        cluster
            .wait_condition(NS, "second", "WorkloadsReady", "True", LIMIT)
            .await?;
        cluster
            .wait_for("the winner to be named", LIMIT, || async {
                let ms = cluster.get(&["modelservice", "second", "-n", NS]).await?;
                let conditions = ms["status"]["conditions"].as_array().cloned();
                let conditions = conditions.unwrap_or_default();
                let ready = conditions.iter().find(|c| c["type"] == "Ready");
                let ready = ready.cloned().unwrap_or_default();
                let wanted = format!("HTTPRoute {NS}/{MODEL}-http-route of ModelService {MODEL}");
                let told = ready["status"] == "False"
                    && ready["reason"] == "RouteShadowed"
                    && text(&ready, "/message").contains(&wanted);
                Ok((!told).then(|| ready.to_string()))
            })
            .await?;
        answers(&cluster).await
    })
}
