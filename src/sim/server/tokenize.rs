//! vLLM's `/tokenize` and `/detokenize`. CPU work over HTTP.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Sim;
use super::request::Problem;

#[derive(Deserialize)]
struct Tokenize<'a> {
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    prompt: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    messages: Option<&'a RawValue>,
    #[serde(default)]
    add_special_tokens: Option<bool>,
    #[serde(default)]
    return_token_strs: bool,
}

#[derive(Deserialize)]
struct Detokenize<'a> {
    #[serde(borrow, default)]
    model: Option<Cow<'a, str>>,
    tokens: Vec<u32>,
}

pub(super) async fn tokenize(State(sim): State<Arc<Sim>>, body: Bytes) -> Response {
    let work = sim.clone();
    let done = sim.work(body.len(), move || work.tokenized(&body)).await;
    sim.reply(done)
}

pub(super) async fn detokenize(State(sim): State<Arc<Sim>>, body: Bytes) -> Response {
    let work = sim.clone();
    let done = sim.work(body.len(), move || work.detokenized(&body)).await;
    sim.reply(done)
}

impl Sim {
    fn reply(&self, done: Result<Value, Problem>) -> Response {
        match done {
            Ok(body) => Json(body).into_response(),
            Err(problem) => self.refuse(&problem),
        }
    }

    fn tokenized(&self, body: &[u8]) -> Result<Value, Problem> {
        let request: Tokenize<'_> = serde_json::from_slice(body).map_err(Problem::bad)?;
        if let Some(model) = &request.model {
            self.served(model)?;
        }
        let tokens = match (&request.prompt, request.messages) {
            (_, Some(messages)) => self.tokens.chat(messages, body),
            (Some(prompt), None) if request.add_special_tokens == Some(false) => {
                self.tokens.plain(prompt)
            }
            (Some(prompt), None) => self.tokens.completion(prompt),
            (None, None) => Err("prompt or messages are required".to_owned()),
        };
        let tokens = tokens.map_err(Problem::bad)?;
        let texts = request.return_token_strs.then(|| {
            let text = |token: &u32| self.tokens.text(&[*token]);
            tokens.iter().map(text).collect::<Vec<_>>()
        });
        Ok(json!({
            "count": tokens.len(), "max_model_len": self.config.max_model_len,
            "tokens": tokens, "token_strs": texts,
        }))
    }

    fn detokenized(&self, body: &[u8]) -> Result<Value, Problem> {
        let request: Detokenize<'_> = serde_json::from_slice(body).map_err(Problem::bad)?;
        if let Some(model) = &request.model {
            self.served(model)?;
        }
        Ok(json!({"prompt": self.tokens.text(&request.tokens)}))
    }
}
