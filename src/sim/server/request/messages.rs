//! `POST /v1/messages` and `/v1/messages/count_tokens`, Anthropic's form -> a chat of
//! OpenAI's, as vLLM converts it.

use serde_json::{Value, json};

use super::chat::Chat;
use super::generate::value_error;
use super::sampling::{self, Numbers};
use super::{Ask, Problem, Sim, UsageWanted};
use crate::sim::python::Py;
use crate::sim::python::lax::{self, Fault, Fields};

/// What a message is made of.
const BLOCKS: &[&str] = &[
    "text",
    "image",
    "tool_use",
    "tool_result",
    "tool_reference",
    "thinking",
    "redacted_thinking",
    "tool_addition",
    "tool_removal",
];
/// A header that one client puts into its system prompt, different each time.
const BILLING: &str = "x-anthropic-billing-header";

impl Sim {
    /// Reads, converts, tokenizes and checks.
    pub(in crate::sim::server) fn read_messages(&self, body: &Py) -> Result<Ask, Problem> {
        let mut fields = super::fields(body)?;
        let model = read_common(&mut fields);
        let given = fields.required("max_tokens");
        let most = given.and_then(|given| {
            let number = lax::int(given, "body.max_tokens");
            fields.take(number.and_then(|number| {
                let wrong = || value_error("body.max_tokens", "max_tokens must be positive", given);
                if number > 0 { Ok(number) } else { Err(wrong()) }
            }))
        });
        let mut numbers = Numbers::basic(&mut fields);
        numbers.max_tokens = most;
        numbers.set_stop(sampling::stops(&mut fields, "stop_sequences"));
        fields.optional("metadata", lax::dict);
        let stream = fields.optional("stream", lax::bool) == Some(true);
        super::checked(&fields)?;

        let chat = converted(body);
        let messages = chat.get("messages").and_then(Py::as_list);
        let asked = self.chat_ask(Chat {
            model,
            messages: messages.unwrap_or_default().iter().collect(),
            body: &chat,
            limit: "max_completion_tokens",
            numbers,
        })?;
        let usage = UsageWanted {
            last: stream,
            each: stream,
        };
        Ok(Ask {
            stream,
            usage,
            ..asked
        })
    }

    /// How many tokens the same request has.
    pub(in crate::sim::server) fn count_tokens(&self, body: &[u8]) -> Result<Value, Problem> {
        let body = super::body(body)?;
        let mut fields = super::fields(&body)?;
        let model = read_common(&mut fields);
        super::checked(&fields)?;
        self.served(model)?;
        let count = self.chat_tokens(&converted(&body))?.len();
        Ok(json!({
            "input_tokens": count,
            "context_management": {"original_input_tokens": count},
        }))
    }
}

/// `model`, `messages`, `system` and `tools`: the types of what is converted below.
fn read_common<'a>(fields: &mut Fields<'a>) -> Option<&'a str> {
    let mut model = None;
    if let Some(given) = fields.required("model") {
        model = fields.take(lax::text(given, "body.model"));
        if model == Some("") {
            let fault = value_error("body.model", "Model is required", given);
            fields.faults.push(fault);
        }
    }
    if let Some(given) = fields.required("messages") {
        match lax::list(given, "body.messages", |item, at| Ok((item, at.to_owned()))) {
            Ok(messages) => {
                for (message, at) in messages {
                    fields.faults.extend(message_faults(message, &at));
                }
            }
            Err(faults) => fields.faults.extend(faults),
        }
    }
    if let Some(system) = fields.raw("system").filter(|system| !system.is_none()) {
        fields.faults.extend(content_faults(system, "body.system"));
    }
    read_tool_choice(fields);
    let tools = fields.optional_list("tools", |tool, at| Ok((tool, at.to_owned())));
    for (tool, at) in tools.into_iter().flatten() {
        let Some(mut tool) = fields.take(Fields::new(tool, &at)) else {
            continue;
        };
        if let Some(name) = tool.required("name") {
            let name = lax::text(name, &tool.path("name"));
            tool.take(name);
        }
        if let Some(schema) = tool.required("input_schema") {
            let schema = lax::dict(schema, &tool.path("input_schema"));
            tool.take(schema);
        }
        fields.faults.append(&mut tool.faults);
    }
    model
}

