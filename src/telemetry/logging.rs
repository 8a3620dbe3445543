//! Log flags -> a global `tracing` subscriber. IO (stderr).

use clap::{Args, ValueEnum};
use tracing_subscriber::{EnvFilter, fmt};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line, for collectors.
    #[default]
    Json,
    /// Aligned text, for people.
    Human,
}

/// Logging flags that all four programs share.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// Log lines as `json` (for collectors) or `human`.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "json")]
    pub log_format: LogFormat,
    /// What to log: a level (`info`) or directives (`info,llm_d_operator=debug`).
    #[arg(long, short = 'l', env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
}

/// Installs the global subscriber. Later calls in one process do nothing.
///
/// # Errors
/// When `log_level` is not a valid filter.
pub fn init(args: &LogArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log_level)
        .map_err(|error| anyhow::anyhow!("--log-level {:?}: {error}", args.log_level))?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second subscriber (tests that call `run` twice) is harmless: the first one stays.
    let _ = match args.log_format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Human => builder.try_init(),
    };
    Ok(())
}
