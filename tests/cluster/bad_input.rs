//! Wrong objects: each is a condition that names object and key, one event, no crash and no
//! hot retry; and what runs keeps running.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use rig::up::Running;
use serde_json::{Value, json};

use crate::support::{
    BASE, LIMIT, MODEL, NS, answers, manifest, on_cluster, operator_writes, patch, serve_example,
    text,
};

/// How long a mistake is watched for repeated events and writes.
const WATCHED: Duration = Duration::from_secs(8);
/// Writes a mistake may cost: status, events, and what of the children it changes.
const WRITES: usize = 12;

/// A mistake, and what a user must be told of it.
struct Mistake<'a> {
    what: &'a str,
    /// Name of the ModelService that is told.
    model: &'a str,
    /// Condition that is `False` because of it.
    condition: &'a str,
    /// Words that its reason and message hold.
    words: &'a [&'a str],
}

/// Waits for the condition, then checks that it is told once and that nothing spins, stops
/// or is replaced.
async fn check(cluster: &Running, mistake: Mistake<'_>) -> Result<()> {
    let Mistake {
        what,
        model,
        condition,
        words,
    } = mistake;
    cluster
        .wait_for(
            &format!("{what}: {condition}=False with {words:?}"),
            LIMIT,
            || async {
                let object = cluster.get(&["modelservice", model, "-n", NS]).await?;
                let told = object["status"]["conditions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|c| {
                        let said = format!("{} {}", text(c, "/reason"), text(c, "/message"));
                        c["type"] == condition
                            && c["status"] == "False"
                            && words.iter().all(|word| said.contains(word))
                    });
                Ok((!told).then(|| rig::cluster::describe_conditions(&object)))
            },
        )
        .await?;
    cluster
        .wait_for(&format!("{what}: an event"), LIMIT, || async {
            let told = warnings(cluster, model, words).await?;
            Ok((told == 0).then(|| "none".to_owned()))
        })
        .await?;
    let before = operator_writes(cluster)?;
    ensure!(before > 0, "the audit log holds no write of the operator");
    tokio::time::sleep(WATCHED).await;
    let written = operator_writes(cluster)? - before;
    ensure!(
        written <= WRITES,
        "{what}: {written} writes while nothing changed"
    );
    let told = warnings(cluster, model, words).await?;
    ensure!(told == 1, "{what}: told by {told} events");
    answers(cluster).await?;
    eprintln!("{what}: told once, {written} writes in {WATCHED:?} after");
    Ok(())
}

/// How often Warning events of the ModelService said these words.
async fn warnings(cluster: &Running, model: &str, words: &[&str]) -> Result<i64> {
    let list = cluster
        .get(&[
            "events",
            "-n",
            NS,
            "--field-selector",
            &format!("involvedObject.name={model},type=Warning"),
        ])
        .await?;
    Ok(list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|event| {
            let said = format!("{} {}", text(event, "/reason"), text(event, "/message"));
            words.iter().all(|word| said.contains(word))
        })
        .map(|event| {
            let count = |at: &str| event.pointer(at).and_then(Value::as_i64);
            count("/series/count")
                .or(count("/count"))
                .unwrap_or(1)
                .max(1)
        })
        .sum())
}

async fn base(cluster: &Running, key: &str, value: &str) -> Result<()> {
    patch(cluster, "configmap", BASE, &json!({"data": {key: value}})).await
}

fn good(key: &str) -> String {
    text(&manifest("configmap.yaml"), &format!("/data/{key}"))
}

async fn ready(cluster: &Running) -> Result<()> {
    cluster
        .wait_condition(NS, MODEL, "Ready", "True", LIMIT)
        .await
}

async fn decode_pods(cluster: &Running) -> Result<BTreeSet<String>> {
    let list = cluster
        .get(&["pods", "-n", NS, "-l", "llm-d.ai/role=decode"])
        .await?;
    Ok(list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pod| text(pod, "/metadata/uid"))
        .collect())
}

/// A child whose name a foreign object has is not made, and that object is not touched.
async fn foreign_objects_stay(cluster: &Running) -> Result<()> {
    let mut other = manifest("modelservice.yaml");
    other["metadata"]["name"] = "other".into();
    let foreign = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "other-epp-service", "namespace": NS},
        "spec": {"ports": [{"port": 1}]},
    });
    cluster.apply(&foreign).await?;
    cluster.apply(&other).await?;
    check(
        cluster,
        Mistake {
            what: "a foreign object with a child's name",
            model: "other",
            condition: "Ready",
            words: &["other-epp-service"],
        },
    )
    .await?;
    cluster
        .kubectl(&["delete", "modelservice", "other", "-n", NS])
        .await?;
    let kept = cluster
        .get(&["service", "other-epp-service", "-n", NS])
        .await?;
    ensure!(
        kept["spec"]["ports"][0]["port"] == 1
            && kept["metadata"]["deletionTimestamp"] == Value::Null,
        "the foreign Service was touched: {kept}"
    );
    Ok(())
}

