//! The little of the Kubernetes API that an EPP needs to find its pods, for EPPs that know no
//! other way: lists and watches of pods that never change. IO.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::stream;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// Label of the pods.
pub const SELECTOR: &str = "app=vllm";

/// The running server; it ends when dropped.
pub struct KubeApi(JoinHandle<()>);

impl Drop for KubeApi {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves these endpoints as ready decode pods.
///
/// # Errors
/// When the address is taken.
pub async fn serve(address: SocketAddr, engines: &[SocketAddr]) -> Result<KubeApi> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}"))?;
    let pods: Vec<Value> = engines.iter().enumerate().map(pod).collect();
    let list = json!({"kind": "PodList", "apiVersion": "v1",
        "metadata": {"resourceVersion": "1"}, "items": pods});
    let list = Bytes::from(list.to_string());
    let task = tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let list = list.clone();
            let service = service_fn(move |request| {
                let answer = answer(&request, &list);
                async move { Ok::<_, Infallible>(answer) }
            });
            tokio::spawn(async move {
                // Clients may leave.
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(connection), service)
                    .await;
            });
        }
    });
    Ok(KubeApi(task))
}

/// A kubeconfig file for it.
///
/// # Errors
/// When it cannot be written.
pub fn write_kubeconfig(path: &Path, address: SocketAddr) -> Result<()> {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "bench", "user": {}}],
        "contexts": [{"name": "bench",
            "context": {"cluster": "bench", "user": "bench", "namespace": "default"}}],
    });
    std::fs::write(path, config.to_string()).with_context(|| format!("write {}", path.display()))
}

fn pod((index, engine): (usize, &SocketAddr)) -> Value {
    let ip = engine.ip().to_string();
    json!({
        "metadata": {
            "name": format!("vllm-{index:03}"), "namespace": "default",
            "uid": format!("00000000-0000-0000-0000-{index:012}"), "resourceVersion": "1",
            "labels": {"app": "vllm", "llm-d.ai/role": "decode"},
        },
        "spec": {"containers": [{"name": "vllm", "image": "vllm"}]},
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn answer(request: &Request<Incoming>, pods: &Bytes) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let query = request.uri().query().unwrap_or_default();
    let watch = query.contains("watch=true") || query.contains("watch=1");
    let is_pods = request.uri().path().ends_with("/pods");
    let list = |text: Bytes| Full::new(text).boxed_unsync();
    let body = match (is_pods, watch) {
        // Nothing ever happens.
        (_, true) => StreamBody::new(stream::pending::<Result<Frame<Bytes>, _>>()).boxed_unsync(),
        (true, false) => list(pods.clone()),
        // Lists of kinds that an EPP may look for and go without.
        (false, false) => {
            let empty = json!({"kind": "List", "apiVersion": "v1",
                "metadata": {"resourceVersion": "1"}, "items": []});
            list(empty.to_string().into())
        }
    };
    let mut response = Response::new(body);
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", json);
    response
}
