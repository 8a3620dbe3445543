//! One client connection -> its requests, each answered by the engine behind the sidecar. IO.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::admin;
use super::body::{self, Body, ReadError};
use super::client_stream::ClientStream;
use super::connector::{self, Connector, Exchange};
use super::legs::{Head, Legs};
use super::reason::Refusal;
use super::route::{self, Route};
use super::upgrade::{self, Lifetime};
use crate::openai::api::Api;
use crate::telemetry::shutdown::Shutdown;

/// How long a client may take for the head of a request, its first byte included.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Most bytes read ahead of one connection, and of a request's head.
const READ_AHEAD_BYTES: usize = 64 << 10;
/// Most requests at once of one HTTP/2 connection, and its flow-control windows.
const STREAMS: u32 = 1024;
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// What the sidecar does with requests.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// How KV cache gets from prefill to decode engines.
    pub connector: Connector,
    /// The first prefill endpoint of a request is a random one of those it names.
    pub sampling: bool,
    /// Paths that administer the engine and may be used.
    pub admin_paths: admin::Allowed,
    /// Most connections of clients at once; more are closed.
    pub max_connections: usize,
    /// Most requests at once, to the end of their answers; more get a 503.
    pub max_requests: usize,
    /// A client that takes longer for the head of a request is left.
    pub head_timeout: Duration,
    /// A WebSocket without a byte for so long is closed.
    pub upgrade_idle: Duration,
    /// How long open requests have to end after shutdown.
    pub drain: Duration,
}

/// The sidecar; cheap to clone.
#[derive(Clone, Debug)]
pub struct Proxy {
    legs: Legs,
    behaviour: Arc<Behaviour>,
    requests: Arc<Semaphore>,
    shutdown: Shutdown,
}

impl Proxy {
    /// A sidecar with these legs, until shutdown.
    pub fn new(legs: Legs, behaviour: Behaviour, shutdown: Shutdown) -> Self {
        Self {
            legs,
            requests: Arc::new(Semaphore::new(behaviour.max_requests)),
            behaviour: Arc::new(behaviour),
            shutdown,
        }
    }

