//! What clients, prefill endpoints and engines see through the sidecar, over real sockets on
//! loopback.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::admin;
use super::allowlist::{Allowlist, Rule, Target};
use super::body::{self, Body};
use super::connector::Connector;
use super::key::Key;
use super::legs::{Legs, Limits, Prefillers};
use super::metrics::Metrics;
use super::server::{Behaviour, Proxy};
use super::service::{LookUp, Pace, Service};
use super::upstream::Upstream;
use crate::contract;
use crate::telemetry::budget::Budget;
use crate::telemetry::shutdown::Shutdown;

mod bounds;
mod failover;
mod guard;
mod prefill;
mod upgrade;

/// Anything awaited in these tests happens at once or not at all.
const DEADLINE: Duration = Duration::from_secs(10);
const CHAT: &str = "/v1/chat/completions";

/// A chat that one transfer can serve.
const BODY: &str = r#"{"messages":[{"role":"user","content":"hi"}]}"#;

thread_local! {
    /// Where this test's backends listen; each test has a thread of its own.
    static BACKENDS: RefCell<Vec<SocketAddr>> = const { RefCell::new(Vec::new()) };
}

/// A listener on loopback that a sidecar started later may use for prefills.
async fn listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    BACKENDS.with_borrow_mut(|backends| backends.push(address));
    listener
}

/// A request as a backend saw it.
#[derive(Clone, Debug)]
struct Got {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// An engine, or a prefill endpoint, that answers by a function and remembers what it got.
struct Backend {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Backend {
    async fn new(answer: impl Fn(&Got) -> Response<Body> + Send + Sync + 'static) -> Self {
        let listener = listener().await;
        let address = listener.local_addr().unwrap();
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let (remembered, answer) = (got.clone(), Arc::new(answer));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (remembered, answer) = (remembered.clone(), answer.clone());
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let (remembered, answer) = (remembered.clone(), answer.clone());
                    async move {
                        let (parts, body) = request.into_parts();
                        let got = Got {
                            path: parts.uri.to_string(),
                            headers: parts.headers,
                            body: body.collect().await.unwrap().to_bytes(),
                        };
                        remembered.lock().unwrap().push(got.clone());
                        Ok::<_, Infallible>(answer(&got))
                    }
                });
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, got }
    }

    /// Always this JSON.
    async fn json(status: u16, text: &'static str) -> Self {
        Self::new(move |_| json(status, text)).await
    }

    fn all(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    fn only(&self) -> Got {
        let [got] = &self.all()[..] else {
            panic!("{} requests, not one", self.all().len());
        };
        got.clone()
    }
}

fn json(status: u16, text: &str) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(body::full(text.to_owned()))
        .unwrap()
}

/// A server that reads each request, runs this, and closes.
async fn raw<F>(then: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = listener().await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_request(&mut stream).await;
            tokio::spawn(then(stream));
        }
    });
    address
}

/// Head and body of one request.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return text;
            }
        }
    }
}

/// An address at which nobody listens.
async fn nobody() -> SocketAddr {
    listener().await.local_addr().unwrap()
}

/// A sidecar under test.
struct Sidecar {
    address: SocketAddr,
    registry: Registry,
    budget: Budget,
    shutdown: Shutdown,
}

struct Setup {
    engine: SocketAddr,
    allowlist: Allowlist,
    look_up: Option<LookUp>,
    key: Key,
    limits: Limits,
    budget_bytes: usize,
    behaviour: Behaviour,
}

/// Prefills may go to every backend that is there by now.
fn setup(engine: SocketAddr) -> Setup {
    let exact = |address: &SocketAddr| Rule::Exact(Target::parse(&address.to_string()).unwrap());
    Setup {
        engine,
        allowlist: Allowlist {
            rules: BACKENDS.with_borrow(|backends| backends.iter().map(exact).collect()),
            ..Allowlist::default()
        },
        look_up: None,
        key: Key::none(),
        limits: Limits {
            prefill_retry_backoff: Duration::from_millis(1),
            ..Limits::default()
        },
        budget_bytes: 64 << 20,
        behaviour: Behaviour {
            connector: Connector::Nixlv2,
            sampling: false,
            admin_paths: admin::Allowed::Nothing,
            max_connections: 100,
            max_requests: 100,
            head_timeout: DEADLINE,
            upgrade_idle: DEADLINE,
            drain: Duration::from_secs(1),
        },
    }
}

impl Setup {
    async fn start(self) -> Sidecar {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let budget = Budget::new(self.budget_bytes);
        let port = self.allowlist.service_port.unwrap_or_default();
        let service = self.look_up.map(|look_up| {
            let name = ("prefill".to_owned(), port);
            Service::start(name, look_up, Pace::default(), metrics.clone(), &shutdown)
        });
        let prefillers = Prefillers {
            allowlist: self.allowlist.into(),
            service,
            key: self.key,
        };
        let engine = Upstream::new(self.engine, 8);
        let legs = Legs::new(engine, prefillers, self.limits, budget.clone(), metrics);
        let proxy = Proxy::new(legs, self.behaviour, shutdown.clone());
        shutdown.spawn("proxy", proxy.serve(listener));
        Sidecar {
            address,
            registry,
            budget,
            shutdown,
        }
    }
}

