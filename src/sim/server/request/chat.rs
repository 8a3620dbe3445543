//! `POST /v1/chat/completions` -> what it asks of the engine.

use serde_json::Value;
use serde_json::value::RawValue;

use super::sampling::{Numbers, asks_for_logprobs, check_logprobs};
use super::tools::{self, CALL_TOKENS, Call};
use super::{Ask, Problem, Sim, UsageWanted};
use crate::sim::engine::Finish;
use crate::sim::python::Py;
use crate::sim::python::lax::{self, Fields};

/// How much a model may think.
const EFFORTS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];
/// Fields of a chat that change its prompt.
const TEMPLATE_FIELDS: [&str; 8] = [
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
    "tools",
    "documents",
    "reasoning_effort",
    "chat_template_kwargs",
    "chat_template",
];

/// A chat in OpenAI's form.
pub(in crate::sim::server) struct Chat<'a> {
    pub(in crate::sim::server) model: Option<&'a str>,
    pub(in crate::sim::server) messages: Vec<&'a Py>,
    /// `messages` again, `tools`, `tool_choice` and what templates see.
    pub(in crate::sim::server) body: &'a Py,
    /// The name of the limit of tokens.
    pub(in crate::sim::server) limit: &'static str,
    pub(in crate::sim::server) numbers: Numbers,
}

impl Sim {
    /// Reads, tokenizes and checks.
    pub(in crate::sim::server) fn read_chat(&self, body: &Py) -> Result<Ask, Problem> {
        if body.is_dict() {
            check(body)?;
        }
        let mut fields = super::fields(body)?;
        let messages = fields.required_list("messages", lax::dict);
        let model = fields.optional("model", lax::text);
        let mut numbers = Numbers::read(&mut fields);
        let logprobs = fields.optional("logprobs", lax::bool) == Some(true);
        let top = fields.optional("top_logprobs", lax::int).unwrap_or(0);
        numbers.logprobs = logprobs.then_some(top);
        let old = fields.optional("max_tokens", lax::int);
        let new = fields.optional("max_completion_tokens", lax::int);
        numbers.max_tokens = new.or(old);
        numbers.n = fields.optional("n", lax::int);
        let (stream, usage) = super::streaming(&mut fields);
        tools::read(&mut fields);
        fields.optional("user", lax::text);
        fields.optional("reasoning_effort", |value, at| {
            lax::one_of(value, at, EFFORTS)
        });
        fields.optional("parallel_tool_calls", lax::bool);
        fields.plain("add_generation_prompt", true, lax::bool);
        fields.plain("continue_final_message", false, lax::bool);
        response_format(&mut fields);
        let return_token_ids = fields.optional("return_token_ids", lax::bool) == Some(true);
        let id = fields.plain("request_id", "", lax::text).to_owned();
        super::checked(&fields)?;
        let limit = if new.is_some() {
            "max_completion_tokens"
        } else {
            "max_tokens"
        };
        let chat = Chat {
            model,
            messages: messages.unwrap_or_default(),
            body,
            limit,
            numbers,
        };
        Ok(Ask {
            id: Some(id).filter(|id| !id.is_empty()),
            stream,
            usage,
            return_token_ids,
            ..self.chat_ask(chat)?
        })
    }

    /// A chat, whatever API it came by, once its fields are read.
    pub(in crate::sim::server) fn chat_ask(&self, chat: Chat<'_>) -> Result<Ask, Problem> {
        let (model, lora) = self.served(chat.model)?;
        self.check_room(chat.numbers.max_tokens, chat.limit)?;
        let tokens = self.chat_tokens(chat.body)?;
        let call = Call::chosen(chat.body, &chat.messages);
        let mut sampling = chat.numbers.verified()?;
        let asked = sampling.max_tokens;
        let whole = CALL_TOKENS as i128;
        if call.is_some() && asked.is_none_or(|asked| asked >= whole) {
            // A call ends by itself.
            sampling.max_tokens = Some(whole);
        }
        let mut prompt = self.prompt(tokens, &sampling, None)?;
        if call.is_some() && prompt.max_tokens == CALL_TOKENS {
            prompt.finish = Finish::Stop;
        }
        Ok(Ask {
            model,
            lora,
            id: None,
            prompts: vec![prompt],
            sampling,
            stream: false,
            usage: UsageWanted::default(),
            echo: false,
            only_echo: false,
            return_token_ids: false,
            call,
            view: Value::Null,
        })
    }

