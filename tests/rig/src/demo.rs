//! From nothing to an answered request, told step by step, for people who see this project
//! for the first time. IO.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::cluster::describe_conditions;
use crate::up::{self, Running};

const NAMESPACE: &str = "llm-d";
const READY_LIMIT: Duration = Duration::from_mins(10);
/// How long the proxy may take to learn, or to write, on a machine that is busy.
const PROXY_LIMIT: Duration = Duration::from_mins(3);
const REQUESTS: usize = 100;
const AT_ONCE: usize = 10;
/// The hit rate of the article's test, in percent: the demo fails below.
const ARTICLES_HIT_RATE: f64 = 87.4;

/// Flags of `demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    up: up::Args,
    /// The chart to install.
    #[arg(long)]
    chart: PathBuf,
    /// Folder with the manifests to apply.
    #[arg(long)]
    manifests: PathBuf,
    /// End after the requests instead of staying up.
    #[arg(long)]
    once: bool,
    /// Where the benchmark's HTML report is written; one per ModelService when there are
    /// several.
    #[arg(long)]
    report: PathBuf,
}

/// Runs the demo.
///
/// # Errors
/// With the step that failed; the exit status is the demo's verdict.
pub fn run(args: &Args) -> Result<()> {
    up::runtime()?.block_on(async {
        let began = Instant::now();
        let say = |text: &str| println!("{:>5.1} s  {text}", began.elapsed().as_secs_f64());
        say("starting a Kubernetes cluster on this machine");
        let cluster = up::start(&args.up).await?;
        println!("{}", cluster.describe());
        let result = tokio::select! {
            result = show(args, &cluster, &say) => result,
            ended = up::wait_for_end() => {
                ended?;
                anyhow::bail!("stopped before the end");
            }
        };
        if let Err(error) = &result {
            eprintln!("\nThe demo failed: {error:#}\n");
            for args in [["get", "pods,modelservices", "-A"], ["get", "events", "-A"]] {
                eprintln!("{}", cluster.kubectl(&args).await.unwrap_or_default());
            }
            eprintln!("Set RIG_KEEP=1 to keep the logs.");
        }
        if result.is_ok() && !args.once {
            println!(
                "\nThe cluster stays up until Ctrl-C. From another terminal:\n{}",
                cluster.describe()
            );
            up::wait_for_end().await?;
        }
        result
    })
}

async fn show(args: &Args, cluster: &Running, say: &(impl Fn(&str) + Sync)) -> Result<()> {
    say("helm install llm-d-operator");
    cluster.install_operator(&args.chart, &[]).await?;
    say("kubectl apply: namespace llm-d, Gateway llm-d-gateway, Secret llm-d-hf-token");
    cluster.prepare_namespace(NAMESPACE).await?;
    say(&format!("kubectl apply -f {}", args.manifests.display()));
    let applied = cluster
        .kubectl(&["apply", "-f", &args.manifests.display().to_string()])
        .await?;
    for line in applied.lines() {
        println!("         {line}");
    }
    let list = cluster.get(&["modelservices", "-A"]).await?;
    let services = list["items"].as_array().cloned().unwrap_or_default();
    ensure!(
        !services.is_empty(),
        "{} holds no ModelService",
        args.manifests.display()
    );
    for service in &services {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (
            text(&service["metadata"]["namespace"]),
            text(&service["metadata"]["name"]),
        );
        wait_ready(cluster, &namespace, &name, say).await?;
        let model = text(&service["spec"]["routing"]["modelName"]);
        requests(cluster, &namespace, &name, &model, say).await?;
        let report = if services.len() == 1 {
            args.report.clone()
        } else {
            args.report.with_file_name(format!("{name}.html"))
        };
        cache_hit(cluster, &namespace, &model, &report, say).await?;
    }
    println!(
        "\n{}",
        cluster
            .kubectl(&["get", "modelservices,pods", "-n", NAMESPACE, "-o", "wide"])
            .await?
    );
    println!(
        "{}",
        cluster
            .kubectl(&[
                "get",
                "events",
                "-n",
                NAMESPACE,
                "--field-selector",
                "involvedObject.kind=ModelService"
            ])
            .await?
    );
    Ok(())
}

/// The article's benchmark, as users run it.
async fn cache_hit(
    cluster: &Running,
    namespace: &str,
    model: &str,
    report: &Path,
    say: &(impl Fn(&str) + Sync),
) -> Result<()> {
    if let Some(folder) = report.parent() {
        std::fs::create_dir_all(folder).context("make the folder of the report")?;
    }
    let program = crate::process::rig_program()?.with_file_name("llm-d-operator");
    let (url, rate) = (
        format!("http://{}", cluster.gateway),
        ARTICLES_HIT_RATE.to_string(),
    );
    let args = [
        "bench",
        "cache-hit",
        "--url",
        &url,
        "--model",
        model,
        "--namespace",
        namespace,
        "--min-hit-rate",
        &rate,
    ];
    say(&format!("llm-d-operator {}", args.join(" ")));
    let status = tokio::process::Command::new(&program)
        .args(args)
        .arg("--report")
        .arg(report)
        .env("KUBECONFIG", &cluster.kubeconfig)
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("start {}", program.display()))?;
    ensure!(status.success(), "the benchmark ended with {status}");
    say(&format!("report: {}", report.display()));
    Ok(())
}

