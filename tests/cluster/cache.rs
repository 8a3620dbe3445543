//! Requests follow the cache: the article's test, each scorer alone, many sessions, prefill
//! and decode apart, and what happens when a pod or the EPP dies in between.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use rig::up::Running;
use serde_json::{Value, json};

use crate::article::header_only_filter;
use crate::support::{
    BASE, EPP_METRICS, LIMIT, MODEL, NS, SERVING, every_epp_is_asked, gateway_knows_decode,
    manifest, on_cluster, patch, pod, pods, root, serve_example, subscribed, text,
};

/// The figure the article reports, in percent.
const ARTICLES_HIT_RATE: f64 = 87.4;

/// Runs `llm-d-operator bench cache-hit` against the gateway and returns its outcome.
async fn bench(cluster: &Running, label: &str, more: &[&str]) -> Result<Value> {
    let file = reports()?.join(format!("{}.json", label.replace(' ', "-")));
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_llm-d-operator"))
        .args(["bench", "cache-hit", "--quiet", "--output", "json"])
        .args(["--url", &format!("http://{}", cluster.gateway)])
        .args(["--model", MODEL, "--namespace", NS, "--label", label])
        .args(["--save", &file.display().to_string()])
        .args(more)
        .env("KUBECONFIG", &cluster.kubeconfig)
        .output()
        .await
        .context("start the benchmark")?;
    ensure!(
        output.status.success(),
        "bench {label}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let run: Value = serde_json::from_slice(&output.stdout).context("read the outcome")?;
    eprintln!(
        "{label}: hit rate {} %, ceiling {} %, tokens on one pod {} %, requests of a session on one pod {} %",
        run["totals"]["hit_rate_percent"],
        run["ceiling"]["percent"],
        run["stickiness"]["token_percent"],
        run["stickiness"]["request_percent"],
    );
    Ok(run)
}

/// Where reports are kept for people to look at.
fn reports() -> Result<PathBuf> {
    let folder = root().join("target/reports");
    std::fs::create_dir_all(&folder).context("make the folder of reports")?;
    Ok(folder)
}

fn number(run: &Value, pointer: &str) -> Result<f64> {
    run.pointer(pointer)
        .and_then(Value::as_f64)
        .with_context(|| format!("{pointer} is missing in {run}"))
}

/// The article's result: every request answered, its hit rate, one pod for the session.
fn as_good_as_the_article(run: &Value) -> Result<()> {
    ensure!(run["totals"]["answered"] == 30 && run["totals"]["failed"] == 0);
    let rate = number(run, "/totals/hit_rate_percent")?;
    ensure!(rate >= ARTICLES_HIT_RATE, "hit rate {rate} %");
    let sticky = number(run, "/stickiness/request_percent")?;
    ensure!(sticky >= 100.0, "{sticky} % of the session on one pod");
    Ok(())
}

/// The example's EPP with other switches, which shows its decisions.
pub(crate) fn switched(off: &[&str], on: &[&str]) -> String {
    let base = text(&manifest("configmap.yaml"), "/data/eppDeployment");
    let shows = "env:\n  - name: ENABLE_DEBUG_ENDPOINTS\n    value: \"true\"\n";
    let mut base = base.replacen("env:\n", shows, 1);
    for (names, from, to) in [(off, "true", "false"), (on, "false", "true")] {
        for name in names {
            let entry = |value: &str| format!("- name: {name}\n    value: \"{value}\"");
            assert!(
                base.contains(&entry(from)),
                "{name} is not in the example:\n{base}"
            );
            base = base.replace(&entry(from), &entry(to));
        }
    }
    base
}

/// Gives the EPP other settings and waits until only the new one runs; the engines are new
/// too, so that nothing is warm.
async fn set_epp(cluster: &Running, base: &str) -> Result<()> {
    let before = pod(cluster, "llama-3-2-1b-epp", NS).await?;
    patch(
        cluster,
        "configmap",
        BASE,
        &json!({"data": {"eppDeployment": base}}),
    )
    .await?;
    cluster
        .wait_for("a new EPP", LIMIT, || async {
            let now = pods(cluster, "llama-3-2-1b-epp").await?;
            Ok((now.len() != 1 || now.contains(&before)).then(|| format!("{now:?}")))
        })
        .await?;
    new_engines(cluster).await
}

async fn new_engines(cluster: &Running) -> Result<()> {
    let engines = async || -> Result<BTreeSet<String>> {
        let mut names = pods(cluster, "llama-3-2-1b-decode").await?;
        names.extend(pods(cluster, "llama-3-2-1b-prefill").await?);
        Ok(names)
    };
    let before = engines().await?;
    let all = ["-n", NS, "-l", "llm-d.ai/role", "--wait=false"];
    cluster
        .kubectl(&[&["delete", "pods"][..], &all].concat())
        .await?;
    cluster
        .wait_for("new engines", LIMIT, || async {
            let now = engines().await?;
            Ok((now.len() != 5 || !now.is_disjoint(&before)).then(|| format!("{now:?}")))
        })
        .await?;
    cluster
        .wait_condition(NS, MODEL, "Ready", "True", LIMIT)
        .await?;
    gateway_knows_decode(cluster).await?;
    subscribed(cluster, 5).await?;
    every_epp_is_asked(cluster).await
}

const FAST: &[&str] = &["--sleep", "0.05", "--fresh"];

#[test]
fn the_articles_test_and_each_scorer_alone() -> Result<()> {
    on_cluster(|cluster| async move {
        serve_example(&cluster).await?;
        subscribed(&cluster, 5).await?;
        let run = bench(&cluster, "as in the article", FAST).await?;
        as_good_as_the_article(&run)?;

        cluster.apply(&header_only_filter()).await?;
        let run = bench(&cluster, "with a header-only filter beside", FAST).await?;
        as_good_as_the_article(&run)?;
        cluster
            .kubectl(&["delete", "envoyfilter", "epp-external-processor", "-n", NS])
            .await?;

        let (session, kv, prefix) = (
            "ENABLE_SESSION_AWARE_SCORER",
            "ENABLE_KVCACHE_AWARE_SCORER",
            "ENABLE_PREFIX_AWARE_SCORER",
        );
        for (label, off) in [
            ("KV cache scorer and load", &[session, prefix][..]),
            ("prefix scorer and load", &[session, kv][..]),
            ("load alone", &[session, kv, prefix][..]),
        ] {
            set_epp(&cluster, &switched(off, &[])).await?;
            let mut run = bench(&cluster, label, FAST).await?;
            if off.contains(&prefix) && !off.contains(&kv) {
                // An engine that published before the EPP listened is known incompletely: the
                // run shows nothing about the events then, and is made again.
                for _ in 0..5 {
                    if events_alone_tell(&cluster).await.is_ok() {
                        break;
                    }
                    new_engines(&cluster).await?;
                    run = bench(&cluster, label, FAST).await?;
                }
                events_alone_tell(&cluster).await?;
            }
            if label == "load alone" {
                ensure!(run["totals"]["answered"] == 30);
            } else {
                as_good_as_the_article(&run)?;
            }
        }
        side_by_side().await
    })
}

/// What engines hold was known from their events, missing nothing, and not from what was sent.
async fn events_alone_tell(cluster: &Running) -> Result<()> {
    let epp = pod(cluster, "llama-3-2-1b-epp", NS).await?;
    let endpoints = async |state: &str| {
        let series = format!("llm_d_epp_kv_endpoints{{state=\"{state}\"}}");
        cluster.pod_metric(NS, &epp, EPP_METRICS, &series).await
    };
    let (reporting, cold) = (endpoints("reporting").await?, endpoints("cold").await?);
    ensure!(
        reporting >= 1.0 && cold < 1.0,
        "{reporting} engines report, {cold} of them incompletely"
    );
    let page = cluster
        .pod_page(NS, &epp, EPP_METRICS, "/debug/decisions?last=40")
        .await?;
    let decisions: Vec<Value> = serde_json::from_str(&page)?;
    let from_engine = decisions
        .iter()
        .filter(|decision| decision["tokensFrom"] == "engine")
        .count();
    ensure!(
        from_engine >= 30,
        "{from_engine} prompts had tokens: {page}"
    );
    Ok(())
}

/// One report of all runs, for people.
async fn side_by_side() -> Result<()> {
    let folder = reports()?;
    let file = |label: &str| {
        folder
            .join(format!("{}.json", label.replace(' ', "-")))
            .display()
            .to_string()
    };
    let report = folder.join("cache-hit.html");
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_llm-d-operator"))
        .args(["bench", "report", "--out", &report.display().to_string()])
        .args([
            file("as in the article"),
            file("KV cache scorer and load"),
            file("prefix scorer and load"),
            file("load alone"),
        ])
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let html = std::fs::read_to_string(&report)?;
    ensure!(html.contains("<svg") && html.contains("load alone"));
    eprintln!("report: {}", report.display());
    Ok(())
}

#[test]
fn many_sessions_over_few_prompts_stay_near_the_ceiling() -> Result<()> {
    on_cluster(|cluster| async move {
        serve_example(&cluster).await?;
        subscribed(&cluster, 5).await?;
        let load = [
            "--sessions",
            "20",
            "--requests",
            "10",
            "--prefix-groups",
            "4",
            "--concurrency",
            "4",
            "--sleep",
            "0",
            "--fresh",
        ];
        let run = bench(&cluster, "20 sessions over 4 prompts", &load).await?;
        ensure!(run["totals"]["answered"] == 200, "{}", run["totals"]);
        let rate = number(&run, "/totals/hit_rate_percent")?;
        let ceiling = number(&run, "/ceiling/percent")?;
        ensure!(rate >= 0.95 * ceiling, "{rate} % of at most {ceiling} %");
        let by_pod: Vec<f64> = run["pods"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|pod| pod["requests"].as_f64())
            .collect();
        let most = by_pod.iter().copied().fold(0.0, f64::max);
        let mean = by_pod.iter().sum::<f64>() / by_pod.len() as f64;
        eprintln!("requests by pod {by_pod:?}: max/mean {:.2}", most / mean);
        ensure!(by_pod.len() == 3 && most / mean <= 1.5, "{by_pod:?}");
        ensure!(number(&run, "/stickiness/request_percent")? >= 100.0);
        Ok(())
    })
}

/// A prompt of about 150 tokens that nobody has asked before.
fn long_prompt(unique: &str) -> String {
    let facts: Vec<String> = (0..40)
        .map(|index| format!("fact {index} of {unique} matters"))
        .collect();
    format!("{unique}: {}", facts.join(", "))
}

/// One answered chat request: who answered, tokens of prompt, and of those cached.
struct Turn {
    pod: String,
    prompt_tokens: u64,
    cached_tokens: u64,
}

async fn turn(cluster: &Running, prompt: &str, headers: &[(&str, &str)]) -> Result<Turn> {
    let answer = cluster.chat(MODEL, prompt, false, headers).await?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    let body: Value = serde_json::from_str(&answer.text())?;
    let pod = answer.headers.get("x-inference-pod").context("no engine")?;
    let tokens = |pointer: &str| body.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    Ok(Turn {
        pod: pod.to_str()?.to_owned(),
        prompt_tokens: tokens("/usage/prompt_tokens"),
        cached_tokens: tokens("/usage/prompt_tokens_details/cached_tokens"),
    })
}

/// Prompt tokens computed by all pods of a prefix.
pub(crate) async fn computed(cluster: &Running, prefix: &str) -> Result<u64> {
    let mut sum = 0;
    for name in pods(cluster, prefix).await? {
        sum += cluster
            .pod_metric(NS, &name, SERVING, "vllm:prompt_tokens_total")
            .await? as u64;
    }
    Ok(sum)
}

#[test]
fn cold_prompts_go_through_a_prefill_pod_and_warm_ones_do_not() -> Result<()> {
    on_cluster(|cluster| async move {
        serve_example(&cluster).await?;
        subscribed(&cluster, 5).await?;
        let prefill = || computed(&cluster, "llama-3-2-1b-prefill");
        let external = async || -> Result<f64> {
            let mut sum = 0.0;
            for name in pods(&cluster, "llama-3-2-1b-decode").await? {
                let hits = "vllm:external_prefix_cache_hits_total";
                sum += cluster.pod_metric(NS, &name, SERVING, hits).await?;
            }
            Ok(sum)
        };
        let (before, transferred) = (prefill().await?, external().await?);
        let prompt = long_prompt("volcanoes");
        let cold = turn(&cluster, &prompt, &[("session-id", "pd")]).await?;
        ensure!(cold.pod.contains("-decode-"), "{} answered", cold.pod);
        let after = prefill().await?;
        ensure!(
            after - before >= cold.prompt_tokens,
            "a cold prompt was not computed by a prefill pod: {before} -> {after}"
        );
        ensure!(
            external().await? > transferred,
            "no KV cache was transferred"
        );
        let warm = turn(&cluster, &prompt, &[("session-id", "pd")]).await?;
        ensure!(warm.pod == cold.pod && warm.cached_tokens > 0);
        ensure!(
            prefill().await? == after,
            "a warm prompt went through a prefill pod"
        );

        // With every prefill engine hung up on, prompts are computed where they are decoded.
        cluster
            .kubectl(&[
                "delete",
                "pods",
                "-n",
                NS,
                "-l",
                "llm-d.ai/role=prefill",
                "--force",
                "--grace-period=0",
                "--wait=false",
            ])
            .await?;
        for index in 0..10 {
            let prompt = long_prompt(&format!("glaciers {index}"));
            turn(&cluster, &prompt, &[]).await?;
        }
        Ok(())
    })
}

#[test]
fn a_session_moves_once_when_its_pod_dies() -> Result<()> {
    on_cluster(|cluster| async move {
        serve_example(&cluster).await?;
        set_epp(&cluster, &switched(&[], &[])).await?;
        subscribed(&cluster, 5).await?;
        let prompt = long_prompt("harbours");
        let headers = [("session-id", "sailor")];
        let mut visited = Vec::new();
        for _ in 0..15 {
            visited.push(turn(&cluster, &prompt, &headers).await?.pod);
        }
        let home = visited[0].clone();
        ensure!(visited.iter().all(|pod| *pod == home), "{visited:?}");
        let epp = pod(&cluster, "llama-3-2-1b-epp", NS).await?;
        let addresses = cluster.pods_by_ip(NS).await?;
        let (address, _) = addresses
            .iter()
            .find(|(_, name)| **name == home)
            .context("the session's pod has no address")?;
        cluster
            .kubectl(&[
                "delete",
                "pod",
                "-n",
                NS,
                &home,
                "--force",
                "--grace-period=0",
                "--wait=false",
            ])
            .await?;
        cluster
            .wait_for("the EPP to drop the dead pod", LIMIT, || async {
                turn(&cluster, "anyone?", &[]).await?;
                let endpoints = decision_endpoints(&cluster, &epp).await?;
                let dead = format!("{address}:{SERVING}");
                Ok(endpoints.contains(&dead).then(|| format!("{endpoints:?}")))
            })
            .await?;
        // The pod that came instead is chosen as soon as the EPP knows it; Envoy must know it too.
        cluster
            .wait_condition(NS, MODEL, "Ready", "True", LIMIT)
            .await?;
        gateway_knows_decode(&cluster).await?;
        subscribed(&cluster, 5).await?;
        let mut after = Vec::new();
        for _ in 0..15 {
            after.push(turn(&cluster, &prompt, &headers).await?);
        }
        let places: BTreeSet<_> = after.iter().map(|turn| turn.pod.clone()).collect();
        ensure!(places.len() == 1 && !places.contains(&home), "{places:?}");
        eprintln!("moved from {home} to {places:?}; 15 of 15 answered after the pod was out");
        Ok(())
    })
}

/// Endpoints in the score table of the newest decision.
async fn decision_endpoints(cluster: &Running, epp: &str) -> Result<Vec<String>> {
    let page = cluster
        .pod_page(NS, epp, EPP_METRICS, "/debug/decisions?last=1")
        .await?;
    let decisions: Value = serde_json::from_str(&page)?;
    Ok(decisions
        .pointer("/0/scores")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|row| text(row, "/endpoint"))
        .collect())
}

