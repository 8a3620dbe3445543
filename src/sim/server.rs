//! The OpenAI API of the simulated engine over HTTP. IO.
//!
//! ```text
//! request -> faults -> request (read, tokenize, hash) -> task (the engine) -> answer
//! ```

mod admin;
mod answer;
mod dev;
mod pooling;
mod problem;
mod realtime;
mod render;
mod request;
mod tokenize;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

use self::answer::{Answer, Form};
use self::problem::Problem;
use self::request::Ask;
use super::cli::Config;
use super::engine::{Hashing, Refused};
use super::events::Publisher;
use super::faults::{Faults, Verdict};
use super::metrics::Metrics;
use super::python::Py;
use super::task::Handle;
use super::tokens::Tokens;
use super::transfer::{self, Client, SideChannel};
use crate::contract::HEADER_REQUEST_ID;
use crate::openai::api::Api;
use crate::telemetry::shutdown::Shutdown;

/// The largest request body.
const BODY_LIMIT: usize = 64 << 20;
/// Longer bodies are read off the tasks that serve connections.
const INLINE_BYTES: usize = 128 << 10;
/// Characters of a client's request id that are kept.
const MAX_ID: usize = 128;

/// The simulated engine as its API sees it; shared by all requests.
#[derive(Debug)]
pub struct Sim {
    /// What the command line and the environment say.
    pub config: Config,
    /// How prompts are hashed.
    pub hashing: Hashing,
    /// True where KV cache can be passed between engines.
    pub connector: bool,
    /// The tokenizer.
    pub tokens: Tokens,
    /// The engine.
    pub handle: Handle,
    /// KV events; only faults speak to it here.
    pub publisher: Option<Publisher>,
    /// Asks other engines for KV cache.
    pub client: Client,
    /// Where others fetch KV cache from us.
    pub side_channel: Option<SideChannel>,
    /// Counts.
    pub metrics: Arc<Mutex<Metrics>>,
    /// What goes wrong on purpose.
    pub faults: Mutex<Faults>,
    /// `/sleep` was called; only `/is_sleeping` tells.
    pub sleeping: AtomicBool,
    /// Ends what hangs.
    pub shutdown: Shutdown,
}

/// The engine's routes.
pub fn router(sim: Arc<Sim>) -> Router {
    let mut router = Router::new()
        .route("/v1/models", get(models))
        .route("/v1/realtime", get(realtime::realtime))
        .route("/health", get(admin::health))
        .route("/ping", get(admin::health).post(admin::health))
        .route("/version", get(version))
        .route("/metrics", get(admin::metrics))
        .route("/detokenize", post(tokenize::detokenize))
        .merge(dev::router());
    for (path, api) in Api::paths() {
        let serve = match api {
            api if api.generates() => post(generate),
            Api::CountTokens => post(tokenize::count_tokens),
            Api::Tokenize => post(tokenize::tokenize),
            Api::RenderChat | Api::RenderCompletions => post(render::render),
            _ => post(pooling::pool),
        };
        router = router.route(path, serve);
    }
    if sim.config.environment.admin {
        let faults = get(admin::show_faults)
            .post(admin::set_faults)
            .delete(admin::clear_faults);
        router = router.route("/sim/faults", faults);
    }
    router
        .fallback(async || refused(&Problem::http(StatusCode::NOT_FOUND)))
        .method_not_allowed_fallback(async || {
            refused(&Problem::http(StatusCode::METHOD_NOT_ALLOWED))
        })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(sim.clone(), sign))
        .with_state(sim)
}

/// Every API that generates tokens.
async fn generate(
    State(sim): State<Arc<Sim>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match Api::of(uri.path()) {
        Some(api) => sim.complete(api, &headers, body).await,
        None => refused(&Problem::http(StatusCode::NOT_FOUND)),
    }
}

