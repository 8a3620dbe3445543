//! Programs killed under a trickle of requests: what fails, for how long, and that nothing
//! stays broken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rig::up::Running;
use tokio_util::sync::CancellationToken;

use crate::support::{LIMIT, MODEL, NS, answers, on_cluster, pod, serve_example};

/// Requests of the trickle and what became of them.
#[derive(Debug, Default)]
struct Seen {
    ok: usize,
    /// When, since the kill, and what.
    failed: Vec<(Duration, String)>,
}

/// How long requests may fail after a kill: how many that are depends on the machine's speed.
const AT_FIRST: Duration = Duration::from_secs(3);

impl Seen {
    /// Whether all failures are of the moment of the kill.
    fn only_at_first(&self) -> bool {
        self.failed.iter().all(|(at, _)| *at < AT_FIRST)
    }
}

/// Requests ten times a second, until ended.
struct Trickle {
    stop: CancellationToken,
    asked: Arc<AtomicUsize>,
    began: Instant,
    seen: tokio::task::JoinHandle<Seen>,
}

impl Trickle {
    fn start(cluster: &Arc<Running>) -> Self {
        let (stop, asked) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let began = Instant::now();
        let seen = tokio::spawn(ask(cluster.clone(), stop.clone(), asked.clone()));
        Self {
            stop,
            asked,
            began,
            seen,
        }
    }

    /// Waits until so many more requests have had their end.
    async fn go_on(&self, cluster: &Running, requests: usize) -> Result<()> {
        let wanted = self.asked.load(Ordering::Relaxed) + requests;
        cluster
            .wait_for("the trickle to go on", LIMIT, || async {
                let asked = self.asked.load(Ordering::Relaxed);
                Ok((asked < wanted).then(|| format!("{asked} of {wanted}")))
            })
            .await
    }

    /// What became of the requests; failures are told by when their request was sent after the
    /// kill, and one that was in flight then counts as sent at that moment.
    async fn end(self, killed: Instant) -> Result<Seen> {
        self.stop.cancel();
        let (mut seen, before) = (self.seen.await?, killed - self.began);
        for (at, _) in &mut seen.failed {
            *at = at.saturating_sub(before);
        }
        Ok(seen)
    }
}

async fn ask(cluster: Arc<Running>, stop: CancellationToken, asked: Arc<AtomicUsize>) -> Seen {
    let (began, mut seen) = (Instant::now(), Seen::default());
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !stop.is_cancelled() {
        ticks.tick().await;
        let at = began.elapsed();
        let answer = cluster.chat(MODEL, "still there?", false, &[]);
        match tokio::time::timeout(Duration::from_secs(10), answer).await {
            Ok(Ok(answer)) if answer.status == 200 => seen.ok += 1,
            Ok(Ok(answer)) => {
                let said: String = answer.text().chars().take(100).collect();
                seen.failed.push((at, format!("{}: {said}", answer.status)));
            }
            Ok(Err(error)) => seen.failed.push((at, format!("{error:#}"))),
            Err(_) => seen.failed.push((at, "no answer in 10 s".to_owned())),
        }
        asked.fetch_add(1, Ordering::Relaxed);
    }
    seen
}

/// Kills the process whose id is in this file.
pub(crate) async fn kill(cluster: &Running, pid_file: &std::path::Path) -> Result<()> {
    signal(cluster, pid_file, "-KILL").await
}

/// Sends a signal to that process; the rig keeps the file only while it lives.
async fn signal(cluster: &Running, pid_file: &std::path::Path, signal: &str) -> Result<()> {
    let read = || {
        std::fs::read_to_string(pid_file).with_context(|| format!("read {}", pid_file.display()))
    };
    cluster
        .wait_for("the process to live", LIMIT, || async {
            read().map(|_| None)
        })
        .await?;
    let pid = read()?;
    let status = std::process::Command::new("kill")
        .args([signal, pid.trim()])
        .status()?;
    ensure!(status.success(), "kill {signal} {pid}");
    Ok(())
}

/// Stops the EPP under the trickle, so that it keeps its port and its connections and says
/// nothing, and lets it go on before anybody starts it again.
async fn stop_epp(cluster: &Arc<Running>) -> Result<Seen> {
    let name = pod(cluster, "llama-3-2-1b-epp", NS).await?;
    let process = cluster.paths.pods().join(format!("{NS}_{name}/epp.pid"));
    let trickle = Trickle::start(cluster);
    trickle.go_on(cluster, 5).await?;
    let stopped = Instant::now();
    signal(cluster, &process, "-STOP").await?;
    let gone_on = trickle.go_on(cluster, 30).await;
    signal(cluster, &process, "-CONT").await?;
    gone_on?;
    let seen = trickle.end(stopped).await?;
    eprintln!(
        "kill -STOP EPP: {} answered, {} failed {:?}",
        seen.ok,
        seen.failed.len(),
        seen.failed
    );
    Ok(seen)
}

