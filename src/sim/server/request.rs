//! The body of a request -> what it asks of the engine, by vLLM's rules and not by those of
//! the programs under test. CPU work only.
//!
//! ```text
//! bytes -> python value -> checks of the whole -> fields -> model -> prompt -> sampling
//! ```

pub(super) mod chat;
pub(super) mod completions;
mod generate;
mod messages;
mod responses;
pub(super) mod sampling;
pub(super) mod tools;

use axum::http::StatusCode;
use serde_json::Value;

pub(super) use self::sampling::Sampling;
pub(super) use self::tools::Call;
use super::Sim;
use super::problem::Problem;
use crate::sim::engine::{Chain, Finish, Lora, Submit};
use crate::sim::python::lax::{self, Fault, Fields};
use crate::sim::python::{Py, loads};
use crate::sim::transfer;

/// Tokens generated where the request does not say: a model says when it is done, this one
/// has nothing to say.
const DEFAULT_TOKENS: usize = 16;

/// One prompt of a request.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    pub(super) tokens: Vec<u32>,
    /// As the client sent it, where it was a text.
    pub(super) text: Option<String>,
    pub(super) max_tokens: usize,
    pub(super) finish: Finish,
}

/// A request that can be handed to the engine.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    /// As answers name it.
    pub(super) model: String,
    pub(super) lora: Option<Lora>,
    /// The client's own name for the request.
    pub(super) id: Option<String>,
    pub(super) prompts: Vec<Prompt>,
    pub(super) sampling: Sampling,
    pub(super) stream: bool,
    pub(super) usage: UsageWanted,
    /// The answer begins with the prompt.
    pub(super) echo: bool,
    /// No token is generated: `echo` with `max_tokens` 0.
    pub(super) only_echo: bool,
    pub(super) return_token_ids: bool,
    /// The tool that the answer calls.
    pub(super) call: Option<Call>,
    /// What else the answer repeats of the request.
    pub(super) view: Value,
}

/// `stream_options`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct UsageWanted {
    /// At the end of the stream.
    pub(super) last: bool,
    /// With every event.
    pub(super) each: bool,
}

/// A body as Python sees it; empty is an error of its own.
pub(super) fn body(bytes: &[u8]) -> Result<Py, Problem> {
    if bytes.is_empty() {
        return Err(Fault::new("missing", "body", "Field required", &Py::None).into());
    }
    Ok(loads(bytes)?)
}

/// The fields of a body; anything but an object is refused.
pub(super) fn fields(body: &Py) -> Result<Fields<'_>, Problem> {
    Ok(Fields::new(body, "body")?)
}

/// Ends the reading of fields.
pub(super) fn checked(fields: &Fields<'_>) -> Result<(), Problem> {
    if fields.faults.is_empty() {
        Ok(())
    } else {
        Err(Problem::faults(&fields.faults))
    }
}

/// `stream` and `stream_options`.
pub(super) fn streaming(fields: &mut Fields<'_>) -> (bool, UsageWanted) {
    let stream = fields.optional("stream", lax::bool) == Some(true);
    let options = fields
        .raw("stream_options")
        .filter(|value| !value.is_none());
    let options = options.map(|value| Fields::new(value, &fields.path("stream_options")));
    let mut usage = UsageWanted::default();
    if let Some(mut options) = options.and_then(|options| fields.take(options)) {
        usage.last = options.optional("include_usage", lax::bool) == Some(true);
        let each = options.optional("continuous_usage_stats", lax::bool);
        usage.each = usage.last && each == Some(true);
        fields.faults.append(&mut options.faults);
    }
    (stream, usage)
}

/// Checks that look at the raw body, before any field is converted.
pub(super) fn check_stream_options(body: &Py) -> Result<(), Problem> {
    let given = |name: &str| body.get(name).is_some_and(Py::truthy);
    if given("stream_options") && !given("stream") {
        let message = "Stream options can only be defined when `stream=True`.";
        return Err(Problem::field(message, "stream_options"));
    }
    Ok(())
}

/// `cache_salt`, as it ends up in hashes.
pub(super) fn check_cache_salt(body: &Py) -> Result<(), Problem> {
    let salt = match body.get("cache_salt") {
        None | Some(Py::None) => return Ok(()),
        Some(Py::Str(salt)) => salt.as_str(),
        Some(_) => "",
    };
    if salt.is_empty() {
        let message = "Parameter 'cache_salt' must be a non-empty string if provided.";
        return Err(Problem::field(message, "cache_salt"));
    }
    if salt.chars().count() > 128 || salt.contains(['@', '/', '\\', '\0']) {
        let message = "Parameter 'cache_salt' must be at most 128 characters and must not contain '@', '/', '\\\\', or NUL.";
        return Err(Problem::field(message, "cache_salt"));
    }
    Ok(())
}

/// `kv_transfer_params`.
pub(super) fn transfer_parameters(fields: &mut Fields<'_>) -> Value {
    let given = fields.optional("kv_transfer_params", lax::dict);
    given.map(Py::value).unwrap_or_default()
}

