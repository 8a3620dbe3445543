//! `POST /v1/completions` -> what it asks of the engine.

use serde_json::Value;

use super::sampling::{Numbers, check_logprobs};
use super::{Ask, Problem, Prompt, Sim};
use crate::sim::python::Py;
use crate::sim::python::lax::{self, Fault, Fields};

/// Tokens generated where the request does not say, as OpenAI has it.
const DEFAULT_TOKENS: usize = 16;
/// vLLM's own limit.
const MAX_PROMPTS: usize = 1024;

/// `prompt` in its four forms.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::sim::server) enum Prompts {
    Texts(Vec<String>),
    Tokens(Vec<Vec<i128>>),
}

impl Sim {
    /// Reads, tokenizes and checks.
    pub(in crate::sim::server) fn read_completion(&self, body: &Py) -> Result<Ask, Problem> {
        if body.is_dict() {
            check(body)?;
        }
        let mut fields = super::fields(body)?;
        let model = fields.optional("model", lax::text);
        let prompts = prompts(&mut fields);
        let echo = fields.optional("echo", lax::bool) == Some(true);
        let mut numbers = Numbers::read(&mut fields);
        numbers.logprobs = fields.optional("logprobs", lax::int);
        numbers.max_tokens = fields.optional("max_tokens", lax::int);
        numbers.n = Some(fields.plain("n", 1, lax::int));
        let (stream, usage) = super::streaming(&mut fields);
        let add_special = fields.plain("add_special_tokens", true, lax::bool);
        let return_token_ids = fields.optional("return_token_ids", lax::bool) == Some(true);
        let id = fields.plain("request_id", "", lax::text).to_owned();
        fields.optional("user", lax::text);
        super::chat::response_format(&mut fields);
        super::checked(&fields)?;

        let (model, lora) = self.served(model)?;
        self.check_room(numbers.max_tokens, "max_tokens")?;
        let tokens = self.completion_tokens(prompts.as_ref(), add_special)?;
        let only_echo = echo && numbers.max_tokens == Some(0);
        if only_echo {
            numbers.max_tokens = Some(1);
        }
        // The echoed prompt has logprobs, too.
        if echo && numbers.prompt_logprobs.is_none() {
            numbers.prompt_logprobs = numbers.logprobs;
        }
        let sampling = numbers.verified()?;
        let mut texts = match prompts {
            Some(Prompts::Texts(texts)) => texts,
            _ => Vec::new(),
        }
        .into_iter();
        let prompt = |tokens| {
            let prompt = self.prompt(tokens, &sampling, Some(DEFAULT_TOKENS))?;
            let text = texts.next();
            Ok(Prompt { text, ..prompt })
        };
        let prompts = tokens
            .into_iter()
            .map(prompt)
            .collect::<Result<_, Problem>>()?;
        let ask = Ask {
            model,
            lora,
            id: Some(id).filter(|id| !id.is_empty()),
            prompts,
            sampling,
            stream,
            usage,
            echo,
            only_echo,
            return_token_ids,
            call: None,
            view: Value::Null,
        };
        Ok(ask)
    }

    /// The tokens of each prompt.
    pub(in crate::sim::server) fn completion_tokens(
        &self,
        prompts: Option<&Prompts>,
        add_special: bool,
    ) -> Result<Vec<Vec<u32>>, Problem> {
        let encode = |text: &String| {
            let tokens = if add_special {
                self.tokens.completion(text)
            } else {
                self.tokens.plain(text)
            };
            tokens.map_err(Problem::bad)
        };
        match prompts {
            Some(Prompts::Texts(texts)) => texts.iter().map(encode).collect(),
            Some(Prompts::Tokens(lists)) => lists.iter().map(|list| super::tokens(list)).collect(),
            None => Err(Problem::bad("The decoder prompt cannot be empty")),
        }
    }

    /// No request may ask for more tokens than the model's context has.
    pub(in crate::sim::server) fn check_room(
        &self,
        asked: Option<i128>,
        field: &str,
    ) -> Result<(), Problem> {
        let most = self.config.max_model_len;
        match asked.filter(|asked| *asked > most as i128) {
            None => Ok(()),
            Some(asked) => Err(Problem::value(
                &format!(
                    "{field}={asked} cannot be greater than max_model_len={most}. Please request fewer output tokens."
                ),
                field,
                &asked.to_string(),
            )),
        }
    }
}

/// What is checked on the raw body, in vLLM's order.
fn check(body: &Py) -> Result<(), Problem> {
    let prompt = body.get("prompt").unwrap_or(&Py::None);
    if let Some(items) = prompt.as_list() {
        let whole = |item: &Py| matches!(item, Py::Int(_) | Py::Bool(_));
        let count = items.len();
        if count > MAX_PROMPTS && !items.iter().all(whole) {
            let message = format!(
                "prompt list length {count} exceeds the maximum allowed count of {MAX_PROMPTS}. To increase this limit, set the VLLM_MAX_COMPLETION_PROMPTS environment variable."
            );
            return Err(Problem::field(&message, "prompt"));
        }
    }
    if prompt.is_none() || prompt.as_str() == Some("") {
        let message = "Either prompt or prompt_embeds must be provided and non-empty.";
        return Err(Problem::field(message, "prompt"));
    }
    super::check_stream_options(body)?;
    check_logprobs(body, "logprobs")?;
    super::chat::check_response_format(body)?;
    super::check_cache_salt(body)
}

/// `prompt` in its four forms: the one whose types fit best, as pydantic chooses.
pub(in crate::sim::server) fn prompts(fields: &mut Fields<'_>) -> Option<Prompts> {
    let value = fields.raw("prompt").filter(|value| !value.is_none())?;
    let path = fields.path("prompt");
    match union(value, &path) {
        Ok(prompts) => Some(prompts),
        Err(faults) => {
            fields.faults.extend(faults);
            None
        }
    }
}

/// Text, texts, tokens or lists of tokens.
///
/// # Errors
/// The faults of all four forms.
pub(in crate::sim::server) fn union(value: &Py, path: &str) -> Result<Prompts, Vec<Fault>> {
    if let Some(text) = value.as_str() {
        return Ok(Prompts::Texts(vec![text.to_owned()]));
    }
    let texts = lax::list(value, path, lax::text);
    if let Ok(texts) = &texts
        && !texts.is_empty()
    {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        return Ok(Prompts::Texts(texts));
    }
    let mut faults = match lax::list(value, path, super::token) {
        Ok(tokens) => return Ok(Prompts::Tokens(vec![tokens])),
        Err(faults) => faults,
    };
    match token_lists(value, path) {
        Ok(lists) => return Ok(Prompts::Tokens(lists)),
        Err(more) => faults.extend(more),
    }
    faults.extend(lax::text(value, path).err());
    faults.extend(texts.err().into_iter().flatten());
    Err(faults)
}

fn token_lists(value: &Py, path: &str) -> Result<Vec<Vec<i128>>, Vec<Fault>> {
    let items = lax::list(value, path, |item, _| Ok(item))?;
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (at, item) in items.into_iter().enumerate() {
        match lax::list(item, &format!("{path}.{at}"), super::token) {
            Ok(tokens) => good.push(tokens),
            Err(faults) => bad.extend(faults),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}
