//! The body of a completion request -> a request for the engine. CPU work only.

use std::borrow::Cow;

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Sim;
use crate::openai::request::Request;
use crate::sim::engine::{Chain, Finish, Lora, Refused, Submit};
use crate::sim::transfer;

/// Tokens generated where the request does not say.
const DEFAULT_TOKENS: usize = 16;

/// Chat or text completion.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Api {
    Chat,
    Text,
}

/// A request that can be handed to the engine.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) model: String,
    pub(super) submit: Submit,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
}

/// Why a request is refused, as the client will hear it.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) message: String,
}

/// The fields that only an engine reads.
#[derive(Debug, Default, Deserialize)]
struct EngineFields<'a> {
    #[serde(default)]
    n: Option<u64>,
    #[serde(borrow, default)]
    cache_salt: Option<Cow<'a, str>>,
    #[serde(default)]
    kv_transfer_params: Option<Value>,
}

/// `prompt` in its four forms.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

impl Problem {
    pub(super) fn bad(message: impl ToString) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            message: message.to_string(),
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::QueueFull(_) => StatusCode::TOO_MANY_REQUESTS,
            Refused::Empty | Refused::TooLong { .. } | Refused::NeverFits { .. } => {
                StatusCode::BAD_REQUEST
            }
        };
        Self {
            status,
            message: refused.to_string(),
        }
    }
}

impl Sim {
    /// Reads, tokenizes and hashes: some milliseconds for the longest prompts.
    pub(super) fn read(&self, api: Api, body: &[u8]) -> Result<Asked, Problem> {
        let request = Request::read(None, body, true);
        let fields: EngineFields<'_> = serde_json::from_slice(body).map_err(Problem::bad)?;
        let model = request
            .model()
            .ok_or_else(|| Problem::bad("model not found in request body"))?
            .into_owned();
        let lora = self.served(&model)?;
        if fields.n.is_some_and(|n| n != 1) {
            return Err(Problem::bad("n must be 1"));
        }
        if fields.cache_salt.as_deref() == Some("") {
            return Err(Problem::bad("cache_salt must be a non-empty string"));
        }
        let tokens = self.prompt_tokens(api, &request, body)?;
        let (max_tokens, finish) = self.limit(&request, tokens.len())?;
        let parameters = fields.kv_transfer_params.unwrap_or_default();
        if !self.connector && !parameters.is_null() {
            self.metrics().own.ignored_transfers += 1;
        }
        let submit = Submit {
            answer: self.tokens.answer(&tokens, self.config.echo),
            chain: Chain::new(
                self.hashing,
                tokens,
                lora,
                fields.cache_salt.map(Cow::into_owned),
            ),
            max_tokens,
            finish,
            hold: parameters["do_remote_decode"] == true,
            remote: transfer::remote(&parameters),
        };
        Ok(Asked {
            model,
            submit,
            stream: request.streams(),
            include_usage: request.streams_usage(),
        })
    }

    /// The adapter behind a model's name; the model itself has none.
    pub(super) fn served(&self, model: &str) -> Result<Option<Lora>, Problem> {
        if self.config.served_names.iter().any(|name| name == model) {
            return Ok(None);
        }
        let lora = self.config.loras.iter().find(|lora| lora.name == model);
        lora.cloned().map(Some).ok_or_else(|| Problem {
            status: StatusCode::NOT_FOUND,
            message: format!("The model `{model}` does not exist."),
        })
    }

    fn prompt_tokens(
        &self,
        api: Api,
        request: &Request<'_>,
        body: &[u8],
    ) -> Result<Vec<u32>, Problem> {
        match api {
            Api::Chat => {
                let messages = request
                    .messages()
                    .ok_or_else(|| Problem::bad("messages field is required"))?;
                let messages = serde_json::from_slice(messages).map_err(Problem::bad)?;
                self.tokens.chat(messages, body).map_err(Problem::bad)
            }
            Api::Text => {
                let prompt = request
                    .raw_prompt()
                    .ok_or_else(|| Problem::bad("prompt field is required"))?;
                let prompt = serde_json::from_slice(prompt).map_err(Problem::bad)?;
                self.text_tokens(prompt)
            }
        }
    }

    /// The tokens of a completion's prompt.
    pub(super) fn text_tokens(&self, prompt: &RawValue) -> Result<Vec<u32>, Problem> {
        let wrong = |_| Problem::bad("prompt must be a text or a list of token ids");
        let encode = |text: &str| self.tokens.completion(text).map_err(Problem::bad);
        match serde_json::from_str(prompt.get()).map_err(wrong)? {
            Prompt::Text(text) => encode(&text),
            Prompt::Tokens(tokens) => Ok(tokens),
            Prompt::Texts(texts) if texts.len() == 1 => encode(&texts[0]),
            Prompt::TokenLists(mut lists) if lists.len() == 1 => Ok(lists.remove(0)),
            Prompt::Texts(_) | Prompt::TokenLists(_) => {
                Err(Problem::bad("a request can have one prompt"))
            }
        }
    }

    /// How many tokens to generate, and how the answer ends.
    fn limit(&self, request: &Request<'_>, prompt: usize) -> Result<(usize, Finish), Problem> {
        let asked = request
            .max_tokens()
            .map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        if asked == Some(0) {
            return Err(Problem::bad("max_tokens must be at least 1, got 0."));
        }
        let room = self.config.max_model_len.saturating_sub(prompt).max(1);
        if self.config.echo && asked.is_none_or(|asked| asked >= prompt) {
            return Ok((prompt.clamp(1, room), Finish::Stop));
        }
        Ok(match asked {
            Some(asked) => (asked, Finish::Length),
            None => (DEFAULT_TOKENS.min(room), Finish::Stop),
        })
    }
}
