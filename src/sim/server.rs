//! The OpenAI API of the simulated engine over HTTP. IO: waits, counts and streams.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::cli::Config;
use super::engine::{self, PrefixCache};
use super::metrics::{Held, Metrics};
use crate::openai;
use crate::openai::request::Request;

/// The largest request body.
const BODY_LIMIT: usize = 64 << 20;
/// Tokens generated where the request does not say.
const DEFAULT_TOKENS: usize = 16;

/// The simulated engine; shared by all requests.
#[derive(Debug)]
pub struct Sim {
    config: Config,
    /// Who answers: the pod's name.
    pod: String,
    cache: Mutex<PrefixCache>,
    seats: Semaphore,
    metrics: Metrics,
}

/// Chat or text completion.
#[derive(Clone, Copy, PartialEq)]
enum Api {
    Chat,
    Text,
}

/// The engine's routes.
pub fn router(config: Config, pod: String) -> Router {
    let blocks = if config.prefix_caching {
        config.num_gpu_blocks
    } else {
        0
    };
    let sim = Arc::new(Sim {
        cache: Mutex::new(PrefixCache::new(config.block_size, blocks)),
        seats: Semaphore::new(config.max_num_seqs),
        metrics: Metrics::default(),
        config,
        pod,
    });
    Router::new()
        .route(
            "/v1/chat/completions",
            post(|State(sim): State<Arc<Sim>>, body: Bytes| async move {
                sim.complete(Api::Chat, &body).await
            }),
        )
        .route(
            "/v1/completions",
            post(|State(sim): State<Arc<Sim>>, body: Bytes| async move {
                sim.complete(Api::Text, &body).await
            }),
        )
        .route("/v1/models", get(models))
        .route("/health", get(|| async { StatusCode::OK }))
        .route("/ping", get(|| async { StatusCode::OK }))
        .route(
            "/version",
            get(|| async { axum::Json(json!({"version": env!("CARGO_PKG_VERSION")})) }),
        )
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(sim)
}

async fn models(State(sim): State<Arc<Sim>>) -> Response {
    let data: Vec<Value> = sim
        .config
        .served_names
        .iter()
        .map(|name| {
            json!({
                "id": name, "object": "model", "created": now_seconds(), "owned_by": "vllm",
                "root": sim.config.model, "parent": null, "max_model_len": sim.config.max_model_len,
            })
        })
        .collect();
    sim.signed(axum::Json(json!({"object": "list", "data": data})).into_response())
}