#[test]
fn sessions_outlive_the_epp_and_two_epps_agree() -> Result<()> {
    on_cluster(|cluster| async move {
        serve_example(&cluster).await?;
        subscribed(&cluster, 5).await?;
        let prompt = long_prompt("libraries");
        let headers = [("session-id", "reader")];
        let mut before = Vec::new();
        for _ in 0..15 {
            before.push(turn(&cluster, &prompt, &headers).await?);
        }
        let old = pod(&cluster, "llama-3-2-1b-epp", NS).await?;
        cluster.kubectl(&["delete", "pod", "-n", NS, &old]).await?;
        cluster
            .wait_for("another EPP", LIMIT, || async {
                let now = pods(&cluster, "llama-3-2-1b-epp").await?;
                Ok((now.len() != 1 || now.contains(&old)).then(|| format!("{now:?}")))
            })
            .await?;
        cluster
            .wait_condition(NS, MODEL, "Ready", "True", LIMIT)
            .await?;
        subscribed(&cluster, 5).await?;
        every_epp_is_asked(&cluster).await?;
        let mut rest = Vec::new();
        for _ in 0..15 {
            rest.push(turn(&cluster, &prompt, &headers).await?);
        }
        let sum = |of: fn(&Turn) -> u64| rest.iter().map(of).sum::<u64>() as f64;
        let rate = 100.0 * sum(|turn| turn.cached_tokens) / sum(|turn| turn.prompt_tokens);
        eprintln!("hit rate after the EPP restarted: {rate:.1} %");
        ensure!(rest.iter().all(|turn| turn.pod == before[0].pod));
        // By hashing alone the session might have come back by luck: it was read from Redis.
        let epp = pod(&cluster, "llama-3-2-1b-epp", NS).await?;
        let merged = "llm_d_epp_session_shared_entries_total{event=\"merged\"}";
        let merged = cluster.pod_metric(NS, &epp, EPP_METRICS, merged).await?;
        ensure!(merged >= 1.0, "the new EPP read no binding of the old one");

        patch(
            &cluster,
            "modelservice",
            MODEL,
            &json!({"spec": {"endpointPicker": {"replicas": 2}}}),
        )
        .await?;
        crate::support::wait_status(&cluster, "eppReady", "2/2").await?;
        subscribed(&cluster, 5).await?;
        every_epp_is_asked(&cluster).await?;
        let mut homes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for round in 0..4 {
            for session in 0..10 {
                let name = format!("agreed-{session}");
                let headers = [("session-id", name.as_str())];
                let prompt = format!("round {round}");
                let home = turn(&cluster, &prompt, &headers).await?.pod;
                homes.entry(name.clone()).or_default().insert(home);
            }
        }
        let mut decided = Vec::new();
        for epp in pods(&cluster, "llama-3-2-1b-epp").await? {
            let count = "llm_d_epp_requests_total";
            decided.push(cluster.pod_metric(NS, &epp, EPP_METRICS, count).await?);
        }
        eprintln!("decisions by EPP {decided:?}; homes {homes:?}");
        ensure!(decided.len() == 2 && decided.iter().all(|count| *count > 0.0));
        ensure!(homes.values().all(|pods| pods.len() == 1), "{homes:?}");
        Ok(())
    })
}

