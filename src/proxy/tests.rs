//! What clients see through the sidecar, over real sockets on loopback.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::server::Proxy;
use super::upstream::Upstream;
use crate::contract;
use crate::telemetry::shutdown::Shutdown;

async fn proxy_to(engine: SocketAddr) -> (SocketAddr, Shutdown) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let proxy = Proxy::new(Upstream::new(engine));
    shutdown.spawn(
        "proxy",
        proxy.serve(listener, Duration::from_secs(1), shutdown.clone()),
    );
    (address, shutdown)
}

fn client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

fn post(address: SocketAddr, body: &str) -> http::Request<Full<Bytes>> {
    http::Request::post(format!("http://{address}/v1/chat/completions?q=1"))
        .header(contract::HEADER_PREFILLER, "10.0.0.9:8000")
        .header("x-kept", "yes")
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap()
}

#[tokio::test]
async fn the_first_chunk_arrives_before_the_engine_has_finished() {
    let engine = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (proxy, _shutdown) = proxy_to(engine.local_addr().unwrap()).await;
    let (go_on, wait) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(async move {
        let (mut stream, _) = engine.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.windows(4).any(|window| window == b"\r\n\r\n") {
            stream.read_buf(&mut request).await.unwrap();
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            .await
            .unwrap();
        // The rest is sent only after the client has the first chunk.
        wait.await.unwrap();
        stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await.unwrap();
        String::from_utf8(request).unwrap().to_lowercase()
    });
    let mut response = client().request(post(proxy, "{}")).await.unwrap();
    let first = response
        .body_mut()
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap();
    assert_eq!(first, "first");
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
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let (proxy, _shutdown) = proxy_to(free).await;
    let response = client().request(post(proxy, "{}")).await.unwrap();
    assert_eq!(response.status(), 503);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        body["error"]["message"],
        "the model server is not reachable"
    );
}

#[tokio::test]
async fn the_sidecar_is_healthy_whatever_the_engine_does() {
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let (proxy, _shutdown) = proxy_to(free).await;
    let request = http::Request::get(format!("http://{proxy}/health"))
        .body(Full::default())
        .unwrap();
    assert_eq!(client().request(request).await.unwrap().status(), 200);
}

#[test]
fn flags_of_every_generation_are_understood() {
    use clap::Parser as _;
    for line in [
        "routing-proxy --port=8000 --vllm-port=8001 --connector=nixlv2",
        "routing-proxy -port 8000 -model-server-port=8001 --kv-connector nixlv2 --secure-proxy -v 5",
    ] {
        let (args, _) = super::cli::normalize(line.split(' ').map(str::to_owned).collect());
        let args = super::cli::Args::try_parse_from(args).unwrap();
        assert_eq!(
            (args.port, args.vllm_port, args.connector.as_str()),
            (8000, 8001, "nixlv2")
        );
    }
}
