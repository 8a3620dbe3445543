//! What real Envoy makes of the EPP's answers: each way of handing bodies over, with bodies of
//! several lengths and answers of both kinds, where a failure of the EPP would be seen. IO.

mod failing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::client::{Answer, Body, Client};
use crate::engines::EVENTS;
use crate::envoy::{self, Listener};
use crate::kind::Kind;
use crate::prompts::Prompts;
use crate::stage::{Common, Patches, Stage};
use crate::verdict::Verdict;

/// Command line.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// The EPP, as in `table`.
    #[arg(long, default_value = "ours-sessions")]
    kind: String,
    /// Body modes that are tried.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "NONE,STREAMED,BUFFERED,BUFFERED_PARTIAL,FULL_DUPLEX_STREAMED"
    )]
    modes: Vec<String>,
    /// The operator's program, whose EnvoyFilter is tried with an EPP that fails.
    #[arg(long, env = "OPERATOR", default_value = "target/debug/llm-d-operator")]
    operator: PathBuf,
    /// An EnvoyFilter in a file, in place of the operator's.
    #[arg(long)]
    envoy_filter: Option<PathBuf>,
    /// The longest that any request may wait when the EPP fails, in seconds.
    #[arg(long, default_value_t = 3.0)]
    fail_seconds: f64,
    /// Seconds after the EPP failed from which on nothing may be lost.
    #[arg(long, default_value_t = 2.5)]
    fail_window: f64,
    /// Only one half: `modes`, or `failing`.
    #[arg(long)]
    only: Option<String>,
}

/// Characters of the prompts: 1 KB, 200 KB, 3 MB.
const LENGTHS: [(&str, usize); 3] = [("1 KB", 1000), ("200 KB", 200_000), ("3 MB", 3_000_000)];
/// How often each case is tried.
const TIMES: u64 = 3;
/// Sessions, and requests of each.
const SESSIONS: (u64, u64) = (20, 4);
/// What is held of a body where the filter must have all of it.
const BUFFER_BYTES: u32 = 8 << 20;

struct Modes {
    stage: Stage,
    http1: Client,
    http2: Client,
    verdict: Verdict,
}

/// Tries everything.
///
/// # Errors
/// When something does not start.
pub async fn run(args: Args) -> Result<ExitCode> {
    let kind = Kind::parse(&args.kind)?;
    let mut verdict = Verdict::default();
    let wanted = |half: &str| args.only.as_deref().is_none_or(|only| only == half);
    if wanted("modes") {
        verdict = modes(&args, &kind, verdict).await?;
    }
    if wanted("failing") {
        failing::run(&args, &kind, &mut verdict).await?;
    }
    Ok(verdict.close())
}

async fn modes(args: &Args, kind: &Kind, verdict: Verdict) -> Result<Verdict> {
    let mut listeners = Vec::new();
    for mode in &args.modes {
        // A partial buffer is for bodies that are too long: there the limit stays.
        let buffer_bytes = (mode == "BUFFERED").then_some(BUFFER_BYTES);
        let mut filter = envoy::ext_proc(&kind.name, mode, mode);
        filter["typed_config"]["message_timeout"] = json!("2s");
        for cluster in [envoy::PICKED, envoy::PICKED_H2] {
            listeners.push(Listener {
                filters: vec![filter.clone()],
                buffer_bytes,
                ..Listener::new(&format!("{mode}-{cluster}"), cluster)
            });
        }
    }
    let kinds = std::slice::from_ref(kind);
    let stage = Stage::start(&args.common, kinds, listeners, &Patches::default()).await?;
    let mut modes = Modes {
        stage,
        http1: Client::http1(),
        http2: Client::http2(),
        verdict,
    };
    for (index, mode) in args.modes.iter().enumerate() {
        println!("{mode}");
        for (length, chars) in LENGTHS {
            for answer in ["json", "sse"] {
                modes.case(2 * index, length, chars, answer).await;
            }
        }
        modes.trailers(2 * index + 1).await;
        modes.sessions(2 * index).await;
    }
    Ok(modes.verdict)
}

impl Modes {
    async fn case(&mut self, listener: usize, length: &str, chars: usize, answer: &'static str) {
        let to = self.stage.listeners[listener].address;
        let prompts = Prompts::new(chars);
        let mut wrong = BTreeMap::new();
        let mut slowest = 0.0_f64;
        for number in 0..TIMES {
            let body = prompts.body(number);
            let request = asking(Client::chat(to, body.clone()), answer);
            let started = std::time::Instant::now();
            let end = self.http1.send(request).await;
            slowest = slowest.max(started.elapsed().as_secs_f64());
            for what in faults(end, &body, answer) {
                *wrong.entry(what).or_insert(0) += 1;
            }
        }
        let seen = format!(
            "{TIMES} requests, slowest {:.0} ms {wrong:?}",
            slowest * 1e3
        );
        let name = format!("  {length}, {answer}");
        self.verdict.check(&name, wrong.is_empty(), &seen);
    }

