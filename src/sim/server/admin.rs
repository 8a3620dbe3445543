//! What operators and tests ask: metrics, health, the cache, faults. IO.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::problem::Problem;
use super::{Sim, now_seconds, refused};
use crate::sim::faults::{MetricsPage, Settings};

const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Chunks of 64 KiB in a huge page.
const HUGE_CHUNKS: usize = 1024;
/// With more, a step would not end before the test does, whatever is asked afterwards.
const MAX_SLOW_FACTOR: f64 = 1e6;

pub(super) async fn metrics(State(sim): State<Arc<Sim>>) -> Response {
    let page = |body: Body| ([(header::CONTENT_TYPE, METRICS_TYPE)], body).into_response();
    let fault = sim.faults().metrics();
    match fault {
        None => page(sim.metrics().text(now_seconds() as f64).into()),
        Some(MetricsPage::Empty) => page(Body::empty()),
        Some(MetricsPage::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Some(MetricsPage::Binary) => page([0xff, 0x00, 0xfe, b'\n'].repeat(256).into()),
        Some(MetricsPage::Huge) => {
            let line = "sim:huge{number=\"0123456789\"} 1.0\n";
            let chunk = Bytes::from(line.repeat((64 << 10) / line.len()));
            let chunks = std::iter::repeat_n(chunk, HUGE_CHUNKS).map(Ok::<_, std::io::Error>);
            page(Body::from_stream(futures::stream::iter(chunks)))
        }
        Some(MetricsPage::Hang) => {
            sim.shutdown.requested().await;
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}

pub(super) async fn health(State(sim): State<Arc<Sim>>) -> StatusCode {
    let status = sim.faults().health_status();
    status
        .and_then(|status| StatusCode::from_u16(status).ok())
        .unwrap_or(StatusCode::OK)
}

pub(super) async fn reset_prefix_cache(State(sim): State<Arc<Sim>>) -> Response {
    match sim.handle.reset_prefix_cache().await {
        Ok(reset) => Json(json!({ "success": reset })).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

pub(super) async fn show_faults(State(sim): State<Arc<Sim>>) -> Response {
    let shown = sim.faults().shown();
    Json(shown).into_response()
}

pub(super) async fn set_faults(State(sim): State<Arc<Sim>>, body: Bytes) -> Response {
    let mut settings: Settings = match serde_json::from_slice(&body) {
        Ok(settings) => settings,
        Err(error) => return refused(&Problem::bad(error)),
    };
    if let Some(events) = settings.events.take() {
        let Some(publisher) = &sim.publisher else {
            return refused(&Problem::bad("no KV events are published here"));
        };
        if let Some(stopped) = events.stop {
            publisher.stop(stopped);
        }
        if let Some(batches) = events.drop_next {
            publisher.drop_next(batches);
        }
        if events.reset_sequence {
            publisher.reset_sequence();
        }
        for oddity in events.publish {
            publisher.publish_odd(oddity);
        }
    }
    if settings
        .slow_factor
        .is_some_and(|factor| !(factor > 0.0 && factor <= MAX_SLOW_FACTOR))
    {
        let message = format!("slow_factor must be above 0 and at most {MAX_SLOW_FACTOR}");
        return (StatusCode::BAD_REQUEST, message).into_response();
    }
    if let Some(factor) = settings.slow_factor
        && sim.handle.slow_down(factor).await.is_err()
    {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    sim.faults().set(settings);
    show_faults(State(sim)).await
}

pub(super) async fn clear_faults(State(sim): State<Arc<Sim>>) -> Response {
    sim.faults().clear();
    if let Some(publisher) = &sim.publisher {
        publisher.clear_faults();
    }
    if sim.handle.slow_down(1.0).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    show_faults(State(sim)).await
}
