//! One client connection -> its requests, each streamed to the engine. IO.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

use super::route;
use super::upstream::Upstream;
use crate::openai;
use crate::telemetry::shutdown::Shutdown;

type Body = BoxBody<Bytes, hyper::Error>;

/// The sidecar.
#[derive(Clone, Debug)]
pub struct Proxy {
    upstream: Upstream,
    told_about_prefill: Arc<AtomicBool>,
}

impl Proxy {
    /// A sidecar in front of this engine.
    pub fn new(upstream: Upstream) -> Self {
        Self {
            upstream,
            told_about_prefill: Arc::default(),
        }
    }

    /// Serves until shutdown; open requests are finished within `drain`.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        drain: std::time::Duration,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let graceful = GracefulShutdown::new();
        let server = auto::Builder::new(TokioExecutor::new());
        loop {
            let (stream, _) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    // Out of file descriptors, or a client that left already: not the end.
                    Err(error) => {
                        tracing::warn!(%error, "accept");
                        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = shutdown.requested() => break,
            };
            let _ = stream.set_nodelay(true);
            let proxy = self.clone();
            let service = service_fn(move |request| {
                let proxy = proxy.clone();
                async move { Ok::<_, Infallible>(proxy.answer(request).await) }
            });
            let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
            let connection = graceful.watch(connection.into_owned());
            // Owned by `graceful`, which waits for it below.
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error = error.to_string(), "connection ended");
                }
            });
        }
        drop(listener);
        tokio::select! {
            () = graceful.shutdown() => {}
            () = tokio::time::sleep(drain) => tracing::warn!("requests still open at the end of the drain time were cut"),
        }
        Ok(())
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        if request.method() == Method::GET && request.uri().path() == "/health" {
            return plain(StatusCode::OK, "");
        }
        route::strip_hop_by_hop(request.headers_mut());
        if route::take_routing(request.headers_mut())
            && !self.told_about_prefill.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                "a request asked for a prefill elsewhere; this version computes prompts in the decode engine"
            );
        }
        match self.upstream.send(request).await {
            Ok(mut response) => {
                route::strip_hop_by_hop(response.headers_mut());
                response.map(BodyExt::boxed)
            }
            Err(error) => failure(&error),
        }
    }
}

/// What the client is told when the engine did not answer, in the form OpenAI clients read.
fn failure(error: &hyper_util::client::legacy::Error) -> Response<Body> {
    let refused = io_kind(error) == Some(ErrorKind::ConnectionRefused);
    let (status, message) = if refused || error.is_connect() {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the model server is not reachable",
        )
    } else {
        (
            StatusCode::BAD_GATEWAY,
            "the model server broke the connection",
        )
    };
    tracing::warn!(error = crate_chain(error), %status, "request failed");
    let body = openai::error::body(status.as_u16(), message).to_string();
    let mut response = plain(status, "");
    *response.body_mut() = full(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

fn io_kind(error: &dyn std::error::Error) -> Option<ErrorKind> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

fn crate_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never: Infallible| match never {})
        .boxed()
}
