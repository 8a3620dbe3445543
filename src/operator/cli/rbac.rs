//! `rbac`: the permission rules as the chart ships them, on standard output. IO.

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use crate::operator::rbac;

/// Flags of `rbac`.
#[derive(Clone, Debug, Args)]
pub(super) struct RbacArgs {
    /// Whose rules.
    #[arg(value_enum)]
    program: Program,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Program {
    /// The operator's ClusterRole.
    Operator,
    /// The operator's Role in its own namespace.
    LeaderElection,
    /// The EPP's ClusterRole.
    Epp,
}

/// Prints the rules.
pub(super) fn run(args: &RbacArgs) -> anyhow::Result<()> {
    let rules = match args.program {
        Program::Operator => rbac::operator_rules(),
        Program::LeaderElection => rbac::leader_election_rules(),
        Program::Epp => rbac::epp_rules(),
    };
    print!(
        "{}",
        serde_yaml::to_string(&rules).context("write the rules as YAML")?
    );
    Ok(())
}
