//! Raw JSON of a completion request -> the fields that routing and simulation read. PURE.
//!
//! Borrowed: nothing of the body is copied, and what is not read is not built.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// What is read of a request.
#[derive(Debug, Default, Deserialize)]
pub struct Request<'a> {
    /// The model asked for.
    #[serde(borrow, default)]
    model: Option<&'a RawValue>,
    /// True asks for server-sent events.
    #[serde(default)]
    pub stream: Option<bool>,
    /// How the stream shall look.
    #[serde(default)]
    pub stream_options: Option<StreamOptions>,
    /// Chat messages, unread.
    #[serde(borrow, default)]
    pub messages: Option<&'a RawValue>,
    /// Completion prompt, unread.
    #[serde(borrow, default)]
    pub prompt: Option<&'a RawValue>,
    /// Most tokens to generate.
    #[serde(default)]
    pub max_tokens: Option<u64>,
    /// The newer name of `max_tokens`.
    #[serde(default)]
    pub max_completion_tokens: Option<u64>,
    /// Keeps caches of those who use different salts apart (vLLM's field).
    #[serde(borrow, default)]
    cache_salt: Option<Cow<'a, str>>,
}

/// What an answer is wanted to.
#[derive(Clone, Debug)]
pub enum Prompt<'a> {
    /// Chat messages, as the raw JSON list.
    Chat(&'a RawValue),
    /// A text.
    Text(Cow<'a, str>),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// One chat message, as far as its text matters.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

/// One part of a message's content.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
}

/// How a stream shall look.
#[derive(Debug, Default, Deserialize)]
pub struct StreamOptions {
    /// True asks for a last event with token counts.
    #[serde(default)]
    pub include_usage: Option<bool>,
}

/// Why a body is not a request.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// The body is not JSON, or a field has the wrong kind of value.
    #[error("invalid JSON at line {line} column {column}: {message}")]
    Json {
        /// Line in the body, from 1.
        line: usize,
        /// Column in the line, from 1.
        column: usize,
        /// What the parser said.
        message: String,
    },
    /// There is no model.
    #[error("model not found in request body")]
    NoModel,
    /// The model is not a text.
    #[error("model must be a non-empty string")]
    ModelNotAString,
}

impl<'a> Request<'a> {
    /// Reads the body.
    ///
    /// # Errors
    /// When it is not a JSON object with fields of the right kinds.
    pub fn parse(body: &'a [u8]) -> Result<Self, Error> {
        serde_json::from_slice(body).map_err(|error| {
            // The position is said once, in front.
            let text = error.to_string();
            let message = text.split(" at line ").next().unwrap_or(&text).to_owned();
            Error::Json {
                line: error.line(),
                column: error.column(),
                message,
            }
        })
    }

    /// The model asked for.
    ///
    /// # Errors
    /// When it is absent or not a text.
    pub fn model(&self) -> Result<Cow<'a, str>, Error> {
        let raw = self.model.ok_or(Error::NoModel)?;
        if raw.get() == "null" {
            return Err(Error::NoModel);
        }
        let model: Cow<'a, str> =
            serde_json::from_str(raw.get()).map_err(|_| Error::ModelNotAString)?;
        if model.is_empty() {
            Err(Error::ModelNotAString)
        } else {
            Ok(model)
        }
    }

    /// The prompt; of a list of prompts the first. `None` when there is none, or none that
    /// could be read: the engine will say what is wrong with it.
    pub fn prompt(&self) -> Option<Prompt<'a>> {
        if let Some(messages) = self.messages {
            return Some(Prompt::Chat(messages));
        }
        let raw = self.prompt?.get();
        let text = |raw: &'a str| serde_json::from_str(raw).ok().map(Prompt::Text);
        if !raw.starts_with('[') {
            return text(raw);
        }
        if let Ok(tokens) = serde_json::from_str(raw) {
            return Some(Prompt::Tokens(tokens));
        }
        let list: Vec<&'a RawValue> = serde_json::from_str(raw).ok()?;
        let first = list.first()?.get();
        text(first).or_else(|| serde_json::from_str(first).ok().map(Prompt::Tokens))
    }

    /// Keeps caches of those who use different salts apart.
    pub fn cache_salt(&self) -> Option<&str> {
        self.cache_salt.as_deref()
    }

    /// Most tokens to generate, under either name.
    pub fn max_tokens(&self) -> Option<u64> {
        self.max_completion_tokens.or(self.max_tokens)
    }
}

