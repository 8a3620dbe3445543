//! Other people's clients: what OpenAI's and Anthropic's Python clients get through gateway, EPP,
//! sidecar and prefill is what they get from one engine. IO.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use rig::cluster::http;
use rig::ports::Port;
use rig::up::Running;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::cache::{computed, switched};
use crate::support::{LIMIT, MODEL, manifest, on_cluster, root, routed};

/// Python with the clients; `make` says where it installed them.
const PYTHON: &str = "SDK_PYTHON";

/// The engine of the example's decode pods, alone.
const FLAGS: [&str; 10] = [
    "--enable-prefix-caching",
    "--max-model-len=4096",
    "--block-size=16",
    "--no-enable-chunked-prefill",
    "--max-num-seqs=256",
    "--max-num-batched-tokens=2048",
    "--model",
    "meta-llama/Llama-3.2-1B",
    "--served-model-name",
    MODEL,
];

/// An engine that nothing stands in front of. It ends with the value.
async fn lone_engine(cluster: &Running) -> Result<(Child, SocketAddr, Port)> {
    let port = Port::choose()?;
    let engine = Command::new(env!("CARGO_BIN_EXE_inference-sim"))
        .args(FLAGS)
        .args(["--port", &port.number().to_string()])
        .env("LLM_D_BIND_HOST", "127.0.0.1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("start an engine")?;
    let address = port.address();
    cluster
        .wait_for("the lone engine", LIMIT, || async {
            Ok(http(address, "GET", "/health", &[], "")
                .await
                .err()
                .map(|error| format!("{error:#}")))
        })
        .await?;
    Ok((engine, address, port))
}

/// Applies the example with an EPP that sends every prompt it may through a prefill pod.
async fn serve_with_prefill(cluster: &Running) -> Result<()> {
    let mut base = manifest("configmap.yaml");
    base["data"]["eppDeployment"] = json!(switched(&["PD_CACHE_AWARE_ROUTING"], &[]));
    cluster.apply(&base).await?;
    cluster.apply(&manifest("modelservice.yaml")).await?;
    routed(cluster).await
}

#[test]
fn clients_see_the_same_as_without_us() -> Result<()> {
    let Some(python) = std::env::var_os(PYTHON).map(PathBuf::from) else {
        eprintln!("SKIPPED: {PYTHON} names no Python with the clients (make test-sdk installs it)");
        return Ok(());
    };
    on_cluster(|cluster| async move {
        serve_with_prefill(&cluster).await?;
        let (_engine, direct, _port) = lone_engine(&cluster).await?;
        let before = computed(&cluster, "llama-3-2-1b-prefill").await?;
        let output = Command::new(&python)
            .arg(root().join("tests/sdk/compare.py"))
            .args([direct, cluster.gateway].map(|address| format!("http://{address}")))
            .env("MODEL", MODEL)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("start {}", python.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        eprintln!("{said}{}", String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "clients saw a difference");
        let prefilled = computed(&cluster, "llama-3-2-1b-prefill").await? - before;
        eprintln!("{prefilled} prompt tokens were computed by prefill pods");
        ensure!(prefilled > 0, "nothing went through a prefill pod");
        Ok(())
    })
}