fn read_tool_choice(fields: &mut Fields<'_>) {
    let choice = fields.raw("tool_choice");
    let Some(choice) = choice.filter(|choice| !choice.is_none()) else {
        return;
    };
    let choice = Fields::new(choice, &fields.path("tool_choice"));
    let Some(mut choice) = fields.take(choice) else {
        return;
    };
    if let Some(kind) = choice.required("type") {
        let words = ["auto", "any", "tool", "none"];
        let kind = lax::one_of(kind, &choice.path("type"), &words);
        choice.take(kind);
    }
    fields.faults.append(&mut choice.faults);
}

fn message_faults(message: &Py, at: &str) -> Vec<Fault> {
    let mut message = match Fields::new(message, at) {
        Ok(message) => message,
        Err(fault) => return vec![fault],
    };
    if let Some(role) = message.required("role") {
        let roles = ["user", "assistant", "system"];
        let role = lax::one_of(role, &message.path("role"), &roles);
        message.take(role);
    }
    if let Some(content) = message.required("content") {
        let faults = content_faults(content, &message.path("content"));
        message.faults.extend(faults);
    }
    message.faults
}

/// A text, or a list of blocks.
fn content_faults(content: &Py, at: &str) -> Vec<Fault> {
    if content.as_str().is_some() {
        return Vec::new();
    }
    let mut faults = Vec::new();
    match lax::list(content, at, |block, at| Ok((block, at.to_owned()))) {
        Err(more) => faults.extend(more),
        Ok(blocks) => {
            for (block, at) in blocks {
                faults.extend(block_faults(block, &at));
            }
        }
    }
    if !faults.is_empty() {
        let text = lax::text(content, at).err();
        faults.splice(0..0, text);
    }
    faults
}

fn block_faults(block: &Py, at: &str) -> Vec<Fault> {
    let mut block = match Fields::new(block, at) {
        Ok(block) => block,
        Err(fault) => return vec![fault],
    };
    if let Some(kind) = block.required("type") {
        let kind = lax::one_of(kind, &block.path("type"), BLOCKS);
        block.take(kind);
    }
    block.optional("text", lax::text);
    block.faults
}

/// The same chat in OpenAI's form.
fn converted(body: &Py) -> Py {
    let mut messages = Vec::new();
    let system = body.get("system").map(system_text).unwrap_or_default();
    if !system.is_empty() {
        messages.push(message("system", Py::Str(system)));
    }
    let given = body.get("messages").and_then(Py::as_list);
    for given in given.unwrap_or_default() {
        convert(given, &mut messages);
    }
    let mut chat = vec![("messages", Py::List(messages))];
    if let Some(tools) = body.get("tools").and_then(Py::as_list) {
        let choice = match body.get("tool_choice") {
            Some(choice) => tool_choice(choice),
            None => Py::from_text("auto"),
        };
        chat.push(("tools", Py::List(tools.iter().map(tool).collect())));
        chat.push(("tool_choice", choice));
    }
    if let Some(arguments) = body.get("chat_template_kwargs") {
        chat.push(("chat_template_kwargs", arguments.clone()));
    }
    Py::dict(chat)
}

fn message(role: &str, content: Py) -> Py {
    Py::dict([("role", Py::from_text(role)), ("content", content)])
}

fn system_text(content: &Py) -> String {
    let parts = match content {
        Py::Str(text) => vec![text.as_str()],
        content => {
            let blocks = content.as_list().unwrap_or_default().iter();
            blocks
                .filter_map(|block| block.get("text")?.as_str())
                .collect()
        }
    };
    let kept = parts.into_iter().filter(|text| !text.starts_with(BILLING));
    kept.collect()
}

