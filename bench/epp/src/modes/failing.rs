//! An EPP that is killed, stopped, gone or slow, behind the EnvoyFilter that the operator
//! renders: what a client sees, and when. IO.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::join_all;
use nix::sys::signal::Signal;

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
const REQUESTS: u64 = 40;
const PACE: Duration = Duration::from_millis(50);
/// How long the EPP that is slow takes.
const SLOW_MS: u64 = 5000;
/// How long recovery may take.
const RECOVERY: Duration = Duration::from_secs(30);

/// One request's end.
struct End {
    how: String,
    seconds: f64,
    picked: bool,
}

struct Trial<'a> {
    stage: Stage,
    args: &'a Args,
    verdict: &'a mut Verdict,
}

/// Runs all trials.
pub(super) async fn run(args: &Args, kind: &Kind, verdict: &mut Verdict) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let filter = istio::rendered(&args.operator, MODEL_SERVICE, dir.path())?;
    println!("failing, under the EnvoyFilter that the operator renders");
    let rendered = istio::apply(&filter, &kind.name)?;
    let stage = start(args, kind, &rendered).await?;
    let mut trial = Trial {
        stage,
        args,
        verdict,
    };
    trial.healthy().await;
    trial.killed().await?;
    trial.stopped().await?;
    drop(trial);
    let slow = Kind {
        name: "slow".to_owned(),
        what: What::Floor { delay_ms: SLOW_MS },
    };
    let rendered = istio::apply(&filter, &slow.name)?;
    let stage = start(args, &slow, &rendered).await?;
    let mut trial = Trial {
        stage,
        args,
        verdict,
    };
    for (length, chars) in &super::LENGTHS[..2] {
        let ends = trial.requests(*chars, &[]).await;
        trial.judge(&format!("  slow ({SLOW_MS} ms), {length}"), &ends);
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

    async fn killed(&mut self) -> Result<()> {
        let epp = &mut self.stage.epps[0];
        // While requests are under way: one trial begins before, and sees both.
        let kill = async {
            tokio::time::sleep(PACE * 10).await;
            epp.process.signal(Signal::SIGKILL)
        };
        let to = self.stage.listeners[0].address;
        let (ends, killed) = tokio::join!(requests(to, 1000, &[]), kill);
        killed?;
        self.judge("  killed under load, 1 KB", &ends);
        for (length, chars) in &super::LENGTHS[..2] {
            let ends = self.requests(*chars, &[]).await;
            self.judge(&format!("  gone (connections refused), {length}"), &ends);
        }
        self.steering("gone").await;
        let dir = self.stage.dir().to_path_buf();
        self.stage.epps[0].restart(&dir)?;
        self.recovers("started again").await;
        Ok(())
    }

    async fn stopped(&mut self) -> Result<()> {
        for (length, chars) in &super::LENGTHS[..2] {
            self.stage.epps[0].process.signal(Signal::SIGSTOP)?;
            let ends = self.requests(*chars, &[]).await;
            self.judge(&format!("  stopped (SIGSTOP), {length}"), &ends);
            self.stage.epps[0].process.signal(Signal::SIGCONT)?;
            self.recovers("continued").await;
        }
        Ok(())
    }

    /// With the EPP away, a client's own header must not choose.
    async fn steering(&mut self, how: &str) {
        let target = self.stage.net.engines(1)[0].to_string();
        let steer = [
            ("x-gateway-destination-endpoint", target.as_str()),
            ("x-prefiller-host-port", "127.0.0.1:1"),
        ];
        let ends = self.requests(1000, &steer).await;
        let through = ends.iter().filter(|end| end.picked).count();
        let seen = format!("{through} of {REQUESTS} arrived with a client's destination");
        let name = format!("  {how}: a client cannot steer");
        self.verdict.check(&name, through == 0, &seen);
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
        self.verdict
            .check(&format!("  {how}: the EPP decides again"), row == 5, &seen);
    }

    async fn requests(&self, chars: usize, headers: &[(&'static str, &str)]) -> Vec<End> {
        requests(self.stage.listeners[0].address, chars, headers).await
    }

    /// All answered, and soon.
    fn judge(&mut self, name: &str, ends: &[End]) {
        let mut statuses: BTreeMap<&str, usize> = BTreeMap::new();
        for end in ends {
            *statuses.entry(&end.how).or_default() += 1;
        }
        let mut seconds: Vec<f64> = ends.iter().map(|end| end.seconds).collect();
        let first = seconds[0];
        seconds.sort_by(f64::total_cmp);
        let (median, slowest) = (seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
        let all = statuses.len() == 1 && statuses.contains_key("200");
        let seen = format!(
            "{statuses:?}, first {first:.2} s, median {median:.2} s, slowest {slowest:.2} s"
        );
        self.verdict
            .check(name, all && slowest <= self.args.fail_seconds, &seen);
    }
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
    let started = Instant::now();
    // A client each: a connection that broke must not be the next request's failure.
    let end = Client::http1().send(request).await;
    let seconds = started.elapsed().as_secs_f64();
    match end {
        Ok(end) => End {
            how: end.status.as_u16().to_string(),
            seconds,
            picked: !end.header("x-bench-picked").is_empty(),
        },
        Err(error) => End {
            how: error.root_cause().to_string(),
            seconds,
            picked: false,
        },
    }
}
