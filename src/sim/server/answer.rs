//! Tokens as they come -> the JSON or the server-sent events that OpenAI clients read. IO.

use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::request::{Api, Asked, Problem};
use super::{Sim, now_seconds};
use crate::openai;
use crate::sim::engine::{Finish, Finished};
use crate::sim::task::Update;

/// One answer on its way to a client.
pub(super) struct Answer {
    pub(super) sim: Arc<Sim>,
    pub(super) api: Api,
    pub(super) id: String,
    pub(super) model: String,
    pub(super) max_tokens: usize,
    pub(super) finish: Finish,
    pub(super) include_usage: bool,
    /// Break off after so many events.
    pub(super) disconnect: Option<usize>,
    pub(super) created: u64,
    pub(super) updates: mpsc::Receiver<Update>,
    tokens: usize,
    last: Option<u32>,
    events: usize,
    ended: bool,
}

impl Answer {
    pub(super) fn new(
        sim: Arc<Sim>,
        api: Api,
        id: String,
        asked: &Asked,
        updates: mpsc::Receiver<Update>,
        disconnect: Option<usize>,
    ) -> Self {
        Self {
            sim,
            api,
            id,
            model: asked.model.clone(),
            max_tokens: asked.submit.max_tokens,
            finish: asked.submit.finish,
            include_usage: asked.include_usage,
            disconnect,
            created: now_seconds(),
            updates,
            tokens: 0,
            last: None,
            events: 0,
            ended: false,
        }
    }

    // === in one piece ===

    pub(super) async fn whole(mut self) -> Result<Response, Problem> {
        let mut tokens = Vec::new();
        let finished = loop {
            match self.updates.recv().await {
                Some(Update::Token(token)) => tokens.push(token),
                Some(Update::Finished(finished)) => break finished,
                None => return Err(stopped()),
            }
        };
        if finished.finish == Finish::Error {
            return Err(not_loaded());
        }
        let text = self.sim.tokens.text(&tokens);
        let reason = finished.finish.as_str();
        let choice = match self.api {
            Api::Chat => json!({
                "index": 0, "message": {"role": "assistant", "content": text},
                "logprobs": null, "finish_reason": reason, "stop_reason": null,
            }),
            Api::Text => json!({
                "index": 0, "text": text,
                "logprobs": null, "finish_reason": reason, "stop_reason": null,
            }),
        };
        let object = match self.api {
            Api::Chat => "chat.completion",
            Api::Text => "text_completion",
        };
        let side_channel = self.sim.side_channel.as_ref();
        let body = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": [choice], "usage": usage(&finished),
            "kv_transfer_params": side_channel.and_then(|channel| channel.parameters(&finished)),
        });
        if self.disconnect.is_some() {
            return Ok(broken(&body.to_string()));
        }
        Ok(axum::Json(body).into_response())
    }

    // === as events ===

    pub(super) fn stream(self) -> Response {
        // The client's leaving drops the stream and with it the request.
        let stream = futures::stream::unfold(self, |mut answer| async move {
            let event = answer.next_event().await?;
            Some((event, answer))
        });
        let mut response = Response::new(Body::from_stream(stream));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream; charset=utf-8"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    async fn next_event(&mut self) -> Option<io::Result<Bytes>> {
        if self.ended {
            return None;
        }
        if self.disconnect.is_some_and(|after| self.events >= after) {
            self.ended = true;
            return Some(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        self.events += 1;
        let text = match self.updates.recv().await {
            Some(Update::Token(token)) => self.token_event(token),
            Some(Update::Finished(finished)) => {
                self.ended = true;
                self.last_events(&finished)
            }
            None => {
                self.ended = true;
                return Some(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        };
        Some(Ok(text.into()))
    }

    fn token_event(&mut self, token: u32) -> String {
        let text = self.sim.tokens.piece(self.last, token);
        self.last = Some(token);
        self.tokens += 1;
        let last = self.tokens == self.max_tokens;
        let reason = last.then(|| self.finish.as_str());
        let mut out = String::new();
        let choice = match self.api {
            Api::Chat => {
                if self.tokens == 1 {
                    let role = json!([{
                        "index": 0, "delta": {"role": "assistant", "content": ""},
                        "logprobs": null, "finish_reason": null,
                    }]);
                    out.push_str(&self.event(role, Value::Null));
                }
                json!([{
                    "index": 0, "delta": {"content": text},
                    "logprobs": null, "finish_reason": reason,
                }])
            }
            Api::Text => json!([{
                "index": 0, "text": text,
                "logprobs": null, "finish_reason": reason,
            }]),
        };
        out.push_str(&self.event(choice, Value::Null));
        out
    }

    fn last_events(&self, finished: &Finished) -> String {
        let mut out = String::new();
        if finished.finish == Finish::Error {
            let problem = not_loaded();
            let error = openai::error::body(problem.status.as_u16(), &problem.message);
            out.push_str(&format!("data: {error}\n\n"));
        } else if self.include_usage {
            out.push_str(&self.event(json!([]), usage(finished)));
        }
        out.push_str("data: [DONE]\n\n");
        out
    }

    fn event(&self, choices: Value, usage: Value) -> String {
        let object = match self.api {
            Api::Chat => "chat.completion.chunk",
            Api::Text => "text_completion",
        };
        let mut event = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": choices,
        });
        if self.include_usage {
            event["usage"] = usage;
        }
        format!("data: {event}\n\n")
    }
}

fn usage(finished: &Finished) -> Value {
    json!({
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.generated,
        "total_tokens": finished.prompt_tokens + finished.generated,
        "prompt_tokens_details": {"cached_tokens": finished.cached_tokens},
    })
}

/// The first half of a body, and then the connection closes.
fn broken(body: &str) -> Response {
    let half = Bytes::copy_from_slice(&body.as_bytes()[..body.len() / 2]);
    let parts = [Ok(half), Err(io::ErrorKind::ConnectionAborted.into())];
    let stream = futures::stream::iter(parts as [io::Result<Bytes>; 2]);
    let mut response = Response::new(Body::from_stream(stream));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

pub(super) fn stopped() -> Problem {
    Problem {
        status: StatusCode::SERVICE_UNAVAILABLE,
        message: "shutting down".to_owned(),
    }
}

fn not_loaded() -> Problem {
    Problem {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        message: "the KV cache of the prompt could not be loaded".to_owned(),
    }
}
