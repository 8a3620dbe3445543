//! What EPPs cost: the same load without an EPP and through each, in turn and again, so that
//! what the machine does meanwhile falls on all alike. IO.

mod print;
mod row;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use self::row::{Measured, Row, Sample};
use crate::client::Client;
use crate::envoy::{self, Listener};
use crate::kind::Kind;
use crate::load::{self, Load, Outcome};
use crate::prompts::Prompts;
use crate::stage::{Common, Patches, Stage};

/// Command line.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// EPPs compared; the first is what the others are divided by. `floor`, `ours` (prefix and
    /// load scorers), `ours-kv` (and the KV scorer, tokenizer mounted), `ours-kv-remote` (tokens
    /// from the engines).
    #[arg(long, value_delimiter = ',', default_value = "floor,ours,ours-kv")]
    kinds: Vec<String>,
    /// One more, `NAME=COMMAND`: see the document for what is filled in.
    #[arg(long)]
    peer: Vec<String>,
    /// Rows, as characters of a prompt and requests a second.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1000:100,1000:500,30000:50,30000:200,400000:5"
    )]
    rows: Vec<Row>,
    /// Seconds of one measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How often each is measured.
    #[arg(long, default_value_t = 7)]
    repeat: usize,
    /// Three short measurements of each.
    #[arg(long, env = "QUICK", value_parser = clap::builder::FalseyValueParser::new())]
    quick: bool,
    /// How request bodies are handed to the EPP.
    #[arg(long, default_value = "FULL_DUPLEX_STREAMED")]
    request_mode: String,
    /// How answers are handed to the EPP.
    #[arg(long, default_value = "FULL_DUPLEX_STREAMED")]
    response_mode: String,
    /// Write everything measured to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Before each measurement: connections open, caches fill, the EPP has caught up.
const LEAD_IN: Duration = Duration::from_secs(1);
/// How long an EPP that was stopped has to catch up.
const WAKE: Duration = Duration::from_millis(300);

