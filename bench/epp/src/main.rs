//! The EPP in front of fake engines and behind a real Envoy, with no Kubernetes and no root:
//! what it costs (`table`), what it bears (`soak`), what Envoy makes of its answers (`modes`).

mod client;
mod engines;
mod envoy;
mod istio;
mod kind;
mod kubeapi;
mod load;
mod memory;
mod modes;
mod net;
mod process;
mod prompts;
mod soak;
mod stage;
mod table;
mod tokenizer;
mod verdict;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(name = "bench-epp", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What EPPs cost, beside a server that decides nothing.
    Table(table::Args),
    /// What the EPP bears.
    Soak(soak::Args),
    /// What real Envoy makes of the EPP's answers.
    Modes(modes::Args),
    /// Answer as engines do.
    #[command(hide = true)]
    Engines(engines::Args),
}

/// Bytes as hexadecimal text.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::main]
async fn main() -> ExitCode {
    let work = async {
        match Cli::parse().command {
            Command::Table(args) => table::run(args).await.map(|()| ExitCode::SUCCESS),
            Command::Soak(args) => soak::run(args).await,
            Command::Modes(args) => modes::run(args).await,
            Command::Engines(args) => engines::run(&args).await.map(|()| ExitCode::SUCCESS),
        }
    };
    let mut terminate = signal(SignalKind::terminate()).expect("a runtime with signals");
    // Children end when what owns them is dropped, so signals must lead there.
    let result = tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("terminated")),
    };
    result.unwrap_or_else(|error| {
        eprintln!("bench-epp: {error:#}");
        ExitCode::FAILURE
    })
}
