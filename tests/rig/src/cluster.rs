//! The steps that the demo and the tests share, on a running cluster: install the operator,
//! make what a ModelService presumes, wait for it, send requests, say who answered. IO.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::net::Mode;
use crate::up::Running;

/// Where the chart is installed.
pub const OPERATOR_NAMESPACE: &str = "llm-d-system";
/// The Gateway of the article.
pub const GATEWAY: &str = "llm-d-gateway";

/// How long one request may take, and one look of a wait: a peer that hangs must not stop a wait
/// for ever.
const REQUEST_LIMIT: Duration = Duration::from_mins(3);

/// One answer of the gateway.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends one HTTP request on a connection of its own.
///
/// # Errors
/// When there is no whole answer in three minutes.
pub async fn http(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Answer> {
    let answer = exchange(address, method, path, headers, body.into());
    tokio::time::timeout(REQUEST_LIMIT, answer)
        .await
        .with_context(|| format!("{method} {path}: no answer in {REQUEST_LIMIT:?}"))?
}

async fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Answer> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connect to {address}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", address.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::new(body))?).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    connection.abort();
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body,
    })
}

impl Running {
    /// Installs the chart with helm and waits until the operator leads.
    ///
    /// # Errors
    /// With what helm or the pod said.
    pub async fn install_operator(&self, chart: &Path, values: &[&str]) -> Result<()> {
        let chart = chart.display().to_string();
        let mut args = vec![
            "install",
            "llm-d-operator",
            &chart,
            "--namespace",
            OPERATOR_NAMESPACE,
            "--create-namespace",
            "--wait",
            "--timeout",
            "600s",
        ];
        for value in values {
            args.extend(["--set", value]);
        }
        self.helm(&args).await?;
        Ok(())
    }

