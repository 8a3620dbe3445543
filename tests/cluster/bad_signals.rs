//! Engines that tell nonsense, and prefill engines that fail: each is counted where people look,
//! and every request is still answered.

use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};
use rig::up::Running;
use serde_json::{Value, json};

use crate::support::{
    BASE, EPP_METRICS, LIMIT, MODEL, NS, SERVING, answers, manifest, on_cluster, patch, pod,
    routed, serve_example, text,
};

/// Pods of a role, by name.
async fn engines(cluster: &Running, role: &str) -> Result<Vec<String>> {
    let list = cluster
        .get(&["pods", "-n", NS, "-l", &format!("llm-d.ai/role={role}")])
        .await?;
    Ok(list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pod| text(pod, "/metadata/name"))
        .collect())
}

async fn faults(cluster: &Running, pods: &[String], faults: &Value) -> Result<()> {
    for pod in pods {
        cluster
            .pod_post(NS, pod, SERVING, "/sim/faults", faults)
            .await?;
    }
    Ok(())
}

/// Gives the engines a fault until a counter of the EPP is above what it was, asking all the
/// while: every request must be answered.
async fn counted(
    cluster: &Running,
    epp: &str,
    series: &str,
    engines: &[String],
    fault: &Value,
) -> Result<()> {
    let now = || cluster.pod_metric(NS, epp, EPP_METRICS, series);
    let before = now().await?;
    let refused = Mutex::new(Vec::new());
    cluster
        .wait_for(&format!("{series} to be counted"), LIMIT, || async {
            // Again each time: an event that is published before the EPP listens is lost.
            faults(cluster, engines, fault).await?;
            let answer = cluster.chat(MODEL, "still there?", false, &[]).await?;
            if answer.status != 200 {
                let said = format!("{}: {}", answer.status, answer.text());
                refused
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(said);
            }
            let now = now().await?;
            Ok((now <= before).then(|| format!("{now}")))
        })
        .await?;
    let refused = refused.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(
        refused.is_empty(),
        "{series}: refused meanwhile: {refused:?}"
    );
    eprintln!("{series}: counted");
    Ok(())
}

#[test]
fn nonsense_from_engines_is_counted_and_requests_are_answered() -> Result<()> {
    on_cluster(|cluster| async move {
        serve_example(&cluster).await?;
        let epp = pod(&cluster, "llama-3-2-1b-epp", NS).await?;
        let decode = engines(&cluster, "decode").await?;
        let stream = |kind: &str| format!("llm_d_epp_kv_stream_events_total{{type=\"{kind}\"}}");
        for (oddity, series) in [
            ("garbage", stream("bad_payload")),
            ("out_of_order", stream("restart")),
            ("other_model", stream("other_model")),
            (
                "unknown_type",
                "llm_d_epp_kv_events_rejected_total{reason=\"unknown_type\"}".to_owned(),
            ),
            (
                "unknown_parent",
                "llm_d_epp_kv_blocks_total{outcome=\"unknown_parent\"}".to_owned(),
            ),
        ] {
            let publish = json!({"events": {"publish": [oddity]}});
            counted(&cluster, &epp, &series, &decode, &publish).await?;
        }
        for (page, outcome) in [
            ("huge", "too_large"),
            ("empty", "empty"),
            ("binary", "not_text"),
            ("error", "status"),
        ] {
            let series = format!("llm_d_epp_scrapes_total{{outcome=\"{outcome}\"}}");
            counted(&cluster, &epp, &series, &decode, &json!({"metrics": page})).await?;
        }
        Ok(())
    })
}

#[test]
fn a_prefill_engine_that_fails_costs_no_request() -> Result<()> {
    on_cluster(|cluster| async move {
        // A hang is noticed after a second here, and told on a page of the sidecar's own.
        let mut base = manifest("configmap.yaml");
        let decode = text(&base, "/data/decodeDeployment").replace(
            "- \"--connector=nixlv2\"",
            "- \"--connector=nixlv2\"\n      - \"--prefill-timeout=1s\"\n      - \"--metrics-port=9091\"",
        );
        ensure!(
            decode.contains("9091"),
            "the example's sidecar has other args"
        );
        base["data"]["decodeDeployment"] = decode.into();
        cluster.apply(&base).await?;
        cluster.apply(&manifest("modelservice.yaml")).await?;
        routed(&cluster).await?;
        ensure!(text(&base, "/metadata/name") == BASE);
        let (prefill, decode) = (
            engines(&cluster, "prefill").await?,
            engines(&cluster, "decode").await?,
        );
        let fell_back = async || -> Result<f64> {
            let mut sum = 0.0;
            for pod in &decode {
                sum += cluster
                    .pod_metric(NS, pod, 9091, "llm_d_proxy_fallbacks_total")
                    .await?;
            }
            Ok(sum)
        };
        for (what, fault) in [
            (
                "answers 500",
                json!({"fail": {"percent": 100.0, "status": 500}}),
            ),
            (
                "hangs",
                json!({"fail": {"percent": 0.0}, "hang": {"percent": 100.0}}),
            ),
            (
                "closes the connection",
                json!({"hang": {"percent": 0.0}, "disconnect": {"percent": 100.0, "after": 0}}),
            ),
        ] {
            let before = fell_back().await?;
            faults(&cluster, &prefill, &fault).await?;
            for index in 0..4 {
                let prompt = format!(
                    "{what} {index}: {}",
                    "a prompt nobody has cached ".repeat(12)
                );
                let answer = cluster.chat(MODEL, &prompt, index % 2 == 1, &[]).await?;
                ensure!(answer.status == 200, "{what}: {}", answer.status);
            }
            let after = fell_back().await?;
            ensure!(
                after - before >= 4.0,
                "{what}: {before} -> {after} fallbacks"
            );
            eprintln!(
                "a prefill engine that {what}: 4 of 4 answered, {} fallbacks",
                after - before
            );
        }
        Ok(())
    })
}

#[test]
fn tokenizer_files_that_do_not_parse_are_told_and_engines_asked() -> Result<()> {
    on_cluster(|cluster| async move {
        serve_example(&cluster).await?;
        let epp = text(&manifest("configmap.yaml"), "/data/eppDeployment");
        let broken = epp.replacen(
            "env:\n",
            "env:\n  - name: TOKENIZER_PATH\n    value: /nowhere\n",
            1,
        );
        ensure!(broken != epp, "nothing to edit");
        let before = pod(&cluster, "llama-3-2-1b-epp", NS).await?;
        patch(
            &cluster,
            "configmap",
            BASE,
            &json!({"data": {"eppDeployment": broken}}),
        )
        .await?;
        cluster
            .wait_for("the new EPP to tell", LIMIT, || async {
                let now = pod(&cluster, "llama-3-2-1b-epp", NS).await?;
                if now == before {
                    return Ok(Some(now));
                }
                let series = "llm_d_epp_kv_tokenizer{state=\"broken\"}";
                let told = cluster.pod_metric(NS, &now, EPP_METRICS, series).await?;
                Ok((told < 1.0).then(|| format!("{told}")))
            })
            .await?;
        cluster
            .wait_condition(NS, MODEL, "Ready", "True", LIMIT)
            .await?;
        answers(&cluster).await
    })
}