    /// Trailers of both directions, by HTTP/2.
    async fn trailers(&mut self, listener: usize) {
        let to = self.stage.listeners[listener].address;
        for (length, chars) in &LENGTHS[..2] {
            let body = Prompts::new(*chars).body(0);
            let name = HeaderName::from_static("x-bench-start");
            let trailers = HeaderMap::from_iter([(name, HeaderValue::from_static("1"))]);
            let with_trailers = Full::new(body.clone())
                .with_trailers(std::future::ready(Some(Ok(trailers))))
                .boxed_unsync();
            let mut request = asking(Client::chat(to, Bytes::new()), "json");
            *request.body_mut() = with_trailers;
            let wished = HeaderValue::from_static("1");
            request
                .headers_mut()
                .insert("x-bench-answer-trailers", wished);
            let end = self.http2.send(request).await;
            let arrived = end.as_ref().map_or(("0", false), |end| {
                (end.header("x-bench-trailers"), end.trailers.is_some())
            });
            let arrived = format!("{arrived:?}");
            let wrong = faults(end, &body, "json");
            let passed = wrong.is_empty() && arrived == "(\"1\", true)";
            let seen = format!("arrived {arrived} {wrong:?}");
            self.verdict
                .check(&format!("  {length}, trailers"), passed, &seen);
        }
    }

    /// A session stays where it began, and sessions are spread.
    async fn sessions(&mut self, listener: usize) {
        let to = self.stage.listeners[listener].address;
        let (prompts, mut all, mut moved) = (Prompts::new(1000), BTreeSet::new(), 0);
        for session in 0..SESSIONS.0 {
            let mut homes = BTreeSet::new();
            for turn in 0..SESSIONS.1 {
                let body = prompts.body(session * 100 + turn);
                let mut request = asking(Client::chat(to, body), "json");
                let name = HeaderValue::from(session);
                request.headers_mut().insert("x-session-id", name);
                if let Ok(end) = self.http1.send(request).await {
                    homes.insert(end.header("x-bench-served-by").to_owned());
                }
            }
            moved += usize::from(homes.len() != 1);
            all.extend(homes);
        }
        let seen = format!("{moved} of {} moved, {} endpoints", SESSIONS.0, all.len());
        let passed = moved == 0 && all.len() > 2;
        self.verdict.check("  sessions stay", passed, &seen);
    }
}

fn asking(mut request: Request<Body>, answer: &'static str) -> Request<Body> {
    for (name, value) in [("x-bench-answer", answer), ("x-bench-hash", "1")] {
        let value = HeaderValue::from_static(value);
        request.headers_mut().insert(name, value);
    }
    request
}

/// What is wrong with an answer.
fn faults(end: Result<Answer>, sent: &Bytes, answer: &str) -> Vec<String> {
    let end = match end {
        Ok(end) if end.status == 200 => end,
        Ok(end) => {
            let body = String::from_utf8_lossy(&end.body);
            return vec![format!(
                "{}: {}",
                end.status,
                body.chars().take(80).collect::<String>()
            )];
        }
        Err(error) => return vec![format!("{error:#}")],
    };
    let mut faults = Vec::new();
    let mut expect = |right: bool, fault: String| {
        if !right {
            faults.push(fault);
        }
    };
    let (picked, served) = (
        end.header("x-bench-picked"),
        end.header("x-bench-served-by"),
    );
    expect(
        !picked.is_empty() && picked == served,
        format!("picked {picked:?}, served by {served:?}"),
    );
    expect(
        end.header("x-bench-body-sha256") == crate::hex(&Sha256::digest(sent)),
        format!(
            "another body: {} of {} bytes",
            end.header("x-bench-body-bytes"),
            sent.len()
        ),
    );
    let body = String::from_utf8_lossy(&end.body);
    let whole = match answer {
        "sse" => body.matches("data: {").count() == EVENTS && body.ends_with("data: [DONE]\n\n"),
        _ => serde_json::from_str::<serde_json::Value>(&body)
            .is_ok_and(|body| body["object"] == "chat.completion"),
    };
    expect(
        whole,
        format!("the answer is not whole: {} bytes", body.len()),
    );
    faults
}