    /// Makes what the article presumes: the namespace, its Gateway, the Hugging Face token.
    ///
    /// # Errors
    /// When an object is refused.
    pub async fn prepare_namespace(&self, namespace: &str) -> Result<()> {
        self.apply(
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        )
        .await?;
        self.apply(&json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": GATEWAY, "namespace": namespace},
            "spec": {"gatewayClassName": "istio", "listeners": [{
                "name": "http", "port": 80, "protocol": "HTTP", "allowedRoutes": {"namespaces": {"from": "All"}},
            }]},
        }))
        .await?;
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "llm-d-hf-token", "namespace": namespace},
            "stringData": {"HF_TOKEN": "not-a-real-token"},
        }))
        .await
    }

    /// `kubectl apply` of one object.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        let file = tempfile::NamedTempFile::with_suffix(".json")?;
        std::fs::write(file.path(), serde_json::to_vec(object)?)?;
        self.kubectl(&["apply", "-f", &file.path().display().to_string()])
            .await?;
        Ok(())
    }

    /// One object as JSON.
    ///
    /// # Errors
    /// When it is not found.
    pub async fn get(&self, args: &[&str]) -> Result<Value> {
        let text = self
            .kubectl(&[&["get", "-o", "json"], args].concat())
            .await?;
        serde_json::from_str(&text).context("read kubectl's answer")
    }

    /// Waits until a condition holds, looking four times a second.
    ///
    /// # Errors
    /// After `limit`, with what was seen last.
    pub async fn wait_for<F, Fut>(&self, what: &str, limit: Duration, mut holds: F) -> Result<()>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<Option<String>>>,
    {
        let began = Instant::now();
        loop {
            // `None`: it holds. `Some`: how far it is.
            let seen = match tokio::time::timeout(REQUEST_LIMIT, holds()).await {
                Ok(Ok(None)) => return Ok(()),
                Ok(Ok(Some(seen))) => seen,
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => format!("a look did not end in {REQUEST_LIMIT:?}"),
            };
            if began.elapsed() > limit {
                bail!("{what}: not after {} s: {seen}", limit.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// Waits until a ModelService has the condition with this status.
    ///
    /// # Errors
    /// After `limit`, with the conditions it has.
    pub async fn wait_condition(
        &self,
        namespace: &str,
        name: &str,
        kind: &str,
        status: &str,
        limit: Duration,
    ) -> Result<()> {
        self.wait_for(
            &format!("ModelService {namespace}/{name} {kind}={status}"),
            limit,
            || async move {
                let object = self.get(&["modelservice", name, "-n", namespace]).await?;
                let conditions = object["status"]["conditions"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                let observed =
                    object["status"]["observedGeneration"] == object["metadata"]["generation"];
                let holds = conditions
                    .iter()
                    .any(|condition| condition["type"] == kind && condition["status"] == status);
                Ok((!(holds && observed)).then(|| describe_conditions(&object)))
            },
        )
        .await
    }

    /// Names of pods by address, in one namespace.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn pods_by_ip(&self, namespace: &str) -> Result<BTreeMap<String, String>> {
        let list = self.get(&["pods", "-n", namespace]).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|pod| {
                (
                    text(&pod["status"]["podIP"]),
                    text(&pod["metadata"]["name"]),
                )
            })
            .collect())
    }

    /// A chat completion through the gateway.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn chat(
        &self,
        model: &str,
        prompt: &str,
        stream: bool,
        headers: &[(&str, &str)],
    ) -> Result<Answer> {
        let body = json!({"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 8, "stream": stream});
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        http(
            self.gateway,
            "POST",
            "/v1/chat/completions",
            &all,
            body.to_string(),
        )
        .await
    }

    /// A page of a pod, through the API server's proxy; where pods share the host's loopback
    /// addresses, which real API servers refuse to proxy to, from the pod itself.
    ///
    /// # Errors
    /// When the pod does not answer.
    pub async fn pod_page(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        path: &str,
    ) -> Result<String> {
        if self.mode == Mode::Namespace {
            let raw = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
            return self.kubectl(&["get", "--raw", &raw]).await;
        }
        let object = self.get(&["pod", pod, "-n", namespace]).await?;
        let ip = object["status"]["podIP"].as_str().unwrap_or_default();
        let answer = http(SocketAddr::new(ip.parse()?, port), "GET", path, &[], "").await?;
        ensure!(answer.status.is_success(), "{pod}{path}: {}", answer.status);
        Ok(answer.text())
    }

    /// Posts JSON to a pod, on the same way as [`Running::pod_page`].
    ///
    /// # Errors
    /// When the pod does not answer with success.
    pub async fn pod_post(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        path: &str,
        body: &Value,
    ) -> Result<String> {
        if self.mode == Mode::Namespace {
            let file = tempfile::NamedTempFile::with_suffix(".json")?;
            std::fs::write(file.path(), serde_json::to_vec(body)?)?;
            let raw = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
            let file = file.path().display().to_string();
            return self.kubectl(&["create", "--raw", &raw, "-f", &file]).await;
        }
        let object = self.get(&["pod", pod, "-n", namespace]).await?;
        let ip = object["status"]["podIP"].as_str().unwrap_or_default();
        let headers = [("content-type", "application/json")];
        let address = SocketAddr::new(ip.parse()?, port);
        let answer = http(address, "POST", path, &headers, body.to_string()).await?;
        ensure!(
            answer.status.is_success(),
            "{pod}{path}: {} {}",
            answer.status,
            answer.text()
        );
        Ok(answer.text())
    }

    /// Sum of a counter or gauge on a pod's metrics page, over all its series.
    ///
    /// # Errors
    /// When the page cannot be read.
    pub async fn pod_metric(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        name: &str,
    ) -> Result<f64> {
        let page = self.pod_page(namespace, pod, port, "/metrics").await?;
        Ok(page
            .lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(name)?;
                let (labels, value) = rest.rsplit_once(' ')?;
                (labels.is_empty() || labels.starts_with('{')).then(|| value.parse::<f64>().ok())?
            })
            .sum())
    }

    /// What Envoy wrote about requests, oldest first. Envoy flushes its log every second or so.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn access_log(&self) -> Result<Vec<Value>> {
        let path = self.paths.logs().join("envoy-access.log");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }

    /// How many requests Envoy sent to one cluster so far.
    ///
    /// # Errors
    /// When Envoy's administration page does not answer.
    pub async fn upstream_requests(&self, cluster: &str) -> Result<u64> {
        Ok(self.requests_by_host(cluster).await?.values().sum())
    }

    /// The addresses that Envoy knows of one cluster: it hears of a pod a moment after others.
    ///
    /// # Errors
    /// When Envoy's administration page does not answer.
    pub async fn upstream_hosts(&self, cluster: &str) -> Result<Vec<String>> {
        Ok(self.requests_by_host(cluster).await?.into_keys().collect())
    }

    async fn requests_by_host(&self, cluster: &str) -> Result<BTreeMap<String, u64>> {
        let answer = http(self.envoy_admin, "GET", "/clusters", &[], "").await?;
        ensure!(
            answer.status.is_success(),
            "Envoy's administration page said {}",
            answer.status
        );
        let text = answer.text();
        let counts = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(cluster)?.strip_prefix("::")?;
            let (host, count) = rest.rsplit_once("::rq_total::")?;
            Some((host.to_owned(), count.parse().ok()?))
        });
        Ok(counts.collect())
    }
}

/// `Type=Status (Reason: message)` for each condition.
pub fn describe_conditions(object: &Value) -> String {
    let conditions = object["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all: Vec<_> = conditions
        .iter()
        .map(|condition| {
            format!(
                "{}={} ({}: {})",
                text(&condition["type"]),
                text(&condition["status"]),
                text(&condition["reason"]),
                text(&condition["message"])
            )
        })
        .collect();
    if all.is_empty() {
        "no conditions yet".to_owned()
    } else {
        all.join("; ")
    }
}