    /// Serves until shutdown; open requests are finished within the drain time.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, listener: TcpListener) -> anyhow::Result<()> {
        let graceful = GracefulShutdown::new();
        let server = Arc::new(server(self.behaviour.head_timeout));
        let connections = Arc::new(Semaphore::new(self.behaviour.max_connections));
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
                () = self.shutdown.requested() => break,
            };
            let Ok(permit) = connections.clone().try_acquire_owned() else {
                self.legs.metrics().connection_refused();
                continue;
            };
            let connection = self
                .clone()
                .connection(stream, server.clone(), graceful.watcher());
            // Owned by `graceful`, which waits for it below.
            tokio::spawn(async move {
                connection.await;
                drop(permit);
            });
        }
        drop(listener);
        tokio::select! {
            () = graceful.shutdown() => {}
            () = tokio::time::sleep(self.behaviour.drain) => tracing::warn!("requests still open at the end of the drain time were cut"),
        }
        Ok(())
    }

    async fn connection(
        self,
        stream: TcpStream,
        server: Arc<auto::Builder<TokioExecutor>>,
        watcher: Watcher,
    ) {
        let _open = self.legs.metrics().connection();
        let _ = stream.set_nodelay(true);
        let asked = Arc::new(AtomicBool::new(false));
        let (seen, head_timeout) = (asked.clone(), self.behaviour.head_timeout);
        let service = service_fn(move |request| {
            seen.store(true, Ordering::Relaxed);
            let proxy = self.clone();
            async move { Ok::<_, Infallible>(proxy.answer(request).await) }
        });
        let (stream, client) = ClientStream::new(stream);
        let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let connection = watcher.watch(connection.into_owned());
        // Dropped when the client has left, with all that it asked for.
        let mut connection = pin!(async {
            tokio::select! {
                biased;
                ended = connection => ended,
                () = client.closed() => Ok(()),
            }
        });
        // The server itself waits for ever for the bytes by which it tells HTTP/1 from HTTP/2,
        // and for the first request of an HTTP/2 connection.
        let ended = match tokio::time::timeout(head_timeout, &mut connection).await {
            Ok(ended) => ended,
            Err(_) if asked.load(Ordering::Relaxed) => connection.await,
            Err(_) => return,
        };
        if let Err(error) = ended {
            tracing::debug!(error = error.to_string(), "connection ended");
        }
    }

    /// Everything runs inside this call and the answer's body: when the client leaves, both are
    /// dropped with its connection, and with them every leg.
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if request.method() == Method::GET && request.uri().path() == "/health" {
            return Response::new(body::full(""));
        }
        let path = request.uri().path();
        let api = Api::of(path);
        if request.method() == Method::CONNECT {
            let message = "CONNECT is not allowed: the routing sidecar opens no tunnels";
            return self.legs.refuse(api, Refusal::Method, message);
        }
        if self.behaviour.admin_paths.refuses(path) {
            tracing::warn!(path, "a request for an administrative path was refused");
            let message = "Forbidden: this path administers the engine; --allow-admin-paths of the routing sidecar lets it through";
            return self.legs.refuse(api, Refusal::AdminPath, message);
        }
        let Ok(permit) = self.requests.clone().try_acquire_owned() else {
            let most = self.behaviour.max_requests;
            let message =
                format!("{most} requests are open, which is the most (--max-requests): try again");
            return self.legs.refuse(api, Refusal::TooMany, &message);
        };
        let open = (permit, self.legs.metrics().request());
        let route = route::route(request.method(), path, request.headers());
        self.routed(route, request, open).await
    }

    async fn routed(
        &self,
        route: Route,
        mut request: Request<Incoming>,
        open: (OwnedSemaphorePermit, super::metrics::Counted),
    ) -> Response<Body> {
        let headers = request.headers_mut();
        if route != Route::Upgrade {
            route::strip_hop_by_hop(headers);
        }
        let prefillers = route::take_routing(headers);
        let response = match route {
            Route::Pass => self.legs.pass(request.map(BodyExt::boxed)).await,
            Route::Inspect(api) => self.inspect(api, prefillers, request).await,
            Route::Upgrade => {
                let lifetime = Lifetime {
                    idle: self.behaviour.upgrade_idle,
                    drain: self.behaviour.drain,
                };
                return upgrade::serve(&self.legs, request, lifetime, &self.shutdown, open).await;
            }
        };
        response.map(|body| body::keeping(body, open))
    }

    async fn inspect(
        &self,
        api: Option<Api>,
        mut prefillers: Vec<String>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        if self.behaviour.sampling && !prefillers.is_empty() {
            let random = uuid::Uuid::new_v4().as_u64_pair().0 as usize;
            let first = random % prefillers.len();
            prefillers.rotate_left(first);
        }
        let (parts, incoming) = request.into_parts();
        let encoded = route::is_encoded(&parts.headers);
        let head = Head::new(api, parts.uri, parts.headers);
        // A request that may not go where it wants is refused before its body is read.
        let (targets, left_out) = match self.legs.targets(&head, &prefillers).await {
            Ok(targets) => targets,
            Err(response) => return *response,
        };
        if encoded {
            let message = "the request body is compressed (content-encoding), but it has to be read here: send it as it is";
            return self.legs.refuse(api, Refusal::Encoded, message);
        }
        let body = match body::read(incoming, &self.legs.body_bounds()).await {
            Ok(body) => body,
            Err(error) => return self.legs.refuse(api, refusal(&error), &error.to_string()),
        };
        match api.filter(|api| api.generates()) {
            Some(api) if !targets.is_empty() => {
                let exchange = Exchange {
                    api,
                    head,
                    body,
                    targets,
                };
                self.behaviour.connector.serve(&self.legs, exchange).await
            }
            generating => {
                if let (Some(_), Some(reason)) = (generating, left_out) {
                    self.legs.fell_back(&head, reason);
                }
                connector::decode_only(&self.legs, &head, body).await
            }
        }
    }
}

fn server(head_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(READ_AHEAD_BYTES)
        .http2()
        .timer(TokioTimer::new())
        // A peer that is gone without a word is noticed.
        .keep_alive_interval(head_timeout)
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    server
}

fn refusal(error: &ReadError) -> Refusal {
    match error {
        ReadError::TooLarge { .. } => Refusal::TooLarge,
        ReadError::NoBudget { .. } => Refusal::NoBudget,
        ReadError::TimedOut { .. } => Refusal::TimedOut,
        ReadError::Broken(_) => Refusal::Broken,
    }
}