#[test]
fn a_burst_spreads_and_clients_cannot_steer() -> Result<()> {
    on_cluster(|cluster| async move {
        serve_example(&cluster).await?;
        subscribed(&cluster, 5).await?;
        let sent = (0..64).map(|index| {
            let cluster = cluster.clone();
            async move { turn(&cluster, &long_prompt(&format!("{index} burst")), &[]).await }
        });
        let mut by_pod: BTreeMap<String, usize> = BTreeMap::new();
        for answered in futures::future::join_all(sent).await {
            *by_pod.entry(answered?.pod).or_default() += 1;
        }
        eprintln!("64 cold requests at once: {by_pod:?}");
        ensure!(by_pod.len() == 3 && by_pod.values().all(|count| (16..=27).contains(count)));

        let ips = cluster.pods_by_ip(NS).await?;
        let address = |role: &str| -> Result<String> {
            let (ip, _) = ips
                .iter()
                .find(|(_, name)| name.contains(role))
                .context("no such pod")?;
            Ok(format!("{ip}:{SERVING}"))
        };
        let (decode, prefill) = (address("-decode-")?, address("-prefill-")?);
        let before = computed(&cluster, "llama-3-2-1b-prefill").await?;
        let url = format!("http://{prefill}");
        for _ in 0..9 {
            let spoofed = [
                ("x-gateway-destination-endpoint", prefill.as_str()),
                ("x-prefiller-host-port", prefill.as_str()),
                ("x-prefiller-url", url.as_str()),
                ("x-data-parallel-host-port", decode.as_str()),
            ];
            let answered = turn(&cluster, "short", &spoofed).await?;
            ensure!(
                answered.pod.contains("-decode-"),
                "{} answered",
                answered.pod
            );
        }
        ensure!(
            computed(&cluster, "llama-3-2-1b-prefill").await? == before,
            "a client reached a prefill pod by headers"
        );
        Ok(())
    })
}