async fn wait_ready(
    cluster: &Running,
    namespace: &str,
    name: &str,
    say: &(impl Fn(&str) + Sync),
) -> Result<()> {
    let mut told = String::new();
    let began = Instant::now();
    loop {
        let object = cluster
            .get(&["modelservice", name, "-n", namespace])
            .await?;
        let conditions = object["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let ready = conditions
            .iter()
            .find(|condition| condition["type"] == "Ready");
        let line = match ready {
            Some(ready) => format!(
                "{name}: Ready={} {}",
                ready["status"].as_str().unwrap_or_default(),
                ready["message"].as_str().unwrap_or_default()
            ),
            None => format!("{name}: the operator has not seen it yet"),
        };
        if line != told {
            say(&line);
            told = line;
        }
        if ready.is_some_and(|ready| ready["status"] == "True") {
            return Ok(());
        }
        ensure!(
            began.elapsed() < READY_LIMIT,
            "{name} is not Ready: {}",
            describe_conditions(&object)
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn requests(
    cluster: &Running,
    namespace: &str,
    name: &str,
    model: &str,
    say: &(impl Fn(&str) + Sync),
) -> Result<()> {
    let pods = cluster.pods_by_ip(namespace).await?;
    let epp = format!("outbound|9002||{name}-epp-service.{namespace}.svc.cluster.local");
    // The proxy learns of the route a moment after the objects are there.
    cluster
        .wait_for("the gateway to answer", PROXY_LIMIT, || async {
            let answer = cluster.chat(model, "hello", false, &[]).await?;
            Ok((answer.status != 200).then(|| format!("{} {}", answer.status, answer.text())))
        })
        .await?;
    let asked = cluster.upstream_requests(&epp).await?;
    // Envoy writes its log a moment later: others' lines may come between.
    let ours = || -> Result<Vec<Value>> {
        let mut lines = cluster.access_log()?;
        lines.retain(|line| {
            let id = line["request_id"].as_str().unwrap_or_default();
            id.starts_with(&format!("demo-{name}-"))
        });
        Ok(lines)
    };
    say(&format!(
        "{REQUESTS} chat requests through Envoy, {AT_ONCE} at a time, half of them streamed"
    ));
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for batch in 0..REQUESTS / AT_ONCE {
        let sent = (0..AT_ONCE).map(|index| async move {
            let stream = index % 2 == 1;
            let prompt = format!("question {batch}-{index}: what is a KV cache?");
            let id = format!("demo-{name}-{batch}-{index}");
            let headers = [("x-request-id", id.as_str())];
            (stream, cluster.chat(model, &prompt, stream, &headers).await)
        });
        for (stream, answer) in futures::future::join_all(sent).await {
            let answer = answer.context("a request had no answer")?;
            *statuses.entry(answer.status.as_u16()).or_default() += 1;
            let text = answer.text();
            let whole = if stream {
                text.trim_end().ends_with("data: [DONE]")
            } else {
                text.contains("\"choices\"")
            };
            if answer.status != 200 || !whole {
                wrong.push(format!(
                    "{}: {}",
                    answer.status,
                    text.chars().take(200).collect::<String>()
                ));
            }
        }
    }
    let mut by_pod: BTreeMap<String, usize> = BTreeMap::new();
    cluster
        .wait_for("Envoy's access log", PROXY_LIMIT, || async {
            let lines = ours()?.len();
            Ok((lines < REQUESTS).then(|| format!("{lines} lines")))
        })
        .await?;
    for line in ours()? {
        let upstream = line["upstream"].as_str().unwrap_or_default();
        let ip = upstream.rsplit_once(':').map_or(upstream, |(ip, _)| ip);
        *by_pod
            .entry(pods.get(ip).cloned().unwrap_or_else(|| upstream.to_owned()))
            .or_default() += 1;
    }
    let asked = cluster.upstream_requests(&epp).await? - asked;
    for (status, count) in &statuses {
        println!("         HTTP {status}: {count}");
    }
    println!("         the EPP was asked {asked} times");
    for (pod, count) in &by_pod {
        println!("         {count:>3} answered by {pod}");
    }
    ensure!(
        wrong.is_empty(),
        "{} answers were wrong, the first: {}",
        wrong.len(),
        wrong[0]
    );
    ensure!(
        by_pod.keys().all(|pod| pod.contains("-decode-")) && by_pod.len() > 1,
        "not spread over decode pods: {by_pod:?}"
    );
    ensure!(
        asked >= REQUESTS as u64,
        "the EPP was asked {asked} times for {REQUESTS} requests"
    );
    Ok(())
}
