//! A prompt -> its tokens, from the engine's own `/tokenize`. IO.
//!
//! The exact answer at the price of a round trip before every decision, so it is held short:
//! pooled connections, a timeout, and a circuit that stays open for a while once an engine has
//! failed several times in a row. Wire form: vLLM's
//! (<https://github.com/vllm-project/vllm/blob/main/vllm/entrypoints/serve/tokenize/protocol.py>).

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Prompt;

/// How long an idle connection is kept; below the keep-alive times of usual servers.
const IDLE: Duration = Duration::from_secs(4);
/// Tokens take at most eight bytes each; this is two million of them.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Failures in a row after which an engine is left alone.
const FAILURES: u32 = 3;
/// How long it is left alone.
const OPEN: Duration = Duration::from_secs(5);
/// Engines share circuits when there are more of them; that costs exactness, not correctness.
const CIRCUITS: usize = 256;

/// Why an engine gave no tokens. A closed set: the names are label values.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RemoteError {
    /// It failed lately and is not asked.
    #[error("the engine failed lately and is left alone")]
    CircuitOpen,
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// No connection, or it broke.
    #[error("the engine cannot be reached")]
    Unreachable,
    /// The engine has no such endpoint.
    #[error("the engine has no /tokenize")]
    NoEndpoint,
    /// The engine does not serve the model.
    #[error("the engine does not serve the model")]
    UnknownModel,
    /// The engine refuses the request; so it will when the request itself arrives.
    #[error("the engine refuses the request")]
    Refused,
    /// The engine failed.
    #[error("the engine answers with an error")]
    Failed,
    /// The answer is too long or not what it should be.
    #[error("the answer is not a list of tokens")]
    Malformed,
}

impl RemoteError {
    /// Whether the engine is to blame, and not the request.
    fn is_failure(self) -> bool {
        !matches!(self, Self::CircuitOpen | Self::UnknownModel | Self::Refused)
    }
}

/// Asks engines for tokens; lock-free.
#[derive(Debug)]
pub struct Remote {
    client: Client<HttpConnector, Full<Bytes>>,
    timeout: Duration,
    started: Instant,
    circuits: Vec<Circuit>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Circuit {
    failures: AtomicU32,
    /// Milliseconds since the start.
    open_until: AtomicU64,
}

/// The fields of a chat request that `/tokenize` knows, too.
#[derive(Deserialize, Serialize)]
struct ChatFields<'a> {
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    add_generation_prompt: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    continue_final_message: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    add_special_tokens: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    chat_template: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    chat_template_kwargs: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    mm_processor_kwargs: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    tools: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct ChatQuestion<'a> {
    model: &'a str,
    messages: &'a RawValue,
    #[serde(flatten)]
    fields: ChatFields<'a>,
}

#[derive(Serialize)]
struct TextQuestion<'a> {
    model: &'a str,
    prompt: &'a str,
}

#[derive(Deserialize)]
struct Answer {
    count: usize,
    tokens: Vec<u32>,
}

