//! `POST /v1/responses` -> a chat, as vLLM converts it.

use serde_json::json;

use super::chat::Chat;
use super::sampling::Numbers;
use super::{Ask, Problem, Sim, UsageWanted};
use crate::sim::python::Py;
use crate::sim::python::lax::{self, Fields};

/// What an answer may include.
const INCLUDED: &[&str] = &[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
];
/// Fields that the answer repeats.
const REPEATED: [&str; 8] = [
    "instructions",
    "metadata",
    "max_tool_calls",
    "previous_response_id",
    "reasoning",
    "text",
    "user",
    "tools",
];

impl Sim {
    /// Reads, converts, tokenizes and checks.
    pub(in crate::sim::server) fn read_responses(&self, body: &Py) -> Result<Ask, Problem> {
        if body.is_dict() {
            check(body)?;
        }
        let mut fields = super::fields(body)?;
        read_input(&mut fields);
        fields.optional("instructions", lax::text);
        let model = fields.optional("model", lax::text);
        let mut numbers = Numbers::read(&mut fields);
        numbers.max_tokens = fields.optional("max_output_tokens", lax::int);
        let top = fields.optional("top_logprobs", lax::int).unwrap_or(0);
        let included = |item: &Py| item.as_str() == Some("message.output_text.logprobs");
        let include = body.get("include").and_then(Py::as_list);
        let told = include.unwrap_or_default().iter().any(included);
        numbers.logprobs = told.then_some(top);
        let stream = fields.optional("stream", lax::bool) == Some(true);
        let id = fields.plain("request_id", "", lax::text).to_owned();
        read_others(&mut fields);
        super::checked(&fields)?;

        let previous = body.get("previous_response_id").filter(|id| !id.is_none());
        if let Some(previous) = previous {
            let message = format!("Response with id '{}' not found.", previous.text());
            return Err(Problem::new(axum::http::StatusCode::NOT_FOUND, message));
        }
        let temperature = numbers.temperature();
        let top_p = numbers.top_p();
        let chat = converted(body);
        let messages = chat.get("messages").and_then(Py::as_list);
        let asked = self.chat_ask(Chat {
            model,
            messages: messages.unwrap_or_default().iter().collect(),
            body: &chat,
            limit: "max_output_tokens",
            numbers,
        })?;
        let mut view = json!({
            "temperature": temperature, "top_p": top_p,
            "tool_choice": body.get("tool_choice").map_or(json!(tools_default(body)), Py::value),
            "parallel_tool_calls": !matches!(body.get("parallel_tool_calls"), Some(Py::Bool(false))),
        });
        for field in REPEATED {
            view[field] = body.get(field).map(Py::value).unwrap_or_default();
        }
        if view["tools"].is_null() {
            view["tools"] = json!([]);
        }
        Ok(Ask {
            id: Some(id).filter(|id| !id.is_empty()),
            stream,
            usage: UsageWanted::default(),
            view,
            ..asked
        })
    }
}

fn tools_default(body: &Py) -> &'static str {
    if body.get("tools").is_some_and(Py::truthy) {
        "auto"
    } else {
        "none"
    }
}

/// Fields that change nothing here, but must be what they are.
fn read_others(fields: &mut Fields<'_>) {
    fields.optional("background", lax::bool);
    fields.optional("store", lax::bool);
    fields.optional_list("include", |value, at| lax::one_of(value, at, INCLUDED));
    if fields.raw("tools").is_some() {
        fields.required_list("tools", lax::dict);
    }
    if let Some(choice) = fields.raw("tool_choice")
        && choice.get("type").and_then(Py::as_str).is_none()
    {
        let words = ["none", "auto", "required"];
        let word = lax::one_of(choice, "body.tool_choice", &words);
        fields.take(word);
    }
}

/// A text, or a list of items.
fn read_input(fields: &mut Fields<'_>) {
    let Some(input) = fields.required("input") else {
        return;
    };
    if input.as_str().is_some() {
        return;
    }
    let path = fields.path("input");
    if let Err(faults) = lax::list(input, &path, lax::dict) {
        fields.faults.extend(lax::text(input, &path).err());
        fields.faults.extend(faults);
    }
}

