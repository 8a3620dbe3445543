//! Bytes of a completion's answer -> what the test wants of it. PURE.
#![deny(clippy::disallowed_methods)]

use serde::Deserialize;
use serde_json::Value;

/// The longest line of a stream that is looked at; longer ones are passed over.
const LINE_LIMIT: usize = 1 << 20;

/// What the engine says about one request's prompt.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: Option<u64>,
    /// Of those, found in the prefix cache; only some engines tell.
    pub cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Body {
    usage: Option<UsageBody>,
}

#[derive(Deserialize)]
struct UsageBody {
    prompt_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl From<UsageBody> for Usage {
    fn from(body: UsageBody) -> Self {
        Self {
            prompt_tokens: body.prompt_tokens,
            cached_tokens: body
                .prompt_tokens_details
                .and_then(|details| details.cached_tokens),
        }
    }
}

/// Reads the usage of an answer that came in one piece; empty where there is none.
pub fn usage(body: &[u8]) -> Usage {
    serde_json::from_slice::<Body>(body)
        .ok()
        .and_then(|body| body.usage)
        .map_or_else(Usage::default, Usage::from)
}

/// Reads the tokens of an engine's `/tokenize` answer.
pub fn tokens(body: &[u8]) -> Option<Vec<u32>> {
    #[derive(Deserialize)]
    struct Tokens {
        tokens: Vec<u32>,
    }
    serde_json::from_slice::<Tokens>(body)
        .ok()
        .map(|body| body.tokens)
}

/// A message of an error answer, cut to fit a line.
pub fn error_text(body: &[u8]) -> String {
    let text = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|body| {
            let error = &body["error"];
            [&error["message"], error, &body["message"], &body["detail"]]
                .into_iter()
                .find_map(Value::as_str)
                .map(str::to_owned)
        })
        .unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let line: String = text
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .filter(|character| !character.is_control())
        .take(200)
        .collect();
    if line.is_empty() {
        "no body".to_owned()
    } else {
        line
    }
}

/// A stream of server-sent events, read while it arrives.
#[derive(Debug, Default)]
pub struct Stream {
    line: Vec<u8>,
    too_long: bool,
    usage: Usage,
    content: bool,
}

impl Stream {
    /// Takes the next bytes. True when they hold the first generated text.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        let before = self.content;
        for byte in bytes {
            if *byte == b'\n' {
                if !std::mem::take(&mut self.too_long) {
                    self.read_line();
                }
                self.line.clear();
            } else if self.line.len() < LINE_LIMIT {
                self.line.push(*byte);
            } else {
                self.too_long = true;
            }
        }
        self.content && !before
    }

    /// The usage, which comes in the last event.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    fn read_line(&mut self) {
        let Some(data) = self.line.strip_prefix(b"data:") else {
            return;
        };
        let Ok(event) = serde_json::from_slice::<Value>(data) else {
            return;
        };
        let delta = &event["choices"][0]["delta"];
        self.content |= ["content", "reasoning_content", "reasoning"]
            .iter()
            .any(|field| delta[*field].as_str().is_some_and(|text| !text.is_empty()));
        if event["usage"].is_object()
            && let Ok(usage) = UsageBody::deserialize(&event["usage"])
        {
            self.usage = usage.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_where_there_is_one() {
        let body =
            br#"{"usage":{"prompt_tokens":158,"prompt_tokens_details":{"cached_tokens":144}}}"#;
        assert_eq!(
            usage(body),
            Usage {
                prompt_tokens: Some(158),
                cached_tokens: Some(144)
            }
        );
        let plain = br#"{"usage":{"prompt_tokens":7,"prompt_tokens_details":null}}"#;
        assert_eq!(usage(plain).prompt_tokens, Some(7));
        assert_eq!(usage(b"<html>"), Usage::default());
    }

    #[test]
    fn the_first_text_of_a_stream_is_noticed_once_wherever_the_bytes_are_cut() {
        let text = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
            data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\n\r\n\
            data: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9}}\n\ndata: [DONE]\n\n";
        for size in 1..40 {
            let mut stream = Stream::default();
            let seen = text
                .as_bytes()
                .chunks(size)
                .filter(|chunk| stream.push(chunk))
                .count();
            assert_eq!(seen, 1);
            assert_eq!(stream.usage().prompt_tokens, Some(9));
        }
    }

    #[test]
    fn an_error_is_one_short_line() {
        assert_eq!(
            error_text(br#"{"error":{"message":"no\nroom"}}"#),
            "no room"
        );
        assert_eq!(error_text(br#"{"error":"busy"}"#), "busy");
        assert_eq!(error_text(b""), "no body");
        assert_eq!(error_text("é".repeat(900).as_bytes()).chars().count(), 200);
    }
}
