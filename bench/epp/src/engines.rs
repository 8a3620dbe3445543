//! Fake engines: many endpoints answered by one process of this program, so that the CPU time
//! they take is nobody else's. They say which of them answered and what body arrived. IO.
//!
//! How they answer is told by request headers (`x-bench-…`), not by the body: the same body must
//! be usable for every kind of answer.

mod answer;
mod events;
mod page;

use std::convert::Infallible;
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpSocket};

pub use self::answer::EVENTS;

use crate::net;
use crate::prompts::MODEL;
use crate::tokenizer::Tokenizer;

/// Connections that may wait to be taken.
const BACKLOG: u32 = 4096;

/// Command line of the engines' process.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Block of the loopback range.
    #[arg(long)]
    block: u8,
    /// How many endpoints.
    #[arg(long)]
    count: usize,
}

struct Engine {
    address: SocketAddr,
    page: Bytes,
    tokenizer: Arc<Tokenizer>,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves until the starting process ends.
///
/// # Errors
/// When an address is taken.
pub async fn run(args: &Args) -> Result<()> {
    let tokenizer = Arc::new(Tokenizer::default());
    let page = page::page();
    for address in net::engines(args.block, args.count) {
        let engine = Arc::new(Engine {
            address,
            page: page.clone(),
            tokenizer: Arc::clone(&tokenizer),
        });
        let listener = listen(address)?;
        tokio::spawn(serve(listener, engine));
        let listener = listen((address.ip(), net::KV_EVENTS).into())?;
        tokio::spawn(events::serve(listener));
    }
    // The pipe closes when the other process ends, however it ends.
    tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0]))
        .await?
        .context("wait for the end of the run")?;
    Ok(())
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket
        .bind(address)
        .and_then(|()| socket.listen(BACKLOG))
        .with_context(|| format!("listen on {address}"))
}

async fn serve(listener: TcpListener, engine: Arc<Engine>) {
    loop {
        let Ok((connection, _)) = listener.accept().await else {
            // Out of file descriptors: some request will end.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        // Only latency is lost when this fails.
        let _ = connection.set_nodelay(true);
        let engine = Arc::clone(&engine);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let engine = Arc::clone(&engine);
                async move { Ok::<_, Infallible>(engine.handle(request).await) }
            });
            // Clients come and go as they like.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(connection), service)
                .await;
        });
    }
}

/// What arrived of a request's body.
struct Arrived {
    bytes: usize,
    sha256: Option<String>,
    trailers: usize,
    /// The end came.
    whole: bool,
}

impl Engine {
    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        match request.uri().path() {
            "/metrics" => plain("text/plain; version=0.0.4", self.page.clone()),
            "/health" => plain("text/plain", Bytes::new()),
            "/tokenize" => {
                let body = request.into_body().collect().await;
                let bytes = body.map(http_body_util::Collected::to_bytes);
                let asked: Value =
                    serde_json::from_slice(&bytes.unwrap_or_default()).unwrap_or_default();
                let tokens = self.tokenizer.tokens(&asked);
                let answer = json!({"count": tokens.len(), "max_model_len": 1 << 20,
                    "tokens": tokens, "token_strs": null});
                plain("application/json", answer.to_string().into())
            }
            "/v1/models" => {
                let models = json!({"object": "list", "data": [{"id": MODEL, "object": "model"}]});
                plain("application/json", models.to_string().into())
            }
            _ => {
                let (head, body) = request.into_parts();
                let hash = head.headers.contains_key("x-bench-hash");
                let arrived = take(body, hash).await;
                self.answer(&head.headers, &arrived)
            }
        }
    }

    fn answer(&self, asked: &HeaderMap, arrived: &Arrived) -> Response<Body> {
        let mut response = answer::answer(asked);
        let mut say = |name: &'static str, value: String| {
            let value = value
                .parse()
                .expect("numbers and addresses are header values");
            response.headers_mut().insert(name, value);
        };
        say("x-bench-served-by", self.address.to_string());
        say("x-bench-body-bytes", arrived.bytes.to_string());
        say("x-bench-body-whole", arrived.whole.to_string());
        say("x-bench-trailers", arrived.trailers.to_string());
        if let Some(hash) = &arrived.sha256 {
            say("x-bench-body-sha256", hash.clone());
        }
        if let Some(picked) = asked.get("x-gateway-destination-endpoint") {
            let picked = picked.clone();
            response.headers_mut().insert("x-bench-picked", picked);
        }
        response
    }
}

/// Reads to the end and keeps nothing.
async fn take(mut body: Incoming, hash: bool) -> Arrived {
    let mut digest = hash.then(Sha256::new);
    let mut arrived = Arrived {
        bytes: 0,
        sha256: None,
        trailers: 0,
        whole: true,
    };
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            arrived.whole = false;
            break;
        };
        match frame.into_data() {
            Ok(data) => {
                arrived.bytes += data.len();
                if let Some(digest) = &mut digest {
                    digest.update(&data);
                }
            }
            Err(frame) => {
                arrived.trailers += frame.into_trailers().map_or(0, |trailers| trailers.len());
            }
        }
    }
    arrived.sha256 = digest.map(|digest| crate::hex(&digest.finalize()));
    arrived
}

fn plain(kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    let kind = http::HeaderValue::from_static(kind);
    response.headers_mut().insert("content-type", kind);
    response
}