/// What vLLM checks on the raw body.
fn check(body: &Py) -> Result<(), Problem> {
    if let Some(tools @ (Py::Bool(_) | Py::Int(_) | Py::Float(_))) = body.get("tools") {
        let kind = tools.type_name();
        return Err(Problem::bad(format!(
            "object of type '{kind}' has no len()"
        )));
    }
    let tools = body.get("tools").is_some_and(Py::truthy);
    match body.get("tool_choice") {
        Some(Py::Str(choice)) if choice == "required" && !tools => {
            let message = "Tool choice 'required' must be specified with 'tools' parameter.";
            return Err(Problem::field(message, "tool_choice"));
        }
        Some(choice) if choice.get("type").and_then(Py::as_str) == Some("function") => {
            let name = choice.get("name").and_then(Py::as_str);
            let named = |tool: &Py| name.is_some() && tool.get("name").and_then(Py::as_str) == name;
            let all = body.get("tools").and_then(Py::as_list);
            if !all.unwrap_or_default().iter().any(named) {
                let message = "Tool choice 'function' not found in 'tools' parameter.";
                return Err(Problem::field(message, "tool_choice"));
            }
        }
        _ => {}
    }
    if body.get("prompt").is_some_and(|prompt| !prompt.is_none()) {
        return Err(Problem::field("prompt template is not supported", "prompt"));
    }
    let stored = body.get("store").is_none_or(Py::truthy);
    if body.get("background").is_some_and(Py::truthy) && !stored {
        let message = "background can only be used when `store` is true";
        return Err(Problem::field(message, "background"));
    }
    super::check_cache_salt(body)
}

/// The chat in OpenAI's older form.
fn converted(body: &Py) -> Py {
    let mut messages = Vec::new();
    if let Some(instructions) = body.get("instructions").filter(|text| text.truthy()) {
        messages.push(message("system", instructions.clone()));
    }
    match body.get("input") {
        Some(Py::List(items)) => messages.extend(items.iter().filter_map(item)),
        Some(text) => messages.push(message("user", text.clone())),
        None => {}
    }
    let mut chat = vec![("messages", Py::List(messages))];
    let tools = body.get("tools").and_then(Py::as_list).unwrap_or_default();
    let functions = tools.iter().filter_map(tool);
    let functions: Vec<Py> = functions.collect();
    if !functions.is_empty() {
        chat.push(("tools", Py::List(functions)));
        if let Some(choice) = body.get("tool_choice") {
            let choice = match choice.get("name") {
                Some(name) => Py::dict([("function", Py::dict([("name", name.clone())]))]),
                None => choice.clone(),
            };
            chat.push(("tool_choice", choice));
        }
    }
    Py::dict(chat)
}

fn message(role: &str, content: Py) -> Py {
    Py::dict([("role", Py::from_text(role)), ("content", content)])
}

/// An item of the input as a message; reasoning is none.
fn item(item: &Py) -> Option<Py> {
    let field = |name: &str| item.get(name).cloned().unwrap_or(Py::from_text(""));
    match item.get("type").and_then(Py::as_str) {
        Some("function_call") => {
            let function = [("name", field("name")), ("arguments", field("arguments"))];
            let call = Py::dict([
                ("id", field("call_id")),
                ("type", Py::from_text("function")),
                ("function", Py::dict(function)),
            ]);
            Some(Py::dict([
                ("role", Py::from_text("assistant")),
                ("tool_calls", Py::List(vec![call])),
            ]))
        }
        Some("function_call_output") => Some(Py::dict([
            ("role", Py::from_text("tool")),
            ("content", field("output")),
            ("tool_call_id", field("call_id")),
        ])),
        Some("reasoning") => None,
        _ => Some(message(item.get("role")?.as_str()?, field("content"))),
    }
}

/// A function among the tools.
fn tool(tool: &Py) -> Option<Py> {
    let field = |name: &str| tool.get(name).cloned().unwrap_or(Py::None);
    let function = [
        ("name", tool.get("name")?.clone()),
        ("description", field("description")),
        ("parameters", field("parameters")),
    ];
    Some(Py::dict([
        ("type", Py::from_text("function")),
        ("function", Py::dict(function)),
    ]))
}
