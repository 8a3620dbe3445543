//! A request -> an engine's answer, over pooled connections. IO.

use std::net::SocketAddr;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::body::Body;

/// How long an idle connection is kept; below the keep-alive times of usual servers.
const IDLE: Duration = Duration::from_secs(4);
/// An engine that is there answers a connect at once.
const CONNECT: Duration = Duration::from_secs(5);

/// One engine; cheap to clone. Engines made from one another share the pool.
#[derive(Clone, Debug)]
pub struct Upstream {
    client: Client<HttpConnector, Body>,
    authority: Authority,
}

impl Upstream {
    /// The engine at this address, with at most so many idle connections kept to each host.
    pub fn new(address: SocketAddr, max_idle_per_host: usize) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT));
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(max_idle_per_host)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self {
            client,
            authority: authority(address),
        }
    }

    /// Another engine.
    pub fn at(&self, address: SocketAddr) -> Self {
        Self {
            client: self.client.clone(),
            authority: authority(address),
        }
    }

    /// Sends the request; the body streams while the answer is awaited, and the answer's
    /// body streams after. Dropping the call or the answer closes the engine's connection,
    /// which is how an engine learns that its client is gone.
    ///
    /// # Errors
    /// When the engine cannot be reached or breaks the connection.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, Error> {
        let path = request.uri().path_and_query().cloned();
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path make a URI");
        *request.version_mut() = Version::HTTP_11;
        self.client.request(request).await
    }
}

fn authority(address: SocketAddr) -> Authority {
    address
        .to_string()
        .parse()
        .expect("a socket address is always a valid authority")
}
