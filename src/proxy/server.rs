//! One client connection -> its requests, each answered by the engine behind the sidecar. IO.

use std::convert::Infallible;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

use super::body::{self, Body, ReadError};
use super::connector::{self, Connector, Exchange};
use super::failure;
use super::legs::{Head, Legs};
use super::metrics::{Fallback, Refusal};
use super::route::{self, Api, Route};
use crate::telemetry::shutdown::Shutdown;

/// How long a client may take for the head of a request.
const HEAD: Duration = Duration::from_secs(30);

/// The sidecar.
#[derive(Clone, Debug)]
pub struct Proxy {
    legs: Legs,
    connector: Connector,
    sampling: bool,
}

impl Proxy {
    /// A sidecar with these legs. With `sampling`, the first prefill endpoint of a request is
    /// a random one of those it names.
    pub fn new(legs: Legs, connector: Connector, sampling: bool) -> Self {
        Self {
            legs,
            connector,
            sampling,
        }
    }

    /// Serves until shutdown; open requests are finished within `drain`.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        drain: Duration,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let graceful = GracefulShutdown::new();
        let mut server = auto::Builder::new(TokioExecutor::new());
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD);
        loop {
            let (stream, _) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    // Out of file descriptors, or a client that left already: not the end.
                    Err(error) => {
                        tracing::warn!(%error, "accept");
                        tokio::time::sleep(Duration::from_millis(50)).await;
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

    /// Everything runs inside this call: when the client leaves, hyper drops it, and with it
    /// every leg.
    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        if request.method() == Method::GET && request.uri().path() == "/health" {
            return Response::new(body::full(""));
        }
        route::strip_hop_by_hop(request.headers_mut());
        let prefillers = route::take_routing(request.headers_mut());
        match route::route(request.method(), request.uri().path(), request.headers()) {
            Route::Pass => self.legs.pass(request.map(BodyExt::boxed)).await,
            Route::Inspect(api) => self.inspect(api, prefillers, request).await,
        }
    }

    async fn inspect(
        &self,
        api: Option<Api>,
        mut prefillers: Vec<String>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        if self.sampling && !prefillers.is_empty() {
            let random = uuid::Uuid::new_v4().as_u64_pair().0 as usize;
            let first = random % prefillers.len();
            prefillers.rotate_left(first);
        }
        // A request that may not go where it wants is refused before its body is read.
        let targets = match self.legs.targets(&prefillers) {
            Ok(targets) => targets,
            Err(response) => return *response,
        };
        let (parts, incoming) = request.into_parts();
        if route::is_encoded(&parts.headers) {
            return self.refuse(
                Refusal::Encoded,
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the request body must not be compressed",
            );
        }
        let limit = self.legs.limits().max_body_bytes;
        let body = match body::read(incoming, limit).await {
            Ok(body) => body,
            Err(error @ ReadError::TooLarge { .. }) => {
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                return self.refuse(Refusal::TooLarge, status, &error.to_string());
            }
            Err(error @ ReadError::Broken(_)) => {
                let status = StatusCode::BAD_REQUEST;
                return self.refuse(Refusal::Broken, status, &error.to_string());
            }
        };
        let head = Head::new(parts.uri, parts.headers);
        match api {
            Some(api) if !targets.is_empty() => {
                let exchange = Exchange {
                    api,
                    head,
                    body,
                    targets,
                };
                self.connector.serve(&self.legs, exchange).await
            }
            _ => {
                if api.is_some() && !prefillers.is_empty() {
                    self.legs.fell_back(&head, Fallback::BadTarget);
                }
                connector::decode_only(&self.legs, &head, body).await
            }
        }
    }

    fn refuse(&self, reason: Refusal, status: StatusCode, message: &str) -> Response<Body> {
        self.legs.metrics().refused(reason);
        failure::answer(status, message)
    }
}
