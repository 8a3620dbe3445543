//! The article's model: Ready, every request through the EPP, spread over the decode pods; and
//! the header-only filter, beside the operator's and alone.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use rig::cluster::Answer;
use rig::up::Running;
use serde_json::{Value, json};

use crate::support::{
    EPP_METRICS, MODEL, NS, SERVING, answers, example, gateway_knows_decode, gateway_obeys, names,
    on_cluster, pod, pods, serve_example, status, subscribed,
};

const EPP_CLUSTER: &str = "outbound|9002||llama-3-2-1b-epp-service.llm-d.svc.cluster.local";

/// The filter that users of the article have in their clusters: headers only, every route.
pub(crate) fn header_only_filter() -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
        "metadata": {"name": "epp-external-processor", "namespace": NS},
        "spec": {
            "workloadSelector": {"labels": {"istio": "ingressgateway"}},
            "configPatches": [{
                "applyTo": "HTTP_FILTER",
                "match": {"context": "GATEWAY", "listener": {"filterChain": {"filter": {
                    "name": "envoy.filters.network.http_connection_manager",
                    "subFilter": {"name": "envoy.filters.http.router"},
                }}}},
                "patch": {"operation": "INSERT_BEFORE", "value": {
                    "name": "envoy.filters.http.ext_proc",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
                        "grpc_service": {"envoy_grpc": {"cluster_name": EPP_CLUSTER}},
                        "processing_mode": {"request_header_mode": "SEND", "response_header_mode": "SKIP"},
                    },
                }},
            }],
        },
    })
}

