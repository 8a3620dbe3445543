//! Messages -> the text the engine tokenizes, by the model's own Jinja template. PURE.
//!
//! The environment is the one of transformers
//! (<https://github.com/huggingface/transformers/blob/main/src/transformers/utils/chat_template_utils.py>):
//! block tags take their line with them, loops have `break` and `continue`, `tojson` is Python's
//! `json.dumps`. Which variables a request may set follows vLLM's `build_chat_params`
//! (<https://github.com/vllm-project/vllm/blob/main/vllm/entrypoints/openai/chat_completion/protocol.py>).
//! A template is code from a model's author: what it may spend is bounded.
#![deny(clippy::disallowed_methods)]

mod format;
mod messages;
mod python;

use std::collections::BTreeMap;
use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};

pub use self::python::Civil;

use self::format::ContentFormat;
use super::local::EncodeError;

/// Steps one rendering may take; a long chat takes a few thousand.
const FUEL: u64 = 5_000_000;
/// Marks where a message that the model shall go on with ends.
const CONTINUE_MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";
/// The name of the template for requests without tools.
const DEFAULT: &str = "default";
/// The name of the template for requests with tools.
const TOOL_USE: &str = "tool_use";

/// What a chat request says beside its messages.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatOptions {
    /// End with the start of an answer.
    pub add_generation_prompt: bool,
    /// Leave the last message open.
    pub continue_final_message: bool,
    /// Let the tokenizer add its special tokens to those of the template.
    pub add_special_tokens: bool,
    /// The tools of the request, as it has them.
    pub tools: Option<Json>,
    /// Documents for templates that know them.
    pub documents: Option<Json>,
    /// How much the model shall think.
    pub reasoning_effort: Option<String>,
    /// More variables for the template.
    pub template_kwargs: Map<String, Json>,
    /// What `strftime_now` formats; without it templates see no such function.
    pub date: Option<Civil>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self {
            add_generation_prompt: true,
            continue_final_message: false,
            add_special_tokens: false,
            tools: None,
            documents: None,
            reasoning_effort: None,
            template_kwargs: Map::new(),
            date: None,
        }
    }
}

/// The fields of a request's body that change its tokens.
#[derive(Deserialize)]
struct Body<'a> {
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
    add_special_tokens: Option<bool>,
    tools: Option<Json>,
    documents: Option<Json>,
    reasoning_effort: Option<String>,
    chat_template_kwargs: Option<Map<String, Json>>,
    #[serde(borrow)]
    chat_template: Option<&'a RawValue>,
    #[serde(borrow)]
    truncate_prompt_tokens: Option<&'a RawValue>,
}

impl ChatOptions {
    /// Reads a chat request's body.
    ///
    /// # Errors
    /// When it is not JSON, or asks for something only the engine can do.
    pub fn from_body(body: &[u8]) -> Result<Self, EncodeError> {
        let body: Body<'_> = serde_json::from_slice(body)
            .map_err(|error| EncodeError::Messages(error.to_string()))?;
        if body.chat_template.is_some() {
            return Err(EncodeError::Unsupported("chat_template in the request"));
        }
        if body.truncate_prompt_tokens.is_some() {
            return Err(EncodeError::Unsupported("truncate_prompt_tokens"));
        }
        Ok(Self {
            add_generation_prompt: body.add_generation_prompt.unwrap_or(true),
            continue_final_message: body.continue_final_message.unwrap_or(false),
            add_special_tokens: body.add_special_tokens.unwrap_or(false),
            tools: body.tools,
            documents: body.documents,
            reasoning_effort: body.reasoning_effort,
            template_kwargs: body.chat_template_kwargs.unwrap_or_default(),
            date: None,
        })
    }
}

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("chat template \"{name}\" line {line}: {message}")]
pub struct TemplateError {
    /// Which of the model's templates.
    pub name: String,
    /// Line in the template, from 1; 0 where unknown.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
}

/// The chat templates of one model, ready to render.
pub struct ChatTemplates {
    environment: Environment<'static>,
    formats: BTreeMap<String, ContentFormat>,
    special: BTreeMap<String, String>,
}

