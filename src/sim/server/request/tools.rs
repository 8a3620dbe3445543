//! `tools` and `tool_choice` -> the call that the answer is, if it is one. PURE.
//!
//! A model without a mind calls the tool that it must call, and where it may choose the first
//! one, but not when it has just been told a tool's result. What it says becomes the first
//! text among the arguments.
#![deny(clippy::disallowed_methods)]

use serde_json::{Map, Value, json};

use super::Problem;
use crate::sim::python::Py;
use crate::sim::python::lax::{self, Fields};

/// Tokens of a call.
pub(in crate::sim::server) const CALL_TOKENS: usize = 8;
const USAGE: &str = r#"Correct usage: `{"type": "function", "function": {"name": "my_function"}}`"#;

/// How the tool was chosen; the answer's form depends on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::sim::server) enum Choice {
    Auto,
    Required,
    Named,
}

/// A call of a tool: its arguments are what the model says between two pieces of JSON.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::sim::server) struct Call {
    pub(in crate::sim::server) choice: Choice,
    pub(in crate::sim::server) name: String,
    /// The arguments up to what is said.
    pub(in crate::sim::server) before: String,
    /// And after it.
    pub(in crate::sim::server) after: String,
    /// False where no argument is a text: then nothing of it is seen.
    pub(in crate::sim::server) speaks: bool,
}

impl Call {
    /// The call that a checked body asks for.
    pub(in crate::sim::server) fn chosen(body: &Py, messages: &[&Py]) -> Option<Self> {
        let tools = body.get("tools")?.as_list()?;
        let function = |tool: &Py| tool.get("function").cloned();
        let first = tools.first().and_then(function);
        match body.get("tool_choice") {
            None => Self::first(first.as_ref(), messages),
            Some(Py::Str(choice)) if choice == "auto" => Self::first(first.as_ref(), messages),
            Some(Py::Str(choice)) if choice == "required" => Self::of(&first?, Choice::Required),
            Some(choice) => {
                let name = choice.get("function")?.get("name")?.as_str()?;
                let named = |function: &Py| function.get("name")?.as_str().map(|it| it == name);
                let function = tools
                    .iter()
                    .filter_map(function)
                    .find(|function| named(function) == Some(true))?;
                Self::of(&function, Choice::Named)
            }
        }
    }

    /// The first tool, unless the chat ends with the result of one.
    fn first(function: Option<&Py>, messages: &[&Py]) -> Option<Self> {
        let told = |message: &&Py| message.get("role").and_then(Py::as_str) == Some("tool");
        if messages.last().is_some_and(told) {
            return None;
        }
        Self::of(function?, Choice::Auto)
    }

    fn of(function: &Py, choice: Choice) -> Option<Self> {
        let name = function.get("name")?.as_str()?.to_owned();
        let schema = function.get("parameters").map(Py::value);
        let (before, after, speaks) = arguments(&schema.unwrap_or_default());
        Some(Self {
            choice,
            name,
            before,
            after,
            speaks,
        })
    }
}

/// Arguments for a schema: the first text among the properties is left open.
fn arguments(schema: &Value) -> (String, String, bool) {
    const MARK: &str = "\u{1}";
    let mut values = Map::new();
    let mut open = None;
    let properties = schema["properties"].as_object();
    for (name, property) in properties.into_iter().flatten() {
        let choice = property["enum"].as_array().and_then(|all| all.first());
        let value = match (choice, property["type"].as_str()) {
            (Some(choice), _) => choice.clone(),
            (None, Some("string")) if open.is_none() => {
                open = Some(name.clone());
                json!(MARK)
            }
            (None, Some("string")) => json!("text"),
            (None, Some("integer" | "number")) => json!(1),
            (None, Some("boolean")) => json!(true),
            (None, Some("array")) => json!([]),
            (None, _) => json!({}),
        };
        values.insert(name.clone(), value);
    }
    let text = Value::from(values).to_string();
    let mark = Value::from(MARK).to_string();
    let mark = mark.trim_matches('"');
    match text.split_once(mark) {
        Some((before, after)) => (before.to_owned(), after.to_owned(), true),
        None => (text, String::new(), false),
    }
}

/// Reads `tools` and `tool_choice` as pydantic does; what they ask for is read later.
pub(super) fn read(fields: &mut Fields<'_>) {
    let path = fields.path("tools");
    let tools = fields.optional_list("tools", |tool, _| Ok(tool));
    for (at, tool) in tools.into_iter().flatten().enumerate() {
        let tool = fields.take(Fields::new(tool, &format!("{path}.{at}")));
        let Some(mut tool) = tool else { continue };
        let kind = |value, at: &str| lax::one_of(value, at, &["function"]);
        tool.plain("type", "", kind);
        if let Some(function) = tool.required("function") {
            let function = Fields::new(function, &tool.path("function"));
            if let Some(mut function) = tool.take(function) {
                if function.required("name").is_some() {
                    function.plain("name", "", lax::text);
                }
                function.optional("parameters", lax::dict);
                tool.faults.append(&mut function.faults);
            }
        }
        fields.faults.append(&mut tool.faults);
    }
}

/// What vLLM checks on the raw body.
pub(super) fn check(body: &Py) -> Result<(), Problem> {
    let tools = body.get("tools").filter(|tools| !tools.is_none());
    if tools.is_some_and(|tools| tools.as_list().is_some_and(<[Py]>::is_empty)) {
        let message = "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely.";
        return Err(Problem::field(message, "tools"));
    }
    let choice = match body.get("tool_choice") {
        None | Some(Py::None) => return Ok(()),
        Some(Py::Str(none)) if none == "none" => return Ok(()),
        Some(choice) => choice,
    };
    let Some(tools) = tools else {
        let message = "When using `tool_choice`, `tools` must be set.";
        return Err(Problem::field(message, "tool_choice"));
    };
    if matches!(choice.as_str(), Some("auto" | "required")) {
        return Ok(());
    }
    if !choice.is_dict() {
        let message = format!(
            "Invalid value for `tool_choice`: {}! Only named tools, \"none\", \"auto\" or \"required\" are supported.",
            choice.text()
        );
        return Err(Problem::field(&message, "tool_choice"));
    }
    check_named(choice, tools)
}

fn check_named(choice: &Py, tools: &Py) -> Result<(), Problem> {
    let function = choice.get("function").unwrap_or(&Py::None);
    if !function.is_dict() {
        let message = format!(
            "Invalid value for `function`: `{}` in `tool_choice`! {USAGE}",
            function.text()
        );
        return Err(Problem::field(&message, "tool_choice.function"));
    }
    let Some(name) = function.get("name") else {
        let message = format!("Expected field `name` in `function` in `tool_choice`! {USAGE}");
        return Err(Problem::field(&message, "tool_choice.function.name"));
    };
    let Some(text) = name.as_str().filter(|name| !name.is_empty()) else {
        let name = name.text();
        let message = format!("Invalid `name` in `function`: `{name}` in `tool_choice`! {USAGE}");
        return Err(Problem::field(&message, "tool_choice.function.name"));
    };
    let named = |tool: &Py| {
        let name = tool
            .get("function")
            .and_then(|function| function.get("name"));
        name.and_then(Py::as_str) == Some(text)
    };
    if tools.as_list().unwrap_or_default().iter().any(named) {
        return Ok(());
    }
    let message = "The tool specified in `tool_choice` does not match any of the specified `tools`";
    Err(Problem::field(message, "tool_choice"))
}
