//! The messages and tools of a request -> what the engine hands to the chat template. PURE.
//!
//! The engine does not render a request's JSON as it came: it reads it into its own types and
//! writes it anew, which changes the order of keys, fills in some, drops others
//! (<https://github.com/vllm-project/vllm/blob/main/vllm/entrypoints/chat_utils.py>). A template
//! that prints a whole object (`tool | tojson`) shows the difference, so it is followed here.
#![deny(clippy::disallowed_methods)]

use serde_json::{Map, Value, json};

use super::super::local::EncodeError;
use super::format::ContentFormat;

/// Reads the messages of a request.
pub(super) fn normalize(raw: &str, format: ContentFormat) -> Result<Vec<Value>, EncodeError> {
    let messages: Vec<Map<String, Value>> =
        serde_json::from_str(raw).map_err(|error| EncodeError::Messages(error.to_string()))?;
    messages
        .into_iter()
        .enumerate()
        .map(|(index, message)| {
            one(message, format).map_err(|problem| match problem {
                Problem::Multimodal => EncodeError::Multimodal,
                Problem::Text(text) => EncodeError::Messages(format!("messages[{index}]{text}")),
            })
        })
        .collect()
}

enum Problem {
    Multimodal,
    Text(String),
}

impl Problem {
    fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

fn one(mut message: Map<String, Value>, format: ContentFormat) -> Result<Value, Problem> {
    let Some(Value::String(role)) = message.remove("role") else {
        return Err(Problem::text(".role must be a string"));
    };
    let content = content(message.remove("content"), format, role == "tool")?;
    let mut out = Map::new();
    out.insert("role".to_owned(), Value::String(role.clone()));
    out.insert("content".to_owned(), content);
    match role.as_str() {
        "assistant" => {
            if let Some(calls) = message.remove("tool_calls") {
                tool_calls(calls, &mut out)?;
            }
            let older = message.remove("reasoning_content");
            let reasoning = message
                .remove("reasoning")
                .filter(|value| !value.is_null())
                .or(older)
                .filter(|value| !value.is_null());
            if let Some(reasoning) = reasoning {
                out.insert("reasoning".to_owned(), reasoning.clone());
                out.insert("reasoning_content".to_owned(), reasoning);
            }
        }
        "tool" => {
            if let Some(id) = message.remove("tool_call_id") {
                out.insert("tool_call_id".to_owned(), id);
            }
        }
        _ => {}
    }
    for name in ["name", "task"] {
        if let Some(value @ Value::String(_)) = message.remove(name) {
            out.insert(name.to_owned(), value);
        }
    }
    if role == "developer" {
        let tools = message.remove("tools").unwrap_or(Value::Null);
        out.insert("tools".to_owned(), tools);
    }
    Ok(Value::Object(out))
}

fn content(content: Option<Value>, format: ContentFormat, of_tool: bool) -> Result<Value, Problem> {
    let parts = match content {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => vec![json!({"type": "text", "text": text})],
        Some(Value::Array(parts)) => parts,
        Some(_) => return Err(Problem::text(".content must be a string or a list")),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        if let Some(text) = part_text(part)? {
            texts.push(text);
        }
    }
    Ok(match format {
        // Templates seldom loop over a tool's answer, so the engine flattens that in any case.
        ContentFormat::Parts if !of_tool => texts
            .into_iter()
            .map(|text| json!({"type": "text", "text": text}))
            .collect(),
        ContentFormat::Parts => Value::String(texts.join("\n")),
        ContentFormat::Text => {
            texts.retain(|text| !text.is_empty());
            Value::String(texts.join("\n"))
        }
    })
}

/// The text of one part; `None` for one the engine skips.
fn part_text(part: Value) -> Result<Option<String>, Problem> {
    let mut part = match part {
        Value::String(text) => return Ok(Some(text)),
        Value::Object(part) => part,
        _ => {
            return Err(Problem::text(
                ".content holds a part that is no object and no string",
            ));
        }
    };
    let Some(Value::String(kind)) = part.get("type") else {
        // Without a type it can only be media.
        return Err(Problem::Multimodal);
    };
    let field = match kind.as_str() {
        "text" | "input_text" | "output_text" => "text",
        "refusal" => "refusal",
        "thinking" => "thinking",
        // Images, audio and video become placeholders that only the engine can count;
        // references to tools are rare enough to leave to it, too.
        _ => return Err(Problem::Multimodal),
    };
    match part.remove(field) {
        Some(Value::String(text)) => Ok(Some(text)),
        None | Some(Value::Null) => Ok(None),
        Some(_) => Err(Problem::Text(format!(
            ".content holds a part whose {field} is not a string"
        ))),
    }
}

/// Arguments become objects: that is how templates want them.
fn tool_calls(calls: Value, out: &mut Map<String, Value>) -> Result<(), Problem> {
    let calls = match calls {
        Value::Null => return Ok(()),
        Value::Array(calls) if calls.is_empty() => return Ok(()),
        Value::Array(calls) => calls,
        _ => return Err(Problem::text(".tool_calls must be a list")),
    };
    let mut read = Vec::with_capacity(calls.len());
    for call in calls {
        let Value::Object(mut call) = call else {
            return Err(Problem::text(
                ".tool_calls holds something that is no object",
            ));
        };
        let Some(Value::Object(mut function)) = call.remove("function") else {
            return Err(Problem::text(".tool_calls holds a call without a function"));
        };
        let arguments = match function.remove("arguments") {
            Some(Value::String(text)) => {
                serde_json::from_str(&text).unwrap_or_else(|_| Value::Object(Map::new()))
            }
            Some(value @ (Value::Object(_) | Value::Array(_))) => value,
            _ => Value::Object(Map::new()),
        };
        let mut ordered = Map::new();
        ordered.insert("arguments".to_owned(), arguments);
        keep(&mut function, "name", &mut ordered);
        let mut whole = Map::new();
        keep(&mut call, "id", &mut whole);
        whole.insert("function".to_owned(), Value::Object(ordered));
        keep(&mut call, "type", &mut whole);
        read.push(Value::Object(whole));
    }
    out.insert("tool_calls".to_owned(), Value::Array(read));
    Ok(())
}

fn keep(from: &mut Map<String, Value>, name: &str, to: &mut Map<String, Value>) {
    if let Some(value) = from.remove(name) {
        to.insert(name.to_owned(), value);
    }
}

/// The tools of a request as the engine hands them on: `type`, then `function` with `name`,
/// `description` and `parameters` (null where absent), and nothing it does not know.
pub(super) fn tools(tools: &Value) -> Result<Value, EncodeError> {
    let Value::Array(tools) = tools else {
        return Err(EncodeError::Messages("tools must be a list".to_owned()));
    };
    let mut read = Vec::with_capacity(tools.len());
    for (index, tool) in tools.iter().enumerate() {
        let Some(function) = tool.get("function").and_then(Value::as_object) else {
            return Err(EncodeError::Messages(format!(
                "tools[{index}].function must be an object"
            )));
        };
        let mut ordered = Map::new();
        for name in ["name", "description", "parameters"] {
            let value = function.get(name).cloned().unwrap_or(Value::Null);
            ordered.insert(name.to_owned(), value);
        }
        for name in ["strict", "defer_loading"] {
            if let Some(value) = function.get(name).filter(|value| !value.is_null()) {
                ordered.insert(name.to_owned(), value.clone());
            }
        }
        read.push(json!({"type": "function", "function": ordered}));
    }
    Ok(Value::Array(read))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_form(raw: &str) -> Value {
        Value::Array(normalize(raw, ContentFormat::Text).unwrap())
    }

    #[test]
    fn content_parts_become_one_text_where_the_template_wants_text() {
        let raw = r#"[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":""},"b"]},
            {"role":"assistant","content":null}]"#;
        assert_eq!(
            text_form(raw),
            json!([{"role":"user","content":"a\nb"},{"role":"assistant","content":""}])
        );
        assert_eq!(
            normalize(r#"[{"role":"user","content":"a"}]"#, ContentFormat::Parts).unwrap()[0],
            json!({"role":"user","content":[{"type":"text","text":"a"}]})
        );
    }

    #[test]
    fn arguments_of_tool_calls_become_objects_and_unreadable_ones_empty() {
        let raw = r#"[{"role":"assistant","content":"","tool_calls":[
            {"type":"function","id":"1","extra":1,"function":{"name":"f","arguments":"{\"b\":1,\"a\":2}"}},
            {"type":"function","id":"2","function":{"name":"g","arguments":""}}]},
            {"role":"assistant","content":"","tool_calls":[]}]"#;
        let read = text_form(raw);
        assert_eq!(
            read[0]["tool_calls"].to_string(),
            r#"[{"id":"1","function":{"arguments":{"b":1,"a":2},"name":"f"},"type":"function"},{"id":"2","function":{"arguments":{},"name":"g"},"type":"function"}]"#
        );
        assert_eq!(read[1].get("tool_calls"), None);
    }

    #[test]
    fn tools_are_written_in_the_engines_order() {
        let given = json!([{"function":{"parameters":{"type":"object"},"name":"f","other":1},"type":"function"}]);
        assert_eq!(
            tools(&given).unwrap().to_string(),
            r#"[{"type":"function","function":{"name":"f","description":null,"parameters":{"type":"object"}}}]"#
        );
    }

    #[test]
    fn images_are_left_to_the_engine() {
        let raw = r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]"#;
        assert!(matches!(
            normalize(raw, ContentFormat::Text),
            Err(EncodeError::Multimodal)
        ));
    }

    #[test]
    fn a_bad_message_is_named() {
        let error = normalize(
            r#"[{"role":"user","content":"a"},{"content":"b"}]"#,
            ContentFormat::Text,
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read the request: messages[1].role must be a string"
        );
    }
}
