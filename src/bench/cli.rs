//! `bench`: flags -> a run, its outcome and its report. IO.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};

use super::counters::Source;
use super::outcome::{self, Run};
use super::plan::Workload;
use super::{report, run};
use crate::contract;

/// The exit code for a run that could not be made; clap uses it for wrong flags.
const CANNOT_RUN: u8 = 2;

/// Flags of `bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Measure the prefix cache hit rate of a gateway's decode pods.
    CacheHit(Box<CacheHitArgs>),
    /// Draw a report of saved runs.
    Report(ReportArgs),
}

/// Flags of `bench cache-hit`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exit codes: 0 the verdict is good; 1 a request was not answered with 200, \
    the hit rate is below --min-hit-rate, or the pods counted nothing; 2 the run could not be made."
)]
pub struct CacheHitArgs {
    /// The gateway, such as http://gateway.example.
    #[arg(long, value_name = "URL")]
    pub(super) url: String,
    /// Host header, where the route asks for one.
    #[arg(long)]
    pub(super) host: Option<String>,
    /// The model that requests name.
    #[arg(long)]
    model: String,
    /// Namespace of the decode pods.
    #[arg(long, short = 'n', required_unless_present = "pods")]
    pub(super) namespace: Option<String>,
    /// Labels of the decode pods.
    #[arg(long, default_value_t = format!("{}={}", contract::LABEL_ROLE, contract::ROLE_DECODE))]
    pub(super) selector: String,
    /// A decode pod by name and the URL of its metrics, where there is no API server to ask;
    /// repeatable.
    #[arg(long = "pod", value_name = "NAME=URL", conflicts_with = "namespace", value_parser = pair)]
    pub(super) pods: Vec<(String, String)>,
    /// Where the pods' counters are read.
    #[arg(long, value_enum, default_value_t = Source::Auto)]
    pub(super) metrics: Source,
    /// Port of the pods' metrics; the sidecar forwards them.
    #[arg(long, default_value_t = contract::PORT_SERVING)]
    pub(super) metrics_port: u16,
    /// Prometheus that scrapes the pods, with a `pod` label.
    #[arg(long, value_name = "URL", required_if_eq("metrics", "prometheus"))]
    pub(super) prometheus_url: Option<String>,
    /// Seconds to wait for counters to show all requests; 5, with Prometheus 90.
    #[arg(long, value_name = "SECONDS")]
    pub(super) settle: Option<f64>,
    #[command(flatten)]
    load: LoadArgs,
    /// Token for the gateway in place of the made-up one.
    #[arg(long, env = "BENCH_BEARER_TOKEN", hide_env_values = true)]
    pub(super) bearer_token: Option<String>,
    /// Seconds that one request may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0)]
    pub(super) timeout: f64,
    /// The least hit rate in percent; below it the exit code is 1.
    #[arg(long, value_name = "PERCENT")]
    pub(super) min_hit_rate: Option<f64>,
    /// Tokens of a cache block, where the engine does not tell.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub(super) block_size: u64,
    /// What to call this run in reports.
    #[arg(long, default_value = "this run")]
    pub(super) label: String,
    /// What to print.
    #[arg(long, short = 'o', value_enum, default_value_t = Output::Text)]
    output: Output,
    /// File for the outcome as JSON, for later comparison.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// File for the HTML report.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// An earlier outcome to show beside this one in the report; repeatable.
    #[arg(long, value_name = "[LABEL=]FILE", requires = "report")]
    compare_with: Vec<String>,
    /// No progress on standard error.
    #[arg(long, short = 'q')]
    quiet: bool,
}

/// The load.
#[derive(Clone, Debug, Args)]
struct LoadArgs {
    /// Measured requests of each session.
    #[arg(long, default_value_t = 30)]
    requests: usize,
    /// Requests before the baseline, in a session of their own.
    #[arg(long, default_value_t = 1)]
    warmup: usize,
    /// Seconds to pause after each request.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.8)]
    sleep: f64,
    /// Sessions, whose requests take turns.
    #[arg(long, default_value_t = 1)]
    sessions: usize,
    /// Shared system prompts to spread the sessions over, with another question in every
    /// request; 0 sends one prompt in all requests.
    #[arg(long, default_value_t = 0)]
    prefix_groups: usize,
    /// Words of each shared system prompt.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    prefix_words: u32,
    /// Requests in flight at once.
    #[arg(long, default_value_t = 1)]
    concurrency: usize,
    /// Tokens that each request may generate.
    #[arg(long, default_value_t = 16)]
    max_tokens: u64,
    /// Stream the answers, so that the time to the first token is real.
    #[arg(long)]
    stream: bool,
    /// Send no session headers: only the prompt tells where a request belongs.
    #[arg(long)]
    no_session_headers: bool,
    /// Open every prompt with the run's id, so that no cache knows it from an earlier run.
    #[arg(long)]
    fresh: bool,
    /// File with the prompt to send in place of the built-in one.
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
}

