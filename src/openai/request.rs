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

    /// Bytes of prompt, as raw JSON: close enough for thresholds.
    pub fn prompt_bytes(&self) -> usize {
        self.messages
            .or(self.prompt)
            .map_or(0, |raw| raw.get().len())
    }

    /// Most tokens to generate, under either name.
    pub fn max_tokens(&self) -> Option<u64> {
        self.max_completion_tokens.or(self.max_tokens)
    }
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
        assert!(request.prompt_bytes() > 10);
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
