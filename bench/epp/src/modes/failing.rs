//! An EPP that is killed, stopped, gone or slow, behind the EnvoyFilter that the operator
//! renders: what a client sees, and when. IO.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::join_all;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Args, asking};
use crate::client::Client;
use crate::envoy::{self, Listener};
use crate::istio::{self, Rendered};
use crate::kind::{Kind, What};
use crate::prompts::Prompts;
use crate::stage::Stage;
use crate::verdict::Verdict;

const MODEL_SERVICE: &str = include_str!("../../modelservice.yaml");
/// Requests of one trial, and the time between two.
const REQUESTS: u64 = 110;
const PACE: Duration = Duration::from_millis(50);
/// When the EPP fails.
const FAILS_AT: Duration = Duration::from_millis(500);
/// How long the EPP that is slow takes.
const SLOW_MS: u64 = 5000;
/// How long recovery may take: the gateway leaves an EPP that failed alone for a while.
const RECOVERY: Duration = Duration::from_mins(1);

/// One request's end.
struct End {
    /// When it was sent, after the trial's start.
    sent: Duration,
    how: String,
    seconds: f64,
    /// Something named a destination.
    picked: bool,
}

struct Trial<'a> {
    stage: Stage,
    args: &'a Args,
    verdict: &'a mut Verdict,
}

/// Runs all trials.
pub(super) async fn run(args: &Args, kind: &Kind, verdict: &mut Verdict) -> Result<()> {
    let filter = if let Some(path) = &args.envoy_filter {
        istio::read(path)?
    } else {
        let dir = tempfile::tempdir()?;
        istio::rendered(&args.operator, MODEL_SERVICE, dir.path())?
    };
    println!("failing");
    let rendered = istio::apply(&filter, &kind.name)?;
    let mut trial = Trial {
        stage: start(args, kind, &rendered).await?,
        args,
        verdict,
    };
    trial.healthy().await;
    for (length, chars) in &super::LENGTHS[..2] {
        trial.killed(length, *chars).await?;
        trial.stopped(length, *chars).await?;
    }
    drop(trial);
    slow(args, &filter, verdict).await
}

/// In full duplex Envoy waits for as long as the EPP does: this is only told.
async fn slow(args: &Args, filter: &Value, verdict: &mut Verdict) -> Result<()> {
    let slow = Kind {
        name: "slow".to_owned(),
        what: What::Floor { delay_ms: SLOW_MS },
    };
    let rendered = istio::apply(filter, &slow.name)?;
    let trial = Trial {
        stage: start(args, &slow, &rendered).await?,
        args,
        verdict,
    };
    for (length, chars) in &super::LENGTHS[..2] {
        let ends = trial.requests(*chars, &[]).await;
        let limit = SLOW_MS as f64 / 1e3 + args.fail_seconds;
        let passed = ends
            .iter()
            .all(|end| end.how == "200" && end.seconds <= limit);
        let name = format!("  slow ({SLOW_MS} ms), {length}: served, late");
        trial.verdict.check(&name, passed, &tell(&ends));
    }
    Ok(())
}

async fn start(args: &Args, kind: &Kind, rendered: &Rendered) -> Result<Stage> {
    let listener = Listener {
        filters: rendered.filters.clone(),
        route: rendered.route.clone(),
        ..Listener::new("rendered", envoy::PREFERRED)
    };
    let kinds = std::slice::from_ref(kind);
    Stage::start(&args.common, kinds, vec![listener], &rendered.patches).await
}

