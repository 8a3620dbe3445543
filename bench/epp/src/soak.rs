//! What the EPP bears: a long load, ten thousand open answers, clients that are slow, that stop
//! and that send too much. IO.

mod cases;
mod upload;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::client::Client;
use crate::envoy::{self, Listener};
use crate::kind::Kind;
use crate::memory::Watch;
use crate::stage::{Common, Patches, Stage};
use crate::verdict::Verdict;

/// Command line.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// The EPP, as in `table`.
    #[arg(long, default_value = "ours")]
    kind: String,
    /// Cases, in this order.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "load,streams,drip,stall,huge"
    )]
    only: Vec<String>,
    /// Seconds of the long load.
    #[arg(long, default_value_t = 300.0)]
    seconds: f64,
    /// Requests a second of the long load, 30,000 characters each.
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Answers that stay open.
    #[arg(long, default_value_t = 10_000)]
    streams: usize,
    /// Uploads of 15 MiB that stop before their end.
    #[arg(long, default_value_t = 24)]
    uploads: usize,
    /// Seconds within which an upload that stopped must have been ended.
    #[arg(long, default_value_t = 90)]
    stall_seconds: u64,
    /// The most memory that the EPP may take, in MiB, whatever is sent.
    #[arg(long, default_value_t = 512.0)]
    rss_limit: f64,
    /// A shorter load and fewer streams.
    #[arg(long, env = "QUICK", value_parser = clap::builder::FalseyValueParser::new())]
    quick: bool,
}

struct Soak {
    args: Args,
    stage: Stage,
    client: Client,
    verdict: Verdict,
}

/// Runs the cases.
///
/// # Errors
/// When something does not start.
pub async fn run(mut args: Args) -> Result<ExitCode> {
    if args.quick {
        (args.seconds, args.streams) = (20.0, 1000);
    }
    let kind = Kind::parse(&args.kind)?;
    // As the operator renders it: answers are not handed over, but their end is told.
    let listener = Listener {
        filters: vec![envoy::ext_proc(&kind.name, "FULL_DUPLEX_STREAMED", "NONE")],
        ..Listener::new("routed", envoy::PICKED)
    };
    let patches = Patches::default();
    let stage = Stage::start(&args.common, &[kind], vec![listener], &patches).await?;
    let mut soak = Soak {
        client: Client::http1(),
        verdict: Verdict::default(),
        args,
        stage,
    };
    for case in soak.args.only.clone() {
        match case.as_str() {
            "load" => soak.load().await,
            "streams" => soak.streams().await,
            "drip" => soak.drip().await,
            "stall" => soak.stall().await,
            "huge" => soak.huge().await,
            _ => bail!("--only {case:?}: none of load, streams, drip, stall, huge"),
        }
        soak.alive().await;
    }
    Ok(soak.verdict.close())
}

impl Soak {
    fn watch(&self) -> Watch {
        Watch::start(self.stage.epps[0].process.id())
    }

    /// After each case the EPP is the same process and decides.
    async fn alive(&mut self) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let rss = self.stage.epps[0].process.rss_mib().unwrap_or(0.0);
        let status = self.client.probe(self.stage.listeners[0].address).await;
        let seen = format!("{status:?}, RSS {rss:.0} MiB");
        self.verdict
            .check("  and the EPP goes on", matches!(status, Ok(200)), &seen);
    }
}