impl fmt::Debug for ChatTemplates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ChatTemplates")
            .field("templates", &self.formats)
            .finish_non_exhaustive()
    }
}

impl ChatTemplates {
    /// Compiles named templates; `special` are the variables of the model's special tokens, for
    /// example `bos_token`.
    ///
    /// # Errors
    /// When one does not compile.
    pub fn compile(
        sources: BTreeMap<String, String>,
        special: BTreeMap<String, String>,
    ) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .expect("the usual delimiters are valid"),
        );
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", python::to_json);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<Value, Error> {
                Err(Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        let mut formats = BTreeMap::new();
        for (name, source) in sources {
            formats.insert(name.clone(), format::detect(&source));
            environment
                .add_template_owned(name.clone(), format::without_generation_tags(&source))
                .map_err(|error| named(&name, &error))?;
        }
        Ok(Self {
            environment,
            formats,
            special,
        })
    }

    /// The text of a chat.
    ///
    /// # Errors
    /// When the messages are not a chat, or the template refuses them.
    pub fn render(
        &self,
        messages: &RawValue,
        options: &ChatOptions,
    ) -> Result<String, EncodeError> {
        let tools = match &options.tools {
            None | Some(Json::Null) => Json::Null,
            Some(tools) => messages::tools(tools)?,
        };
        let name = if !tools.is_null() && self.formats.contains_key(TOOL_USE) {
            TOOL_USE
        } else {
            DEFAULT
        };
        let format = *self.formats.get(name).ok_or(EncodeError::NoTemplate)?;
        let mut messages = messages::normalize(messages.get(), format)?;
        let continued = if options.continue_final_message {
            Some(mark_end(&mut messages)?)
        } else {
            None
        };
        let template = self
            .environment
            .get_template(name)
            .map_err(|error| named(name, &error))?;
        let text = template
            .render(self.variables(messages, tools, options))
            .map_err(|error| named(name, &error))?;
        match continued {
            Some(message) => cut_at_mark(text, &message),
            None => Ok(text),
        }
    }

    fn variables(&self, messages: Vec<Json>, tools: Json, options: &ChatOptions) -> Value {
        let mut all: BTreeMap<String, Value> = self
            .special
            .iter()
            .map(|(name, token)| (name.clone(), Value::from(token.as_str())))
            .collect();
        for (name, value) in &options.template_kwargs {
            all.insert(name.clone(), Value::from(Serde(value)));
        }
        if let Some(effort) = &options.reasoning_effort {
            all.insert("reasoning_effort".to_owned(), Value::from(effort.as_str()));
            all.entry("enable_thinking".to_owned())
                .or_insert_with(|| Value::from(effort != "none"));
        }
        if let Some(date) = options.date {
            let now = Value::from_function(move |format: String| date.format(&format));
            all.insert("strftime_now".to_owned(), now);
        }
        // The request's own fields win over variables of the same name.
        let documents = options.documents.as_ref();
        let own = [
            ("messages", Value::from(Serde(messages))),
            ("tools", Value::from(Serde(tools))),
            ("documents", Value::from(Serde(documents))),
            (
                "add_generation_prompt",
                Value::from(options.add_generation_prompt),
            ),
        ];
        all.extend(own.map(|(name, value)| (name.to_owned(), value)));
        Value::from_pairs(all)
    }
}

fn named(name: &str, error: &Error) -> TemplateError {
    TemplateError {
        name: name.to_owned(),
        line: error.line().unwrap_or(0),
        message: match error.detail() {
            Some(detail) => detail.to_owned(),
            None => error.kind().to_string(),
        },
    }
}

/// Marks the end of the last message; returns that message without the mark.
fn mark_end(messages: &mut [Json]) -> Result<String, EncodeError> {
    let nothing = || EncodeError::Messages("there is no final message to continue".to_owned());
    let content = messages
        .last_mut()
        .and_then(|message| message.get_mut("content"))
        .ok_or_else(nothing)?;
    let text = match content {
        Json::String(text) => text,
        Json::Array(parts) => match parts.last_mut().and_then(|part| part.get_mut("text")) {
            Some(Json::String(text)) => text,
            _ => return Err(nothing()),
        },
        _ => return Err(nothing()),
    };
    let message = text.clone();
    text.push_str(CONTINUE_MARK);
    Ok(message)
}