impl Trial<'_> {
    /// The EPP decides, and what clients say of the destination does not.
    async fn healthy(&mut self) {
        let ends = self.requests(1000, &[]).await;
        let picked = ends.iter().filter(|end| end.picked).count();
        let seen = format!("the EPP picked {picked} of {REQUESTS}");
        self.verdict
            .check("  healthy", picked as u64 == REQUESTS, &seen);
    }

    async fn killed(&mut self, length: &str, chars: usize) -> Result<()> {
        self.fails(&format!("killed, {length}"), chars, Signal::SIGKILL)
            .await?;
        self.steering().await;
        let dir = self.stage.dir().to_path_buf();
        self.stage.epps[0].restart(&dir)?;
        self.recovers("started again").await;
        Ok(())
    }

    async fn stopped(&mut self, length: &str, chars: usize) -> Result<()> {
        self.fails(&format!("stopped, {length}"), chars, Signal::SIGSTOP)
            .await?;
        self.stage.epps[0].process.signal(Signal::SIGCONT)?;
        self.recovers("continued").await;
        Ok(())
    }

    /// The EPP gets a signal while requests are under way.
    async fn fails(&mut self, name: &str, chars: usize, signal: Signal) -> Result<()> {
        let fail = async {
            tokio::time::sleep(FAILS_AT).await;
            self.stage.epps[0].process.signal(signal)
        };
        let (ends, failed) = tokio::join!(self.requests(chars, &[]), fail);
        failed?;
        let slowest = ends.iter().map(|end| end.seconds).fold(0.0, f64::max);
        let soon = slowest <= self.args.fail_seconds;
        self.verdict
            .check(&format!("  {name}: nobody waits long"), soon, &tell(&ends));
        let calm = FAILS_AT + Duration::from_secs_f64(self.args.fail_window);
        let (later, at_once): (Vec<End>, Vec<End>) =
            ends.into_iter().partition(|end| end.sent > calm);
        let lost = |ends: &[End]| ends.iter().filter(|end| end.how != "200").count();
        let (then, before) = (lost(&later), lost(&at_once));
        let seen = format!(
            "lost {before} of {} at first, {then} of {} after that",
            at_once.len(),
            later.len()
        );
        let name = format!("  {name}: the gateway goes on without it");
        self.verdict
            .check(&name, then == 0 && !later.is_empty(), &seen);
        Ok(())
    }

    /// With the EPP away, a client's own header must not choose.
    async fn steering(&mut self) {
        let target = self.stage.net.engines(1)[0].to_string();
        let steer = [
            ("x-gateway-destination-endpoint", target.as_str()),
            ("x-prefiller-host-port", "127.0.0.1:1"),
        ];
        let ends = self.requests(1000, &steer).await;
        let through = ends.iter().filter(|end| end.picked).count();
        let seen = format!("{through} of {REQUESTS} arrived with a client's destination");
        self.verdict
            .check("    a client cannot steer", through == 0, &seen);
    }

    async fn recovers(&mut self, how: &str) {
        let started = Instant::now();
        let to = self.stage.listeners[0].address;
        let mut row = 0;
        while row < 5 && started.elapsed() < RECOVERY {
            let end = request(to, 0, 1000, &[]).await;
            row = if end.picked && end.how == "200" {
                row + 1
            } else {
                0
            };
            tokio::time::sleep(PACE).await;
        }
        let seen = format!("after {:.1} s", started.elapsed().as_secs_f64());
        self.verdict.check(
            &format!("    {how}: the EPP decides again"),
            row == 5,
            &seen,
        );
    }

    async fn requests(&self, chars: usize, headers: &[(&'static str, &str)]) -> Vec<End> {
        requests(self.stage.listeners[0].address, chars, headers).await
    }
}

fn tell(ends: &[End]) -> String {
    let mut statuses: BTreeMap<&str, usize> = BTreeMap::new();
    for end in ends {
        *statuses.entry(&end.how).or_default() += 1;
    }
    let mut seconds: Vec<f64> = ends.iter().map(|end| end.seconds).collect();
    seconds.sort_by(f64::total_cmp);
    let (median, slowest) = (seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
    format!("{statuses:?}, median {median:.2} s, slowest {slowest:.2} s")
}

async fn requests(
    to: std::net::SocketAddr,
    chars: usize,
    headers: &[(&'static str, &str)],
) -> Vec<End> {
    let all = (0..REQUESTS).map(|number| async move {
        tokio::time::sleep(PACE * number as u32).await;
        request(to, number, chars, headers).await
    });
    join_all(all).await
}

async fn request(
    to: std::net::SocketAddr,
    number: u64,
    chars: usize,
    headers: &[(&'static str, &str)],
) -> End {
    let mut request = asking(Client::chat(to, Prompts::new(chars).body(number)), "json");
    for (name, value) in headers {
        let value = value.parse().expect("addresses are header values");
        request.headers_mut().insert(*name, value);
    }
    let (sent, started) = (PACE * number as u32, Instant::now());
    // A client each: a connection that broke must not be the next request's failure.
    let end = Client::http1().send(request).await;
    let seconds = started.elapsed().as_secs_f64();
    match end {
        Ok(end) => End {
            sent,
            how: end.status.as_u16().to_string(),
            seconds,
            picked: !end.header("x-bench-picked").is_empty(),
        },
        Err(error) => End {
            sent,
            how: error.root_cause().to_string(),
            seconds,
            picked: false,
        },
    }
}
