//! The APIs of models that do not generate: embeddings, pooling, classes, scores. CPU work
//! over HTTP.
//!
//! What they answer is made of the tokens alone, so that the same text always has the same
//! vector. They do not pass through the engine: nothing here tests its queue or cache.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::problem::Problem;
use super::request::{self, checked, completions};
use super::{Sim, check_media_type, now_seconds, request_id};
use crate::openai::api::Api;
use crate::sim::python::Py;
use crate::sim::python::lax::{self, Fields};

/// Numbers in a vector.
const DIMENSIONS: u64 = 64;
const CLASSES: u64 = 2;
/// Texts in a request; vLLM has no limit, a stand-in needs one.
const MAX_TEXTS: usize = 2048;

/// Every API of this file.
pub(super) async fn pool(
    State(sim): State<Arc<Sim>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let api = Api::of(uri.path()).unwrap_or(Api::Pooling);
    let work = sim.clone();
    let length = body.len();
    let done = match check_media_type(&headers) {
        Ok(()) => {
            let id = request_id(api, &headers, None);
            sim.work(length, move || work.pooled(api, &id, &body)).await
        }
        Err(problem) => Err(problem),
    };
    sim.reply(api, done)
}

/// A number from 0 to 1 that belongs to these tokens. A fraction of two: the same digits in
/// every program that writes it.
fn share(tokens: &[u32], seed: u64) -> f64 {
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|token| token.to_le_bytes())
        .collect();
    (xxh3_64_with_seed(&bytes, seed) >> 48) as f64 / 65536.0
}

fn vector(tokens: &[u32]) -> Vec<f64> {
    (0..DIMENSIONS)
        .map(|at| share(tokens, at) * 2.0 - 1.0)
        .collect()
}

impl Sim {
    fn pooled(&self, api: Api, id: &str, body: &[u8]) -> Result<Value, Problem> {
        let body = request::body(body)?;
        match api {
            Api::Score => self.scored(id, &body),
            Api::Rerank => self.reranked(id, &body),
            _ => self.embedded(api, id, &body),
        }
    }

    /// Embeddings, pooling and classes.
    fn embedded(&self, api: Api, id: &str, body: &Py) -> Result<Value, Problem> {
        let mut fields = request::fields(body)?;
        let model = fields.optional("model", lax::text);
        let prompts = read_input(&mut fields);
        let special = fields.plain("add_special_tokens", true, lax::bool);
        let format = encoding(&mut fields);
        let dimensions = fields.optional("dimensions", lax::int);
        checked(&fields)?;
        let (model, _) = self.served(model)?;
        if dimensions.is_some() && api == Api::Embeddings {
            let message = format!(
                "Model \"{model}\" does not support matryoshka representation, changing output dimensions will lead to poor results."
            );
            return Err(Problem::bad(message));
        }
        let lists = match &prompts {
            Some(prompts) => self.completion_tokens(Some(prompts), special)?,
            None => vec![self.chat_tokens(&without_generation_prompt(body))?],
        };
        self.check_texts(&lists)?;
        let data: Vec<Value> = lists
            .iter()
            .enumerate()
            .map(|(index, tokens)| match api {
                Api::Embeddings => json!({
                    "index": index, "object": "embedding", "embedding": written(tokens, format),
                }),
                Api::Classify => class(index, tokens),
                _ => json!({"index": index, "object": "pooling", "data": written(tokens, format)}),
            })
            .collect();
        Ok(list(id, &model, &data, count(&lists)))
    }

    /// How alike texts are, in pairs.
    fn scored(&self, id: &str, body: &Py) -> Result<Value, Problem> {
        let mut fields = request::fields(body)?;
        let model = fields.optional("model", lax::text);
        let names = [
            ("queries", "documents"),
            ("queries", "items"),
            ("data_1", "data_2"),
            ("text_1", "text_2"),
        ];
        let given = names
            .iter()
            .find(|(one, other)| fields.raw(one).is_some() && fields.raw(other).is_some());
        let (one, other) = given.copied().unwrap_or(names[3]);
        let (one, other) = (texts(&mut fields, one), texts(&mut fields, other));
        checked(&fields)?;
        let (model, _) = self.served(model)?;
        if one.len() != 1 && one.len() != other.len() {
            return Err(Problem::bad("Input lengths must be either 1:1, 1:N or N:N"));
        }
        let firsts = one.iter().cycle();
        let pairs: Vec<Vec<u32>> = firsts
            .zip(&other)
            .map(|(one, other)| self.pair(one, other))
            .collect::<Result<_, _>>()?;
        self.check_texts(&pairs)?;
        let entry = |(index, tokens): (usize, &Vec<u32>)| json!({"index": index, "object": "score", "score": share(tokens, 0)});
        let data: Vec<Value> = pairs.iter().enumerate().map(entry).collect();
        Ok(list(id, &model, &data, count(&pairs)))
    }