/// Ends a rendered chat where its last message ends, as transformers does.
fn cut_at_mark(mut text: String, message: &str) -> Result<String, EncodeError> {
    let at = text
        .rfind(CONTINUE_MARK.trim_end())
        .filter(|_| text.contains(message.trim()))
        .ok_or_else(|| {
            EncodeError::Messages("the template drops the final message to continue".to_owned())
        })?;
    // A template that trims messages has also trimmed the blank at the end of the mark.
    let spaces_kept = text[at..].starts_with(CONTINUE_MARK);
    text.truncate(at);
    if !spaces_kept {
        text.truncate(text.trim_end().len());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::tokenize::testing::{LLAMA_TEMPLATE, raw};

    fn templates(sources: &[(&str, &str)]) -> ChatTemplates {
        ChatTemplates::compile(
            sources
                .iter()
                .map(|(name, source)| ((*name).to_owned(), (*source).to_owned()))
                .collect(),
            BTreeMap::from([("bos_token".to_owned(), "<|begin_of_text|>".to_owned())]),
        )
        .unwrap()
    }

    fn render(source: &str, messages: &str, options: &ChatOptions) -> Result<String, EncodeError> {
        templates(&[(DEFAULT, source)]).render(&raw(messages), options)
    }

    const CHAT: &str = r#"[{"role":"system","content":"Be brief. "},{"role":"user","content":"Grüße <b>\"x\"</b>?"}]"#;

    // The expected texts of this module are the output of Jinja2 3.1.6 with transformers' settings.

    #[test]
    fn a_chat_renders_byte_for_byte_as_jinja_does() {
        let date = Some(Civil::from_unix_seconds(1_709_211_909));
        let options = ChatOptions {
            date,
            ..ChatOptions::default()
        };
        assert_eq!(
            render(LLAMA_TEMPLATE, CHAT, &options).unwrap(),
            EXPECTED_CHAT
        );
        let without_prompt = ChatOptions {
            add_generation_prompt: false,
            ..options
        };
        assert_eq!(
            render(LLAMA_TEMPLATE, CHAT, &without_prompt).unwrap(),
            EXPECTED_CHAT
                .strip_suffix("<|start_header_id|>assistant<|end_header_id|>\n\n")
                .unwrap()
        );
    }

    const EXPECTED_CHAT: &str = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 29 Feb 2024\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nGrüße <b>\"x\"</b>?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";

    #[test]
    fn tools_render_byte_for_byte_as_jinja_does() {
        let body = r#"{"model":"m","messages":[],"tools":[{"type":"function","function":{"name":"sum","description":"a <b> & 'c'","parameters":{"type":"object","properties":{"zeta":{"type":"number","default":1.0},"alpha":{"type":"integer","maximum":1e22}},"required":[]}}}],"chat_template_kwargs":{"date_string":"1 Jan 2025"}}"#;
        let options = ChatOptions::from_body(body.as_bytes()).unwrap();
        let messages = r#"[{"role":"user","content":"2+3?"},
            {"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"sum","arguments":"{\"zeta\": 2, \"alpha\": 3}"}}]},
            {"role":"tool","tool_call_id":"1","content":[{"type":"text","text":"5"}]}]"#;
        assert_eq!(
            render(LLAMA_TEMPLATE, messages, &options).unwrap(),
            EXPECTED_TOOLS
        );
    }

    const EXPECTED_TOOLS: &str = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\nCutting Knowledge Date: December 2023\nToday Date: 1 Jan 2025\n\nYou may call these functions:\n\n{\n    \"type\": \"function\",\n    \"function\": {\n        \"name\": \"sum\",\n        \"description\": \"a <b> & 'c'\",\n        \"parameters\": {\n            \"type\": \"object\",\n            \"properties\": {\n                \"zeta\": {\n                    \"type\": \"number\",\n                    \"default\": 1.0\n                },\n                \"alpha\": {\n                    \"type\": \"integer\",\n                    \"maximum\": 1e+22\n                }\n            },\n            \"required\": []\n        }\n    }\n}\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n2+3?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{\"name\": \"sum\", \"parameters\": {\"zeta\": 2, \"alpha\": 3}}<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n\"5\"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";

    #[test]
    fn a_request_with_tools_uses_the_template_for_tools() {
        let both = templates(&[(DEFAULT, "plain"), (TOOL_USE, "tools {{ tools | length }}")]);
        let mut options = ChatOptions::default();
        assert_eq!(both.render(&raw(CHAT), &options).unwrap(), "plain");
        options.tools = Some(serde_json::json!([{"function": {"name": "f"}}]));
        assert_eq!(both.render(&raw(CHAT), &options).unwrap(), "tools 1");
        let only_tools = templates(&[(TOOL_USE, "x")]);
        assert!(matches!(
            only_tools.render(&raw(CHAT), &ChatOptions::default()),
            Err(EncodeError::NoTemplate)
        ));
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let source = "{{ messages[0].content | tojson }}|{{ x | tojson }}|{{ x | tojson(indent=2) }}|{{ x | tojson(ensure_ascii=true, separators=(',', ':'), sort_keys=true) }}";
        let mut options = ChatOptions::default();
        options.template_kwargs.insert(
            "x".to_owned(),
            serde_json::json!({"b": [1, 2.0, 1e16, 1e-7, -0.0, 123.456, null, true], "a": {}, "é": "\u{1}\u{7f}\t"}),
        );
        assert_eq!(
            render(source, CHAT, &options).unwrap(),
            "\"Be brief. \"|{\"b\": [1, 2.0, 1e+16, 1e-07, -0.0, 123.456, null, true], \"a\": {}, \"é\": \"\\u0001\u{7f}\\t\"}|{\n  \"b\": [\n    1,\n    2.0,\n    1e+16,\n    1e-07,\n    -0.0,\n    123.456,\n    null,\n    true\n  ],\n  \"a\": {},\n  \"é\": \"\\u0001\u{7f}\\t\"\n}|{\"a\":{},\"b\":[1,2.0,1e+16,1e-07,-0.0,123.456,null,true],\"\\u00e9\":\"\\u0001\\u007f\\t\"}"
        );
    }

    #[test]
    fn python_methods_and_loop_controls_work() {
        let source = "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m['content'].strip().split(' ')[0].upper() }}{{ m.get('x', 'none') }}{% endfor %}{% for k, v in messages[0].items() %}{{ k }},{% endfor %}{{ messages[-1].role }}{{ none }}{{ true }}";
        assert_eq!(
            render(source, CHAT, &ChatOptions::default()).unwrap(),
            "BEnonerole,content,userNoneTrue"
        );
    }

    #[test]
    fn a_final_message_can_stay_open() {
        let messages =
            r#"[{"role":"user","content":"a"},{"role":"assistant","content":"The answer "}]"#;
        let options = ChatOptions {
            add_generation_prompt: false,
            continue_final_message: true,
            ..ChatOptions::default()
        };
        let keeps = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<end>{% endfor %}";
        assert_eq!(
            render(keeps, messages, &options).unwrap(),
            "[user]a<end>[assistant]The answer "
        );
        let trims = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}<end>{% endfor %}";
        assert_eq!(
            render(trims, messages, &options).unwrap(),
            "[user]a<end>[assistant]The answer"
        );
        assert!(render("{{ messages[0].content }}", messages, &options).is_err());
    }

    #[test]
    fn a_refusal_of_the_template_names_template_line_and_words() {
        let error = render(
            "a\nb{{ raise_exception('roles must alternate') }}",
            CHAT,
            &ChatOptions::default(),
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "chat template \"default\" line 2: roles must alternate"
        );
    }

    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let source = "{% for a in range(100000) %}{% for b in range(100000) %}{{ b }}{% endfor %}{% endfor %}";
        let error = render(source, CHAT, &ChatOptions::default()).unwrap_err();
        assert!(error.to_string().contains("fuel"), "{error}");
    }

    #[test]
    fn a_template_of_the_request_is_left_to_the_engine() {
        let error = ChatOptions::from_body(br#"{"chat_template":"x"}"#).unwrap_err();
        assert!(matches!(error, EncodeError::Unsupported(_)));
    }
}
