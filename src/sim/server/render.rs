//! `…/render`: a chat or completion -> the tokens that the engine would be given. CPU work over
//! HTTP. What comes out can be sent to `/inference/v1/generate`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde_json::{Value, json};

use super::problem::Problem;
use super::request::{self, Ask, Prompt};
use super::{Sim, check_media_type, request_id};
use crate::openai::api::Api;

pub(super) async fn render(
    State(sim): State<Arc<Sim>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let api = Api::of(uri.path()).unwrap_or(Api::RenderChat);
    let work = sim.clone();
    let length = body.len();
    let done = match check_media_type(&headers) {
        Ok(()) => {
            let run = move || work.rendered(api, &headers, &body);
            sim.work(length, run).await
        }
        Err(problem) => Err(problem),
    };
    sim.reply(api, done)
}

impl Sim {
    fn rendered(&self, api: Api, headers: &HeaderMap, body: &[u8]) -> Result<Value, Problem> {
        let body = request::body(body)?;
        if api == Api::RenderChat {
            let ask = self.read_chat(&body)?;
            let id = request_id(Api::Chat, headers, ask.id.as_deref());
            return Ok(generation(&ask, &ask.prompts[0], &id));
        }
        let ask = self.read_completion(&body)?;
        let id = request_id(Api::Completions, headers, ask.id.as_deref());
        let prompts = ask.prompts.iter();
        Ok(prompts
            .map(|prompt| generation(&ask, prompt, &id))
            .collect())
    }
}

fn generation(ask: &Ask, prompt: &Prompt, id: &str) -> Value {
    let sampling = &ask.sampling;
    json!({
        "request_id": id, "token_ids": prompt.tokens, "features": null, "model": ask.model,
        "sampling_params": {
            "n": sampling.n, "max_tokens": prompt.max_tokens, "min_tokens": sampling.min_tokens,
            "seed": sampling.seed, "stop": sampling.stop, "ignore_eos": sampling.ignore_eos,
            "logprobs": sampling.logprobs, "prompt_logprobs": sampling.prompt_logprobs,
        },
        "stream": ask.stream, "cache_salt": sampling.cache_salt, "priority": 0,
        "kv_transfer_params": sampling.transfer,
    })
}
