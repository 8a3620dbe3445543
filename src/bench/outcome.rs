//! The outcome of a run: what `--output json` prints, `--save` keeps and `--compare-with`
//! reads again. PURE. Field names are stable: a field may be added, none changes its
//! meaning, and [`SCHEMA`] changes if one must.
#![deny(clippy::disallowed_methods)]

use serde::{Deserialize, Serialize};

use super::ceiling::Method;
use super::plan::Workload;

/// The value of `schema`.
pub const SCHEMA: &str = "llm-d.ai/bench-cache-hit/v1";

/// One run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: String,
    /// What the caller calls the run, such as `session scorer off`.
    pub label: String,
    /// When it started, RFC 3339.
    pub started_at: String,
    /// Its id in the session headers and in `x-test-id`.
    pub run_id: String,
    /// What was tested.
    pub target: Target,
    /// What was sent.
    pub workload: Workload,
    /// The decode pods, by name.
    pub pods: Vec<PodRow>,
    /// Sums over the pods, in the window from the baseline to the last reading.
    pub totals: Totals,
    /// How much of the load one pod had.
    pub stickiness: Stickiness,
    /// The most that was possible; absent where the engine reports no prompt lengths.
    pub ceiling: Option<Ceiling>,
    /// How long answers took.
    pub latency: Latency,
    /// The health check inside the window.
    pub health_check: HealthRow,
    /// The measured requests, in the order they were planned.
    pub requests: Vec<RequestRow>,
    /// The result in words.
    pub verdict: Verdict,
    /// What a reader should know before believing the figures.
    pub notes: Vec<String>,
}

/// What was tested.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Target {
    /// The gateway's URL.
    pub url: String,
    /// The host header, where one was set.
    pub host: Option<String>,
    /// Where the decode pods are.
    pub namespace: Option<String>,
    /// How they are found.
    pub selector: Option<String>,
    /// Where counters were read: `api-proxy`, `direct`, `prometheus`, or several.
    pub counters_from: String,
}

/// One decode pod.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PodRow {
    /// Its name.
    pub name: String,
    /// Tokens looked up in the window.
    pub query_tokens: u64,
    /// Of those, found.
    pub hit_tokens: u64,
    /// In percent of the pod's own queries; absent without queries.
    pub hit_rate_percent: Option<f64>,
    /// The pod's share of all query tokens, in percent; absent without queries.
    pub query_share_percent: Option<f64>,
    /// Measured requests known to be answered by it.
    pub requests: u64,
    /// How often its counters began anew in the window.
    pub restarts: u32,
    /// Whether it came up after the baseline.
    pub appeared: bool,
    /// Whether its last reading failed: its figures then end at the one before.
    pub lost: bool,
}

/// Sums over all pods.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Totals {
    /// Tokens looked up.
    pub query_tokens: u64,
    /// Of those, found.
    pub hit_tokens: u64,
    /// Hits in percent of queries; absent without queries.
    pub hit_rate_percent: Option<f64>,
    /// Prompt tokens that the answers in the window reported, health check included.
    pub reported_prompt_tokens: u64,
    /// Cached tokens that those answers reported; absent where the engine does not tell.
    pub reported_cached_tokens: Option<u64>,
    /// Measured requests answered with 200.
    pub answered: u64,
    /// All other measured requests.
    pub failed: u64,
}

/// How much of the load one pod had.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Stickiness {
    /// The largest share of query tokens that one pod had, over the whole window: the
    /// published definition. It counts tokens, not requests, and not sessions.
    pub token_percent: Option<f64>,
    /// That pod.
    pub token_pod: Option<String>,
    /// The share of requests that went to the most used pod of their session.
    pub request_percent: Option<f64>,
    /// How the pod of a request was known: `x-inference-pod`, `x-upstream-host`,
    /// `counters`, or several.
    pub pods_known_from: String,
    /// Requests whose pod is known.
    pub requests_known: u64,
    /// Each session, the first fifty.
    pub sessions: Vec<SessionRow>,
}

/// One session.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SessionRow {
    /// Its number, from 1.
    pub session: usize,
    /// Its requests whose pod is known.
    pub requests: u64,
    /// Its most used pod.
    pub pod: String,
    /// The share of its requests on that pod.
    pub percent: f64,
    /// How many pods it met.
    pub pods: usize,
}