/// Measures and prints.
///
/// # Errors
/// When something does not start, or answers are lost.
pub async fn run(mut args: Args) -> Result<()> {
    if args.quick {
        (args.seconds, args.repeat) = (3.0, 3);
    }
    let mut kinds = Vec::new();
    for text in args.kinds.iter().chain(&args.peer) {
        kinds.push(Kind::parse(text)?);
    }
    let mut listeners = vec![Listener::new("plain", envoy::PLAIN)];
    listeners.extend(kinds.iter().map(|kind| {
        let filter = envoy::ext_proc(&kind.name, &args.request_mode, &args.response_mode);
        Listener {
            filters: vec![filter],
            ..Listener::new(&kind.name, envoy::PICKED)
        }
    }));
    let stage = Stage::start(&args.common, &kinds, listeners, &Patches::default()).await?;
    let mut bench = Bench {
        client: Client::http1(),
        stage,
        seconds: args.seconds,
        first: 0,
    };
    let idle = bench
        .idle(Duration::from_secs(if args.quick { 4 } else { 10 }))
        .await?;
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name.as_str()).collect();
    print::head(&args, &names, &idle);
    let mut rows = Vec::new();
    for row in &args.rows {
        let measured = bench.row(*row, args.repeat).await?;
        print::row(*row, &names, &measured);
        rows.push(print::row_json(*row, &names, &measured));
    }
    if let Some(path) = &args.json {
        let idle: Vec<_> = names
            .iter()
            .zip(&idle)
            .map(|(name, idle)| json!({"kind": name, "idle_cores": idle.0, "rss_mib": idle.1}))
            .collect();
        let all = json!({"endpoints": args.common.endpoints, "seconds": args.seconds,
            "repeat": args.repeat, "idle": idle, "rows": rows});
        std::fs::write(path, format!("{all:#}\n"))
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

struct Bench {
    client: Client,
    stage: Stage,
    seconds: f64,
    /// Number of the next request.
    first: u64,
}

impl Bench {
    /// Cores that each EPP uses when nobody asks it, and its memory in MiB.
    async fn idle(&self, over: Duration) -> Result<Vec<(f64, f64)>> {
        let before = self.cpus()?;
        let started = Instant::now();
        tokio::time::sleep(over).await;
        let after = self.cpus()?;
        let seconds = started.elapsed().as_secs_f64();
        let used = before.iter().zip(&after);
        used.zip(&self.stage.epps)
            .map(|((before, after), epp)| {
                Ok(((after - before) / 1e3 / seconds, epp.process.rss_mib()?))
            })
            .collect()
    }

    fn cpus(&self) -> Result<Vec<f64>> {
        self.stage
            .epps
            .iter()
            .map(|epp| epp.process.cpu_ms())
            .collect()
    }

    /// One row of the table: samples of each EPP.
    async fn row(&mut self, row: Row, repeat: usize) -> Result<Vec<Measured>> {
        let prompts = Arc::new(Prompts::new(row.chars));
        let mut measured = vec![Measured::default(); self.stage.epps.len()];
        for epp in &self.stage.epps {
            epp.process.signal(Signal::SIGSTOP)?;
        }
        for round in 0..repeat {
            let plain = self.plain(row, &prompts).await?;
            let mut order: Vec<usize> = (0..measured.len()).collect();
            // There and back: what drifts cancels.
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order {
                let sample = self.routed(row, &prompts, index, &plain).await?;
                measured[index].samples.push(sample);
            }
            // Every round has prompts of its own; all EPPs of a round see the same.
            self.first += 1_000_000;
        }
        for epp in &self.stage.epps {
            epp.process.signal(Signal::SIGCONT)?;
        }
        tokio::time::sleep(WAKE).await;
        Ok(measured)
    }

    async fn load(
        &self,
        row: Row,
        prompts: &Arc<Prompts>,
        listener: usize,
        lead_in: bool,
    ) -> Outcome {
        let seconds = Duration::from_secs_f64(self.seconds);
        let load = Load {
            rate: row.rate,
            duration: if lead_in { LEAD_IN } else { seconds },
            first: self.first + if lead_in { 500_000 } else { 0 },
        };
        let to = self.stage.listeners[listener].address;
        load::run(&self.client, to, Arc::clone(prompts), load).await
    }

    async fn plain(&self, row: Row, prompts: &Arc<Prompts>) -> Result<(Outcome, f64)> {
        self.load(row, prompts, 0, true).await;
        let envoy = self.stage.envoy.cpu_ms()?;
        let outcome = self.load(row, prompts, 0, false).await;
        ensure!(
            outcome.ok() == outcome.sent,
            "without an EPP: {:?}",
            outcome.ends
        );
        Ok((outcome, self.stage.envoy.cpu_ms()? - envoy))
    }

    async fn routed(
        &self,
        row: Row,
        prompts: &Arc<Prompts>,
        index: usize,
        (plain, plain_envoy): &(Outcome, f64),
    ) -> Result<Sample> {
        let epp = &self.stage.epps[index].process;
        epp.signal(Signal::SIGCONT)?;
        tokio::time::sleep(WAKE).await;
        self.load(row, prompts, index + 1, true).await;
        let (cpu, envoy) = (epp.cpu_ms()?, self.stage.envoy.cpu_ms()?);
        let outcome = self.load(row, prompts, index + 1, false).await;
        let (cpu, envoy) = (epp.cpu_ms()? - cpu, self.stage.envoy.cpu_ms()? - envoy);
        let rss_mib = epp.rss_mib()?;
        epp.signal(Signal::SIGSTOP)?;
        let each = |all: f64| all / outcome.sent as f64;
        Ok(Sample {
            cpu_ms: each(cpu),
            envoy_ms: each(envoy - plain_envoy),
            p50_ms: outcome.quantile(0.5),
            p99_ms: outcome.quantile(0.99),
            plain_p50_ms: plain.quantile(0.5),
            plain_p99_ms: plain.quantile(0.99),
            ok: outcome.ok(),
            sent: outcome.sent,
            late_ms: outcome.late_ms,
            rss_mib,
        })
    }
}
