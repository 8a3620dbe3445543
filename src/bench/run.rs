//! The procedure of the test, step by step. IO: everything that is sent, read and waited for.

mod after;
mod before;
mod window;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::answer;
use super::cli::CacheHitArgs;
use super::counters::{self, Reader};
use super::http::{self, Answer, Http};
use super::measure::{self, Facts};
use super::outcome::{HealthRow, RequestRow, Run, Target};
use super::plan::{self, Plan, Request, Workload};
use window::Window;

/// Tries of each part of the health check.
const TRIES: u32 = 3;
/// Pauses while counters settle.
const SETTLE_AGAIN: Duration = Duration::from_millis(100);
const LAGGING_AGAIN: Duration = Duration::from_secs(2);
/// How long counters may take to show all requests, in seconds.
const SETTLE_SECONDS: f64 = 5.0;
const SETTLE_LAGGING_SECONDS: f64 = 90.0;

/// Why no run could be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Plan(#[from] plan::Error),
    #[error(transparent)]
    Http(#[from] http::Error),
    #[error(transparent)]
    Counters(#[from] counters::Error),
    #[error("{0:?} is no http:// or https:// URL")]
    Url(String),
    #[error("--{0} must be a positive number of seconds")]
    Seconds(&'static str),
    #[error("find the API server: {0}")]
    Kubernetes(String),
    #[error("make an id for the run: {0}")]
    Id(getrandom::Error),
    #[error("no decode pod runs in {namespace} with labels {selector:?}")]
    NoPods { namespace: String, selector: String },
    #[error("read the counters of {pod} before the test")]
    Baseline {
        pod: String,
        #[source]
        source: counters::Error,
    },
    #[error("prometheus has not scraped every decode pod within {0:?}")]
    NotScraped(Duration),
    #[error("the health check got no 200 in {TRIES} tries: {0}")]
    Health(String),
    #[error("{0:#}")]
    Prompt(anyhow::Error),
}

/// Says what is going on.
pub(super) type Say<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Sends the plan's requests.
struct Sender<'a> {
    http: &'a Http,
    plan: &'a Plan,
    base: String,
    host: Option<&'a str>,
    bearer: Option<&'a str>,
    timeout: Duration,
}

impl Sender<'_> {
    async fn chat(&self, request: &Request, timeout: Duration) -> Result<Answer, http::Error> {
        self.http
            .post(
                &format!("{}/v1/chat/completions", self.base),
                self.host,
                &self.plan.headers(request, self.bearer),
                &self.plan.body(request),
                timeout,
            )
            .await
    }

    /// The engine's tokens of a request's prompt; `None` where the gateway does not serve
    /// `/tokenize`.
    async fn tokens(&self, request: &Request) -> Option<Vec<u32>> {
        let answer = self
            .http
            .post(
                &format!("{}/tokenize", self.base),
                self.host,
                &self.plan.headers(request, self.bearer),
                &self.plan.tokenize_body(request),
                self.timeout,
            )
            .await
            .ok()?;
        if answer.status == 200 {
            answer::tokens(&answer.body)
        } else {
            None
        }
    }
}

/// Makes one run.
///
/// # Errors
/// When it could not be made; a bad result is none.
pub(super) async fn cache_hit(args: &CacheHitArgs, say: Say<'_>) -> Result<Run, Error> {
    let workload = args.workload();
    let prompt = args.prompt().map_err(Error::Prompt)?;
    let plan = plan::plan(&workload, prompt.as_deref(), &run_id()?)?;
    let http = Http::new(needs_tls(args)?)?;
    let sender = Sender {
        http: &http,
        plan: &plan,
        base: args.url.trim_end_matches('/').to_owned(),
        host: args.host.as_deref(),
        bearer: args.bearer_token.as_deref(),
        timeout: seconds("timeout", args.timeout)?,
    };
    let reader = before::reader(args, &http).await?;
    let settle = args.settle.unwrap_or(if reader.lags() {
        SETTLE_LAGGING_SECONDS
    } else {
        SETTLE_SECONDS
    });
    let settle = seconds("settle", settle)?;
    let pods = before::decode_pods(args, &reader, say).await?;

    let started_at = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let mut notes = Vec::new();
    let warmed = before::warm_up(&sender, &workload, say, &mut notes).await;
    let (tally, block_size) = before::baseline(&reader, &pods, settle, say).await?;
    let window = Window::new(&reader, tally);
    let health = before::health_check(&sender, &window, say, &mut notes).await?;
    let requests = window.measure(&sender, &workload, say).await;
    let tally = window
        .finish(reported(&requests, &health), settle, say)
        .await;

    let order = after::order(&plan, &warmed, &health, &requests);
    let block = block_size.map_or((args.block_size, "assumed"), |size| (size, "engine"));
    let ceiling = after::ceiling(&sender, &order, &health, block, say).await;
    if ceiling.is_none() {
        notes.push("No answer says how long its prompt is, so there is no ceiling.".to_owned());
    }
    Ok(measure::outcome(Facts {
        label: args.label.clone(),
        started_at,
        run_id: plan.run_id.clone(),
        target: target(args, &reader),
        workload,
        tally,
        health,
        requests,
        ceiling,
        min_hit_rate_percent: args.min_hit_rate,
        notes,
    }))
}

fn target(args: &CacheHitArgs, reader: &Reader) -> Target {
    Target {
        url: args.url.clone(),
        host: args.host.clone(),
        namespace: args.namespace.clone(),
        selector: args.pods.is_empty().then(|| args.selector.clone()),
        counters_from: reader.used(),
    }
}

fn seconds(flag: &'static str, value: f64) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(value)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or(Error::Seconds(flag))
}

/// Seconds since the epoch and a random part: two runs of one second differ.
fn run_id() -> Result<String, Error> {
    let mut random = [0; 3];
    getrandom::fill(&mut random).map_err(Error::Id)?;
    let [a, b, c] = random;
    Ok(format!("{}-{a:02x}{b:02x}{c:02x}", epoch_seconds() as u64))
}

fn epoch_seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

fn needs_tls(args: &CacheHitArgs) -> Result<bool, Error> {
    let urls = [Some(args.url.as_str()), args.prometheus_url.as_deref()];
    let urls = urls
        .into_iter()
        .flatten()
        .chain(args.pods.iter().map(|(_, url)| url.as_str()));
    let mut tls = false;
    for url in urls {
        let uri: ::http::Uri = url.parse().map_err(|_| Error::Url(url.to_owned()))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => tls = true,
            _ => return Err(Error::Url(url.to_owned())),
        }
    }
    Ok(tls)
}

async fn pause(workload: &Workload) {
    // Checked by the plan; more than the clock can hold is as good as for ever.
    let length = Duration::try_from_secs_f64(workload.sleep_seconds).unwrap_or(Duration::MAX);
    tokio::time::sleep(length).await;
}

/// Prompt tokens that the answers in the window say they had.
fn reported(requests: &[RequestRow], health: &HealthRow) -> u64 {
    requests
        .iter()
        .filter_map(|row| row.prompt_tokens)
        .chain(health.prompt_tokens)
        .sum()
}
