//! vLLM's `/tokenize` and `/detokenize`, and Anthropic's count. CPU work over HTTP.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::problem::Problem;
use super::request::{self, checked};
use super::{Sim, check_media_type};
use crate::openai::api::Api;
use crate::sim::python::lax;

pub(super) async fn tokenize(
    State(sim): State<Arc<Sim>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let work = sim.clone();
    let length = body.len();
    let done = match check_media_type(&headers) {
        Ok(()) => sim.work(length, move || work.tokenized(&body)).await,
        Err(problem) => Err(problem),
    };
    sim.reply(Api::Tokenize, done)
}

pub(super) async fn detokenize(
    State(sim): State<Arc<Sim>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let work = sim.clone();
    let length = body.len();
    let done = match check_media_type(&headers) {
        Ok(()) => sim.work(length, move || work.detokenized(&body)).await,
        Err(problem) => Err(problem),
    };
    sim.reply(Api::Tokenize, done)
}

/// Anthropic's way to ask how long a prompt is.
pub(super) async fn count_tokens(
    State(sim): State<Arc<Sim>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let work = sim.clone();
    let length = body.len();
    let done = match check_media_type(&headers) {
        Ok(()) => sim.work(length, move || work.count_tokens(&body)).await,
        Err(problem) => Err(problem),
    };
    sim.reply(Api::CountTokens, done)
}

impl Sim {
    /// The answer to work that is done.
    pub(super) fn reply(&self, api: Api, done: Result<Value, Problem>) -> Response {
        match done {
            Ok(body) => Json(body).into_response(),
            Err(problem) => self.refuse(api, &problem),
        }
    }

    fn tokenized(&self, body: &[u8]) -> Result<Value, Problem> {
        let body = request::body(body)?;
        let mut fields = request::fields(&body)?;
        let model = fields.optional("model", lax::text);
        let strings = fields.optional("return_token_strs", lax::bool) == Some(true);
        let chat = fields.raw("messages").is_some();
        let prompt = if chat {
            fields.required_list("messages", lax::dict);
            None
        } else {
            fields.required("prompt");
            Some(fields.plain("prompt", "", lax::text))
        };
        let special = fields.plain("add_special_tokens", true, lax::bool);
        checked(&fields)?;
        self.served(model)?;
        let tokens = match prompt {
            None => self.chat_tokens(&body)?,
            Some(prompt) if special => self.tokens.completion(prompt).map_err(Problem::bad)?,
            Some(prompt) => self.tokens.plain(prompt).map_err(Problem::bad)?,
        };
        let texts = strings.then(|| {
            let text = |token: &u32| self.tokens.text(&[*token]);
            tokens.iter().map(text).collect::<Vec<_>>()
        });
        Ok(json!({
            "count": tokens.len(), "max_model_len": self.config.max_model_len,
            "tokens": tokens, "token_strs": texts,
        }))
    }

    fn detokenized(&self, body: &[u8]) -> Result<Value, Problem> {
        let body = request::body(body)?;
        let mut fields = request::fields(&body)?;
        let model = fields.optional("model", lax::text);
        let numbers = fields.required_list("tokens", request::token);
        checked(&fields)?;
        self.served(model)?;
        let tokens = request::tokens(&numbers.unwrap_or_default())?;
        Ok(json!({"prompt": self.tokens.text(&tokens)}))
    }
}
