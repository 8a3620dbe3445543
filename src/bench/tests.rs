//! Whole runs against a small gateway with pods behind it, in this process.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use clap::Parser as _;
use serde_json::{Value, json};

use super::ceiling::Method;
use super::cli::CacheHitArgs;
use super::outcome::Run;
use super::run;

const BLOCK: usize = 4;

#[derive(Clone, Copy, PartialEq)]
enum Routing {
    /// The first pod for everything.
    One,
    /// The next pod for each request.
    RoundRobin,
    /// One pod for each session header.
    Session,
}

/// A gateway and its pods. A token is a word; the chat template is two words.
struct Fake {
    routing: Routing,
    sign: bool,
    tokenize: bool,
    fail_at: Option<usize>,
    restart_at: Option<usize>,
    served: usize,
    pods: Vec<Engine>,
    sessions: HashMap<String, usize>,
    seen: Vec<(HeaderMap, Value)>,
}

#[derive(Default)]
struct Engine {
    cache: HashSet<Vec<String>>,
    queries: usize,
    hits: usize,
}

type Shared = Arc<Mutex<Fake>>;

fn fake(routing: Routing) -> Fake {
    Fake {
        routing,
        sign: true,
        tokenize: false,
        fail_at: None,
        restart_at: None,
        served: 0,
        pods: (0..3).map(|_| Engine::default()).collect(),
        sessions: HashMap::new(),
        seen: Vec::new(),
    }
}

fn words(body: &Value) -> Vec<String> {
    let mut words = vec!["<bos>".to_owned()];
    for message in body["messages"].as_array().unwrap() {
        let text = message["content"].as_str().unwrap();
        words.extend(text.split_whitespace().map(str::to_owned));
    }
    words.push("<assistant>".to_owned());
    words
}

impl Engine {
    fn admit(&mut self, prompt: &[String]) -> usize {
        let blocks = prompt.len() / BLOCK;
        let held = (1..=blocks)
            .take_while(|count| self.cache.contains(&prompt[..count * BLOCK]))
            .count();
        for count in 1..=blocks {
            self.cache.insert(prompt[..count * BLOCK].to_vec());
        }
        let hit = (held * BLOCK).min((prompt.len() - 1) / BLOCK * BLOCK);
        self.queries += prompt.len();
        self.hits += hit;
        hit
    }
}

async fn chat(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mut fake = shared.lock().unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap();
    fake.seen.push((headers.clone(), body.clone()));
    fake.served += 1;
    let served = fake.served;
    if fake.fail_at == Some(served) {
        let error = json!({"error": {"message": "no pod is ready"}});
        return (StatusCode::SERVICE_UNAVAILABLE, axum::Json(error)).into_response();
    }
    if fake.restart_at == Some(served) {
        fake.pods[0] = Engine::default();
    }
    let count = fake.pods.len();
    let pod = match fake.routing {
        Routing::One => 0,
        Routing::RoundRobin => served % count,
        Routing::Session => {
            let session = headers
                .get("session-id")
                .map_or("", |value| value.to_str().unwrap());
            let next = fake.sessions.len() % count;
            *fake.sessions.entry(session.to_owned()).or_insert(next)
        }
    };
    let prompt = words(&body);
    let hit = fake.pods[pod].admit(&prompt);
    let usage = json!({
        "prompt_tokens": prompt.len(), "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": hit},
    });
    let mut response = if body["stream"] == true {
        let text = format!(
            "data: {}\n\ndata: {}\n\ndata: [DONE]\n\n",
            json!({"choices": [{"delta": {"content": "yes"}}]}),
            json!({"choices": [], "usage": usage}),
        );
        ([("content-type", "text/event-stream")], text).into_response()
    } else {
        axum::Json(json!({"choices": [], "usage": usage})).into_response()
    };
    if fake.sign {
        let name = format!("pod-{pod}").parse().unwrap();
        response.headers_mut().insert("x-inference-pod", name);
    }
    response
}