impl Prompt<'_> {
    /// Characters of text; of token ids, four each, which is what one stands for on average.
    pub fn chars(&self) -> usize {
        match self {
            Self::Text(text) => text.chars().count(),
            Self::Tokens(tokens) => tokens.len() * 4,
            Self::Chat(messages) => serde_json::from_str::<Vec<Message<'_>>>(messages.get())
                .map_or(messages.get().len(), |list| {
                    list.iter().map(message_chars).sum()
                }),
        }
    }

    /// Bytes that are equal at the start where prompts are: what prefixes are compared by
    /// when there are no tokens.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Text(text) => Cow::Borrowed(text.as_bytes()),
            // Without the closing bracket, so that a longer chat begins as the shorter did.
            Self::Chat(messages) => {
                Cow::Borrowed(messages.get().trim_end().trim_end_matches(']').as_bytes())
            }
            Self::Tokens(tokens) => tokens.iter().flat_map(|id| id.to_le_bytes()).collect(),
        }
    }
}

fn message_chars(message: &Message<'_>) -> usize {
    let Some(raw) = message.content.map(RawValue::get) else {
        return 0;
    };
    if let Ok(text) = serde_json::from_str::<Cow<'_, str>>(raw) {
        return text.chars().count();
    }
    serde_json::from_str::<Vec<Part<'_>>>(raw).map_or(0, |parts| {
        parts
            .iter()
            .filter_map(|part| part.text.as_deref())
            .map(|text| text.chars().count())
            .sum()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_only_what_is_needed() {
        let body = br#"{"model":"m\u0041","messages":[{"role":"user","content":"hi"}],"x":12345678901234567890123,"stream":true}"#;
        let request = Request::parse(body).unwrap();
        assert_eq!(request.model().unwrap(), "mA");
        assert_eq!(request.stream, Some(true));
        assert_eq!(request.prompt().unwrap().chars(), 2);
    }

    #[test]
    fn every_form_of_a_prompt_is_understood() {
        let prompt = |body: &'static str| match Request::parse(body.as_bytes()).unwrap().prompt() {
            Some(Prompt::Text(text)) => format!("text {text}"),
            Some(Prompt::Tokens(tokens)) => format!("tokens {tokens:?}"),
            Some(chat @ Prompt::Chat(_)) => format!("chat of {} characters", chat.chars()),
            None => "none".to_owned(),
        };
        assert_eq!(prompt(r#"{"prompt":"a\nb"}"#), "text a\nb");
        assert_eq!(prompt(r#"{"prompt":["a","b"]}"#), "text a");
        assert_eq!(prompt(r#"{"prompt":[1,2]}"#), "tokens [1, 2]");
        assert_eq!(prompt(r#"{"prompt":[[3],[4]]}"#), "tokens [3]");
        assert_eq!(prompt(r#"{"prompt":7}"#), "none");
        assert_eq!(prompt("{}"), "none");
        let parts = r#"{"messages":[{"role":"user","content":[{"type":"text","text":"héllo"},{"type":"image_url"}]},{"role":"tool"}]}"#;
        assert_eq!(prompt(parts), "chat of 5 characters");
    }

    #[test]
    fn a_chat_that_goes_on_begins_with_the_same_bytes() {
        let bytes = |body: &str| {
            let request = Request::parse(body.as_bytes()).unwrap();
            request.prompt().unwrap().bytes().into_owned()
        };
        let shorter = bytes(r#"{"messages":[{"role":"user","content":"hi"}]}"#);
        let longer = bytes(
            r#"{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}]}"#,
        );
        assert!(longer.starts_with(&shorter));
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        assert!(
            Request::parse(b"{\"model\": ")
                .unwrap_err()
                .to_string()
                .starts_with("invalid JSON at line 1 column 10")
        );
        let parse = |body: &'static [u8]| Request::parse(body).unwrap().model().unwrap_err();
        assert_eq!(parse(b"{}"), Error::NoModel);
        assert_eq!(parse(b"{\"model\":null}"), Error::NoModel);
        assert_eq!(parse(b"{\"model\":1}"), Error::ModelNotAString);
    }
}