#[test]
fn wrong_objects_are_told_once_and_harm_nothing() -> Result<()> {
    on_cluster(|cluster| async move {
        serve_example(&cluster).await?;
        let pods = decode_pods(&cluster).await?;
        ensure!(pods.len() == 3, "{pods:?}");
        let mistake = |what, words| Mistake {
            what,
            model: MODEL,
            condition: "Ready",
            words,
        };

        base(&cluster, "decodeDeployment", "containers: [\n  - nope: {").await?;
        check(
            &cluster,
            mistake(
                "a value that is not YAML",
                &[BASE, "decodeDeployment", "line"],
            ),
        )
        .await?;

        let template = "containers:\n- name: vllm\n  image: \"{{ .NoSuchField }}\"\n";
        base(&cluster, "decodeDeployment", template).await?;
        let words = &[BASE, "decodeDeployment", "line 3", "NoSuchField"];
        check(&cluster, mistake("a template with an unknown field", words)).await?;
        base(&cluster, "decodeDeployment", &good("decodeDeployment")).await?;
        ready(&cluster).await?;

        let negative = good("eppDeployment").replace("value: \"20\"", "value: \"-20\"");
        base(&cluster, "eppDeployment", &negative).await?;
        let words = &[
            BASE,
            "eppDeployment",
            "line",
            "SESSION_AWARE_SCORER_WEIGHT",
            "-20",
        ];
        check(&cluster, mistake("a negative weight", words)).await?;
        base(&cluster, "eppDeployment", &good("eppDeployment")).await?;
        ready(&cluster).await?;

        cluster
            .kubectl(&["delete", "configmap", BASE, "-n", NS])
            .await?;
        let words = &["BaseConfigMapNotFound", BASE];
        check(&cluster, mistake("a base ConfigMap that is gone", words)).await?;
        cluster.apply(&manifest("configmap.yaml")).await?;
        ready(&cluster).await?;
        ensure!(
            decode_pods(&cluster).await? == pods,
            "decode pods were replaced by mistakes that never made a plan"
        );

        let elsewhere = good("eppDeployment").replace(
            "llm-d-operator-redis-master.llm-d.svc.cluster.local:8100",
            "127.0.0.1:1",
        );
        ensure!(elsewhere != good("eppDeployment"), "nothing to edit");
        base(&cluster, "eppDeployment", &elsewhere).await?;
        check(
            &cluster,
            Mistake {
                condition: "RedisReady",
                ..mistake(
                    "a Redis nobody answers at",
                    &["127.0.0.1:1", "KVCACHE_INDEXER_REDIS_ADDR"],
                )
            },
        )
        .await?;
        base(&cluster, "eppDeployment", &good("eppDeployment")).await?;
        ready(&cluster).await?;

        let now = decode_pods(&cluster).await?;
        ensure!(now == pods, "{now:?}, not {pods:?}: pods were touched");
        let image = good("decodeDeployment").replace(
            "ghcr.io/llm-d/llm-d:v0.2.0",
            "ghcr.io/llm-d/nobody-has-this:1",
        );
        base(&cluster, "decodeDeployment", &image).await?;
        check(
            &cluster,
            mistake(
                "an image nobody has",
                &["ImagePull", "nobody-has-this", BASE, "decodeDeployment"],
            ),
        )
        .await?;
        base(&cluster, "decodeDeployment", &good("decodeDeployment")).await?;
        ready(&cluster).await?;
        // On GPUs one pod makes room for its replacement; the others must have gone on serving.
        // Pods that never ran take their time to go.
        cluster
            .wait_for("all but one of the decode pods that ran", LIMIT, || async {
                let now = decode_pods(&cluster).await?;
                let kept = now.intersection(&pods).count();
                let good = now.len() == pods.len() && kept + 1 >= pods.len();
                Ok((!good).then(|| format!("{now:?} of {pods:?}")))
            })
            .await?;

        foreign_objects_stay(&cluster).await?;
        let operator = cluster.get(&["pods", "-n", "llm-d-system"]).await?;
        ensure!(
            operator["items"][0]["status"]["containerStatuses"][0]["restartCount"] == 0,
            "the operator crashed"
        );
        answers(&cluster).await
    })
}