impl Remote {
    /// Asks engines, and waits for each at most this long.
    pub fn new(timeout: Duration, now: Instant) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(timeout));
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self {
            client,
            timeout,
            started: now,
            circuits: (0..CIRCUITS).map(|_| Circuit::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// The tokens of a prompt, as this engine makes them.
    ///
    /// # Errors
    /// When the engine gives none; which failures in a row open its circuit.
    pub async fn tokens(
        &self,
        engine: SocketAddr,
        model: &str,
        prompt: &Prompt<'_>,
        now: Instant,
    ) -> Result<Vec<u32>, RemoteError> {
        let question = match prompt {
            Prompt::Tokens(tokens) => return Ok(tokens.clone()),
            Prompt::Text(prompt) => serde_json::to_vec(&TextQuestion { model, prompt }),
            Prompt::Chat { messages, body } => serde_json::from_slice(body).and_then(|fields| {
                serde_json::to_vec(&ChatQuestion {
                    model,
                    messages,
                    fields,
                })
            }),
        }
        .map_err(|_| RemoteError::Refused)?;
        let circuit = &self.circuits[self.hasher.hash_one(engine) as usize % CIRCUITS];
        let now_ms = now.saturating_duration_since(self.started).as_millis() as u64;
        if !circuit.lets_through(now_ms, self.timeout) {
            return Err(RemoteError::CircuitOpen);
        }
        let answer = tokio::time::timeout(self.timeout, self.ask(engine, question))
            .await
            .unwrap_or(Err(RemoteError::Timeout));
        match &answer {
            Err(error) if error.is_failure() => circuit.failed(now_ms),
            _ => circuit.succeeded(),
        }
        answer
    }

    async fn ask(&self, engine: SocketAddr, question: Vec<u8>) -> Result<Vec<u32>, RemoteError> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(engine.to_string())
            .path_and_query("/tokenize")
            .build()
            .expect("a socket address is always a valid authority");
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(question)))
            .expect("a constant request is valid");
        let response = self
            .client
            .request(request)
            .await
            .map_err(|_| RemoteError::Unreachable)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| {
                if error.is::<http_body_util::LengthLimitError>() {
                    RemoteError::Malformed
                } else {
                    RemoteError::Unreachable
                }
            })?
            .to_bytes();
        read(status, &body)
    }
}

