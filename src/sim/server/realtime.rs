//! `GET /v1/realtime`: a WebSocket that answers every text with one event, so that what stands
//! in front of it can be tested. IO.
//!
//! Only what a test of a proxy needs of RFC 6455: the handshake, whole messages in one frame,
//! pings and the close.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::problem::Problem;
use super::{Sim, now_seconds, refused};
use crate::sim::python::{Py, loads};

/// Every WebSocket server adds this to the client's key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The longest message.
const MAX_MESSAGE: u64 = 1 << 20;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

pub(super) async fn realtime(State(sim): State<Arc<Sim>>, mut request: Request) -> Response {
    let Some(accept) = accept(request.headers()) else {
        // What vLLM answers a plain request with.
        return refused(&Problem::http(StatusCode::NOT_FOUND));
    };
    let upgrade = hyper::upgrade::on(&mut request);
    // Ends with the connection or the program.
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = TokioIo::new(upgraded);
        tokio::select! {
            () = sim.shutdown.requested() => {}
            ended = serve(&sim, &mut socket) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a realtime connection broke");
                }
            }
        }
    });
    let mut response = (StatusCode::SWITCHING_PROTOCOLS, Body::empty()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// The answer to a handshake; `None` where the request is none.
fn accept(headers: &HeaderMap) -> Option<HeaderValue> {
    let text = |name| headers.get(name)?.to_str().ok();
    let websocket = text(header::UPGRADE)?.eq_ignore_ascii_case("websocket");
    let key = text(header::SEC_WEBSOCKET_KEY).filter(|_| websocket)?;
    let digest = Sha1::digest(format!("{key}{GUID}"));
    HeaderValue::from_str(&BASE64.encode(digest)).ok()
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(sim: &Sim, socket: &mut S) -> io::Result<()> {
    let id = format!("sess-{}", uuid::Uuid::new_v4().simple());
    let created = json!({"type": "session.created", "id": id, "created": now_seconds()});
    send(socket, TEXT, created.to_string().as_bytes()).await?;
    loop {
        let (kind, payload) = receive(socket).await?;
        match kind {
            TEXT => {
                let event = answer(sim, &payload);
                send(socket, TEXT, event.to_string().as_bytes()).await?;
            }
            PING => send(socket, PONG, &payload).await?,
            CLOSE => return send(socket, CLOSE, &payload).await,
            _ => {}
        }
    }
}

/// vLLM's events; a session that is set is repeated, so that every message has an answer.
fn answer(sim: &Sim, message: &[u8]) -> Value {
    let error = |code: &str, error: String| json!({"type": "error", "error": error, "code": code});
    let Ok(event) = loads(message) else {
        return error("invalid_json", "Invalid JSON".to_owned());
    };
    let kind = event.get("type").map_or("None".to_owned(), Py::text);
    match kind.as_str() {
        "session.update" => match event.get("model").and_then(Py::as_str) {
            None => error("invalid_event", "Missing required field: model".to_owned()),
            Some(model) => match sim.served(Some(model)) {
                Ok((model, _)) => json!({"type": "session.updated", "model": model}),
                Err(problem) => error("model_not_found", problem.message),
            },
        },
        "input_audio_buffer.commit" => {
            let usage = json!({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2});
            json!({"type": "transcription.done", "text": "nothing was said", "usage": usage})
        }
        _ => error("unknown_event", format!("Unknown event type: {kind}")),
    }
}

/// One frame: its kind and what it carries.
async fn receive<S: AsyncRead + Unpin>(socket: &mut S) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    socket.read_exact(&mut head).await?;
    let length = match head[1] & 0x7f {
        126 => u64::from(socket.read_u16().await?),
        127 => socket.read_u64().await?,
        short => u64::from(short),
    };
    // Clients mask what they send.
    if head[1] & 0x80 == 0 || length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut mask = [0; 4];
    socket.read_exact(&mut mask).await?;
    let mut payload = vec![0; length as usize];
    socket.read_exact(&mut payload).await?;
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Ok((head[0] & 0x0f, payload))
}

async fn send<S: AsyncWrite + Unpin>(socket: &mut S, kind: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![0x80 | kind];
    match u16::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.push(length as u8),
        Ok(length) => {
            frame.push(126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    socket.write_all(&frame).await?;
    socket.flush().await
}
