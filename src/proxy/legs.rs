//! The requests a connector makes: prefill legs, tried endpoint by endpoint, and the decode
//! leg to the engine in this pod. IO; knows nothing of what connectors write into bodies.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper_util::client::legacy::Error as ClientError;

use super::allowlist::{Allowlist, Host, Target};
use super::body::{self, Body, ReadError};
use super::failure;
use super::metrics::{Fallback, Leg, Metrics, Outcome, Refusal};
use super::route::{self, Api};
use super::upstream::Upstream;
use super::usage;
use crate::contract;

/// Most prefill endpoints tried for one request.
const MAX_TRIED: usize = 3;

/// Bounds of the legs.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most bytes of a request body that is read, and of a prefill's answer.
    pub max_body_bytes: usize,
    /// Longest wait for one prefill answer, to its last byte.
    pub prefill_timeout: Duration,
    /// How often one endpoint is asked again after a 502, 503 or 504.
    pub prefill_max_retries: u32,
    /// The pause before it is asked again.
    pub prefill_retry_backoff: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body_bytes: 32 << 20,
            prefill_timeout: Duration::from_mins(1),
            prefill_max_retries: 0,
            prefill_retry_backoff: Duration::from_millis(200),
        }
    }
}

/// The head of a client's request, as it is sent on.
#[derive(Clone, Debug)]
pub struct Head {
    /// Path and query.
    pub uri: Uri,
    /// Without headers of the connection, of routing and of the body's length.
    pub headers: HeaderMap,
}

