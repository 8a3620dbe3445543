//! A ModelService over time: edits, scaling, removal of a part, idleness, deletion.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rig::up::Running;
use serde_json::{Value, json};

use crate::support::{
    BASE, LIMIT, MODEL, NS, answers, manifest, names, on_cluster, operator_writes, patch,
    serve_example, text, wait_status,
};

/// How long the operator is watched while nothing happens.
const IDLE: Duration = Duration::from_mins(1);
/// An operator that wrote nothing for so long has settled.
const QUIET: Duration = Duration::from_secs(10);

/// Waits until the operator has said all it had to say of the start, and returns how much that
/// was.
async fn quiet(cluster: &Running) -> Result<usize> {
    let last = Mutex::new((0, Instant::now()));
    cluster
        .wait_for("the operator to be quiet", LIMIT, || async {
            let now = operator_writes(cluster)?;
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.0 != now {
                *last = (now, Instant::now());
            }
            Ok((last.1.elapsed() < QUIET).then(|| format!("{now} writes")))
        })
        .await?;
    operator_writes(cluster)
}

async fn to_zero_and_back(cluster: &Running) -> Result<()> {
    eprintln!("decode to 0 and back");
    patch(
        cluster,
        "modelservice",
        MODEL,
        &json!({"spec": {"decode": {"replicas": 0}}}),
    )
    .await?;
    wait_status(cluster, "decodeReady", "0/0").await?;
    cluster
        .wait_for("an empty pool", LIMIT, || async {
            let answer = cluster.chat(MODEL, "anyone?", false, &[]).await?;
            // Envoy's own 503 has neither.
            let refused = answer.status == 503
                && answer
                    .headers
                    .get("x-llm-d-request-dropped-reason")
                    .is_some_and(|reason| reason == "rejected-no-endpoints")
                && answer.text().contains("failed to find endpoint candidates");
            Ok((!refused).then(|| format!("{} {}", answer.status, answer.text())))
        })
        .await?;
    patch(
        cluster,
        "modelservice",
        MODEL,
        &json!({"spec": {"decode": {"replicas": 3}}}),
    )
    .await?;
    wait_status(cluster, "decodeReady", "3/3").await?;
    answers(cluster).await
}

#[test]
fn edits_roll_out_once_and_deletion_leaves_nothing() -> Result<()> {
    on_cluster(|cluster| async move {
        serve_example(&cluster).await?;
        let generation = async || -> Result<Value> {
            Ok(cluster
                .get(&["deployment", "llama-3-2-1b-decode", "-n", NS])
                .await?["metadata"]["generation"]
                .clone())
        };

        eprintln!("an idle minute");
        let before = quiet(&cluster).await?;
        ensure!(before > 0, "the audit log holds no write of the operator");
        tokio::time::sleep(IDLE).await;
        let written = operator_writes(&cluster)? - before;
        ensure!(
            written == 0,
            "the operator wrote {written} times in an idle minute"
        );

        eprintln!("an edit of the base ConfigMap");
        let rolled_from = generation().await?;
        let base = text(&manifest("configmap.yaml"), "/data/decodeDeployment");
        let edited = base.replace("--max-model-len=4096", "--max-model-len=2048");
        ensure!(edited != base, "nothing to edit");
        patch(
            &cluster,
            "configmap",
            BASE,
            &json!({"data": {"decodeDeployment": edited}}),
        )
        .await?;
        cluster
            .wait_for("the edited decode pods", LIMIT, || async {
                let list = cluster
                    .get(&["pods", "-n", NS, "-l", "llm-d.ai/role=decode"])
                    .await?;
                let pods = list["items"].as_array().cloned().unwrap_or_default();
                let new = pods
                    .iter()
                    .filter(|pod| {
                        pod["spec"]["containers"]
                            .to_string()
                            .contains("--max-model-len=2048")
                    })
                    .count();
                Ok((new != 3 || pods.len() != 3).then(|| format!("{new} new of {}", pods.len())))
            })
            .await?;
        cluster
            .wait_condition(NS, MODEL, "Ready", "True", LIMIT)
            .await?;
        let sets = cluster
            .get(&["replicasets", "-n", NS, "-l", "llm-d.ai/role=decode"])
            .await?;
        let sets = sets["items"].as_array().map_or(0, Vec::len);
        ensure!(sets == 2, "decode rolled {} times", sets - 1);
        ensure!(
            generation().await?.as_i64() == rolled_from.as_i64().map(|generation| generation + 1)
        );

        to_zero_and_back(&cluster).await?;

        eprintln!("prefill goes");
        patch(
            &cluster,
            "modelservice",
            MODEL,
            &json!({"spec": {"prefill": null}}),
        )
        .await?;
        cluster
            .wait_for("no prefill objects", LIMIT, || async {
                let left: Vec<_> = [
                    names(&cluster, "deployments").await?,
                    names(&cluster, "services").await?,
                    names(&cluster, "pods").await?,
                ]
                .concat()
                .into_iter()
                .filter(|name| name.contains("prefill"))
                .collect();
                Ok((!left.is_empty()).then(|| format!("{left:?}")))
            })
            .await?;
        answers(&cluster).await?;

        eprintln!("everything goes");
        cluster
            .kubectl(&["delete", "modelservice", MODEL, "-n", NS])
            .await?;
        cluster
            .wait_for("no children", LIMIT, || async {
                let kinds = "deployments,services,inferencepools.inference.networking.k8s.io,httproutes,envoyfilters,rolebindings,networkpolicies,pods";
                let mut left = names(&cluster, kinds).await?;
                left.extend(names(&cluster, "serviceaccounts").await?.into_iter().filter(|name| name != "default"));
                left.extend(names(&cluster, "secrets").await?.into_iter().filter(|name| name != "llm-d-hf-token"));
                Ok((!left.is_empty()).then(|| format!("{left:?}")))
            })
            .await
    })
}