/// Flags of `bench report`.
#[derive(Clone, Debug, Args)]
struct ReportArgs {
    /// Outcomes to show side by side, with labels of your own where wanted.
    #[arg(required = true, value_name = "[LABEL=]FILE")]
    runs: Vec<String>,
    /// File for the HTML report.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    /// A table for people.
    Text,
    /// The outcome for programs; field names are stable.
    Json,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, url)) if !name.is_empty() && url.starts_with("http") => {
            Ok((name.to_owned(), url.to_owned()))
        }
        _ => Err("not NAME=URL".to_owned()),
    }
}

impl CacheHitArgs {
    pub(super) fn workload(&self) -> Workload {
        let load = &self.load;
        Workload {
            model: self.model.clone(),
            requests: load.requests,
            warmup: load.warmup,
            sessions: load.sessions,
            prefix_groups: load.prefix_groups,
            prefix_words: load.prefix_words as usize,
            concurrency: load.concurrency,
            sleep_seconds: load.sleep,
            max_tokens: load.max_tokens,
            stream: load.stream,
            session_headers: !load.no_session_headers,
            fresh: load.fresh,
            own_prompt: load.prompt_file.is_some(),
        }
    }

    pub(super) fn prompt(&self) -> anyhow::Result<Option<String>> {
        self.load
            .prompt_file
            .as_ref()
            .map(|file| {
                std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
            })
            .transpose()
    }
}

/// Runs the subcommand. The exit code is 0 for a good verdict, 1 for a bad one, 2 where no
/// run could be made.
pub fn main(args: &BenchArgs) -> ExitCode {
    let result = match &args.command {
        Command::CacheHit(args) => cache_hit(args),
        Command::Report(args) => draw(args).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("llm-d-operator: {error:#}");
            ExitCode::from(CANNOT_RUN)
        }
    }
}

fn cache_hit(args: &CacheHitArgs) -> anyhow::Result<bool> {
    // Only fails when a provider is already installed, which is the wish.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // Before the run: a wrong file name should not cost one.
    let mut runs = load_all(&args.compare_with)?;
    let quiet = args.quiet;
    let say = move |text: &str| {
        if !quiet {
            eprintln!("{text}");
        }
    };
    let run = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(run::cache_hit(args, &say))?;
    let json = serde_json::to_string_pretty(&run).context("write the outcome as JSON")?;
    if let Some(file) = &args.save {
        std::fs::write(file, format!("{json}\n"))
            .with_context(|| format!("write {}", file.display()))?;
    }
    match args.output {
        Output::Text => print!("{}", report::text::render(&run)),
        Output::Json => println!("{json}"),
    }
    let ok = run.verdict.ok;
    if let Some(file) = &args.report {
        runs.push(run);
        write_report(&runs, file)?;
        say(&format!("report: {}", file.display()));
    }
    Ok(ok)
}

fn draw(args: &ReportArgs) -> anyhow::Result<()> {
    write_report(&load_all(&args.runs)?, &args.out)
}

fn write_report(runs: &[Run], file: &std::path::Path) -> anyhow::Result<()> {
    let html = report::html::render(runs).context("draw the report")?;
    std::fs::write(file, html).with_context(|| format!("write {}", file.display()))
}

/// Reads `[LABEL=]FILE` each.
fn load_all(files: &[String]) -> anyhow::Result<Vec<Run>> {
    files
        .iter()
        .map(|text| {
            let (label, file) = match text.split_once('=') {
                Some((label, file)) if !label.is_empty() => (Some(label), file),
                _ => (None, text.as_str()),
            };
            let content = std::fs::read_to_string(file).with_context(|| format!("read {file}"))?;
            let mut run = outcome::read(&content).with_context(|| format!("read {file}"))?;
            if let Some(label) = label {
                label.clone_into(&mut run.label);
            }
            Ok(run)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: CacheHitArgs,
    }

    fn parse(line: &str) -> Result<CacheHitArgs, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.args)
    }

    #[test]
    fn the_defaults_are_those_of_the_published_test() {
        let args = parse("x --url http://g --model m -n llm-d").unwrap();
        let workload = args.workload();
        assert_eq!(
            (workload.requests, workload.warmup, workload.max_tokens),
            (30, 1, 16)
        );
        assert!((workload.sleep_seconds - 0.8).abs() < f64::EPSILON);
        assert!(workload.session_headers);
        assert_eq!(args.selector, "llm-d.ai/role=decode");
        assert_eq!(args.metrics_port, 8000);
    }

    #[test]
    fn pods_are_in_a_namespace_or_named_one_by_one() {
        assert!(parse("x --url http://g --model m").is_err());
        assert!(parse("x --url http://g --model m -n a --pod b=http://c").is_err());
        assert!(parse("x --url http://g --model m --pod b").is_err());
        let args = parse("x --url http://g --model m --pod b=http://c/metrics?a=b").unwrap();
        assert_eq!(
            args.pods,
            [("b".to_owned(), "http://c/metrics?a=b".to_owned())]
        );
    }

    #[test]
    fn a_missing_file_to_compare_with_is_named() {
        let error = load_all(&["a=/nowhere/run.json".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), "read /nowhere/run.json");
    }
}
