//! The steps before the measured requests: pods, warm-up, baseline, health check. IO.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::window::Window;
use super::{Error, LAGGING_AGAIN, Say, Sender, TRIES, epoch_seconds, pause};
use crate::bench::answer;
use crate::bench::cli::CacheHitArgs;
use crate::bench::counters::{Pod, Pods, Reader, Source};
use crate::bench::exposition::{Counters, Scrape};
use crate::bench::http::Http;
use crate::bench::outcome::HealthRow;
use crate::bench::plan::Workload;
use crate::bench::tally::Tally;

const BETWEEN_TRIES: Duration = Duration::from_secs(1);
/// As long as the published test waits for the gateway's model list and health check.
const MODELS_TIMEOUT: Duration = Duration::from_secs(5);
const HEALTH_TIMEOUT: Duration = Duration::from_secs(8);

/// What reads the counters.
///
/// # Errors
/// When the API server is needed and not found.
pub(super) async fn reader(args: &CacheHitArgs, http: &Http) -> Result<Reader, Error> {
    let pods = match &args.namespace {
        Some(namespace) => Pods::Cluster {
            client: kube::Client::try_default()
                .await
                .map_err(|error| Error::Kubernetes(error.to_string()))?,
            namespace: namespace.clone(),
            selector: args.selector.clone(),
        },
        None => Pods::Fixed(
            args.pods
                .iter()
                .map(|(name, url)| Pod::fixed(name, url))
                .collect(),
        ),
    };
    let mut reader = Reader::new(http.clone(), pods, args.metrics, args.metrics_port);
    reader.prometheus = args
        .prometheus_url
        .as_ref()
        .filter(|_| matches!(args.metrics, Source::Auto | Source::Prometheus))
        .map(|url| url.trim_end_matches('/').to_owned());
    Ok(reader)
}

/// The decode pods that run.
///
/// # Errors
/// When there are none.
pub(super) async fn decode_pods(
    args: &CacheHitArgs,
    reader: &Reader,
    say: Say<'_>,
) -> Result<Vec<Pod>, Error> {
    let pods = reader.list().await?;
    if pods.is_empty() {
        return Err(Error::NoPods {
            namespace: args.namespace.clone().unwrap_or_default(),
            selector: args.selector.clone(),
        });
    }
    say(&format!("{} decode pod(s) run:", pods.len()));
    for pod in &pods {
        let ready = if pod.ready { "" } else { " (not ready)" };
        say(&format!("  {}{ready}", pod.name));
    }
    Ok(pods)
}

/// Sends the warm-up requests; the lengths of their prompts.
pub(super) async fn warm_up(
    sender: &Sender<'_>,
    workload: &Workload,
    say: Say<'_>,
    notes: &mut Vec<String>,
) -> Vec<Option<u64>> {
    let mut lengths = Vec::new();
    for request in &sender.plan.warmup {
        let answer = sender.chat(request, sender.timeout).await;
        let problem = match answer {
            Ok(answer) if answer.status == 200 => {
                lengths.push(answer.usage.prompt_tokens);
                None
            }
            Ok(answer) => Some(format!(
                "{}: {}",
                answer.status,
                answer::error_text(&answer.body)
            )),
            Err(error) => Some(error.to_string()),
        };
        if let Some(problem) = problem {
            lengths.push(None);
            notes.push(format!("A warm-up request failed: {problem}."));
        }
        say(&format!(
            "warm-up {} of {}",
            lengths.len(),
            sender.plan.warmup.len()
        ));
        pause(workload).await;
    }
    lengths
}

/// Counters after the warm-up, and the engines' block size.
pub(super) async fn baseline(
    reader: &Reader,
    pods: &[Pod],
    settle: Duration,
    say: Say<'_>,
) -> Result<(Tally, Option<u64>), Error> {
    if reader.lags() {
        wait_for_scrape(reader, pods, settle, say).await?;
    }
    let mut scrapes: BTreeMap<String, Scrape> = BTreeMap::new();
    for (pod, read) in reader.read(pods).await {
        match read {
            Ok(scrape) => scrapes.insert(pod, scrape),
            Err(source) => return Err(Error::Baseline { pod, source }),
        };
    }
    let total = scrapes
        .values()
        .fold(Counters::default(), |sum, scrape| sum + scrape.counters);
    say(&format!(
        "baseline after the warm-up: {} query tokens, {} hit tokens (from {})",
        total.query_tokens,
        total.hit_tokens,
        reader.used()
    ));
    // Pods of one pool have one block size; the smallest is the safe one for a ceiling.
    let block_size = scrapes
        .values()
        .filter_map(|scrape| scrape.block_size)
        .min();
    let counters = scrapes
        .into_iter()
        .map(|(pod, scrape)| (pod, scrape.counters));
    Ok((Tally::new(counters), block_size))
}

/// Waits until Prometheus has scraped every pod after now, by the clocks of both machines.
pub(super) async fn wait_for_scrape(
    reader: &Reader,
    pods: &[Pod],
    limit: Duration,
    say: Say<'_>,
) -> Result<(), Error> {
    let (now, started) = (epoch_seconds(), Instant::now());
    say("waiting for Prometheus to scrape every pod");
    while started.elapsed() < limit {
        if reader.scraped_at(pods).await?.is_some_and(|at| at >= now) {
            return Ok(());
        }
        tokio::time::sleep(LAGGING_AGAIN).await;
    }
    Err(Error::NotScraped(limit))
}

/// Asks for the model list, then for a few tokens, a few times each.
///
/// # Errors
/// When the gateway answers no chat request: then nothing can be measured.
pub(super) async fn health_check(
    sender: &Sender<'_>,
    window: &Window<'_>,
    say: Say<'_>,
    notes: &mut Vec<String>,
) -> Result<HealthRow, Error> {
    let mut row = HealthRow::default();
    ask_for_models(sender, &mut row).await;
    if row.models_status != Some(200) {
        let status = row
            .models_status
            .map_or("no status".to_owned(), |status| status.to_string());
        notes.push(format!(
            "GET /v1/models: {status}. The run went on, since a gateway need not serve it."
        ));
    }
    let mut problem = String::new();
    while row.chat_tries < TRIES {
        if row.chat_tries > 0 {
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
        row.chat_tries += 1;
        match sender.chat(&sender.plan.health, HEALTH_TIMEOUT).await {
            Ok(answer) if answer.status == 200 => {
                row.chat_status = Some(200);
                row.prompt_tokens = answer.usage.prompt_tokens;
                row.cached_tokens = answer.usage.cached_tokens;
                row.pod = window.sample(Some(&answer)).await.pod.map(|(pod, _)| pod);
                say("health check: ok");
                return Ok(row);
            }
            Ok(answer) => {
                problem = format!("{}: {}", answer.status, answer::error_text(&answer.body));
            }
            Err(error) => problem = error.to_string(),
        }
    }
    Err(Error::Health(problem))
}

async fn ask_for_models(sender: &Sender<'_>, row: &mut HealthRow) {
    let url = format!("{}/v1/models", sender.base);
    while row.models_tries < TRIES && row.models_status != Some(200) {
        if row.models_tries > 0 {
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
        row.models_tries += 1;
        let answer = sender.http.get(&url, sender.host, MODELS_TIMEOUT).await;
        row.models_status = answer.ok().map(|answer| answer.status);
    }
}