async fn sidecar(engine: SocketAddr) -> Sidecar {
    setup(engine).start().await
}

impl Sidecar {
    /// A counter's value; `name` with its labels.
    fn count(&self, name: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text.lines().find_map(|line| {
            line.strip_prefix("llm_d_proxy_")?
                .strip_prefix(name)?
                .strip_prefix(' ')
        });
        line.map_or(0, |value| value.parse().unwrap())
    }

    fn fallbacks(&self, reason: &str) -> u64 {
        self.count(&format!("fallbacks_total{{reason=\"{reason}\"}}"))
    }

    fn refusals(&self, reason: &str) -> u64 {
        self.count(&format!("refusals_total{{reason=\"{reason}\"}}"))
    }

    /// Waits until a count is this.
    async fn until(&self, name: &str, value: u64) {
        let reached = async {
            while self.count(name) != value {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, reached).await;
        assert!(
            waited.is_ok(),
            "{name} is {}, not {value}",
            self.count(name)
        );
    }

    /// A POST with these headers, answered in full.
    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let request = post(self.address, path, headers, body);
        let response = tokio::time::timeout(DEADLINE, client().request(request));
        let (parts, body) = response.await.unwrap().unwrap().into_parts();
        let body = tokio::time::timeout(DEADLINE, body.collect())
            .await
            .unwrap();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: String::from_utf8(body.unwrap().to_bytes().to_vec()).unwrap(),
        }
    }

    /// A chat request that names these prefill endpoints.
    async fn chat(&self, prefillers: &str, body: &str) -> Answer {
        self.post(CHAT, &[(contract::HEADER_PREFILLER, prefillers)], body)
            .await
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    /// A header, or nothing.
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The message of an error in OpenAI's form.
    fn message(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(body["error"]["code"], self.status, "{}", self.body);
        body["error"]["message"].as_str().unwrap().to_owned()
    }
}

fn client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

fn post(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Request<Full<Bytes>> {
    let mut request = Request::post(format!("http://{address}{path}"));
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header("content-type", "application/json");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap()
}

#[tokio::test]
async fn the_first_chunk_arrives_before_the_engine_has_finished() {
    let engine = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = sidecar(engine.local_addr().unwrap()).await;
    let (go_on, wait) = oneshot::channel::<()>();
    let served = tokio::spawn(async move {
        let (mut stream, _) = engine.accept().await.unwrap();
        let request = read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            .await
            .unwrap();
        // The rest is sent only after the client has the first chunk.
        wait.await.unwrap();
        stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await.unwrap();
        request
    });
    let headers = [("x-kept", "yes"), (contract::HEADER_PREFILLER, "")];
    let request = post(sidecar.address, "/v1/chat/completions?q=1", &headers, "{}");
    let mut response = client().request(request).await.unwrap();
    let frame = response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "first");
    go_on.send(()).unwrap();
    let rest = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(rest, "second");
    let request = served.await.unwrap();
    assert!(
        request.starts_with("post /v1/chat/completions?q=1 http/1.1"),
        "{request}"
    );
    assert!(
        request.contains("x-kept: yes") && !request.contains(contract::HEADER_PREFILLER),
        "{request}"
    );
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_a_503_with_a_reason() {
    let sidecar = sidecar(nobody().await).await;
    let answer = sidecar.post(CHAT, &[], "{}").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
    let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(
        body["error"]["message"],
        "the model server is not reachable"
    );
    assert_eq!(
        sidecar.count("requests_total{leg=\"decode\",outcome=\"unreachable\"}"),
        1
    );
}

#[tokio::test]
async fn the_sidecar_is_healthy_whatever_the_engine_does() {
    let sidecar = sidecar(nobody().await).await;
    let request = Request::get(format!("http://{}/health", sidecar.address))
        .body(Full::default())
        .unwrap();
    assert_eq!(client().request(request).await.unwrap().status(), 200);
}

#[tokio::test]
async fn other_requests_pass_unread() {
    let engine = Backend::json(200, "{}").await;
    let sidecar = sidecar(engine.address).await;
    let headers = [
        ("content-type", "multipart/form-data; boundary=x"),
        (contract::HEADER_PREFILLER, "127.0.0.1:1"),
    ];
    let path = "/v1/audio/transcriptions";
    let answer = sidecar.post(path, &headers, "kv_transfer_params").await;
    assert_eq!(answer.status, 200);
    let got = engine.only();
    assert_eq!(got.text(), "kv_transfer_params");
    assert_eq!(got.header(contract::HEADER_PREFILLER), None);
    assert_eq!(
        sidecar.count("requests_total{leg=\"passthrough\",outcome=\"ok\"}"),
        1
    );
}
