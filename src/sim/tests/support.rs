//! Simulators on ports of their own, and a client.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::sim::cli::Config;
use crate::sim::run::Running;
use crate::telemetry::shutdown::Shutdown;

/// Longer than anything here takes on a busy machine.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

pub(super) struct TestSim {
    pub(super) url: String,
    pub(super) running: Running,
    pub(super) shutdown: Shutdown,
}

pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) text: String,
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    /// The JSON events of a stream; the last must be `[DONE]`.
    pub(super) fn events(&self) -> Vec<Value> {
        let mut events: Vec<&str> = self.text.trim().split("\n\n").collect();
        assert_eq!(events.pop(), Some("data: [DONE]"));
        let data =
            |event: &str| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
        events.into_iter().map(data).collect()
    }
}

impl TestSim {
    /// Starts one with these flags after the model `m`.
    pub(super) async fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, |_| {}).await
    }

    pub(super) async fn start_with(flags: &[&str], change: impl FnOnce(&mut Config)) -> Self {
        let args: Vec<String> = std::iter::once(&"m")
            .chain(flags)
            .map(|flag| (*flag).to_owned())
            .collect();
        let mut config = Config::parse(&args).unwrap();
        config.environment.pod = "pod-0".to_owned();
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = Shutdown::new();
        let running = Running::start(config, listener, shutdown.clone())
            .await
            .unwrap();
        Self {
            url,
            running,
            shutdown,
        }
    }

    pub(super) async fn stop(self) {
        self.shutdown.begin();
        tokio::time::timeout(DEADLINE, self.running.finished())
            .await
            .unwrap()
            .unwrap();
    }

    pub(super) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, String::new(), &[]).await.unwrap()
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, body.to_string(), &[])
            .await
            .unwrap()
    }

    pub(super) async fn chat(&self, body: Value) -> Reply {
        self.post("/v1/chat/completions", &body).await
    }

    /// Fails where the connection does.
    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        body: String,
        headers: &[(&str, &str)],
    ) -> Result<Reply, String> {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url));
        if !body.is_empty() && !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let sent = tokio::time::timeout(DEADLINE, async {
            let response = client
                .request(request)
                .await
                .map_err(|error| error.to_string())?;
            let (parts, body) = response.into_parts();
            let body = body
                .collect()
                .await
                .map_err(|error| error.to_string())?
                .to_bytes();
            Ok(Reply {
                status: parts.status.as_u16(),
                headers: parts.headers,
                text: String::from_utf8_lossy(&body).into_owned(),
            })
        });
        sent.await.expect("an answer in time")
    }

    /// The value of a metric without further labels, in thousandths.
    pub(super) async fn thousandths(&self, name: &str) -> u64 {
        let page = self.get("/metrics").await.text;
        let start = format!("{name}{{");
        let line = page.lines().find(|line| line.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("no {name}"));
        let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        (value * 1000.0).round() as u64
    }

    /// The value of a counter without further labels.
    pub(super) async fn count(&self, name: &str) -> u64 {
        self.thousandths(name).await / 1000
    }
}