fn convert(given: &Py, messages: &mut Vec<Py>) {
    let role = given.get("role").and_then(Py::as_str).unwrap_or_default();
    let content = given.get("content").unwrap_or(&Py::None);
    if role == "system" {
        let text = system_text(content);
        if !text.is_empty() {
            messages.push(message(role, Py::Str(text)));
        }
        return;
    }
    let Some(blocks) = content.as_list() else {
        messages.push(message(role, content.clone()));
        return;
    };
    let (mut parts, mut calls) = (Vec::new(), Vec::new());
    for block in blocks {
        let text = |name: &str| block.get(name).and_then(Py::as_str).unwrap_or_default();
        match text("type") {
            "text" if !text("text").is_empty() => parts.push(text_part(text("text"))),
            "image" => parts.push(Py::dict([
                ("type", Py::from_text("image_url")),
                (
                    "image_url",
                    block.get("source").cloned().unwrap_or(Py::None),
                ),
            ])),
            "tool_use" => calls.push(tool_use(block)),
            "tool_result" if role == "user" => messages.push(tool_result(block)),
            _ => {}
        }
    }
    let mut converted = vec![("role", Py::from_text(role))];
    match &parts[..] {
        [] if calls.is_empty() => {
            // Nothing but tool results, which are messages of their own.
            if role == "user" {
                return;
            }
        }
        [] => {}
        [one] if one.get("text").is_some() => {
            converted.extend(one.get("text").map(|text| ("content", text.clone())));
        }
        _ => converted.push(("content", Py::List(parts))),
    }
    if !calls.is_empty() {
        converted.push(("tool_calls", Py::List(calls)));
    }
    messages.push(Py::dict(converted));
}

fn text_part(text: &str) -> Py {
    Py::dict([
        ("type", Py::from_text("text")),
        ("text", Py::from_text(text)),
    ])
}

fn tool_use(block: &Py) -> Py {
    let field = |name: &str| block.get(name).cloned().unwrap_or(Py::from_text(""));
    let input = block.get("input").map_or("{}".to_owned(), Py::json);
    let function = [("name", field("name")), ("arguments", Py::Str(input))];
    Py::dict([
        ("id", field("id")),
        ("type", Py::from_text("function")),
        ("function", Py::dict(function)),
    ])
}

fn tool_result(block: &Py) -> Py {
    let content = match block.get("content") {
        Some(Py::List(items)) => {
            let texts = items.iter().filter_map(|item| item.get("text")?.as_str());
            texts.collect::<Vec<_>>().join("\n")
        }
        Some(content) => content.as_str().unwrap_or_default().to_owned(),
        None => String::new(),
    };
    let id = block.get("tool_use_id").cloned();
    Py::dict([
        ("role", Py::from_text("tool")),
        ("tool_call_id", id.unwrap_or(Py::from_text(""))),
        ("content", Py::Str(content)),
    ])
}

fn tool(tool: &Py) -> Py {
    let field = |name: &str| tool.get(name).cloned().unwrap_or(Py::None);
    let function = [
        ("name", field("name")),
        ("description", field("description")),
        ("parameters", field("input_schema")),
    ];
    Py::dict([
        ("type", Py::from_text("function")),
        ("function", Py::dict(function)),
    ])
}

fn tool_choice(choice: &Py) -> Py {
    match choice.get("type").and_then(Py::as_str) {
        Some("any") => Py::from_text("required"),
        Some("none") => Py::from_text("none"),
        Some("tool") => {
            let name = choice.get("name").cloned().unwrap_or(Py::None);
            Py::dict([
                ("type", Py::from_text("function")),
                ("function", Py::dict([("name", name)])),
            ])
        }
        _ => Py::from_text("auto"),
    }
}
