//! Requests -> answers with their times, over pooled connections. IO. Bodies and waits are
//! bounded: a test must end even where a gateway does not.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};

use super::answer::{self, Stream, Usage};
use crate::telemetry::error_chain::chain;

/// The largest answer that is read.
const BODY_LIMIT: usize = 32 << 20;
const CONNECT: Duration = Duration::from_secs(10);
/// Below the keep-alive times of usual servers, and above the usual pause.
const IDLE: Duration = Duration::from_secs(4);

/// What can go wrong with one request.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The certificates of this machine cannot be read.
    #[error("read this machine's root certificates")]
    Roots(#[source] std::io::Error),
    /// A URL or header that HTTP does not allow.
    #[error("{0:?} is not allowed in a request")]
    Request(String),
    /// No answer.
    #[error("no answer: {0}")]
    Send(String),
    /// The answer broke off.
    #[error("the answer broke off: {0}")]
    Body(String),
    /// The answer is too large.
    #[error("the answer is larger than {BODY_LIMIT} bytes")]
    TooLarge,
    /// The time is up.
    #[error("no whole answer within {0:?}")]
    Timeout(Duration),
}

/// One answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) usage: Usage,
    /// From the sending to the first byte of the answer; of a stream, to its first token.
    pub(super) first: Duration,
    /// From the sending to the last byte.
    pub(super) total: Duration,
}

/// The client; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Http {
    /// A client. The machine's root certificates are read only where they are needed.
    pub(super) fn new(tls: bool) -> Result<Self, Error> {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.enforce_http(false);
        let builder = HttpsConnectorBuilder::new();
        let builder = if tls {
            builder.with_native_roots().map_err(Error::Roots)?
        } else {
            let config = ClientConfig::builder()
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            builder.with_tls_config(config)
        };
        let connector = builder.https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self { client })
    }

    /// `GET url`.
    pub(super) async fn get(
        &self,
        url: &str,
        host: Option<&str>,
        timeout: Duration,
    ) -> Result<Answer, Error> {
        let request = request(Method::GET, url, host, &[], Bytes::new())?;
        self.send(request, timeout).await
    }

    /// `POST url` with a JSON body.
    pub(super) async fn post(
        &self,
        url: &str,
        host: Option<&str>,
        headers: &[(&'static str, String)],
        body: &serde_json::Value,
        timeout: Duration,
    ) -> Result<Answer, Error> {
        let body = Bytes::from(body.to_string());
        let mut request = request(Method::POST, url, host, headers, body)?;
        request
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(request, timeout).await
    }

    async fn send(&self, request: Request<Full<Bytes>>, limit: Duration) -> Result<Answer, Error> {
        tokio::time::timeout(limit, self.exchange(request))
            .await
            .map_err(|_| Error::Timeout(limit))?
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, Error> {
        let started = Instant::now();
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| Error::Send(chain(&error)))?;
        let mut first = started.elapsed();
        let (head, mut incoming) = response.into_parts();
        let streamed = head
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let mut stream = Stream::default();
        let mut body = Vec::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|error| Error::Body(chain(&error)))?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            if body.len() + data.len() > BODY_LIMIT {
                return Err(Error::TooLarge);
            }
            if streamed && stream.push(data) {
                first = started.elapsed();
            }
            body.extend_from_slice(data);
        }
        let usage = if streamed {
            stream.usage()
        } else {
            answer::usage(&body)
        };
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: body.into(),
            usage,
            first,
            total: started.elapsed(),
        })
    }
}

fn request(
    method: Method,
    url: &str,
    host: Option<&str>,
    headers: &[(&'static str, String)],
    body: Bytes,
) -> Result<Request<Full<Bytes>>, Error> {
    let refuse = |text: &str| Error::Request(text.to_owned());
    let uri: Uri = url.parse().map_err(|_| refuse(url))?;
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).map_err(|_| refuse(name))?;
        request
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    }
    if let Some(host) = host {
        let value = HeaderValue::from_str(host).map_err(|_| refuse(host))?;
        request.headers_mut().insert(HOST, value);
    }
    Ok(request)
}
