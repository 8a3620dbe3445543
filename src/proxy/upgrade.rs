//! A request for a WebSocket -> one between client and engine: the handshake goes through,
//! then bytes both ways until either side ends. IO.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::Instant;

use super::body::{self, Body};
use super::legs::Legs;
use super::route;
use crate::telemetry::shutdown::Shutdown;

/// Bytes in flight in one direction.
const BUFFER_BYTES: usize = 16 << 10;
/// How long both sides have after the handshake to give up their connections.
const HANDOVER: Duration = Duration::from_secs(10);

/// How long upgraded connections live.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    /// Without a byte in either direction.
    pub idle: Duration,
    /// After the program was asked to end.
    pub drain: Duration,
}

/// Passes the handshake on; where the engine agrees, a task of `shutdown` copies from then on,
/// which keeps `kept` until it ends. Any other answer goes to the client as it is.
pub async fn serve<T: Send + 'static>(
    legs: &Legs,
    mut request: Request<Incoming>,
    lifetime: Lifetime,
    shutdown: &Shutdown,
    kept: T,
) -> Response<Body> {
    let client = hyper::upgrade::on(&mut request);
    route::strip_hop_by_hop(request.headers_mut());
    insert_upgrade(request.headers_mut());
    let mut response = match legs.upgrade(request.map(|_| body::full(""))).await {
        Ok(response) => response,
        Err(answer) => return answer,
    };
    let agreed = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let engine = hyper::upgrade::on(&mut response);
    route::strip_hop_by_hop(response.headers_mut());
    if !agreed {
        return response.map(http_body_util::BodyExt::boxed);
    }
    insert_upgrade(response.headers_mut());
    let counted = legs.metrics().upgrade();
    let until = shutdown.clone();
    shutdown.spawn_for_peer("upgraded connection", async move {
        let _held = (counted, kept);
        connect(client, engine, lifetime, until).await;
    });
    response.map(|_| body::full(""))
}

fn insert_upgrade(headers: &mut http::HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

async fn connect(client: OnUpgrade, engine: OnUpgrade, lifetime: Lifetime, shutdown: Shutdown) {
    let both = async { tokio::try_join!(client, engine) };
    match tokio::time::timeout(HANDOVER, both).await {
        Ok(Ok((client, engine))) => {
            let ended = copy(client, engine, lifetime.idle);
            let cut = async {
                shutdown.requested().await;
                tokio::time::sleep(lifetime.drain).await;
            };
            tokio::select! {
                () = ended => {}
                () = cut => tracing::warn!("a WebSocket still open at the end of the drain time was cut"),
            }
        }
        Ok(Err(error)) => tracing::debug!(error = error.to_string(), "an upgrade came to nothing"),
        Err(_) => tracing::debug!("an upgrade came to nothing in time"),
    }
}

/// Copies until one side ends, breaks, or nothing has come for `idle`.
async fn copy(client: Upgraded, engine: Upgraded, idle: Duration) {
    let (from_client, to_client) = tokio::io::split(TokioIo::new(client));
    let (from_engine, to_engine) = tokio::io::split(TokioIo::new(engine));
    let clock = Clock {
        begun: Instant::now(),
        last: AtomicU64::new(0),
    };
    tokio::select! {
        _ = pump(from_client, to_engine, &clock) => {}
        _ = pump(from_engine, to_client, &clock) => {}
        () = clock.silence(idle) => tracing::debug!("a silent WebSocket was closed"),
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    clock: &Clock,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let bytes = from.read(&mut buffer).await?;
        if bytes == 0 {
            return to.shutdown().await;
        }
        clock.touch();
        to.write_all(&buffer[..bytes]).await?;
        to.flush().await?;
    }
}

/// When a byte came last.
struct Clock {
    begun: Instant,
    /// Milliseconds after `begun`.
    last: AtomicU64,
}

impl Clock {
    fn touch(&self) {
        let now = self.begun.elapsed().as_millis() as u64;
        self.last.store(now, Ordering::Relaxed);
    }

    /// Ends when nothing has come for so long.
    async fn silence(&self, idle: Duration) {
        loop {
            let last = self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed));
            if last.elapsed() >= idle {
                return;
            }
            tokio::time::sleep_until(last + idle).await;
        }
    }
}
