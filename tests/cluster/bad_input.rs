//! Wrong objects: each is a condition that names object and key, and what runs keeps running.

use anyhow::{Result, ensure};
use rig::up::Running;
use serde_json::{Value, json};

use crate::support::{
    BASE, LIMIT, MODEL, NS, answers, manifest, on_cluster, patch, serve_example, text,
};

/// Waits until some condition of the ModelService says all these words.
async fn told(cluster: &Running, words: &[&str]) -> Result<()> {
    cluster
        .wait_for(&format!("a condition with {words:?}"), LIMIT, || async {
            let object = cluster.get(&["modelservice", MODEL, "-n", NS]).await?;
            let seen = rig::cluster::describe_conditions(&object);
            Ok((!words.iter().all(|word| seen.contains(word))).then_some(seen))
        })
        .await
}

async fn base(cluster: &Running, key: &str, value: &str) -> Result<()> {
    patch(cluster, "configmap", BASE, &json!({"data": {key: value}})).await
}

fn good(key: &str) -> String {
    text(&manifest("configmap.yaml"), &format!("/data/{key}"))
}

#[test]
fn wrong_objects_are_told_and_harm_nothing() -> Result<()> {
    on_cluster(|cluster| async move {
        serve_example(&cluster).await?;
        let deployment = cluster
            .get(&["deployment", "llama-3-2-1b-decode", "-n", NS])
            .await?;

        eprintln!("a value that is not YAML");
        base(&cluster, "decodeDeployment", "containers: [\n  - nope: {").await?;
        told(&cluster, &[BASE, "decodeDeployment", "line"]).await?;
        answers(&cluster).await?;

        eprintln!("a template with an unknown field");
        base(
            &cluster,
            "decodeDeployment",
            "containers:\n- name: vllm\n  image: \"{{ .NoSuchField }}\"\n",
        )
        .await?;
        told(&cluster, &[BASE, "decodeDeployment", "NoSuchField"]).await?;
        answers(&cluster).await?;

        eprintln!("a negative weight");
        base(&cluster, "decodeDeployment", &good("decodeDeployment")).await?;
        base(
            &cluster,
            "eppDeployment",
            &good("eppDeployment").replace("value: \"20\"", "value: \"-20\""),
        )
        .await?;
        told(&cluster, &["SESSION_AWARE_SCORER_WEIGHT", "-20"]).await?;
        answers(&cluster).await?;
        base(&cluster, "eppDeployment", &good("eppDeployment")).await?;
        cluster
            .wait_condition(NS, MODEL, "Ready", "True", LIMIT)
            .await?;

        eprintln!("a Redis nobody answers at");
        let elsewhere = good("eppDeployment").replace(
            "llm-d-operator-redis-master.llm-d.svc.cluster.local:8100",
            "127.0.0.1:1",
        );
        ensure!(elsewhere != good("eppDeployment"), "nothing to edit");
        base(&cluster, "eppDeployment", &elsewhere).await?;
        told(&cluster, &["127.0.0.1:1"]).await?;
        answers(&cluster).await?;
        base(&cluster, "eppDeployment", &good("eppDeployment")).await?;
        cluster
            .wait_condition(NS, MODEL, "Ready", "True", LIMIT)
            .await?;

        eprintln!("a base ConfigMap that is gone");
        cluster
            .kubectl(&["delete", "configmap", BASE, "-n", NS])
            .await?;
        told(&cluster, &[BASE]).await?;
        answers(&cluster).await?;
        cluster.apply(&manifest("configmap.yaml")).await?;
        cluster
            .wait_condition(NS, MODEL, "Ready", "True", LIMIT)
            .await?;

        eprintln!("an image nobody has");
        let image = good("decodeDeployment").replace(
            "ghcr.io/llm-d/llm-d:v0.2.0",
            "ghcr.io/llm-d/nobody-has-this:1",
        );
        base(&cluster, "decodeDeployment", &image).await?;
        told(&cluster, &["ImagePull"]).await?;
        answers(&cluster).await?;
        base(&cluster, "decodeDeployment", &good("decodeDeployment")).await?;
        cluster
            .wait_condition(NS, MODEL, "Ready", "True", LIMIT)
            .await?;

        eprintln!("a foreign object with a child's name");
        let mut other = manifest("modelservice.yaml");
        other["metadata"]["name"] = "other".into();
        let foreign = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "other-epp-service", "namespace": NS},
            "spec": {"ports": [{"port": 1}]},
        });
        cluster.apply(&foreign).await?;
        cluster.apply(&other).await?;
        cluster
            .wait_for("a condition about the foreign Service", LIMIT, || async {
                let object = cluster.get(&["modelservice", "other", "-n", NS]).await?;
                let seen = rig::cluster::describe_conditions(&object);
                Ok((!seen.contains("other-epp-service")).then_some(seen))
            })
            .await?;
        let kept = cluster
            .get(&["service", "other-epp-service", "-n", NS])
            .await?;
        ensure!(
            kept["spec"]["ports"][0]["port"] == 1,
            "the foreign Service was changed: {}",
            kept["spec"]
        );
        cluster
            .kubectl(&["delete", "modelservice", "other", "-n", NS])
            .await?;
        let kept = cluster
            .get(&["service", "other-epp-service", "-n", NS])
            .await?;
        ensure!(kept["metadata"]["deletionTimestamp"] == Value::Null);

        let now = cluster
            .get(&["deployment", "llama-3-2-1b-decode", "-n", NS])
            .await?;
        ensure!(
            now["metadata"]["uid"] == deployment["metadata"]["uid"],
            "the decode Deployment was replaced"
        );
        let operator = cluster.get(&["pods", "-n", "llm-d-system"]).await?;
        ensure!(
            operator["items"][0]["status"]["containerStatuses"][0]["restartCount"] == 0,
            "the operator crashed"
        );
        answers(&cluster).await
    })
}
