//! One endpoint -> its metrics page, read while it arrives. IO.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use http::{Request, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::metrics::Metrics;
use super::pace::Limits;
use super::scan::{Page, ScanError, Scanner};
use crate::scheduling::endpoint::EndpointId;
use crate::telemetry::error_chain::chain;

/// How long an idle connection is kept: longer than the wait between scrapes, shorter than
/// the keep-alive times of usual servers.
const IDLE: Duration = Duration::from_millis(4500);

/// Why a scrape said nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No whole answer in time.
    #[error("no whole answer within {0:?}")]
    Timeout(Duration),
    /// The server could not be reached or broke the connection.
    #[error("no connection: {0}")]
    Connect(String),
    /// An answer that is not 200.
    #[error("status {0}")]
    Status(StatusCode),
    /// More than a page may have.
    #[error("the page has more than {0} bytes")]
    TooLarge(usize),
    /// Neither Prometheus' text format nor OpenMetrics.
    #[error("the page is not text")]
    NotText,
    /// No gauge of a known engine.
    #[error("the page has no gauge of a known engine")]
    Empty,
}

impl Failure {
    /// The name in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Connect(_) => "connect",
            Self::Status(_) => "status",
            Self::TooLarge(_) => "too_large",
            Self::NotText => "not_text",
            Self::Empty => "empty",
        }
    }
}

/// Fetches pages over kept connections; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pool: legacy::Client<HttpConnector, Empty<Bytes>>,
    limits: Limits,
    metrics: Metrics,
}

impl Client {
    pub(super) fn new(limits: Limits, metrics: Metrics) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(limits.timeout));
        let pool = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(1)
            .build(connector);
        Self {
            pool,
            limits,
            metrics,
        }
    }

    /// Fetches and reads one page.
    pub(super) async fn scrape(&self, endpoint: EndpointId) -> Result<Page, Failure> {
        let limit = self.limits.timeout;
        tokio::time::timeout(limit, self.fetch(endpoint))
            .await
            .unwrap_or(Err(Failure::Timeout(limit)))
    }

    async fn fetch(&self, endpoint: EndpointId) -> Result<Page, Failure> {
        let uri = Uri::try_from(format!("http://{endpoint}/metrics"))
            .expect("an address and a fixed path make a URI");
        let request = Request::get(uri)
            .header(ACCEPT, "text/plain;version=0.0.4")
            .body(Empty::new())
            .expect("fixed headers make a request");
        let answer = self
            .pool
            .request(request)
            .await
            .map_err(|error| Failure::Connect(chain(&error)))?;
        if answer.status() != StatusCode::OK {
            return Err(Failure::Status(answer.status()));
        }
        if !is_text(answer.headers()) {
            return Err(Failure::NotText);
        }
        let most = self.limits.max_page_bytes;
        let mut body = answer.into_body();
        if body.size_hint().lower() > most as u64 {
            return Err(Failure::TooLarge(most));
        }
        let mut scanner = Scanner::new();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Failure::Connect(chain(&error)))?;
            if let Some(data) = frame.data_ref() {
                read += data.len();
                if read > most {
                    return Err(Failure::TooLarge(most));
                }
                scanner.feed(data);
            }
        }
        let long_lines = scanner.long_lines();
        if long_lines > 0 {
            self.metrics.long_lines(long_lines);
        }
        scanner.finish().map_err(|error| match error {
            ScanError::Empty => Failure::Empty,
            ScanError::NotText => Failure::NotText,
        })
    }
}

/// A page without a content type is looked at all the same.
fn is_text(headers: &HeaderMap) -> bool {
    if headers
        .get(CONTENT_ENCODING)
        .is_some_and(|encoding| encoding != "identity")
    {
        return false;
    }
    headers.get(CONTENT_TYPE).is_none_or(|kind| {
        let kind = kind.as_bytes().to_ascii_lowercase();
        kind.starts_with(b"text/plain") || kind.starts_with(b"application/openmetrics-text")
    })
}