async fn tokenize(State(shared): State<Shared>, body: Bytes) -> Response {
    if !shared.lock().unwrap().tokenize {
        return StatusCode::NOT_FOUND.into_response();
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    let tokens: Vec<u64> = words(&body)
        .iter()
        .map(|word| u64::from(xxhash_rust::xxh3::xxh3_64(word.as_bytes()) as u32))
        .collect();
    axum::Json(json!({"count": tokens.len(), "tokens": tokens})).into_response()
}

async fn metrics(State(shared): State<Shared>, Path(pod): Path<usize>) -> String {
    let fake = shared.lock().unwrap();
    let engine = &fake.pods[pod];
    format!(
        "# TYPE vllm:prefix_cache_queries_total counter\n\
         vllm:prefix_cache_queries_total{{model_name=\"m\"}} {}.0\n\
         vllm:prefix_cache_hits_total{{model_name=\"m\"}} {}.0\n\
         vllm:cache_config_info{{block_size=\"{BLOCK}\"}} 1.0\n",
        engine.queries, engine.hits
    )
}

async fn prometheus(
    State(shared): State<Shared>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let fake = shared.lock().unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    let value = |engine: &Engine| match query["query"].as_str() {
        "vllm:prefix_cache_queries_total" => Some(engine.queries as f64),
        "vllm:prefix_cache_hits_total" => Some(engine.hits as f64),
        "timestamp(vllm:prefix_cache_queries_total)" => Some(now),
        _ => None,
    };
    let result: Vec<Value> = fake
        .pods
        .iter()
        .enumerate()
        .filter_map(|(pod, engine)| {
            let value = value(engine)?.to_string();
            Some(json!({"metric": {"pod": format!("pod-{pod}")}, "value": [now, value]}))
        })
        .collect();
    axum::Json(json!({"status": "success", "data": {"resultType": "vector", "result": result}}))
        .into_response()
}

/// Serves the fake; its URL.
async fn serve(fake: Fake) -> (String, Shared) {
    let shared = Arc::new(Mutex::new(fake));
    let router = Router::new()
        .route("/v1/chat/completions", post(chat))
        .route(
            "/v1/models",
            get(|| async { axum::Json(json!({"data": []})) }),
        )
        .route("/tokenize", post(tokenize))
        .route("/pods/{pod}/metrics", get(metrics))
        .route("/api/v1/query", get(prometheus))
        .with_state(shared.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, shared)
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: CacheHitArgs,
}

fn args(url: &str, more: &str) -> CacheHitArgs {
    let mut line = format!("x --url {url} --model m --sleep 0");
    for pod in 0..3 {
        line.push_str(&format!(" --pod pod-{pod}={url}/pods/{pod}/metrics"));
    }
    if !more.is_empty() {
        line.push_str(&format!(" {more}"));
    }
    Line::try_parse_from(line.split(' ')).unwrap().args
}

async fn run_with(fake: Fake, more: &str) -> (Result<Run, run::Error>, Shared) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (url, shared) = serve(fake).await;
    let run = run::cache_hit(&args(&url, more), &|_| {}).await;
    (run, shared)
}

#[tokio::test]
async fn one_warm_pod_reaches_the_ceiling() {
    let (run, shared) = run_with(fake(Routing::One), "").await;
    let run = run.unwrap();
    assert!(run.verdict.ok, "{:?}", run.verdict);
    assert_eq!(run.workload.requests, 30);
    let ceiling = run.ceiling.as_ref().unwrap();
    assert_eq!(
        (ceiling.method, ceiling.block_size),
        (Method::EqualPrompts, 4)
    );
    assert_eq!(run.totals.hit_tokens, ceiling.hit_tokens);
    assert_eq!(run.totals.query_tokens, ceiling.query_tokens);
    assert_eq!(run.health_check.prompt_tokens, Some(3));
    assert_eq!(run.totals.query_tokens, run.totals.reported_prompt_tokens);
    assert_eq!(run.stickiness.token_pod.as_deref(), Some("pod-0"));
    assert_eq!(run.stickiness.request_percent, Some(100.0));
    assert_eq!(run.stickiness.pods_known_from, "x-inference-pod");
    assert_eq!(run.target.counters_from, "direct");
    assert!(run.notes.is_empty(), "{:?}", run.notes);
    let last = run.requests.last().unwrap();
    assert_eq!(last.window_query_tokens, Some(run.totals.query_tokens));
    let seen = &shared.lock().unwrap().seen;
    assert_eq!(seen.len(), 32, "warm-up, health check, thirty requests");
    let session = |index: usize| {
        seen[index]
            .0
            .get("session-id")
            .map(|id| id.to_str().unwrap())
    };
    assert!(session(0).unwrap().starts_with("warmup-"));
    assert_eq!(session(1), None);
    assert!((2..32).all(|index| session(index) == session(2)));
}

#[tokio::test]
async fn round_robin_pays_for_each_cold_pod_and_counters_tell_who_answered() {
    let mut fake = fake(Routing::RoundRobin);
    fake.sign = false;
    let (run, _) = run_with(fake, "--requests 9").await;
    let run = run.unwrap();
    assert_eq!(run.stickiness.pods_known_from, "counters");
    assert_eq!(run.stickiness.requests_known, 9);
    assert!((run.stickiness.request_percent.unwrap() - 100.0 / 3.0).abs() < 1e-9);
    let ceiling = run.ceiling.as_ref().unwrap();
    // The warm-up warmed one pod of three.
    let each = ceiling.hit_tokens / 9;
    assert_eq!(run.totals.hit_tokens, each * 7);
}

#[tokio::test]
async fn a_request_that_is_refused_spoils_the_verdict() {
    let mut fake = fake(Routing::One);
    fake.fail_at = Some(5);
    let (run, _) = run_with(fake, "--requests 6").await;
    let run = run.unwrap();
    assert!(!run.verdict.ok);
    assert_eq!((run.totals.answered, run.totals.failed), (5, 1));
    assert_eq!(run.requests[2].error.as_deref(), Some("no pod is ready"));
}

