//! Metrics registry and readiness -> `/metrics`, `/healthz`, `/readyz` over HTTP. IO.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::shutdown::Shutdown;

/// Whether the program can do its work now; shared by whoever knows and `/readyz`.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Says whether the program is ready.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    /// True while the program is ready.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// `/metrics`: the registry in Prometheus' OpenMetrics text format.
pub fn metrics_router(registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(registry)
}

/// `/healthz` (the process answers) and `/readyz` (it can do its work).
pub fn health_router(readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .with_state(readiness)
}

/// Serves `router` until shutdown.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(address: SocketAddr, router: Router, shutdown: Shutdown) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("bind admin address {address}"))?;
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.into_requested())
        .await?;
    Ok(())
}

/// The address to listen on: `:8081`, `8081`, `0.0.0.0:8081` and `[::]:8081` all work,
/// as the flags of Kubernetes programs do; `host` replaces an absent host part.
/// `0` and the empty string mean "do not listen".
///
/// # Errors
/// When the text is none of these.
pub fn parse_address(text: &str, host: std::net::IpAddr) -> anyhow::Result<Option<SocketAddr>> {
    let text = text.trim();
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok(Some(SocketAddr::new(host, port)));
    }
    let address: SocketAddr = text
        .parse()
        .with_context(|| format!("{text:?} is not an address like `:8081` or `0.0.0.0:8081`"))?;
    Ok(Some(address))
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => (
            StatusCode::OK,
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            error.to_string(),
        ),
    }
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, &'static str) {
    if readiness.is_ready() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_every_usual_form() {
        let any = std::net::IpAddr::from([0, 0, 0, 0]);
        let parse = |text| parse_address(text, any).unwrap().map(|a| a.to_string());
        assert_eq!(parse(":8081").as_deref(), Some("0.0.0.0:8081"));
        assert_eq!(parse("8081").as_deref(), Some("0.0.0.0:8081"));
        assert_eq!(parse("127.0.0.1:1").as_deref(), Some("127.0.0.1:1"));
        assert_eq!(parse("[::1]:1").as_deref(), Some("[::1]:1"));
        assert_eq!(parse("0"), None);
        assert!(parse_address("host:", any).is_err());
    }
}
