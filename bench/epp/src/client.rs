//! An HTTP client that keeps connections and says what came back. IO.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::prompts::Prompts;

/// How long a client waits for an answer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A client.
#[derive(Clone)]
pub struct Client(Pool<HttpConnector, Body>);

/// A request's body.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Trailers.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// A header as text; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap_or_default())
    }
}

impl Client {
    /// Speaks HTTP/1.1.
    pub fn http1() -> Self {
        Self::new(false)
    }

    /// Speaks HTTP/2, over one connection.
    pub fn http2() -> Self {
        Self::new(true)
    }

    fn new(http2: bool) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(
            Pool::builder(TokioExecutor::new())
                .http2_only(http2)
                .build(connector),
        )
    }

    /// A chat request.
    pub fn chat(to: SocketAddr, body: Bytes) -> Request<Body> {
        Request::post(format!("http://{to}/v1/chat/completions"))
            .header("content-type", "application/json")
            .body(Full::new(body).boxed_unsync())
            .expect("an address makes a URI")
    }

    /// Sends a request and reads the answer to its end.
    ///
    /// # Errors
    /// When the connection breaks or [`PATIENCE`] ends.
    pub async fn send(&self, request: Request<Body>) -> Result<Answer> {
        let whole = async {
            let response = self.0.request(request).await?;
            let (head, body) = response.into_parts();
            let body = body.collect().await?;
            anyhow::Ok(Answer {
                status: head.status,
                headers: head.headers,
                trailers: body.trailers().cloned(),
                body: body.to_bytes(),
            })
        };
        tokio::time::timeout(PATIENCE, whole)
            .await
            .context("no answer in time")?
    }

    /// Sends a request and leaves the answer's body open.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn open(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        Ok(self.0.request(request).await?)
    }

    /// The status of a small request.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn probe(&self, to: SocketAddr) -> Result<u16> {
        let body = Prompts::new(60).body(0);
        Ok(self.send(Self::chat(to, body)).await?.status.as_u16())
    }
}