/// A token's number.
pub(super) fn token(value: &Py, at: &str) -> Result<i128, Fault> {
    let number = lax::int(value, at)?;
    if number < 0 {
        let message = "Input should be greater than or equal to 0";
        let fault = Fault::new("greater_than_equal", at, message, value);
        return Err(fault.with("'ge': 0".to_owned()));
    }
    Ok(number)
}

/// Token numbers that a vocabulary could have.
pub(super) fn tokens(numbers: &[i128]) -> Result<Vec<u32>, Problem> {
    let token = |number: &i128| {
        u32::try_from(*number)
            .map_err(|_| Problem::bad(format!("Token id {number} is out of vocabulary")))
    };
    numbers.iter().map(token).collect()
}

impl Sim {
    /// The adapter behind a model's name, and the name that answers bear. An absent or empty
    /// name is the model itself.
    pub(super) fn served(&self, model: Option<&str>) -> Result<(String, Option<Lora>), Problem> {
        let names = &self.config.served_names;
        let own = names.first().cloned().unwrap_or_default();
        let Some(model) = model.filter(|model| !model.is_empty()) else {
            return Ok((own, None));
        };
        if names.iter().any(|name| name == model) {
            return Ok((own, None));
        }
        let lora = self.config.loras.iter().find(|lora| lora.name == model);
        if let Some(lora) = lora {
            return Ok((lora.name.clone(), Some(lora.clone())));
        }
        let aliases = names.join(", ");
        let message = format!("The model `{model}` does not exist. Valid aliases: {aliases}.");
        Err(Problem {
            field: Some("model".to_owned()),
            ..Problem::new(StatusCode::NOT_FOUND, message)
        })
    }

    /// A prompt of so many tokens with the number of tokens to generate.
    pub(super) fn prompt(
        &self,
        tokens: Vec<u32>,
        sampling: &Sampling,
        default: Option<usize>,
    ) -> Result<Prompt, Problem> {
        let most = self.config.max_model_len;
        let prompt = tokens.len();
        if prompt > most {
            let message = format!(
                "This model's maximum context length is {most} tokens. However, your prompt contains {prompt} input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
            );
            return Err(Problem::value(
                &message,
                "input_tokens",
                &prompt.to_string(),
            ));
        }
        let room = most - prompt;
        let asked = sampling
            .max_tokens
            .map(|count| usize::try_from(count).unwrap_or(0).min(room));
        let least = sampling.min_tokens;
        let (max_tokens, finish) = if self.config.echo && asked.is_none_or(|asked| asked >= prompt)
        {
            (prompt.clamp(1, room.max(1)), Finish::Stop)
        } else if let Some(asked) = asked {
            (asked, Finish::Length)
        } else if sampling.ignore_eos {
            (room, Finish::Length)
        } else {
            match default {
                Some(default) => (default.min(room), Finish::Length),
                None => (DEFAULT_TOKENS.max(least).min(room), Finish::Stop),
            }
        };
        if max_tokens < 1 {
            let given = sampling.max_tokens.filter(|given| *given < 0);
            let value = given.unwrap_or(max_tokens as i128).to_string();
            let message = format!("max_tokens must be at least 1, got {value}.");
            return Err(Problem::value(&message, "max_tokens", &value));
        }
        if least > max_tokens {
            return Err(Problem::bad(format!(
                "min_tokens must be less than or equal to max_tokens={max_tokens}, got {least}."
            )));
        }
        Ok(Prompt {
            tokens,
            text: None,
            max_tokens,
            finish,
        })
    }

    /// What is handed to the engine for sample `index` of a prompt.
    pub(super) fn submission(&self, ask: &Ask, prompt: &Prompt, index: usize) -> Submit {
        let sampling = &ask.sampling;
        let chain = Chain::new(
            self.hashing,
            prompt.tokens.clone(),
            ask.lora.clone(),
            sampling.cache_salt.clone(),
        );
        let remote = transfer::remote(&sampling.transfer);
        Submit {
            chain,
            script: self.tokens.script(sampling.salt(index), self.config.echo),
            max_tokens: prompt.max_tokens,
            finish: prompt.finish,
            hold: sampling.transfer["do_remote_decode"] == true,
            remote: remote.filter(|_| self.connector),
        }
    }

    /// What one transfer of KV cache cannot serve breaks the engine.
    pub(super) fn check_transfer(&self, ask: &Ask) -> Result<(), Problem> {
        let sampling = &ask.sampling;
        if !self.connector && !sampling.transfer.is_null() {
            self.metrics().own.ignored_transfers += 1;
        }
        let remote = self.connector && transfer::remote(&sampling.transfer).is_some();
        if remote && sampling.prompt_logprobs.is_some() {
            self.metrics().own.broken_transfers += 1;
            let message =
                "EngineCore encountered an issue. See stack trace (above) for the root cause.";
            return Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message));
        }
        Ok(())
    }
}
