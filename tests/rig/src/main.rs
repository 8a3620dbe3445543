//! The rig's command line. IO.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rig::{demo, exec, inner, tools, up, with_redis};

/// A Kubernetes cluster on this machine without root, images or containers.
#[derive(Parser)]
#[command(name = "rig", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build and fetch the programs the cluster runs; nothing is started.
    Fetch,
    /// Start a cluster and keep it until Ctrl-C (or, with --json, until input ends).
    Up(up::Args),
    /// Start a cluster, install the operator, serve a model, send requests.
    Demo(demo::Args),
    /// Run a command beside a Redis of its own, told by REDIS_URL.
    WithRedis {
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// The cluster itself, inside its namespaces.
    #[command(hide = true)]
    Inner(inner::Args),
    /// Become a program in a pod.
    #[command(hide = true)]
    Exec {
        #[arg(long)]
        parent: Option<u32>,
        #[arg(long)]
        netns: Option<PathBuf>,
        #[arg(long)]
        mount: Vec<String>,
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Hold a pod's network namespace.
    #[command(hide = true)]
    Pause { ip: Ipv4Addr, gateway: Ipv4Addr },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Fetch => tools::ensure_all().map(|_| ExitCode::SUCCESS),
        Command::Up(args) => up::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Demo(args) => demo::run(&args).map(|()| ExitCode::SUCCESS),
        Command::WithRedis { command } => with_redis::run(&command),
        Command::Inner(args) => inner::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Exec {
            parent,
            netns,
            mount,
            command,
        } => exec::exec(parent, netns.as_deref(), &mount, &command).map(|never| match never {}),
        Command::Pause { ip, gateway } => exec::pause(ip, gateway).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rig: {error:#}");
            ExitCode::FAILURE
        }
    }
}
