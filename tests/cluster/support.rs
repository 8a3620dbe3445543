//! What every scenario needs: a cluster with the operator installed and the article's model
//! ready, changes of objects, and a trickle of requests. IO.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rig::cluster::http;
use rig::up::{self, Running};
use serde_json::Value;

pub(crate) const NS: &str = "llm-d";
pub(crate) const MODEL: &str = "llama-3-2-1b";
pub(crate) const BASE: &str = "basic-gpu-with-hybrid-cache";
/// Where engines and their sidecars serve.
pub(crate) const SERVING: u16 = 8000;
/// The EPP's page.
pub(crate) const EPP_METRICS: u16 = 9090;
/// How long anything may take that must happen: minutes on a machine that is busy. Nothing waits
/// longer than it has to.
pub(crate) const LIMIT: Duration = Duration::from_mins(5);

/// A scenario mostly waits: two clusters at once take little longer than one, more would make
/// each other slow.
const AT_ONCE: usize = 2;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// A cluster's turn; it ends when this is dropped.
pub(crate) struct Turn;

impl Turn {
    pub(crate) fn wait() -> Self {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = ENDED
            .wait_while(running, |running| *running >= AT_ONCE)
            .unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

pub(crate) fn example() -> PathBuf {
    root().join("examples/llama-3-2-1b")
}

/// One file of the example as JSON.
pub(crate) fn manifest(file: &str) -> Value {
    let text =
        std::fs::read_to_string(example().join(file)).expect("the example is part of the source");
    serde_yaml::from_str(&text).expect("the example is YAML")
}

/// Runs a scenario on a new cluster with the operator installed.
pub(crate) fn on_cluster<F>(scenario: impl FnOnce(std::sync::Arc<Running>) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let _turn = Turn::wait();
    up::runtime()?.block_on(async {
        let args = up::Args {
            net: std::env::var("RIG_NET")
                .ok()
                .and_then(|mode| clap::ValueEnum::from_str(&mode, true).ok()),
        };
        let cluster = std::sync::Arc::new(up::start(&args).await?);
        let result = async {
            cluster
                .install_operator(&root().join("charts/llm-d-operator"), &[])
                .await?;
            cluster.prepare_namespace(NS).await?;
            scenario(cluster.clone()).await
        }
        .await;
        if result.is_err() {
            for args in [["get", "pods,modelservices", "-A"], ["get", "events", "-A"]] {
                eprintln!("{}", cluster.kubectl(&args).await.unwrap_or_default());
            }
        }
        result
    })
}

/// Applies the example and waits until it is Ready and answers.
pub(crate) async fn serve_example(cluster: &Running) -> Result<()> {
    cluster
        .kubectl(&["apply", "-f", &example().display().to_string()])
        .await?;
    routed(cluster).await
}

/// Engines of the example: three of decode, two of prefill.
pub(crate) const ENGINES: usize = 5;

/// Waits until the model is Ready and everything on the way to it knows all engines: each part
/// hears of a pod at a time of its own.
pub(crate) async fn routed(cluster: &Running) -> Result<()> {
    cluster
        .wait_condition(NS, MODEL, "Ready", "True", LIMIT)
        .await?;
    gateway_knows_decode(cluster).await?;
    gateway_obeys(cluster).await?;
    gateway_asks(cluster).await?;
    subscribed(cluster, ENGINES).await
}

const EPP_CLUSTER: &str = "outbound|9002||llama-3-2-1b-epp-service.llm-d.svc.cluster.local";

/// Waits until the gateway asks the EPP: before it knows it, it answers by its own balancing.
async fn gateway_asks(cluster: &Running) -> Result<()> {
    cluster
        .wait_for("the gateway to ask the EPP", LIMIT, || async {
            let before = cluster.upstream_requests(EPP_CLUSTER).await?;
            let answer = cluster.chat(MODEL, "hello", false, &[]).await?;
            let asked = cluster.upstream_requests(EPP_CLUSTER).await? - before;
            Ok((answer.status != 200 || asked == 0)
                .then(|| format!("{}, asked {asked} times", answer.status)))
        })
        .await
}

/// Envoy's name of the decode engines.
const DECODE_CLUSTER: &str = "outbound|8000||llama-3-2-1b-service-decode.llm-d.svc.cluster.local";

/// Waits until Envoy sends requests where the EPP says: it takes the filter that asks and the
/// cluster that obeys one by one.
pub(crate) async fn gateway_obeys(cluster: &Running) -> Result<()> {
    cluster
        .wait_for("Envoy to obey the EPP", LIMIT, || async {
            let page = "/config_dump?resource=dynamic_active_clusters";
            let answer = http(cluster.envoy_admin, "GET", page, &[], "").await?;
            let dump: Value = serde_json::from_str(&answer.text()).context("read the clusters")?;
            let configs = dump["configs"].as_array().into_iter().flatten();
            let decode = configs
                .filter(|config| config["cluster"]["name"] == DECODE_CLUSTER)
                .map(|config| config["cluster"]["load_balancing_policy"].to_string())
                .next();
            let obeys = decode
                .as_ref()
                .is_some_and(|policy| policy.contains("override_host"));
            Ok((!obeys).then(|| format!("the policy of its cluster: {decode:?}")))
        })
        .await
}

/// Waits until Envoy knows exactly the decode pods there are: it hears of a pod a moment after
/// the EPP, and a choice that it does not know is balanced like any other request.
pub(crate) async fn gateway_knows_decode(cluster: &Running) -> Result<()> {
    cluster
        .wait_for("Envoy to know the decode pods", LIMIT, || async {
            let list = cluster
                .get(&["pods", "-n", NS, "-l", "llm-d.ai/role=decode"])
                .await?;
            let pods: BTreeSet<String> = list["items"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|pod| format!("{}:8000", text(pod, "/status/podIP")))
                .collect();
            let known: BTreeSet<String> = cluster
                .upstream_hosts(DECODE_CLUSTER)
                .await?
                .into_iter()
                .collect();
            Ok((pods != known).then(|| format!("{known:?} of {pods:?}")))
        })
        .await
}

/// Names of pods that start so.
pub(crate) async fn pods(cluster: &Running, prefix: &str) -> Result<BTreeSet<String>> {
    let names = names(cluster, "pods").await?;
    Ok(names
        .into_iter()
        .filter(|name| name.starts_with(prefix))
        .collect())
}

/// Waits until every EPP sees that many ready engines.
pub(crate) async fn subscribed(cluster: &Running, engines: usize) -> Result<()> {
    cluster
        .wait_for("the EPP to know all engines", LIMIT, || async {
            for epp in pods(cluster, "llama-3-2-1b-epp").await? {
                let page = cluster.pod_page(NS, &epp, EPP_METRICS, "/metrics").await?;
                let ready = page
                    .lines()
                    .find_map(|line| line.strip_prefix("llm_d_epp_endpoints{ready=\"true\"} "))
                    .and_then(|count| count.parse::<usize>().ok())
                    .unwrap_or_default();
                if ready < engines {
                    return Ok(Some(format!("{epp}: {ready} ready endpoints")));
                }
            }
            Ok(None)
        })
        .await
}

/// Waits until the gateway asks every EPP there is: until it knows one, it balances by itself.
pub(crate) async fn every_epp_is_asked(cluster: &Running) -> Result<()> {
    let count = async |epp: &str| {
        cluster
            .pod_metric(NS, epp, EPP_METRICS, "llm_d_epp_requests_total")
            .await
    };
    let mut before = BTreeMap::new();
    for epp in pods(cluster, "llama-3-2-1b-epp").await? {
        before.insert(epp.clone(), count(&epp).await?);
    }
    cluster
        .wait_for("the gateway to ask every EPP", LIMIT, || async {
            for _ in 0..before.len() * 4 {
                cluster.chat(MODEL, "who decides?", false, &[]).await?;
            }
            for (epp, before) in &before {
                if count(epp).await? <= *before {
                    return Ok(Some(epp.clone()));
                }
            }
            Ok(None)
        })
        .await
}

/// Waits until a chat request is answered with 200.
pub(crate) async fn answers(cluster: &Running) -> Result<()> {
    cluster
        .wait_for("an answer", LIMIT, || async {
            let answer = cluster.chat(MODEL, "hello", false, &[]).await?;
            Ok((answer.status != 200).then(|| format!("{} {}", answer.status, answer.text())))
        })
        .await
}

/// `kubectl patch` of type merge.
pub(crate) async fn patch(cluster: &Running, kind: &str, name: &str, patch: &Value) -> Result<()> {
    cluster
        .kubectl(&[
            "patch",
            kind,
            name,
            "-n",
            NS,
            "--type=merge",
            "-p",
            &patch.to_string(),
        ])
        .await?;
    Ok(())
}

/// A field of an object as text; empty when absent.
pub(crate) fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// `3/3` and the like from the ModelService's status.
pub(crate) async fn status(cluster: &Running, field: &str) -> Result<String> {
    Ok(text(
        &cluster.get(&["modelservice", MODEL, "-n", NS]).await?,
        &format!("/status/{field}"),
    ))
}

/// Waits until a field of the status has a value.
pub(crate) async fn wait_status(cluster: &Running, field: &str, value: &str) -> Result<()> {
    cluster
        .wait_for(&format!("status.{field} = {value}"), LIMIT, || async {
            let seen = status(cluster, field).await?;
            Ok((seen != value).then_some(seen))
        })
        .await
}

/// Names of objects of a kind in the namespace.
pub(crate) async fn names(cluster: &Running, kind: &str) -> Result<Vec<String>> {
    let output = cluster
        .kubectl(&["get", kind, "-n", NS, "-o", "name"])
        .await?;
    Ok(output
        .lines()
        .map(|line| line.rsplit('/').next().unwrap_or(line).to_owned())
        .collect())
}

/// The one pod whose name starts so.
pub(crate) async fn pod(cluster: &Running, prefix: &str, namespace: &str) -> Result<String> {
    let output = cluster
        .kubectl(&["get", "pods", "-n", namespace, "-o", "name"])
        .await?;
    output
        .lines()
        .filter_map(|line| line.strip_prefix("pod/"))
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
        .with_context(|| format!("no pod {prefix}*"))
}

/// Writes by the operator since the cluster started, from the API server's audit log.
pub(crate) fn operator_writes(cluster: &Running) -> Result<usize> {
    let log = std::fs::read_to_string(cluster.paths.state().join("audit.log"))?;
    Ok(log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|entry| {
            text(entry, "/user/username").starts_with("system:serviceaccount:llm-d-system:")
        })
        .count())
}
