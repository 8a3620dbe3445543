//! Request path -> which API of the engine it is, and where that API keeps its prompt. PURE.
//!
//! The one table of paths: the EPP, the sidecar and the simulator ask it, so a path is the
//! same API to all three. Source of the paths: vLLM's OpenAI-compatible server
//! (<https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html>).
#![deny(clippy::disallowed_methods)]

use std::borrow::Cow;

/// An API whose body carries a prompt.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Api {
    /// OpenAI's chat: `messages`, `tools`.
    Chat,
    /// OpenAI's completions: `prompt` (text, list of texts, tokens, list of token lists).
    Completions,
    /// OpenAI's responses: `input` (text or items), `instructions`, `tools`.
    Responses,
    /// Anthropic's messages: `system`, `messages`, `tools`.
    Messages,
    /// The same body, only counted.
    CountTokens,
    /// Tokens in, tokens out: `token_ids`.
    Generate,
    /// `input` as `Completions` has its prompt, or `messages`.
    Embeddings,
    /// As `Embeddings`.
    Pooling,
    /// As `Embeddings`.
    Classify,
    /// `text_1` and `text_2`, or `queries` and `documents`.
    Score,
    /// `query` and `documents`.
    Rerank,
    /// `prompt` or `messages`.
    Tokenize,
    /// A chat body, only rendered into a prompt.
    RenderChat,
    /// A completions body, only rendered.
    RenderCompletions,
}

/// Every path, with its API.
const PATHS: &[(&str, Api)] = &[
    ("/v1/chat/completions", Api::Chat),
    ("/v1/completions", Api::Completions),
    ("/v1/responses", Api::Responses),
    ("/v1/messages", Api::Messages),
    ("/v1/messages/count_tokens", Api::CountTokens),
    ("/inference/v1/generate", Api::Generate),
    ("/v1/embeddings", Api::Embeddings),
    ("/pooling", Api::Pooling),
    ("/classify", Api::Classify),
    ("/score", Api::Score),
    ("/v1/score", Api::Score),
    ("/rerank", Api::Rerank),
    ("/v1/rerank", Api::Rerank),
    ("/v2/rerank", Api::Rerank),
    ("/tokenize", Api::Tokenize),
    ("/v1/chat/completions/render", Api::RenderChat),
    ("/v1/completions/render", Api::RenderCompletions),
];

impl Api {
    /// The API of a path (a query may follow), percent-encoded or not: the engine decodes it
    /// too, so another spelling must not be a way around us. `None` for every other path.
    pub fn of(path: &str) -> Option<Self> {
        let path = path.split('?').next().unwrap_or_default();
        let path = percent_decoded(path);
        PATHS
            .iter()
            .find(|(known, _)| known.as_bytes() == &*path)
            .map(|(_, api)| *api)
    }

    /// Every path and its API.
    pub fn paths() -> &'static [(&'static str, Self)] {
        PATHS
    }

    /// The first path it is served at.
    pub fn path(self) -> &'static str {
        PATHS
            .iter()
            .find(|(_, api)| *api == self)
            .map(|(path, _)| *path)
            .expect("every API is in the table")
    }

    /// True when the engine generates tokens for it, so that its prompt may be computed by
    /// another engine.
    pub fn generates(self) -> bool {
        matches!(
            self,
            Self::Chat | Self::Completions | Self::Responses | Self::Messages | Self::Generate
        )
    }
}

/// A path with its percent escapes decoded.
pub fn percent_decoded(path: &str) -> Cow<'_, [u8]> {
    if !path.contains('%') {
        return Cow::Borrowed(path.as_bytes());
    }
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let value = escaped
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(value.unwrap_or(bytes[at]));
        at += if value.is_some() { 3 } else { 1 };
    }
    Cow::Owned(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_spelling_of_a_path_is_the_same_api() {
        assert_eq!(Api::of("/v1/completions"), Some(Api::Completions));
        assert_eq!(Api::of("/v1/completions?x=1"), Some(Api::Completions));
        assert_eq!(Api::of("/v1/%63hat%2Fcompletions"), Some(Api::Chat));
        for other in ["/v1/completions/", "/v1/completions%", "/v1/files", ""] {
            assert_eq!(Api::of(other), None, "{other}");
        }
    }

    #[test]
    fn every_api_has_a_path_and_every_path_its_api() {
        for (path, api) in Api::paths() {
            assert_eq!(Api::of(path), Some(*api));
            assert_eq!(Api::of(api.path()), Some(*api));
        }
    }
}