async fn version() -> axum::Json<Value> {
    axum::Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

async fn models(State(sim): State<Arc<Sim>>) -> axum::Json<Value> {
    let created = now_seconds();
    let entry = |name: &str, root: &str, parent: Option<&String>| {
        json!({
            "id": name, "object": "model", "created": created, "owned_by": "vllm",
            "root": root, "parent": parent, "max_model_len": sim.config.max_model_len,
        })
    };
    let own = sim.config.served_names.iter();
    let mut data: Vec<Value> = own
        .map(|name| entry(name, &sim.config.model, None))
        .collect();
    let parent = sim.config.served_names.first();
    let loras = sim.config.loras.iter();
    data.extend(loras.map(|lora| entry(&lora.name, &lora.path, parent)));
    axum::Json(json!({"object": "list", "data": data}))
}

/// Says who answered, and which request.
async fn sign(State(sim): State<Arc<Sim>>, request: Request, next: Next) -> Response {
    let id = request.headers().get(HEADER_REQUEST_ID).cloned();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if let Ok(pod) = HeaderValue::from_str(&sim.config.environment.pod) {
        headers.insert("x-inference-pod", pod);
    }
    if let Some(id) = id {
        headers.insert(HEADER_REQUEST_ID, id);
    }
    response
}

impl Sim {
    async fn complete(self: Arc<Self>, api: Api, headers: &HeaderMap, body: Bytes) -> Response {
        let verdict = self.faults().verdict();
        let disconnect = match verdict {
            Verdict::Serve => None,
            Verdict::Disconnect(after) => Some(after),
            Verdict::Fail(status, message) => {
                let failed = StatusCode::INTERNAL_SERVER_ERROR;
                let status = StatusCode::from_u16(status).unwrap_or(failed);
                return self.refuse(api, &Problem::new(status, message));
            }
            Verdict::Hang => {
                self.shutdown.requested().await;
                return self.refuse(api, &answer::stopped());
            }
        };
        match self.clone().run(api, headers, body, disconnect).await {
            Ok(response) => response,
            Err(problem) => self.refuse(api, &problem),
        }
    }

    async fn run(
        self: Arc<Self>,
        api: Api,
        headers: &HeaderMap,
        body: Bytes,
        disconnect: Option<usize>,
    ) -> Result<Response, Problem> {
        check_media_type(headers)?;
        let length = body.len();
        let work = self.clone();
        let read = move || {
            let ask = work.read(api, &body)?;
            let samples = ask.prompts.len() * ask.sampling.n;
            let room = work.config.max_waiting + work.config.max_num_seqs;
            if samples > room {
                return Err(Refused::QueueFull(samples).into());
            }
            let pairs = ask.prompts.iter().flat_map(|prompt| {
                let samples = 0..ask.sampling.n;
                samples.map(|index| work.submission(&ask, prompt, index))
            });
            let submissions: Vec<_> = pairs.collect();
            Ok((ask, submissions))
        };
        let (ask, submissions) = self.work(length, read).await?;
        let mut tickets = Vec::with_capacity(submissions.len());
        for submission in submissions {
            let ticket = self.handle.submit(submission).await;
            tickets.push(ticket.map_err(|_| answer::stopped())??);
        }
        let stream = ask.stream;
        let head = answer::head(request_id(api, headers, ask.id.as_deref()), ask);
        let form = self.clone().form(api);
        let answer = Answer::new(self, head, form, tickets, disconnect);
        if stream {
            Ok(answer.stream())
        } else {
            answer.whole().await
        }
    }

    fn read(&self, api: Api, body: &[u8]) -> Result<Ask, Problem> {
        let body = request::body(body)?;
        let ask = match api {
            Api::Chat => self.read_chat(&body),
            Api::Responses => self.read_responses(&body),
            Api::Messages => self.read_messages(&body),
            Api::Generate => self.read_generate(&body),
            _ => self.read_completion(&body),
        };
        if let Err(problem) = &ask {
            self.give_up_transfer(&body, problem);
        }
        let ask = ask?;
        self.check_transfer(&ask)?;
        Ok(ask)
    }

    /// A request that vLLM itself refuses does not leave blocks behind in the engine that
    /// computed its prompt; one whose fields are of the wrong type never gets so far.
    fn give_up_transfer(&self, body: &Py, problem: &Problem) {
        let parameters = body.get("kv_transfer_params").map(Py::value);
        let remote = parameters.as_ref().and_then(transfer::remote);
        let Some(remote) = remote.filter(|_| self.connector && !problem.is_of_types()) else {
            return;
        };
        let client = self.client.clone();
        // Ends by the client's own timeout; the blocks expire where it fails.
        tokio::spawn(async move {
            if let Err(error) = client.take(&remote).await {
                tracing::warn!(engine = remote.engine, %error, "KV cache not given up");
            }
        });
    }

    fn form(self: Arc<Self>, api: Api) -> Box<dyn Form> {
        match api {
            Api::Chat => Box::new(answer::chat::Chat::new(self)),
            Api::Responses => Box::new(answer::responses::Responses::default()),
            Api::Messages => Box::new(answer::messages::Messages::default()),
            Api::Generate => Box::new(answer::generate::Generate::new(self)),
            _ => Box::new(answer::completions::Completions::new(self)),
        }
    }

    /// Runs CPU work: short work here, long work where it holds nobody up.
    async fn work<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        if bytes <= INLINE_BYTES && !self.tokens.is_local() {
            return work();
        }
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|_| Err(answer::stopped()))
    }

    /// Answers with an error, and counts it.
    fn refuse(&self, api: Api, problem: &Problem) -> Response {
        self.metrics().own.refused += 1;
        let body = match api {
            Api::Messages | Api::CountTokens => problem.anthropic(),
            _ => problem.body(),
        };
        told(problem.status, body)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn metrics(&self) -> MutexGuard<'_, Metrics> {
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error in vLLM's form.
fn refused(problem: &Problem) -> Response {
    told(problem.status, problem.body())
}

fn told(status: StatusCode, body: Value) -> Response {
    let mut response = (status, axum::Json(body)).into_response();
    if status == StatusCode::TOO_MANY_REQUESTS {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// vLLM takes bodies of no other type.
fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(header::CONTENT_TYPE);
    let given = given
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    let kind = given.split(';').next().unwrap_or_default();
    if kind.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(Problem::media_type())
    }
}

/// As vLLM names requests: the name in the header, the one in the body, or a new one.
fn request_id(api: Api, headers: &HeaderMap, own: Option<&str>) -> String {
    let given = headers.get(HEADER_REQUEST_ID);
    let given = given.and_then(|id| id.to_str().ok()).or(own);
    let prefix = match api {
        Api::Chat | Api::Messages => "chatcmpl-",
        Api::Completions => "cmpl-",
        Api::Responses => "resp_",
        Api::Generate => "generate-tokens-",
        Api::Embeddings => "embd-",
        Api::Classify => "classify-",
        Api::Rerank => "rerank-",
        Api::Score => "score-",
        _ => "pool-",
    };
    match given.filter(|id| !id.is_empty()) {
        None => format!("{prefix}{}", uuid::Uuid::new_v4().simple()),
        Some(given) => {
            let kept: String = given.chars().take(MAX_ID).collect();
            format!("{prefix}{kept}")
        }
    }
}

fn now_seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}