impl Head {
    /// The head of a POST whose body was read.
    pub fn new(uri: Uri, mut headers: HeaderMap) -> Self {
        // The body may change its length, and nobody waits for a `100 Continue` any more.
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::EXPECT);
        Self { uri, headers }
    }

    /// Gives the request an id where the client gave none: both legs carry the same.
    pub fn identify(&mut self) {
        let id = self.headers.get(contract::HEADER_REQUEST_ID);
        if id.is_none_or(|id| id.as_bytes().trim_ascii().is_empty()) {
            let id = uuid::Uuid::new_v4().to_string();
            let id = HeaderValue::from_str(&id).expect("a UUID is a header value");
            self.headers.insert(contract::HEADER_REQUEST_ID, id);
        }
    }

    fn request(&self, body: Bytes) -> Request<Body> {
        let mut request = Request::new(body::full(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// What came of the prefill legs.
#[derive(Debug)]
pub enum Prefill<T> {
    /// An answer with what the connector wants to know.
    Done(T),
    /// An answer that is the client's: its request is at fault, or its endpoint forbidden.
    Answer(Box<Response<Body>>),
    /// Nothing: the decode engine computes the prompt.
    Failed,
}

enum Attempt<T> {
    Done(T),
    ClientError(Response<Incoming>),
    Forbidden,
    /// With true when the same endpoint may be asked again.
    Failed(Fallback, bool),
}

/// The sidecar's outgoing side; cheap to clone.
#[derive(Clone, Debug)]
pub struct Legs {
    engine: Upstream,
    allowlist: std::sync::Arc<Allowlist>,
    limits: Limits,
    metrics: Metrics,
}

impl Legs {
    /// Legs to this engine and to allowed prefill endpoints.
    pub fn new(engine: Upstream, allowlist: Allowlist, limits: Limits, metrics: Metrics) -> Self {
        Self {
            engine,
            allowlist: allowlist.into(),
            limits,
            metrics,
        }
    }

    /// The bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The endpoints among a header's entries. Entries that are none are left out.
    ///
    /// # Errors
    /// The answer for the client, when the allowlist forbids one of them.
    pub fn targets(&self, entries: &[String]) -> Result<Vec<Target>, Box<Response<Body>>> {
        let mut targets = Vec::with_capacity(entries.len());
        for entry in entries {
            match Target::parse(entry) {
                Some(target) if self.allowlist.allows(&target) => targets.push(target),
                Some(target) => return Err(Box::new(self.forbid(&target))),
                None => tracing::warn!(entry, "a prefill entry is not `host:port`"),
            }
        }
        Ok(targets)
    }

    fn forbid(&self, target: &Target) -> Response<Body> {
        tracing::warn!(%target, "a request named a prefill endpoint that is not allowed");
        self.metrics.refused(Refusal::Target);
        failure::answer(
            StatusCode::FORBIDDEN,
            "Forbidden: prefill target not allowed by SSRF protection",
        )
    }

    /// Counts and logs a prompt that the decode engine computes itself.
    pub fn fell_back(&self, head: &Head, reason: Fallback) {
        let id = head.headers.get(contract::HEADER_REQUEST_ID);
        let request = id.and_then(|id| id.to_str().ok());
        tracing::warn!(
            reason = reason.word(),
            request,
            "no prefill elsewhere: the decode engine computes the prompt"
        );
        self.metrics.fell_back(reason);
    }

    /// Sends the prefill body to the first endpoint that gives an answer `read` understands.
    /// Failures of an endpoint lead to the next one; a 4xx answer is the client's.
    pub async fn prefill<T>(
        &self,
        targets: &[Target],
        head: &Head,
        body: &Bytes,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Prefill<T> {
        let mut last = Fallback::BadTarget;
        for target in targets.iter().take(MAX_TRIED) {
            match self.ask(target, head, body, &read).await {
                Attempt::Done(done) => return Prefill::Done(done),
                Attempt::ClientError(mut response) => {
                    route::strip_hop_by_hop(response.headers_mut());
                    let response = response.map(http_body_util::BodyExt::boxed);
                    return Prefill::Answer(Box::new(response));
                }
                Attempt::Forbidden => return Prefill::Answer(Box::new(self.forbid(target))),
                Attempt::Failed(reason, _) => {
                    tracing::warn!(%target, reason = reason.word(), "prefill failed");
                    last = reason;
                }
            }
        }
        self.fell_back(head, last);
        Prefill::Failed
    }

    /// One endpoint, asked again while it says that it may work later.
    async fn ask<T>(
        &self,
        target: &Target,
        head: &Head,
        body: &Bytes,
        read: &impl Fn(&[u8]) -> Option<T>,
    ) -> Attempt<T> {
        let mut retries = self.limits.prefill_max_retries;
        loop {
            let open = self.metrics.begin(Leg::Prefill);
            let begun = Instant::now();
            let once = self.ask_once(target, head, body, read);
            let attempt = tokio::time::timeout(self.limits.prefill_timeout, once).await;
            let attempt = attempt.unwrap_or(Attempt::Failed(Fallback::Timeout, false));
            open.end(match &attempt {
                Attempt::Done(_) => Outcome::Ok,
                Attempt::ClientError(_) => Outcome::ClientError,
                Attempt::Failed(Fallback::ServerError, _) => Outcome::ServerError,
                Attempt::Failed(Fallback::Timeout, _) => Outcome::Timeout,
                Attempt::Failed(Fallback::Unreachable, _) | Attempt::Forbidden => {
                    Outcome::Unreachable
                }
                Attempt::Failed(..) => Outcome::Broken,
            });
            match attempt {
                Attempt::Failed(_, true) if retries > 0 => retries -= 1,
                attempt => {
                    if matches!(attempt, Attempt::Done(_)) {
                        self.metrics.prefilled(begun.elapsed());
                    }
                    return attempt;
                }
            }
            tokio::time::sleep(self.limits.prefill_retry_backoff).await;
        }
    }

    async fn ask_once<T>(
        &self,
        target: &Target,
        head: &Head,
        body: &Bytes,
        read: &impl Fn(&[u8]) -> Option<T>,
    ) -> Attempt<T> {
        let address = match self.look_up(target).await {
            Ok(Some(address)) => address,
            Ok(None) => return Attempt::Forbidden,
            Err(error) => {
                tracing::warn!(%target, %error, "look up a prefill endpoint");
                return Attempt::Failed(Fallback::Unreachable, false);
            }
        };
        let mut request = head.request(body.clone());
        // The answer is read here, so it must not be compressed; the host is another one.
        request.headers_mut().remove(header::ACCEPT_ENCODING);
        request.headers_mut().remove(header::HOST);
        let response = match self.engine.at(address).send(request).await {
            Ok(response) => response,
            Err(error) => {
                tracing::warn!(%target, error = failure::chain(&error), "reach a prefill endpoint");
                let reason = if failure::is_unreachable(&error) {
                    Fallback::Unreachable
                } else {
                    Fallback::BrokenAnswer
                };
                return Attempt::Failed(reason, false);
            }
        };
        let status = response.status();
        if status.is_client_error() {
            return Attempt::ClientError(response);
        }
        if !status.is_success() {
            tracing::warn!(%target, %status, "a prefill endpoint answered with an error");
            return Attempt::Failed(Fallback::ServerError, matches!(status.as_u16(), 502..=504));
        }
        match body::read(response.into_body(), self.limits.max_body_bytes).await {
            Ok(bytes) => read(&bytes).map_or(
                Attempt::Failed(Fallback::BrokenAnswer, false),
                Attempt::Done,
            ),
            Err(ReadError::TooLarge { .. }) => Attempt::Failed(Fallback::AnswerTooLarge, false),
            Err(ReadError::Broken(_)) => Attempt::Failed(Fallback::BrokenAnswer, false),
        }
    }

    /// Where to connect; `None` when the name only has addresses that are refused. The address
    /// checked is the one connected to: a name cannot change in between.
    async fn look_up(&self, target: &Target) -> std::io::Result<Option<SocketAddr>> {
        let name = match &target.host {
            Host::Address(address) => return Ok(Some(SocketAddr::new(*address, target.port))),
            Host::Name(name) => name,
        };
        let mut found = tokio::net::lookup_host((name.as_str(), target.port)).await?;
        Ok(found.find(|found| self.allowlist.allows_address(found.ip(), found.port())))
    }

    /// Sends a body that was read to the engine and streams its answer. With `cached_tokens`,
    /// the prefill's count replaces the engine's own, for which the whole prompt came from
    /// elsewhere.
    pub async fn decode(
        &self,
        head: &Head,
        body: Bytes,
        cached_tokens: Option<(Api, u64)>,
    ) -> Response<Body> {
        let sent = self.send(Leg::Decode, head.request(body)).await;
        match (sent, cached_tokens) {
            (Ok(response), Some((api, count))) => {
                usage::rewrite(response, api, count, &self.metrics)
            }
            (Ok(response), None) => response.map(http_body_util::BodyExt::boxed),
            (Err(error), _) => failure::no_engine(&error),
        }
    }

    /// Streams a request to the engine unread, and its answer back.
    pub async fn pass(&self, request: Request<Body>) -> Response<Body> {
        match self.send(Leg::Passthrough, request).await {
            Ok(response) => response.map(http_body_util::BodyExt::boxed),
            Err(error) => failure::no_engine(&error),
        }
    }

    async fn send(
        &self,
        leg: Leg,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, ClientError> {
        let open = self.metrics.begin(leg);
        match self.engine.send(request).await {
            Ok(mut response) => {
                open.end(Outcome::of(response.status()));
                route::strip_hop_by_hop(response.headers_mut());
                Ok(response)
            }
            Err(error) => {
                open.end(if failure::is_unreachable(&error) {
                    Outcome::Unreachable
                } else {
                    Outcome::Broken
                });
                Err(error)
            }
        }
    }
}
