//! Pods and counters through an API server's answers, played by a small server.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::*;

fn pod(name: &str, phase: &str, ready: bool) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "llm-d"},
        "status": {
            "phase": phase, "podIP": "127.0.0.1",
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        },
    })
}

fn page(queries: u64) -> String {
    format!("vllm:prefix_cache_queries_total {queries}\nvllm:prefix_cache_hits_total 1\n")
}

/// Proxies to `a`; refuses to proxy to `b`, as to a loopback address.
async fn proxy(Path((_, target)): Path<(String, String)>) -> Response {
    if target.starts_with("a:") {
        return page(100).into_response();
    }
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403,
        "reason": "Forbidden", "message": "address not allowed",
    });
    (StatusCode::FORBIDDEN, axum::Json(status)).into_response()
}

async fn reader(source: Source) -> Reader {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut leaving = pod("d", "Running", true);
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [
        pod("a", "Running", true), pod("b", "Running", false), pod("c", "Pending", false), leaving,
    ]});
    let router = Router::new()
        .route(
            "/api/v1/namespaces/{ns}/pods",
            get(|| async { axum::Json(list) }),
        )
        .route(
            "/api/v1/namespaces/{ns}/pods/{target}/proxy/metrics",
            get(proxy),
        )
        .route("/metrics", get(|| async { page(200) }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let config = kube::Config::new(format!("http://{address}").parse().unwrap());
    let pods = Pods::Cluster {
        client: kube::Client::try_from(config).unwrap(),
        namespace: "llm-d".to_owned(),
        selector: "llm-d.ai/role=decode".to_owned(),
    };
    Reader::new(Http::new(false).unwrap(), pods, source, address.port())
}

async fn queries(reader: &Reader) -> BTreeMap<String, Option<u64>> {
    let pods = reader.list().await.unwrap();
    let scrapes = reader.read(&pods).await;
    scrapes
        .into_iter()
        .map(|(pod, read)| (pod, read.ok().map(|scrape| scrape.counters.query_tokens)))
        .collect()
}

fn expected(a: Option<u64>, b: Option<u64>) -> BTreeMap<String, Option<u64>> {
    BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)])
}

#[tokio::test]
async fn a_pod_that_the_api_server_will_not_proxy_to_is_asked_directly() {
    let reader = reader(Source::Auto).await;
    assert_eq!(queries(&reader).await, expected(Some(100), Some(200)));
    assert_eq!(reader.used(), "api-proxy, direct");
}

#[tokio::test]
async fn a_source_that_is_asked_for_is_the_only_one() {
    let reader_by_proxy = reader(Source::ApiProxy).await;
    assert_eq!(queries(&reader_by_proxy).await, expected(Some(100), None));
    let pods = reader_by_proxy.list().await.unwrap();
    let refused = reader_by_proxy.read(&pods).await.remove("b").unwrap();
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("address not allowed")
    );
    let reader_by_address = reader(Source::Direct).await;
    assert_eq!(
        queries(&reader_by_address).await,
        expected(Some(200), Some(200))
    );
}

#[tokio::test]
async fn pods_that_do_not_run_are_no_decode_pods() {
    let pods = reader(Source::Auto).await.list().await.unwrap();
    let names: Vec<_> = pods
        .iter()
        .map(|pod| (pod.name.as_str(), pod.ready))
        .collect();
    assert_eq!(names, [("a", true), ("b", false)]);
}
