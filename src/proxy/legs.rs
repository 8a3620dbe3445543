//! The requests a connector makes: prefill legs (in `prefill`), tried endpoint by endpoint, and
//! the decode leg to the engine in this pod. IO; knows nothing of what connectors write into
//! bodies.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper_util::client::legacy::Error as ClientError;

use super::allowlist::Allowlist;
use super::body::{Body, Bounds, Edited};
use super::failure;
use super::key::Key;
use super::metrics::Metrics;
use super::reason::{Fallback, Leg, Outcome, Refusal};
use super::route;
use super::service::Service;
use super::upstream::Upstream;
use super::usage;
use crate::contract;
use crate::openai::api::Api;
use crate::telemetry::budget::Budget;

pub mod prefill;

/// Bounds of the legs.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most bytes of a request body that is read, and of a prefill's answer.
    pub max_body_bytes: usize,
    /// Longest time from a request's head to the end of a body that is read.
    pub body_timeout: Duration,
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
            max_body_bytes: 16 << 20,
            body_timeout: Duration::from_mins(1),
            prefill_timeout: Duration::from_mins(1),
            prefill_max_retries: 0,
            prefill_retry_backoff: Duration::from_millis(200),
        }
    }
}

/// Who may compute a prompt, and what it takes to ask.
#[derive(Clone, Debug)]
pub struct Prefillers {
    /// Where prefill legs may go.
    pub allowlist: Arc<Allowlist>,
    /// The Service whose addresses are on the list, where one is given.
    pub service: Option<Service>,
    /// The operator's key for them.
    pub key: Key,
}

/// The head of a client's request, as it is sent on.
#[derive(Clone, Debug)]
pub struct Head {
    /// The API that its path stands for.
    pub api: Option<Api>,
    /// Path and query.
    pub uri: Uri,
    /// Without headers of the connection, of routing and of the body's length.
    pub headers: HeaderMap,
}

impl Head {
    /// The head of a POST whose body was read.
    pub fn new(api: Option<Api>, uri: Uri, mut headers: HeaderMap) -> Self {
        // The body may change its length, and nobody waits for a `100 Continue` any more.
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::EXPECT);
        Self { api, uri, headers }
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

    fn request(&self, headers: HeaderMap, body: Edited) -> Request<Body> {
        let mut request = Request::new(Body::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        request
    }
}

/// The sidecar's outgoing side; cheap to clone.
#[derive(Clone, Debug)]
pub struct Legs {
    engine: Upstream,
    prefillers: Prefillers,
    limits: Limits,
    budget: Budget,
    metrics: Metrics,
}

impl Legs {
    /// Legs to this engine and to these prefill endpoints; bodies count in this budget.
    pub fn new(
        engine: Upstream,
        prefillers: Prefillers,
        limits: Limits,
        budget: Budget,
        metrics: Metrics,
    ) -> Self {
        Self {
            engine,
            prefillers,
            limits,
            budget,
            metrics,
        }
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The bounds of a request's body.
    pub fn body_bounds(&self) -> Bounds {
        Bounds {
            limit: self.limits.max_body_bytes,
            timeout: self.limits.body_timeout,
            budget: self.budget.clone(),
        }
    }

    /// The answer to a request that is refused, which is counted.
    pub fn refuse(&self, api: Option<Api>, reason: Refusal, message: &str) -> Response<Body> {
        self.metrics.refused(reason);
        failure::refusal(api, reason, message)
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

    /// Sends a body that was read to the engine, once, and streams its answer. With
    /// `cached_tokens`, the prefill's count replaces the engine's own, for which the whole
    /// prompt came from elsewhere.
    pub async fn decode(
        &self,
        head: &Head,
        body: Edited,
        cached_tokens: Option<u64>,
    ) -> Response<Body> {
        let request = head.request(head.headers.clone(), body);
        match self.send(Leg::Decode, head.api, request).await {
            Ok(response) => match head.api.zip(cached_tokens) {
                Some((api, count)) => {
                    usage::rewrite(response, api, count, &self.budget, &self.metrics)
                }
                None => response.map(http_body_util::BodyExt::boxed),
            },
            Err(answer) => answer,
        }
    }

    /// Streams a request to the engine unread, and its answer back.
    pub async fn pass(&self, request: Request<Body>) -> Response<Body> {
        match self.send(Leg::Passthrough, None, request).await {
            Ok(response) => response.map(http_body_util::BodyExt::boxed),
            Err(answer) => answer,
        }
    }

    /// Sends a request for an upgrade as it is; the answer keeps the headers of its connection.
    ///
    /// # Errors
    /// The answer for the client, when the engine gave none.
    pub async fn upgrade(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Response<Body>> {
        let sent = self.counted(Leg::Upgrade, request).await;
        sent.map_err(|error| failure::no_engine(None, &error))
    }

    /// An error is the answer for the client.
    async fn send(
        &self,
        leg: Leg,
        api: Option<Api>,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Response<Body>> {
        let sent = self.counted(leg, request).await;
        let mut response = sent.map_err(|error| failure::no_engine(api, &error))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let message = "the model server changed the protocol, which nobody asked for";
            return Err(failure::answer(api, StatusCode::BAD_GATEWAY, message));
        }
        route::strip_hop_by_hop(response.headers_mut());
        Ok(response)
    }

    async fn counted(
        &self,
        leg: Leg,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, ClientError> {
        let open = self.metrics.begin(leg);
        let sent = self.engine.send(request).await;
        open.end(match &sent {
            Ok(response) => Outcome::of(response.status()),
            Err(error) if failure::is_unreachable(error) => Outcome::Unreachable,
            Err(_) => Outcome::Broken,
        });
        sent
    }
}