    /// The tokens of a chat: its messages and what else its template sees.
    pub(in crate::sim::server) fn chat_tokens(&self, body: &Py) -> Result<Vec<u32>, Problem> {
        let (messages, options) = template_input(body)?;
        let tokens = self.tokens.chat(&messages, options.as_bytes());
        tokens.map_err(Problem::bad)
    }
}

/// The messages, and a body with the fields that templates see: without what Python takes and
/// JSON does not have.
fn template_input(body: &Py) -> Result<(Box<RawValue>, String), Problem> {
    let messages = body.get("messages").map(Py::json).unwrap_or_default();
    let messages = RawValue::from_string(messages).map_err(Problem::bad)?;
    let given = |name: &&str| {
        let value = body.get(name).filter(|value| !value.is_none())?;
        // A flag may be written in any way that pydantic takes.
        let value = match lax::bool(value, name) {
            Ok(flag) if name.starts_with("add_") || name.starts_with("continue_") => Py::Bool(flag),
            _ => value.clone(),
        };
        Some(((*name).to_owned(), value))
    };
    let options = Py::Dict(TEMPLATE_FIELDS.iter().filter_map(given).collect());
    Ok((messages, options.json()))
}

/// What is checked on the raw body, in vLLM's order.
fn check(body: &Py) -> Result<(), Problem> {
    let given = |name: &str| body.get(name).is_some_and(Py::truthy);
    if let Some(messages @ (Py::None | Py::Bool(_) | Py::Int(_) | Py::Float(_))) =
        body.get("messages")
    {
        let kind = messages.type_name();
        return Err(Problem::bad(format!("'{kind}' object is not iterable")));
    }
    if given("continue_final_message") && given("add_generation_prompt") {
        return Err(Problem::bad(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
        ));
    }
    tools::check(body)?;
    check_logprobs(body, "top_logprobs")?;
    let top = body.get("top_logprobs");
    if top.is_some_and(asks_for_logprobs) && !given("logprobs") {
        let message = "when using `top_logprobs`, `logprobs` must be set to true.";
        return Err(Problem::field(message, "top_logprobs"));
    }
    super::check_stream_options(body)?;
    check_response_format(body)?;
    super::check_cache_salt(body)
}

/// `response_format` is one of three forms; it changes nothing, as no answer here means
/// anything.
pub(super) fn response_format(fields: &mut Fields<'_>) {
    const PLAIN: &[&str] = &["text", "json_object", "json_schema"];
    const TAG: &[&str] = &["structural_tag"];
    let Some(value) = fields
        .raw("response_format")
        .filter(|value| !value.is_none())
    else {
        return;
    };
    let path = fields.path("response_format");
    let forms: [(&[&str], &[&str]); 3] = [
        (PLAIN, &[]),
        (TAG, &["format"]),
        (TAG, &["structures", "triggers"]),
    ];
    let mut faults = Vec::new();
    for (types, others) in forms {
        let mut form = match Fields::new(value, &path) {
            Ok(form) => form,
            Err(fault) => {
                faults.push(fault);
                continue;
            }
        };
        if let Some(kind) = form.required("type") {
            let kind = lax::one_of(kind, &form.path("type"), types);
            form.take(kind);
        }
        for other in others {
            form.required(other);
        }
        if form.faults.is_empty() {
            return;
        }
        faults.append(&mut form.faults);
    }
    fields.faults.append(&mut faults);
}

/// A schema must be there where one is promised.
pub(super) fn check_response_format(body: &Py) -> Result<(), Problem> {
    let Some(format) = body
        .get("response_format")
        .filter(|format| format.is_dict())
    else {
        return Ok(());
    };
    let schema = format
        .get("json_schema")
        .is_some_and(|schema| !schema.is_none());
    if format.get("type").and_then(Py::as_str) == Some("json_schema") && !schema {
        let message =
            "When response_format type is 'json_schema', the 'json_schema' field must be provided.";
        return Err(Problem::field(message, "response_format"));
    }
    Ok(())
}