async fn metrics(State(sim): State<Arc<Sim>>) -> Response {
    let usage = sim
        .cache
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .usage();
    let model = sim.config.served_names.first().map_or("", String::as_str);
    let text = sim.metrics.text(
        model,
        usage,
        sim.config.block_size,
        sim.config.num_gpu_blocks,
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// One request, read and admitted.
struct Job {
    api: Api,
    id: String,
    model: String,
    prompt_tokens: usize,
    cached_tokens: usize,
    tokens: Vec<String>,
    finish: &'static str,
    include_usage: bool,
}

impl Sim {
    async fn complete(self: Arc<Self>, api: Api, body: &[u8]) -> Response {
        let (job, stream) = match self.read(api, body) {
            Ok(read) => read,
            Err((status, message)) => return self.refuse(status, &message),
        };
        let response = if stream {
            self.clone().stream(job)
        } else {
            self.whole(job).await
        };
        self.signed(response)
    }

    fn read(&self, api: Api, body: &[u8]) -> Result<(Job, bool), (StatusCode, String)> {
        let bad = |error: String| (StatusCode::BAD_REQUEST, error);
        let request = Request::parse(body).map_err(|error| bad(error.to_string()))?;
        let model = request
            .model()
            .map_err(|error| bad(error.to_string()))?
            .into_owned();
        if !self.config.served_names.contains(&model) {
            return Err((
                StatusCode::NOT_FOUND,
                format!("The model `{model}` does not exist."),
            ));
        }
        let prompt = match api {
            Api::Chat => request
                .messages
                .map(serde_json::value::RawValue::get)
                .ok_or("messages field is required"),
            Api::Text => request
                .prompt
                .map(serde_json::value::RawValue::get)
                .ok_or("prompt field is required"),
        };
        let prompt = text_of(prompt.map_err(|message| bad(message.to_owned()))?).map_err(bad)?;
        let tokens = engine::tokenize(&prompt);
        let room = self.config.max_model_len.saturating_sub(tokens.len());
        if room == 0 {
            return Err(bad(format!(
                "This model's maximum context length is {} tokens. However, your request has {} input tokens.",
                self.config.max_model_len,
                tokens.len()
            )));
        }
        let asked = request
            .max_tokens()
            .map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        let count = asked.unwrap_or(DEFAULT_TOKENS).min(room);
        let cached_tokens = self
            .cache
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .admit(&tokens);
        self.metrics
            .prompt_tokens
            .fetch_add(tokens.len() as u64, Ordering::Relaxed);
        self.metrics
            .cache_queries
            .fetch_add(tokens.len() as u64, Ordering::Relaxed);
        self.metrics
            .cache_hits
            .fetch_add(cached_tokens as u64, Ordering::Relaxed);
        let job = Job {
            api,
            id: format!(
                "{}-{:x}",
                if api == Api::Chat { "chatcmpl" } else { "cmpl" },
                now_nanos()
            ),
            model,
            prompt_tokens: tokens.len(),
            cached_tokens,
            tokens: engine::answer(&tokens, count, self.config.echo),
            finish: if asked.is_some() { "length" } else { "stop" },
            include_usage: request
                .stream_options
                .and_then(|options| options.include_usage)
                == Some(true),
        };
        Ok((job, request.stream == Some(true)))
    }

    /// Waits for a seat and for the first token. A cached prompt is quick.
    async fn first_token(&self, job: &Job) -> Option<(tokio::sync::SemaphorePermit<'_>, Held<'_>)> {
        let seat = {
            let _waiting = Held::new(&self.metrics.waiting);
            self.seats.acquire().await.ok()?
        };
        let running = Held::new(&self.metrics.running);
        let uncached = 1.0 - job.cached_tokens as f64 / job.prompt_tokens.max(1) as f64;
        tokio::time::sleep(
            self.config
                .time_to_first_token
                .mul_f64(uncached.clamp(0.05, 1.0)),
        )
        .await;
        Some((seat, running))
    }

    fn done(&self, job: &Job) {
        self.metrics
            .generation_tokens
            .fetch_add(job.tokens.len() as u64, Ordering::Relaxed);
        self.metrics.success.fetch_add(1, Ordering::Relaxed);
    }

    async fn whole(&self, job: Job) -> Response {
        let Some(_held) = self.first_token(&job).await else {
            return self.refuse(StatusCode::SERVICE_UNAVAILABLE, "shutting down");
        };
        tokio::time::sleep(
            self.config.inter_token_latency * job.tokens.len().saturating_sub(1) as u32,
        )
        .await;
        self.done(&job);
        let text = job.tokens.concat();
        let choice = match job.api {
            Api::Chat => {
                json!({"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": null, "finish_reason": job.finish})
            }
            Api::Text => {
                json!({"index": 0, "text": text, "logprobs": null, "finish_reason": job.finish})
            }
        };
        let object = if job.api == Api::Chat {
            "chat.completion"
        } else {
            "text_completion"
        };
        axum::Json(json!({
            "id": job.id, "object": object, "created": now_seconds(), "model": job.model,
            "choices": [choice], "usage": usage(&job),
        }))
        .into_response()
    }

    fn stream(self: Arc<Self>, job: Job) -> Response {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(16);
        // Owned by the response: when its client leaves, sending fails and the task ends.
        tokio::spawn(async move { self.send_events(job, sender).await });
        let stream = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver
                .recv()
                .await
                .map(|bytes| (Ok::<_, Infallible>(bytes), receiver))
        });
        let mut response = Response::new(Body::from_stream(stream));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream; charset=utf-8"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    async fn send_events(&self, job: Job, sender: tokio::sync::mpsc::Sender<Bytes>) {
        let Some(_held) = self.first_token(&job).await else {
            return;
        };
        let created = now_seconds();
        let object = if job.api == Api::Chat {
            "chat.completion.chunk"
        } else {
            "text_completion"
        };
        let event = |choices: Value, usage: Value| {
            let mut event = json!({"id": job.id, "object": object, "created": created, "model": job.model, "choices": choices});
            if job.include_usage {
                event["usage"] = usage;
            }
            Bytes::from(format!("data: {event}\n\n"))
        };
        if job.api == Api::Chat {
            let first = json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]);
            if sender.send(event(first, Value::Null)).await.is_err() {
                return;
            }
        }
        for (index, token) in job.tokens.iter().enumerate() {
            if index > 0 {
                tokio::time::sleep(self.config.inter_token_latency).await;
            }
            let last = index + 1 == job.tokens.len();
            let finish = if last { json!(job.finish) } else { Value::Null };
            let choice = match job.api {
                Api::Chat => {
                    json!([{"index": 0, "delta": {"content": token}, "finish_reason": finish}])
                }
                Api::Text => {
                    json!([{"index": 0, "text": token, "logprobs": null, "finish_reason": finish}])
                }
            };
            if sender.send(event(choice, Value::Null)).await.is_err() {
                return;
            }
        }
        self.done(&job);
        if job.include_usage && sender.send(event(json!([]), usage(&job))).await.is_err() {
            return;
        }
        // A client that left before the end has no use for it.
        let _ = sender.send(Bytes::from_static(b"data: [DONE]\n\n")).await;
    }

    fn refuse(&self, status: StatusCode, message: &str) -> Response {
        let body = openai::error::body(status.as_u16(), message);
        self.signed((status, axum::Json(body)).into_response())
    }

    /// Says who answered.
    fn signed(&self, mut response: Response) -> Response {
        if let Ok(pod) = HeaderValue::from_str(&self.pod) {
            response.headers_mut().insert("x-inference-pod", pod);
        }
        response
    }
}