#[tokio::test]
async fn a_least_hit_rate_is_judged() {
    let (run, _) = run_with(fake(Routing::One), "--requests 2 --min-hit-rate 99.9").await;
    assert!(!run.unwrap().verdict.ok);
}

#[tokio::test]
async fn groups_of_sessions_have_a_ceiling_from_the_engines_tokens() {
    let mut fake = fake(Routing::One);
    fake.tokenize = true;
    let load = "--sessions 6 --requests 3 --prefix-groups 2 --prefix-words 60 --concurrency 4";
    let (run, _) = run_with(fake, load).await;
    let run = run.unwrap();
    let ceiling = run.ceiling.as_ref().unwrap();
    assert_eq!(ceiling.method, Method::Tokens);
    assert_eq!(ceiling.query_tokens, run.totals.query_tokens);
    // Requests in flight together arrive in another order than they were sent, which
    // moves a hit from one to the other and changes no sum.
    assert_eq!(run.totals.hit_tokens, ceiling.hit_tokens);
    assert_eq!(run.requests.len(), 18);
    assert!(
        run.requests
            .iter()
            .enumerate()
            .all(|(at, row)| row.number == at + 1)
    );
}

#[tokio::test]
async fn without_tokenize_the_shared_prompts_are_measured_after_the_window() {
    let load = "--sessions 4 --requests 3 --prefix-groups 2 --prefix-words 60";
    let (run, shared) = run_with(fake(Routing::One), load).await;
    let run = run.unwrap();
    let ceiling = run.ceiling.as_ref().unwrap();
    assert_eq!(ceiling.method, Method::EstimatedPrefix);
    assert!(ceiling.hit_tokens <= run.totals.hit_tokens);
    assert!(run.totals.hit_tokens - ceiling.hit_tokens <= 12 * BLOCK as u64);
    assert_eq!(run.totals.query_tokens, run.totals.reported_prompt_tokens);
    assert_eq!(shared.lock().unwrap().seen.len(), 1 + 1 + 12 + 2);
}

#[tokio::test]
async fn sessions_stay_on_their_pods_by_requests_though_not_by_tokens() {
    let (run, _) = run_with(
        fake(Routing::Session),
        "--sessions 3 --requests 4 --warmup 0",
    )
    .await;
    let run = run.unwrap();
    assert_eq!(run.stickiness.request_percent, Some(100.0));
    assert!(run.stickiness.token_percent.unwrap() < 70.0);
    assert_eq!(run.latency.first_cold.as_ref().unwrap().count, 3);
}

#[tokio::test]
async fn an_engine_that_restarts_in_the_window_is_counted_and_noted() {
    let mut fake = fake(Routing::One);
    fake.restart_at = Some(6);
    let (run, _) = run_with(fake, "--requests 8").await;
    let run = run.unwrap();
    assert_eq!(run.totals.query_tokens, run.totals.reported_prompt_tokens);
    assert_eq!(run.pods[0].restarts, 1);
    assert!(run.notes.iter().any(|note| note.contains("began anew")));
}

#[tokio::test]
async fn streams_are_read_to_their_usage() {
    let (run, shared) = run_with(fake(Routing::One), "--requests 3 --stream").await;
    let run = run.unwrap();
    assert_eq!(run.latency.first_is, "first-token");
    assert!(run.ceiling.is_some());
    assert!(
        run.requests
            .iter()
            .all(|row| row.first_milliseconds <= row.total_milliseconds)
    );
    assert_eq!(shared.lock().unwrap().seen[2].1["stream"], true);
}

#[tokio::test]
async fn prometheus_gives_the_same_figures_without_readings_in_between() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (url, _) = serve(fake(Routing::One)).await;
    let more = format!("--requests 4 --prometheus-url {url} --metrics prometheus");
    let run = run::cache_hit(&args(&url, &more), &|_| {}).await.unwrap();
    assert_eq!(run.totals.query_tokens, run.totals.reported_prompt_tokens);
    assert_eq!(run.target.counters_from, "prometheus");
    assert_eq!(run.requests[3].window_query_tokens, None);
    // The engine's block size is not among Prometheus' series here.
    assert_eq!(run.ceiling.unwrap().block_size_from, "assumed");
}

#[tokio::test]
async fn no_run_is_made_without_pods_counters_or_a_gateway() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (url, _) = serve(fake(Routing::One)).await;
    let mut wrong = args(&url, "");
    wrong.pods[1].1 = format!("{url}/nowhere");
    let error = run::cache_hit(&wrong, &|_| {}).await.unwrap_err();
    assert!(matches!(error, run::Error::Baseline { ref pod, .. } if pod == "pod-1"));
    wrong.url = "gateway".to_owned();
    let error = run::cache_hit(&wrong, &|_| {}).await.unwrap_err();
    assert!(matches!(error, run::Error::Url(_)), "{error}");
}