/// The most that was possible.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Ceiling {
    /// In percent of the prompt tokens in the window.
    pub percent: f64,
    /// Tokens that could have been found.
    pub hit_tokens: u64,
    /// Prompt tokens in the window.
    pub query_tokens: u64,
    /// How it was found.
    pub method: Method,
    /// Tokens of a cache block.
    pub block_size: u64,
    /// `engine`, or `assumed` where the engine does not tell.
    pub block_size_from: String,
}

/// How long answers took.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Latency {
    /// What "first" is: `first-token` of a stream, or `first-byte` of the whole answer.
    pub first_is: String,
    /// Time to first, the first request of each session.
    pub first_cold: Option<Spread>,
    /// Time to first, every other request.
    pub first_warm: Option<Spread>,
    /// Whole answers, the first request of each session.
    pub total_cold: Option<Spread>,
    /// Whole answers, every other request.
    pub total_warm: Option<Spread>,
    /// Mean time to first of the first three requests, in milliseconds.
    pub mean_of_first_three_milliseconds: Option<f64>,
    /// Of the last three.
    pub mean_of_last_three_milliseconds: Option<f64>,
}

/// Times of several requests, in milliseconds. Percentiles are by nearest rank.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// Their mean.
    pub mean_milliseconds: f64,
    /// Half took at most this.
    pub p50_milliseconds: f64,
    /// 95 of 100 took at most this.
    pub p95_milliseconds: f64,
    /// The slowest.
    pub max_milliseconds: f64,
}

/// The health check.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct HealthRow {
    /// Status of the last `GET /v1/models`; absent where none came.
    pub models_status: Option<u16>,
    /// How often that was tried.
    pub models_tries: u32,
    /// Status of the last chat request.
    pub chat_status: Option<u16>,
    /// How often that was tried.
    pub chat_tries: u32,
    /// Tokens of its prompt: they are in the window's queries.
    pub prompt_tokens: Option<u64>,
    /// Of those, reported as cached.
    pub cached_tokens: Option<u64>,
    /// Who answered.
    pub pod: Option<String>,
}

/// One measured request.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct RequestRow {
    /// Its place in the plan, from 1.
    pub number: usize,
    /// Its session, from 1.
    pub session: usize,
    /// Which request of its session it is, from 1.
    pub turn: usize,
    /// Its shared system prompt, from 1.
    pub prefix_group: Option<usize>,
    /// Seconds from the baseline to the sending.
    pub at_seconds: f64,
    /// The answer's status; absent where none came.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: Option<String>,
    /// Who answered.
    pub pod: Option<String>,
    /// How that is known.
    pub pod_from: Option<String>,
    /// Tokens of its prompt.
    pub prompt_tokens: Option<u64>,
    /// Of those, reported as cached.
    pub cached_tokens: Option<u64>,
    /// Milliseconds to the first token, or to the first byte.
    pub first_milliseconds: Option<f64>,
    /// Milliseconds to the last byte.
    pub total_milliseconds: Option<f64>,
    /// Query tokens of all pods since the baseline, read after this request.
    pub window_query_tokens: Option<u64>,
    /// Hit tokens of all pods since the baseline, read after this request.
    pub window_hit_tokens: Option<u64>,
    /// Measured requests that were done by then.
    pub window_requests: Option<u64>,
}

/// The result in words.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether the exit code is 0.
    pub ok: bool,
    /// `excellent` from 80 %, `good` from 60 %, `fair` from 40 %, else `poor`; `none`
    /// without queries.
    pub grade: String,
    /// Why not, where it is not.
    pub reasons: Vec<String>,
    /// The least hit rate asked for, in percent.
    pub min_hit_rate_percent: Option<f64>,
}

/// A file that holds no run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the JSON of a run.
    #[error("not the outcome of a run")]
    Json(#[from] serde_json::Error),
    /// Another schema.
    #[error("schema is {0:?}, not {SCHEMA:?}")]
    Schema(String),
}

/// Reads a run's JSON.
///
/// # Errors
/// When it is none, or of another schema.
pub fn read(text: &str) -> Result<Run, Error> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        schema: String,
    }
    let head: Head = serde_json::from_str(text)?;
    if head.schema != SCHEMA {
        return Err(Error::Schema(head.schema));
    }
    Ok(serde_json::from_str(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_files_are_refused_by_name() {
        assert_eq!(
            read("{\"schema\":\"x\"}").unwrap_err().to_string(),
            format!("schema is \"x\", not {SCHEMA:?}")
        );
        assert!(matches!(read("no json"), Err(Error::Json(_))));
    }
}