/// Kills one container under the trickle and waits until it is back.
async fn kill_container(
    cluster: &Arc<Running>,
    namespace: &str,
    prefix: &str,
    container: &str,
) -> Result<Seen> {
    let name = pod(cluster, prefix, namespace).await?;
    let restarts = async || -> Result<i64> {
        let object = cluster.get(&["pod", &name, "-n", namespace]).await?;
        let statuses = object["status"]["containerStatuses"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let status = statuses
            .iter()
            .find(|status| status["name"] == container)
            .context("no such container")?;
        ensure!(status["ready"] == true, "not ready");
        Ok(status["restartCount"].as_i64().unwrap_or_default())
    };
    cluster
        .wait_for(&format!("{name} to be ready"), LIMIT, || async {
            restarts().await.map(|_| None)
        })
        .await?;
    let before = restarts().await?;
    let trickle = Trickle::start(cluster);
    trickle.go_on(cluster, 5).await?;
    let file = format!("{namespace}_{name}/{container}.pid");
    let killed = Instant::now();
    kill(cluster, &cluster.paths.pods().join(file)).await?;
    cluster
        .wait_for(&format!("{name} to come back"), LIMIT, || async {
            let now = restarts().await?;
            Ok((now <= before).then(|| format!("{now} restarts")))
        })
        .await?;
    trickle.go_on(cluster, 20).await?;
    let seen = trickle.end(killed).await?;
    eprintln!(
        "kill -9 {prefix}/{container}: {} answered, {} failed {:?}",
        seen.ok,
        seen.failed.len(),
        seen.failed
    );
    ensure!(seen.ok > 0, "nothing was answered");
    Ok(seen)
}

#[test]
fn whatever_dies_comes_back_and_requests_go_on() -> Result<()> {
    on_cluster(|cluster| async move {
        serve_example(&cluster).await?;

        let seen = kill_container(&cluster, "llm-d-system", "llm-d-operator", "operator").await?;
        ensure!(
            seen.failed.is_empty(),
            "requests failed without the operator: {seen:?}"
        );

        let seen = kill_container(&cluster, NS, "llm-d-operator-redis-master", "redis").await?;
        ensure!(
            seen.failed.is_empty(),
            "requests failed without Redis: {seen:?}"
        );

        // Requests of the moment may be lost; later ones fall back. The second time it stays away
        // for the kubelet's back-off of ten seconds.
        for _ in 0..2 {
            let seen = kill_container(&cluster, NS, "llama-3-2-1b-epp", "epp").await?;
            ensure!(
                seen.only_at_first(),
                "no fallback without the EPP: {seen:?}"
            );
        }

        // The gateway has to notice by itself; the request it waits with may be lost.
        let seen = stop_epp(&cluster).await?;
        ensure!(
            seen.failed.len() <= 3 && seen.failed.iter().all(|(_, what)| what.starts_with("500")),
            "a stopped EPP held requests up: {seen:?}"
        );

        // Until the pod's readiness fails, its share of requests can hit it.
        let seen = kill_container(&cluster, NS, "llama-3-2-1b-decode", "routing-proxy").await?;
        ensure!(seen.only_at_first(), "a dead decode pod was used: {seen:?}");
        kill_container(&cluster, NS, "llama-3-2-1b-decode", "vllm").await?;

        let trickle = Trickle::start(&cluster);
        trickle.go_on(&cluster, 5).await?;
        let file = cluster.paths.state().join("kube-apiserver.pid");
        let killed = Instant::now();
        kill(&cluster, &file).await?;
        cluster
            .wait_for("the API server to come back", LIMIT, || async {
                cluster
                    .get(&["modelservice", MODEL, "-n", NS])
                    .await
                    .map(|_| None)
            })
            .await?;
        trickle.go_on(&cluster, 20).await?;
        let seen = trickle.end(killed).await?;
        eprintln!(
            "kill -9 API server: {} answered, {} failed {:?}",
            seen.ok,
            seen.failed.len(),
            seen.failed
        );
        ensure!(
            seen.ok > 0 && seen.failed.is_empty(),
            "requests failed without the API server: {seen:?}"
        );

        // Nothing stays broken: the operator still acts on changes.
        crate::support::patch(
            &cluster,
            "modelservice",
            MODEL,
            &serde_json::json!({"spec": {"decode": {"replicas": 2}}}),
        )
        .await?;
        crate::support::wait_status(&cluster, "decodeReady", "2/2").await?;
        answers(&cluster).await
    })
}