/// The tokens of an answer.
fn read(status: StatusCode, body: &[u8]) -> Result<Vec<u32>, RemoteError> {
    match status {
        StatusCode::OK => {
            let answer: Answer =
                serde_json::from_slice(body).map_err(|_| RemoteError::Malformed)?;
            if answer.count == answer.tokens.len() {
                Ok(answer.tokens)
            } else {
                Err(RemoteError::Malformed)
            }
        }
        // The web framework says "Not Found" for a path it does not know; the engine itself
        // describes an error when only the model is unknown to it.
        StatusCode::NOT_FOUND if body.windows(7).any(|window| window == b"\"error\"") => {
            Err(RemoteError::UnknownModel)
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Err(RemoteError::NoEndpoint),
        status if status.is_client_error() => Err(RemoteError::Refused),
        _ => Err(RemoteError::Failed),
    }
}

impl Circuit {
    /// Whether to ask; while open, one request after each pause finds out whether it may close.
    fn lets_through(&self, now_ms: u64, timeout: Duration) -> bool {
        if self.failures.load(Ordering::Relaxed) < FAILURES {
            return true;
        }
        let open_until = self.open_until.load(Ordering::Relaxed);
        let next = now_ms + timeout.as_millis() as u64;
        now_ms >= open_until
            && self
                .open_until
                .compare_exchange(open_until, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    fn failed(&self, now_ms: u64) {
        // The time is there before the count is, so that no request slips through between.
        self.open_until
            .store(now_ms + OPEN.as_millis() as u64, Ordering::Relaxed);
        let _ = self
            .failures
            .fetch_update(Ordering::Release, Ordering::Relaxed, |count| {
                Some(count.saturating_add(1))
            });
    }

    fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::kv::tokenize::testing::raw;

    const TIMEOUT: Duration = Duration::from_millis(200);

    /// A server that gives one answer to everything, and the bodies it has seen.
    async fn engine(answer: String) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let bodies = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, bodies) = (answer.clone(), Arc::clone(&bodies));
                tokio::spawn(async move {
                    let mut buffer = vec![0; 1 << 16];
                    while let Ok(count) = stream.read(&mut buffer).await {
                        if count == 0 {
                            break;
                        }
                        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                        bodies.lock().unwrap().push(body.to_owned());
                        if answer.is_empty() {
                            std::future::pending::<()>().await;
                        }
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        (address, seen)
    }

    fn response(status: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    async fn ask(
        remote: &Remote,
        engine: SocketAddr,
        now: Instant,
    ) -> Result<Vec<u32>, RemoteError> {
        remote.tokens(engine, "m", &Prompt::Text("a b"), now).await
    }

    #[tokio::test]
    async fn a_text_and_a_chat_are_asked_as_the_engine_expects_them() {
        let body = r#"{"count":3,"max_model_len":4096,"tokens":[7,8,9],"token_strs":null}"#;
        let (address, seen) = engine(response("200 OK", body)).await;
        let now = Instant::now();
        let remote = Remote::new(TIMEOUT, now);
        assert_eq!(ask(&remote, address, now).await.unwrap(), [7, 8, 9]);
        let messages = raw(r#"[{"role":"user","content":"x"}]"#);
        let body = br#"{"model":"m","stream":true,"messages":[],"tools":[{"a":1}],"add_generation_prompt":false}"#;
        let chat = Prompt::Chat {
            messages: &messages,
            body,
        };
        remote.tokens(address, "m", &chat, now).await.unwrap();
        let seen = seen.lock().unwrap();
        assert_eq!(seen[0], r#"{"model":"m","prompt":"a b"}"#);
        assert_eq!(
            seen[1],
            r#"{"model":"m","messages":[{"role":"user","content":"x"}],"add_generation_prompt":false,"tools":[{"a":1}]}"#
        );
    }

    #[tokio::test]
    async fn every_wrong_answer_has_its_reason() {
        for (answer, reason) in [
            (
                response("404 Not Found", r#"{"detail":"Not Found"}"#),
                RemoteError::NoEndpoint,
            ),
            (
                response("404 Not Found", r#"{"error":{"message":"no model"}}"#),
                RemoteError::UnknownModel,
            ),
            (response("400 Bad Request", "{}"), RemoteError::Refused),
            (
                response("500 Internal Server Error", ""),
                RemoteError::Failed,
            ),
            (response("200 OK", "{}"), RemoteError::Malformed),
            (
                response("200 OK", r#"{"count":2,"tokens":[1]}"#),
                RemoteError::Malformed,
            ),
            (
                response("200 OK", r#"{"count":1,"tokens":[-1]}"#),
                RemoteError::Malformed,
            ),
            (
                response("200 OK", &" ".repeat(MAX_ANSWER_BYTES + 1)),
                RemoteError::Malformed,
            ),
            (String::new(), RemoteError::Timeout),
        ] {
            let timeout = if reason == RemoteError::Timeout {
                TIMEOUT
            } else {
                Duration::from_secs(20)
            };
            let (address, _) = engine(answer).await;
            let remote = Remote::new(timeout, Instant::now());
            assert_eq!(ask(&remote, address, Instant::now()).await, Err(reason));
        }
    }

    #[tokio::test]
    async fn an_engine_that_keeps_failing_is_left_alone_for_a_while() {
        let (dead, seen) = engine(response("500 Internal Server Error", "")).await;
        let (alive, _) = engine(response("200 OK", r#"{"count":0,"tokens":[]}"#)).await;
        let start = Instant::now();
        let remote = Remote::new(Duration::from_secs(20), start);
        for _ in 0..FAILURES {
            assert_eq!(ask(&remote, dead, start).await, Err(RemoteError::Failed));
        }
        assert_eq!(
            ask(&remote, dead, start + OPEN / 2).await,
            Err(RemoteError::CircuitOpen)
        );
        assert_eq!(seen.lock().unwrap().len(), FAILURES as usize);
        assert!(ask(&remote, alive, start).await.is_ok(), "others are asked");
        let later = start + OPEN;
        assert_eq!(ask(&remote, dead, later).await, Err(RemoteError::Failed));
        assert_eq!(
            ask(&remote, dead, later).await,
            Err(RemoteError::CircuitOpen),
            "one request finds out"
        );
    }

    #[tokio::test]
    async fn requests_that_the_engine_refuses_do_not_open_the_circuit() {
        let (address, _) = engine(response("400 Bad Request", "{}")).await;
        let now = Instant::now();
        let remote = Remote::new(Duration::from_secs(20), now);
        for _ in 0..FAILURES * 3 {
            assert_eq!(ask(&remote, address, now).await, Err(RemoteError::Refused));
        }
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let remote = Remote::new(Duration::from_secs(20), Instant::now());
        assert_eq!(
            ask(&remote, address, Instant::now()).await,
            Err(RemoteError::Unreachable)
        );
    }
}