fn usage(job: &Job) -> Value {
    json!({
        "prompt_tokens": job.prompt_tokens,
        "completion_tokens": job.tokens.len(),
        "total_tokens": job.prompt_tokens + job.tokens.len(),
        "prompt_tokens_details": {"cached_tokens": job.cached_tokens},
    })
}

/// The text of a prompt: a string, a list of strings, or chat messages in a fixed frame.
fn text_of(raw: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(raw).map_err(|error| error.to_string())?;
    match value {
        Value::String(text) => Ok(text),
        Value::Array(items) if items.is_empty() => Err("the prompt is empty".to_owned()),
        Value::Array(items) => Ok(items.iter().map(message_text).collect()),
        _ => Err("a prompt is a text or a list".to_owned()),
    }
}

fn message_text(item: &Value) -> String {
    match item {
        Value::String(text) => text.clone(),
        Value::Number(token) => format!(" {token}"),
        _ => {
            let role = item["role"].as_str().unwrap_or("user");
            let content = match &item["content"] {
                Value::String(text) => text.clone(),
                Value::Array(parts) => parts
                    .iter()
                    .filter_map(|part| part["text"].as_str())
                    .collect::<Vec<_>>()
                    .join(" "),
                _ => String::new(),
            };
            format!(" <|{role}|> {content} <|end|>")
        }
    }
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn now_seconds() -> u64 {
    since_epoch().as_secs()
}

fn now_nanos() -> u128 {
    since_epoch().as_nanos()
}
