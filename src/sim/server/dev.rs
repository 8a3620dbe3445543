//! What an engine in development mode does for its operator, and what no client may reach. IO.
//!
//! Each answers as vLLM does, so that a test of what stands in front of it sees whether it was
//! reached; the state behind it is small.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;

use super::problem::Problem;
use super::{Sim, refused, request};
use crate::sim::python::Py;

/// The routes.
pub(super) fn router() -> Router<Arc<Sim>> {
    Router::new()
        .route("/sleep", post(sleep))
        .route("/wake_up", post(wake_up))
        .route("/is_sleeping", get(is_sleeping))
        .route(
            "/reset_prefix_cache",
            post(super::admin::reset_prefix_cache),
        )
        .route("/reset_mm_cache", post(done))
        .route("/reset_encoder_cache", post(done))
        .route("/collective_rpc", post(collective_rpc))
        .route("/server_info", get(server_info))
        .route("/start_profile", post(done))
        .route("/stop_profile", post(done))
        .route("/v1/load_lora_adapter", post(adapter))
        .route("/v1/unload_lora_adapter", post(adapter))
}

async fn done() -> StatusCode {
    StatusCode::OK
}

async fn sleep(
    State(sim): State<Arc<Sim>>,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    let level = query.iter().find(|(name, _)| name == "level");
    let level = level.map_or(Ok(1), |(_, level)| level.parse::<u8>());
    let Some(level) = level.ok().filter(|level| *level <= 2) else {
        return refused(&Problem::http(StatusCode::BAD_REQUEST));
    };
    sim.sleeping.store(true, Ordering::Relaxed);
    Json(json!({"status": "sleeping", "level": level})).into_response()
}

async fn wake_up(
    State(sim): State<Arc<Sim>>,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    sim.sleeping.store(false, Ordering::Relaxed);
    let tags = query.iter().filter(|(name, _)| name == "tags");
    let tags: Vec<&String> = tags.map(|(_, tag)| tag).collect();
    let tags = (!tags.is_empty()).then_some(tags);
    Json(json!({"status": "awake", "tags": tags})).into_response()
}

async fn is_sleeping(State(sim): State<Arc<Sim>>) -> Response {
    let sleeping = sim.sleeping.load(Ordering::Relaxed);
    Json(json!({"is_sleeping": sleeping})).into_response()
}

async fn collective_rpc(body: Bytes) -> Response {
    let body = request::body(&body).unwrap_or(Py::None);
    if body.get("method").is_none_or(Py::is_none) {
        let problem = Problem {
            message: "Missing 'method' in request body".to_owned(),
            ..Problem::http(StatusCode::BAD_REQUEST)
        };
        return refused(&problem);
    }
    Json(json!({"results": [null]})).into_response()
}

async fn server_info(State(sim): State<Arc<Sim>>) -> Response {
    let config = format!("model='{}'", sim.config.model);
    Json(json!({"vllm_config": config, "vllm_env": {}, "system_env": {}})).into_response()
}

/// Says yes; which adapters are served stays as the command line has it.
async fn adapter(body: Bytes) -> Response {
    let body = request::body(&body).unwrap_or(Py::None);
    match body.get("lora_name").and_then(Py::as_str) {
        Some(name) => {
            format!("Success: LoRA adapter '{name}' changed successfully.").into_response()
        }
        None => refused(&Problem::bad(
            "Both 'lora_name' and 'lora_path' must be provided.",
        )),
    }
}
