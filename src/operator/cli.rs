//! Command lines of the operator -> the work they ask for. IO.
//!
//! `run` may be left out, and the flags that old manifests put before the subcommand
//! are accepted on either side, as the Go operator's were.

mod crd;
pub(crate) mod generate;
mod rbac;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::guard::{Allowed, Permission};
use super::settings::Settings;
use crate::bench;

const SUBCOMMANDS: &[&str] = &["run", "generate", "crd", "rbac", "bench", "help"];

/// One `ModelService` in, a KV-cache-aware LLM service out.
#[derive(Debug, Parser)]
#[command(name = "llm-d-operator", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch ModelServices and keep the objects behind them right (the default).
    Run(Box<run::RunArgs>),
    /// Print the objects of one ModelService without a cluster.
    Generate(Box<generate::GenerateArgs>),
    /// Print the CustomResourceDefinition.
    Crd,
    /// Print the RBAC rules the operator or the EPP needs.
    Rbac(rbac::RbacArgs),
    /// Measure a running service from outside.
    Bench(bench::cli::BenchArgs),
}

/// Flags that shape what is rendered, shared by `run` and `generate`.
#[derive(Clone, Debug, clap::Args)]
struct RenderArgs {
    /// ClusterRole that the RoleBinding of each EPP refers to.
    #[arg(long, env = "EPP_CLUSTER_ROLE", default_value = "")]
    epp_cluster_role: String,
    /// Pull secrets of the EPP's ServiceAccount, comma separated.
    #[arg(long, default_value = "", value_name = "NAMES")]
    epp_pull_secrets: String,
    /// Pull secrets of the prefill and decode pods' ServiceAccount, comma separated.
    #[arg(long, default_value = "", value_name = "NAMES")]
    pd_pull_secrets: String,
    /// Engine image where the base config names none.
    #[arg(long, env = "VLLM_IMAGE", default_value = super::settings::DEFAULT_VLLM_IMAGE)]
    vllm_image: String,
    /// Routing sidecar image where the base config names none.
    #[arg(long, env = "ROUTING_PROXY_IMAGE", default_value = super::settings::DEFAULT_LLM_D_IMAGE)]
    routing_proxy_image: String,
    /// EPP image where the base config names none.
    #[arg(long, env = "EPP_IMAGE", default_value = super::settings::DEFAULT_LLM_D_IMAGE)]
    epp_image: String,
    /// Redis or Valkey image of the index the operator renders.
    #[arg(long, env = "REDIS_IMAGE", default_value = super::settings::DEFAULT_REDIS_IMAGE)]
    redis_image: String,
    /// Allow base ConfigMaps, and ConfigMaps they create, in other namespaces.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    allow_cross_namespace: bool,
    /// Allow templates that ask for privileged pods, hostPath or the host's namespaces.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true", action = clap::ArgAction::Set)]
    allow_privileged_templates: bool,
    /// Kinds of reach that templates are permitted, comma separated, such as
    /// host-path,capabilities.
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    allow: Vec<Permission>,
    /// Host names that HTTPRoutes may have, comma separated, exact or *.suffix; any without it.
    #[arg(long, value_name = "NAMES", default_value = "")]
    allowed_hostnames: String,
}

impl RenderArgs {
    fn settings(&self) -> Settings {
        let names = |list: &str| {
            list.split(',')
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect()
        };
        Settings {
            vllm_image: self.vllm_image.clone(),
            routing_proxy_image: self.routing_proxy_image.clone(),
            epp_image: self.epp_image.clone(),
            redis_image: self.redis_image.clone(),
            epp_cluster_role: self.epp_cluster_role.clone(),
            epp_pull_secrets: names(&self.epp_pull_secrets),
            pd_pull_secrets: names(&self.pd_pull_secrets),
            allow_cross_namespace: self.allow_cross_namespace,
            allowed: if self.allow_privileged_templates {
                Allowed::all()
            } else {
                self.allow.iter().copied().collect()
            },
            allowed_hostnames: names(&self.allowed_hostnames),
        }
    }
}

/// Parses the process's arguments and does what they say. The exit code is 0 on
/// success, 2 for a wrong command line, 1 for everything else; `bench` has its own.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(arrange(std::env::args().collect())) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Crd => crd::run(),
        Command::Rbac(args) => rbac::run(&args),
        // Its exit codes say more than success and failure.
        Command::Bench(args) => return bench::cli::main(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("llm-d-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Puts the subcommand first, `run` where there is none.
fn arrange(mut args: Vec<String>) -> Vec<String> {
    let asks_for_help = |arg: &String| matches!(arg.as_str(), "-h" | "--help" | "-V" | "--version");
    match args
        .iter()
        .skip(1)
        .position(|arg| SUBCOMMANDS.contains(&arg.as_str()))
    {
        Some(position) => {
            let subcommand = args.remove(position + 1);
            args.insert(1, subcommand);
        }
        None if args.get(1).is_some_and(asks_for_help) => {}
        None => args.insert(1.min(args.len()), "run".to_owned()),
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Cli {
        let words = line
            .split(' ')
            .map(|word| word.replace("\"\"", ""))
            .collect();
        Cli::try_parse_from(arrange(words)).unwrap()
    }

    #[test]
    fn the_oldest_command_line_without_a_subcommand_still_starts_the_operator() {
        let cli = parse(
            "/manager --leader-elect=false --health-probe-bind-address=:8081 \
             --epp-cluster-role X --epp-pull-secrets \"\" --pd-pull-secrets \"\"",
        );
        let Command::Run(args) = cli.command else {
            panic!("not run")
        };
        assert!(!args.leader_elect);
        assert_eq!(args.render.settings().epp_cluster_role, "X");
        assert!(args.render.settings().pd_pull_secrets.is_empty());
    }

    #[test]
    fn persistent_flags_may_come_before_the_subcommand() {
        let cli =
            parse("/manager --epp-cluster-role X --pd-pull-secrets a,b run --leader-elect -t");
        let Command::Run(args) = cli.command else {
            panic!("not run")
        };
        assert!(args.leader_elect);
        assert_eq!(args.render.settings().pd_pull_secrets, ["a", "b"]);
    }

    #[test]
    fn words_of_other_subcommands_may_be_values_of_bench() {
        let cli = parse(
            "/manager bench cache-hit --url http://g --model m -n llm-d --label run --host crd",
        );
        assert!(matches!(cli.command, Command::Bench(_)));
    }

    #[test]
    fn every_flag_of_the_old_operator_is_accepted() {
        parse(
            "/manager run -l debug --toggle --metrics-bind-address=0 --metrics-secure=false \
             --metrics-cert-path=/c --metrics-cert-name=a --metrics-cert-key=b \
             --webhook-cert-path=/c --webhook-cert-name=a --webhook-cert-key=b \
             --health-probe-bind-address=:8081 --leader-elect=true --enable-http2 \
             --defaults-yaml-path=/d --epp-cluster-role=X",
        );
    }
}