    /// Texts in the order of what they have to do with a query.
    fn reranked(&self, id: &str, body: &Py) -> Result<Value, Problem> {
        let mut fields = request::fields(body)?;
        let model = fields.optional("model", lax::text);
        let query = texts(&mut fields, "query");
        let documents = texts(&mut fields, "documents");
        let top = fields.plain("top_n", 0, request::token);
        checked(&fields)?;
        let (model, _) = self.served(model)?;
        let query = query.first().copied().unwrap_or_default();
        let pairs: Vec<Vec<u32>> = documents
            .iter()
            .map(|document| self.pair(query, document))
            .collect::<Result<_, _>>()?;
        self.check_texts(&pairs)?;
        let mut ranked: Vec<(usize, f64)> = pairs
            .iter()
            .map(|tokens| share(tokens, 0))
            .enumerate()
            .collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        let most = match usize::try_from(top) {
            Ok(0) | Err(_) => ranked.len(),
            Ok(top) => top.min(ranked.len()),
        };
        let results = ranked[..most].iter().map(|(index, score)| {
            let document = json!({"text": documents[*index], "multi_modal": null});
            json!({"index": index, "document": document, "relevance_score": score})
        });
        let tokens = count(&pairs);
        Ok(json!({
            "id": id, "model": model, "results": results.collect::<Vec<_>>(),
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }))
    }

    fn pair(&self, one: &str, other: &str) -> Result<Vec<u32>, Problem> {
        let mut tokens = self.tokens.completion(one).map_err(Problem::bad)?;
        tokens.extend(self.tokens.completion(other).map_err(Problem::bad)?);
        Ok(tokens)
    }

    fn check_texts(&self, lists: &[Vec<u32>]) -> Result<(), Problem> {
        if lists.is_empty() || lists.iter().any(Vec::is_empty) {
            return Err(Problem::bad("The prompt cannot be empty"));
        }
        if lists.len() > MAX_TEXTS {
            let message = format!(
                "at most {MAX_TEXTS} texts in a request, got {}",
                lists.len()
            );
            return Err(Problem::bad(message));
        }
        let most = self.config.max_model_len;
        match lists.iter().map(Vec::len).find(|length| *length > most) {
            None => Ok(()),
            Some(length) => Err(Problem::value(
                &format!(
                    "This model's maximum context length is {most} tokens. However, your prompt contains {length} input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
                ),
                "input_tokens",
                &length.to_string(),
            )),
        }
    }
}

fn count(lists: &[Vec<u32>]) -> usize {
    lists.iter().map(Vec::len).sum()
}

/// An answer with an entry for each text.
fn list(id: &str, model: &str, data: &[Value], tokens: usize) -> Value {
    json!({
        "id": id, "object": "list", "created": now_seconds(), "model": model,
        "data": data, "usage": usage(tokens),
    })
}

fn usage(tokens: usize) -> Value {
    json!({
        "prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0,
        "prompt_tokens_details": null,
    })
}

fn class(index: usize, tokens: &[u32]) -> Value {
    let first = share(tokens, 0);
    let label = if first >= 0.5 { "LABEL_0" } else { "LABEL_1" };
    json!({
        "index": index, "label": label, "probs": [first, 1.0 - first], "num_classes": CLASSES,
    })
}

/// How vectors are written.
#[derive(Clone, Copy)]
enum Format {
    Numbers,
    Base64,
}

fn encoding(fields: &mut Fields<'_>) -> Format {
    let read = |value, at: &str| {
        let word = lax::one_of(value, at, &["float", "base64", "bytes", "bytes_only"])?;
        // Raw bytes are not made here.
        Ok(match word {
            "base64" => Format::Base64,
            _ => Format::Numbers,
        })
    };
    fields.plain("encoding_format", Format::Numbers, read)
}

fn written(tokens: &[u32], format: Format) -> Value {
    let vector = vector(tokens);
    match format {
        Format::Numbers => json!(vector),
        Format::Base64 => {
            let bytes = vector
                .iter()
                .flat_map(|number| (*number as f32).to_le_bytes());
            json!(BASE64.encode(bytes.collect::<Vec<u8>>()))
        }
    }
}

/// `input` in its four forms; `None` where the request has `messages`.
fn read_input(fields: &mut Fields<'_>) -> Option<completions::Prompts> {
    if fields.raw("input").is_none() && fields.raw("messages").is_some() {
        fields.optional_list("messages", lax::dict);
        return None;
    }
    let input = fields.required("input")?;
    match completions::union(input, &fields.path("input")) {
        Ok(prompts) => Some(prompts),
        Err(faults) => {
            fields.faults.extend(faults);
            None
        }
    }
}

/// A text or a list of texts.
fn texts<'a>(fields: &mut Fields<'a>, name: &str) -> Vec<&'a str> {
    let Some(value) = fields.required(name) else {
        return Vec::new();
    };
    if let Some(text) = value.as_str() {
        return vec![text];
    }
    let path = fields.path(name);
    match lax::list(value, &path, lax::text) {
        Ok(texts) => texts,
        Err(faults) => {
            fields.faults.extend(lax::text(value, &path).err());
            fields.faults.extend(faults);
            Vec::new()
        }
    }
}

/// Models that do not generate see no start of an answer, unless it is asked for.
fn without_generation_prompt(body: &Py) -> Py {
    let mut body = body.clone();
    if let Py::Dict(entries) = &mut body
        && !entries
            .iter()
            .any(|(key, _)| key == "add_generation_prompt")
    {
        entries.push(("add_generation_prompt".to_owned(), Py::Bool(false)));
    }
    body
}