/// What makes Envoy obey the EPP's choice.
fn cluster_patch() -> Value {
    let policy = |name: &str, kind: &str| {
        json!({"typed_extension_config": {"name": format!("envoy.load_balancing_policies.{name}"), "typed_config": {
            "@type": format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{name}.v3.{kind}")}}})
    };
    let mut obey = policy("override_host", "OverrideHost");
    obey["typed_extension_config"]["typed_config"]["override_host_sources"] =
        json!([{"header": "x-gateway-destination-endpoint"}]);
    obey["typed_extension_config"]["typed_config"]["fallback_policy"] =
        json!({"policies": [policy("round_robin", "RoundRobin")]});
    json!({
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter",
        "metadata": {"name": "obey-the-epp", "namespace": NS},
        "spec": {"configPatches": [{
            "applyTo": "CLUSTER",
            "match": {"context": "GATEWAY", "cluster": {"name": "outbound|8000||llama-3-2-1b-service-decode.llm-d.svc.cluster.local"}},
            "patch": {"operation": "MERGE", "value": {"load_balancing_policy": {"policies": [obey]}}},
        }]},
    })
}

/// Sends requests ten at a time, half of them streamed; all must be answered well. Returns how
/// often the EPP was asked and how many each pod answered. `tag` tells these requests from others.
async fn ask(cluster: &Running, count: usize, tag: &str) -> Result<(u64, BTreeMap<String, usize>)> {
    let asked = cluster.upstream_requests(EPP_CLUSTER).await?;
    for batch in 0..count / 10 {
        let sent = (0..10).map(|index| async move {
            let prompt = format!("question {batch}-{index}");
            let id = format!("{tag}-{batch}-{index}");
            let stream = index % 2 == 1;
            (
                stream,
                cluster
                    .chat(MODEL, &prompt, stream, &[("x-request-id", &id)])
                    .await,
            )
        });
        for (stream, answer) in futures::future::join_all(sent).await {
            let answer = answer?;
            let text = answer.text();
            ensure!(answer.status == 200, "{}: {text}", answer.status);
            let whole = if stream {
                text.trim_end().ends_with("data: [DONE]")
            } else {
                text.contains("\"choices\"")
            };
            ensure!(whole, "not a whole answer: {text}");
        }
    }
    let asked = cluster.upstream_requests(EPP_CLUSTER).await? - asked;
    Ok((asked, who_answered(cluster, count, tag).await?))
}

/// Pods and how many of the tagged requests each answered, from Envoy's access log. Each must
/// have gone where the EPP said.
async fn who_answered(
    cluster: &Running,
    count: usize,
    tag: &str,
) -> Result<BTreeMap<String, usize>> {
    let pods = cluster.pods_by_ip(NS).await?;
    let tagged = || -> Result<Vec<Value>> {
        let mut lines = cluster.access_log()?;
        lines.retain(|line| {
            line["request_id"]
                .as_str()
                .is_some_and(|id| id.starts_with(&format!("{tag}-")))
        });
        Ok(lines)
    };
    cluster
        .wait_for("Envoy's access log", crate::support::LIMIT, || async {
            let seen = tagged()?.len();
            Ok((seen < count).then(|| format!("{seen} lines")))
        })
        .await?;
    let mut by_pod = BTreeMap::new();
    for line in tagged()? {
        let upstream = line["upstream"].as_str().unwrap_or_default();
        ensure!(
            line["destination"] == upstream,
            "the EPP's choice was not obeyed: {line}"
        );
        let ip = upstream.rsplit_once(':').map_or(upstream, |(ip, _)| ip);
        *by_pod
            .entry(pods.get(ip).cloned().unwrap_or_else(|| upstream.to_owned()))
            .or_default() += 1;
    }
    Ok(by_pod)
}

fn spread_over_decode(by_pod: &BTreeMap<String, usize>, count: usize) -> Result<()> {
    ensure!(by_pod.len() == 3, "not three pods: {by_pod:?}");
    for (pod, answered) in by_pod {
        ensure!(pod.contains("-decode-"), "{pod} answered: {by_pod:?}");
        // In flight at once: ten over three pods; equal shares are a third each.
        ensure!(*answered >= count / 5, "not spread: {by_pod:?}");
    }
    Ok(())
}

/// Which engine answered, if one did.
fn engine(answer: &Answer) -> Option<&http::HeaderValue> {
    answer.headers.get("x-inference-pod")
}

/// Tokens generated by all decode engines so far.
async fn generated(cluster: &Running) -> Result<f64> {
    let mut sum = 0.0;
    for name in pods(cluster, "llama-3-2-1b-decode").await? {
        sum += cluster
            .pod_metric(NS, &name, SERVING, "vllm:generation_tokens_total")
            .await?;
    }
    Ok(sum)
}

/// Makes every token of the decode engines take so many times as long.
async fn slow_decode(cluster: &Running, factor: f64) -> Result<()> {
    for pod in pods(cluster, "llama-3-2-1b-decode").await? {
        let slow = json!({"slow_factor": factor});
        cluster
            .pod_post(NS, &pod, SERVING, "/sim/faults", &slow)
            .await?;
    }
    Ok(())
}

/// A streamed answer is in flight for the EPP as long as tokens come.
async fn long_answers_count_until_they_end(cluster: &Running) -> Result<()> {
    // Not over before it has been looked at, however slow this machine is.
    slow_decode(cluster, 10.0).await?;
    let before = generated(cluster).await?;
    let epp = pod(cluster, "llama-3-2-1b-epp", NS).await?;
    let in_flight = || cluster.pod_metric(NS, &epp, EPP_METRICS, "llm_d_epp_in_flight_requests");
    let body =
        json!({"model": MODEL, "prompt": "a long story", "max_tokens": 3000, "stream": true});
    let headers = [("content-type", "application/json")];
    let asked = rig::cluster::http(
        cluster.gateway,
        "POST",
        "/v1/completions",
        &headers,
        body.to_string(),
    );
    let mut asked = std::pin::pin!(asked);
    let seen = cluster.wait_for(
        "the stream to be in flight",
        crate::support::LIMIT,
        || async {
            let now = in_flight().await?;
            Ok((now < 1.0).then(|| format!("{now} in flight")))
        },
    );
    tokio::select! {
        answer = &mut asked => anyhow::bail!("the answer ended before it was counted: {}", answer?.status),
        seen = seen => seen?,
    }
    // Tokens have come, so the response headers are long past: that is when Envoy may close
    // the EPP's stream.
    let flowing = cluster.wait_for("tokens to flow", crate::support::LIMIT, || async {
        let now = generated(cluster).await?;
        Ok((now < before + 200.0).then(|| format!("{now} tokens")))
    });
    tokio::select! {
        answer = &mut asked => anyhow::bail!("the answer ended too soon: {}", answer?.status),
        flowing = flowing => flowing?,
    }
    let now = in_flight().await?;
    ensure!(now >= 1.0, "a running stream is not counted");
    slow_decode(cluster, 1.0).await?;
    let answer = asked.await?;
    ensure!(answer.status == 200, "{}", answer.status);
    cluster
        .wait_for("nothing in flight", crate::support::LIMIT, || async {
            let now = in_flight().await?;
            Ok((now > 0.0).then(|| format!("{now} in flight")))
        })
        .await
}

#[test]
fn the_articles_model_is_served_through_the_epp() -> Result<()> {
    on_cluster(|cluster| async move {
        serve_example(&cluster).await?;
        ensure!(status(&cluster, "decodeReady").await? == "3/3");
        ensure!(status(&cluster, "prefillReady").await? == "2/2");
        ensure!(status(&cluster, "eppReady").await? == "1/1");
        let deployments = names(&cluster, "deployments").await?;
        ensure!(
            deployments
                == [
                    "llama-3-2-1b-decode",
                    "llama-3-2-1b-epp",
                    "llama-3-2-1b-prefill",
                    "llm-d-operator-redis-master"
                ],
            "{deployments:?}"
        );
        let (asked, by_pod) = ask(&cluster, 100, "alone").await?;
        ensure!(asked == 100, "the EPP was asked {asked} times");
        spread_over_decode(&by_pod, 100)?;
        eprintln!("alone: EPP asked {asked} times, {by_pod:?}");

        let headers = [("content-type", "application/json")];
        let wrong = rig::cluster::http(
            cluster.gateway,
            "POST",
            "/v1/chat/completions",
            &headers,
            "{\"model\": 3",
        )
        .await?;
        // An engine judges it, not the EPP.
        ensure!(wrong.status == 400, "a malformed body: {}", wrong.status);
        ensure!(engine(&wrong).is_some(), "no engine was asked: {wrong:?}");
        long_answers_count_until_they_end(&cluster).await?;

        let counters = async || -> Result<(f64, f64)> {
            let pod = pod(&cluster, "llama-3-2-1b-epp", NS).await?;
            let of = |name: &'static str| cluster.pod_metric(NS, &pod, EPP_METRICS, name);
            let decided = of("llm_d_epp_requests_total").await?;
            Ok((decided, of("llm_d_epp_skipped_streams_total").await?))
        };
        cluster.apply(&header_only_filter()).await?;
        cluster
            .wait_for("Envoy asks twice", crate::support::LIMIT, || async {
                let before = cluster.upstream_requests(EPP_CLUSTER).await?;
                cluster.chat(MODEL, "hello", false, &[]).await?;
                let asked = cluster.upstream_requests(EPP_CLUSTER).await? - before;
                Ok((asked != 2).then(|| format!("asked {asked} times")))
            })
            .await?;
        let before = counters().await?;
        let (asked, by_pod) = ask(&cluster, 100, "beside").await?;
        ensure!(asked == 200, "the EPP was asked {asked} times");
        let after = counters().await?;
        let counted = (after.0 - before.0, after.1 - before.1);
        ensure!(
            counted == (100.0, 100.0),
            "of two streams one decides and the other changes nothing: {counted:?}"
        );
        spread_over_decode(&by_pod, 100)?;
        eprintln!("beside the header-only filter: EPP asked {asked} times, {by_pod:?}");
        Ok(())
    })
}

#[test]
fn a_gateway_with_only_the_header_filter_is_routed_by_the_epp() -> Result<()> {
    on_cluster(|cluster| async move {
        cluster
            .kubectl(&["apply", "-f", &example().display().to_string()])
            .await?;
        // Someone else's gateway: the route's backend is ours to say.
        let route = "spec:\n  rules:\n  - backendRefs:\n    - name: llama-3-2-1b-service-decode\n      port: 8000\n";
        crate::support::patch(
            &cluster,
            "configmap",
            crate::support::BASE,
            &json!({"data": {"httpRoute": route}}),
        )
        .await?;
        crate::support::patch(
            &cluster,
            "modelservice",
            MODEL,
            &json!({"spec": {"routing": {"extension": "None"}}}),
        )
        .await?;
        cluster
            .wait_condition(NS, MODEL, "Ready", "True", crate::support::LIMIT)
            .await?;
        let filters = names(&cluster, "envoyfilters").await?;
        ensure!(filters.is_empty(), "the operator made filters: {filters:?}");
        cluster.apply(&header_only_filter()).await?;
        cluster.apply(&cluster_patch()).await?;
        gateway_knows_decode(&cluster).await?;
        gateway_obeys(&cluster).await?;
        subscribed(&cluster, crate::support::ENGINES).await?;
        answers(&cluster).await?;
        cluster
            .wait_for("Envoy asks the EPP", crate::support::LIMIT, || async {
                let before = cluster.upstream_requests(EPP_CLUSTER).await?;
                cluster.chat(MODEL, "hello", false, &[]).await?;
                let asked = cluster.upstream_requests(EPP_CLUSTER).await? - before;
                Ok((asked != 1).then(|| format!("asked {asked} times")))
            })
            .await?;
        let (asked, by_pod) = ask(&cluster, 50, "headers").await?;
        ensure!(asked == 50, "the EPP was asked {asked} times");
        ensure!(
            by_pod.keys().all(|pod| pod.contains("-decode-")),
            "{by_pod:?}"
        );
        eprintln!("header-only: EPP asked {asked} times, {by_pod:?}");
        // The EPP's choice is obeyed: every session stays on one pod.
        for session in 0..8 {
            let (name, tag) = (format!("client-{session}"), format!("session{session}"));
            for turn in 0..6 {
                let id = format!("{tag}-{turn}");
                let headers = [("session-id", name.as_str()), ("x-request-id", &id)];
                let answer = cluster.chat(MODEL, "again", false, &headers).await?;
                ensure!(answer.status == 200, "{}", answer.status);
            }
            let by_pod = who_answered(&cluster, 6, &tag).await?;
            ensure!(by_pod.len() == 1, "{name} went to {by_pod:?}");
        }
        Ok(())
    })
}
