//! KV cache from one engine to another: vLLM's NIXL side channel, played over HTTP. IO.
//!
//! A finished prompt's blocks wait in the engine that computed it. The engine that decodes
//! asks for them at the host and port it was told, so that a wrong address, a dead engine
//! and a restarted one all fail as they do with NIXL. What comes back is what the named blocks
//! hold at that moment, as with a remote read: blocks that are no longer held for the reader
//! may hold something else, and nobody notices. How long the bytes would take is the engine's
//! business.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::engine::{Finished, Id, Remote};
use super::task::Handle;
use crate::telemetry::shutdown::Shutdown;

/// The longest wait for the other engine's word.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer: some 10 million tokens.
const MAX_CONTENT: usize = 64 << 20;

/// Who holds blocks and where they can be asked for.
#[derive(Clone, Debug)]
pub struct SideChannel {
    /// The engine's name, new with each start.
    pub engine: String,
    /// The host others are told.
    pub host: String,
    /// The port others are told.
    pub port: u16,
}

impl SideChannel {
    /// vLLM's `kv_transfer_params` of a finished prompt; `None` where nothing is held.
    pub fn parameters(&self, finished: &Finished) -> Option<Value> {
        if finished.held_blocks.is_empty() {
            return None;
        }
        Some(json!({
            "do_remote_prefill": true,
            "do_remote_decode": false,
            "remote_block_ids": finished.held_blocks,
            "remote_engine_id": self.engine,
            "remote_request_id": finished.id.0.to_string(),
            "remote_host": self.host,
            "remote_port": self.port,
            "tp_size": 1,
        }))
    }
}

/// Reads `kv_transfer_params` of a decode request; `None` where they ask for nothing or
/// cannot be followed. vLLM then computes the prompt itself, too.
pub fn remote(parameters: &Value) -> Option<Remote> {
    if parameters["do_remote_prefill"] != true {
        return None;
    }
    let text = |name: &str| parameters[name].as_str().map(str::to_owned);
    let port = &parameters["remote_port"];
    let port = port
        .as_u64()
        .or_else(|| port.as_str()?.parse().ok())
        .and_then(|port| u16::try_from(port).ok())?;
    let blocks = parameters["remote_block_ids"].as_array()?;
    Some(Remote {
        host: text("remote_host")?,
        port,
        engine: text("remote_engine_id")?,
        request: text("remote_request_id")?,
        blocks: blocks.iter().filter_map(Value::as_u64).collect(),
    })
}

/// Why KV cache could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Host and port are no address.
    #[error("{0} is not an address")]
    Address(String),
    /// Nobody answers there.
    #[error("no answer: {0}")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    /// It takes too long.
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The engine of that name is not there.
    #[error("the other engine answers {0}")]
    Refused(StatusCode),
    /// What comes are no tokens.
    #[error("the other engine's answer cannot be read")]
    Unreadable,
}

/// Asks other engines; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client(hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>);

impl Default for Client {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(TIMEOUT));
        Self(hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector))
    }
}

impl Client {
    /// Takes the blocks of a request from the engine that holds them: their tokens in order.
    ///
    /// # Errors
    /// When they cannot be had.
    pub async fn take(&self, remote: &Remote) -> Result<Vec<u32>, Error> {
        let host = match remote.host.parse() {
            Ok(IpAddr::V6(host)) => format!("[{host}]"),
            _ => remote.host.clone(),
        };
        let segment = |text: &str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            text.chars().filter(|c| plain(*c)).collect::<String>()
        };
        let url = format!(
            "http://{host}:{}/sim/kv/{}/{}",
            remote.port,
            segment(&remote.engine),
            segment(&remote.request),
        );
        let request = http::Request::post(&url)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(json!(remote.blocks).to_string().into())
            .map_err(|_| Error::Address(url))?;
        tokio::time::timeout(TIMEOUT, self.ask(request))
            .await
            .map_err(|_| Error::Timeout)?
    }

    async fn ask(&self, request: http::Request<Full<Bytes>>) -> Result<Vec<u32>, Error> {
        let response = self.0.request(request).await.map_err(Error::Unreachable)?;
        if !response.status().is_success() {
            return Err(Error::Refused(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_CONTENT);
        let body = body.collect().await.map_err(|_| Error::Unreadable)?;
        serde_json::from_slice(&body.to_bytes()).map_err(|_| Error::Unreadable)
    }
}

struct Served {
    engine: String,
    handle: Handle,
}

/// Listens on the side channel.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn listen(
    bind_host: Option<IpAddr>,
    host: &str,
    port: u16,
) -> anyhow::Result<TcpListener> {
    // vLLM listens on the address it tells; behind a name there may be any of ours.
    let told = host.parse().ok();
    let any = Ipv4Addr::UNSPECIFIED.into();
    let address = SocketAddr::new(bind_host.or(told).unwrap_or(any), port);
    TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on the KV side channel {address}"))
}

/// Answers other engines until shutdown.
pub fn serve(listener: TcpListener, engine: String, handle: Handle, shutdown: &Shutdown) {
    let router = Router::new()
        .route("/sim/kv/{engine}/{request}", post(taken))
        .layer(DefaultBodyLimit::max(MAX_CONTENT))
        .with_state(Arc::new(Served { engine, handle }));
    let stop = shutdown.clone();
    shutdown.spawn("kv side channel", async move {
        axum::serve(listener, router)
            .with_graceful_shutdown(stop.into_requested())
            .await
            .context("serve the KV side channel")
    });
}

async fn taken(
    State(served): State<Arc<Served>>,
    Path((engine, request)): Path<(String, String)>,
    axum::Json(blocks): axum::Json<Vec<u64>>,
) -> Response {
    let Some(id) = request.parse().ok().filter(|_| engine == served.engine) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match served.handle.read(Id(id), blocks).await {
        Ok(content) => axum::Json(content).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
