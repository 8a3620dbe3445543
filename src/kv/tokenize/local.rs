//! A folder with a model's tokenizer files -> tokens, as the engine makes them. Loading is IO,
//! encoding is pure CPU work: callers keep long texts off the async workers.
//!
//! Files as Hugging Face names them: `tokenizer.json` (needed), `tokenizer_config.json`,
//! `special_tokens_map.json`, and the chat template in `chat_template.jinja`, in
//! `additional_chat_templates/`, in the config or in `chat_template.json`.

mod files;

use std::path::{Path, PathBuf};

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;
use serde_json::value::RawValue;

use self::files::{find_templates, named_tokens, read, read_json};
use super::chat_template::{ChatOptions, ChatTemplates, TemplateError};

/// Text shorter than this is not worth an entry in a cache of its own.
const MIN_CHUNK_BYTES: usize = 512;
/// Models whose chats the engine writes in code, whatever template they ship
/// (<https://github.com/vllm-project/vllm/tree/main/vllm/renderers>).
const RENDERED_IN_CODE: [&str; 4] = ["gpt_oss", "deepseek_v32", "deepseek_v4", "kimi_k3"];

/// Why a folder gives no tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is larger than any tokenizer's.
    #[error("{} is larger than {limit_bytes} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        limit_bytes: u64,
    },
    /// `tokenizer.json` does not describe a tokenizer.
    #[error("{} is not a tokenizer: {message}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the parser said, with line and column where it knows them.
        message: String,
    },
    /// A file is not the JSON it should be.
    #[error("{} line {line}: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line from 1; 0 where the whole file is meant.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A chat template does not compile.
    #[error("{}: {source}", path.display())]
    Template {
        /// The file that holds it.
        path: PathBuf,
        /// Where in the template.
        source: TemplateError,
    },
}

/// Why a prompt has no tokens here.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The request is not a chat.
    #[error("cannot read the request: {0}")]
    Messages(String),
    /// Images, audio or video: the engine alone knows how many tokens they take.
    #[error("the chat holds content other than text")]
    Multimodal,
    /// The model has no chat template for such a request.
    #[error("the model has no chat template for this request")]
    NoTemplate,
    /// The template failed or refused the messages.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Only the engine can do it.
    #[error("{0} is left to the engine")]
    Unsupported(&'static str),
    /// The tokenizer failed.
    #[error("cannot tokenize: {0}")]
    Tokenize(String),
}

/// What the tokenizer puts around a prompt when asked for special tokens.
#[derive(Debug)]
enum Around {
    /// Always the same tokens.
    Fixed { before: Vec<u32>, after: Vec<u32> },
    /// It depends on the prompt.
    Unknown,
}

/// Where a text may be cut so that its pieces give the same tokens as the whole.
#[derive(Debug)]
struct Boundaries {
    finder: AhoCorasick,
    /// Per pattern of the finder: a cut in front of it changes nothing.
    clean: Vec<bool>,
}

/// The tokenizer of one model.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    templates: Option<ChatTemplates>,
    around: Around,
    boundaries: Option<Boundaries>,
    fingerprint: u64,
    renders_chats: bool,
}

impl Tokenizer {
    /// Reads the files of a folder.
    ///
    /// # Errors
    /// When `tokenizer.json` is missing, or a file that is there is not what it should be.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        let path = dir.join("tokenizer.json");
        let bytes = read(&path)?;
        let mut inner =
            tokenizers::Tokenizer::from_bytes(&bytes).map_err(|error| LoadError::Tokenizer {
                path,
                message: error.to_string(),
            })?;
        // Limits saved with a tokenizer are for training; the engine switches them off.
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .expect("no truncation is a valid truncation");
        let config_path = dir.join("tokenizer_config.json");
        let config = read_json(&config_path)?.unwrap_or(Value::Null);
        let map = read_json(&dir.join("special_tokens_map.json"))?.unwrap_or(Value::Null);
        let templates = match find_templates(dir, &config_path, &config)? {
            Some((path, sources)) => Some(
                ChatTemplates::compile(sources, named_tokens(&config, &map))
                    .map_err(|source| LoadError::Template { path, source })?,
            ),
            None => None,
        };
        let model = read_json(&dir.join("config.json"))?.unwrap_or(Value::Null);
        let model_type = model["model_type"].as_str().unwrap_or_default();
        Ok(Self {
            around: around(&inner),
            boundaries: boundaries(&inner),
            fingerprint: xxhash_rust::xxh3::xxh3_64(&bytes),
            renders_chats: !RENDERED_IN_CODE.contains(&model_type),
            inner,
            templates,
        })
    }

    /// The tokens of a completion's prompt, special tokens added as `/v1/completions` does.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn completion(&self, prompt: &str) -> Result<Vec<u32>, EncodeError> {
        self.encode(prompt, true)
    }

    /// The tokens of a chat: the template's text, to which nothing is added.
    ///
    /// # Errors
    /// When the chat cannot be rendered here, or the tokenizer fails.
    pub fn chat(
        &self,
        messages: &RawValue,
        options: &ChatOptions,
    ) -> Result<Vec<u32>, EncodeError> {
        let text = self.render(messages, options)?;
        self.encode(&text, options.add_special_tokens)
    }

    /// The text of a chat.
    ///
    /// # Errors
    /// When the chat cannot be rendered here.
    pub fn render(
        &self,
        messages: &RawValue,
        options: &ChatOptions,
    ) -> Result<String, EncodeError> {
        if !self.renders_chats {
            return Err(EncodeError::Unsupported("the chat format of this model"));
        }
        self.templates
            .as_ref()
            .ok_or(EncodeError::NoTemplate)?
            .render(messages, options)
    }

    /// The text of tokens, special ones included.
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.inner.decode(tokens, false).unwrap_or_default()
    }

    /// The tokens of a text, as they are or with those that the tokenizer puts around it.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, EncodeError> {
        self.inner
            .encode_fast(text, add_special_tokens)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|error| EncodeError::Tokenize(error.to_string()))
    }

    /// What `encode` adds in front of and behind a text; `None` where that depends on the text.
    pub(super) fn added_around(&self) -> Option<(&[u32], &[u32])> {
        match &self.around {
            Around::Fixed { before, after } => Some((before, after)),
            Around::Unknown => None,
        }
    }

    /// Differs between tokenizers that may give different tokens.
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The text in pieces whose tokens, one after the other, are the tokens of the text.
    ///
    /// Pieces start at special tokens, which the tokenizer cuts out before it does anything
    /// else. Texts with the same beginning have the same first pieces.
    pub(super) fn pieces<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let Some(boundaries) = &self.boundaries else {
            return vec![text];
        };
        let mut pieces = Vec::new();
        let mut start = 0;
        for found in boundaries.finder.find_iter(text) {
            let clean = boundaries.clean[found.pattern().as_usize()];
            if clean && found.start() - start >= MIN_CHUNK_BYTES {
                pieces.push(&text[start..found.start()]);
                start = found.start();
            }
        }
        pieces.push(&text[start..]);
        pieces
    }
}

/// Learns by trying what the tokenizer puts around a text.
fn around(inner: &tokenizers::Tokenizer) -> Around {
    let ids = |text: &str, special: bool| {
        inner
            .encode_fast(text, special)
            .map(|encoding| encoding.get_ids().to_vec())
            .unwrap_or_default()
    };
    let mut learned: Option<(Vec<u32>, Vec<u32>)> = None;
    for probe in ["a", "b c, d"] {
        let (plain, whole) = (ids(probe, false), ids(probe, true));
        let mut places = (0..=whole.len().saturating_sub(plain.len()))
            .filter(|at| whole[*at..].starts_with(&plain));
        let (Some(at), None) = (places.next(), places.next()) else {
            return Around::Unknown;
        };
        let found = (whole[..at].to_vec(), whole[at + plain.len()..].to_vec());
        if learned.as_ref().is_some_and(|learned| *learned != found) {
            return Around::Unknown;
        }
        learned = Some(found);
    }
    match learned {
        Some((before, after)) => Around::Fixed { before, after },
        None => Around::Unknown,
    }
}

/// The tokens that the tokenizer finds before it normalizes. `None` where a cut could change what
/// it finds: a token that must stand alone as a word is recognized by its neighbours.
fn boundaries(inner: &tokenizers::Tokenizer) -> Option<Boundaries> {
    let tokens: Vec<_> = inner
        .get_added_tokens_decoder()
        .into_values()
        .filter(|token| !token.normalized && !token.content.is_empty())
        .collect();
    if tokens.is_empty() || tokens.iter().any(|token| token.single_word) {
        return None;
    }
    let finder = AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .build(tokens.iter().map(|token| &token.content))
        .ok()?;
    // A token that takes blanks from its left needs to see them.
    let clean = tokens.iter().map(|token| !token.lstrip).collect();
    Some(Boundaries { finder, clean })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::kv::tokenize::testing::{LLAMA_TEMPLATE, load, raw, tiny_model, tiny_model_with};

    const CHAT: &str = r#"[{"role":"system","content":"You are a helpful assistant."},{"role":"user","content":"Where is the station?"}]"#;

    #[test]
    fn a_completion_starts_with_the_first_token_of_a_text_and_reads_back() {
        let tokenizer = load(&tiny_model());
        let text = "the quick brown fox — Grüße, 世界 🦊\n\n\t1234567";
        let tokens = tokenizer.completion(text).unwrap();
        assert_eq!(tokens[0], 0, "<|begin_of_text|> is the first special token");
        assert_eq!(
            tokenizer.decode(&tokens),
            format!("<|begin_of_text|>{text}")
        );
        let plain = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokens[1..], plain);
    }

    #[test]
    fn a_chat_is_its_template_with_special_tokens_as_single_ids() {
        let tokenizer = load(&tiny_model());
        let tokens = tokenizer.chat(&raw(CHAT), &ChatOptions::default()).unwrap();
        let text = |text: &str| tokenizer.encode(text, false).unwrap();
        // 0 begin, 2 start of header, 3 end of header, 4 end of turn: the trainer numbers
        // special tokens first, in the order given.
        let expected = [
            &[0, 2][..],
            &text("system"),
            &[3],
            &text("\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nYou are a helpful assistant."),
            &[4, 2],
            &text("user"),
            &[3],
            &text("\n\nWhere is the station?"),
            &[4, 2],
            &text("assistant"),
            &[3],
            &text("\n\n"),
        ]
        .concat();
        assert_eq!(tokens, expected);
        assert_eq!(tokens.iter().filter(|id| **id == 0).count(), 1, "one begin");
    }

    #[test]
    fn the_tokenizer_may_add_its_own_special_tokens_to_a_chat_when_asked() {
        let tokenizer = load(&tiny_model());
        let options = ChatOptions {
            add_special_tokens: true,
            ..ChatOptions::default()
        };
        let tokens = tokenizer.chat(&raw(CHAT), &options).unwrap();
        assert_eq!(tokens[..2], [0, 0]);
    }

    #[test]
    fn common_text_takes_fewer_tokens_than_bytes() {
        let tokenizer = load(&tiny_model());
        let text = "the quick brown fox jumps over the lazy dog";
        let tokens = tokenizer.encode(text, false).unwrap();
        assert!(tokens.len() < text.len() / 2, "{tokens:?}");
    }

    #[test]
    fn a_limit_saved_with_the_tokenizer_is_not_applied() {
        let dir = tiny_model_with(|tokenizer| {
            tokenizer
                .with_truncation(Some(tokenizers::TruncationParams {
                    max_length: 3,
                    ..Default::default()
                }))
                .unwrap();
        });
        assert!(
            load(&dir)
                .completion("one two three four five six")
                .unwrap()
                .len()
                > 3
        );
    }

    #[test]
    fn templates_come_from_their_own_file_before_the_config() {
        let dir = tiny_model();
        fs::write(
            dir.path().join("chat_template.jinja"),
            "own {{ bos_token }}",
        )
        .unwrap();
        let tokenizer = load(&dir);
        let render = |tokenizer: &Tokenizer, options: &ChatOptions| {
            tokenizer.render(&raw(CHAT), options).unwrap()
        };
        assert_eq!(
            render(&tokenizer, &ChatOptions::default()),
            "own <|begin_of_text|>"
        );
        let named = serde_json::json!({"chat_template": [{"name":"default","template":"d"},{"name":"tool_use","template":"t"}]});
        fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
        fs::write(dir.path().join("tokenizer_config.json"), named.to_string()).unwrap();
        let options = ChatOptions {
            tools: Some(serde_json::json!([{"function": {"name": "f"}}])),
            ..ChatOptions::default()
        };
        assert_eq!(render(&load(&dir), &options), "t");
        fs::write(dir.path().join("tokenizer_config.json"), "{}").unwrap();
        let json = serde_json::json!({"chat_template": LLAMA_TEMPLATE});
        fs::write(dir.path().join("chat_template.json"), json.to_string()).unwrap();
        assert!(render(&load(&dir), &options).contains("<|eot_id|>"));
    }

    #[test]
    fn a_model_without_a_template_has_completions_only() {
        let dir = tiny_model();
        fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
        let tokenizer = load(&dir);
        assert!(tokenizer.completion("a").is_ok());
        let error = tokenizer
            .chat(&raw(CHAT), &ChatOptions::default())
            .unwrap_err();
        assert!(matches!(error, EncodeError::NoTemplate));
    }

    #[test]
    fn chats_that_the_engine_writes_in_code_are_left_to_it() {
        let dir = tiny_model();
        fs::write(
            dir.path().join("config.json"),
            r#"{"model_type":"gpt_oss"}"#,
        )
        .unwrap();
        let error = load(&dir)
            .chat(&raw(CHAT), &ChatOptions::default())
            .unwrap_err();
        assert!(matches!(error, EncodeError::Unsupported(_)));
    }

    #[test]
    fn what_cannot_be_loaded_names_the_file_and_the_place() {
        let dir = tiny_model();
        let path = |name: &str| dir.path().join(name);
        let error = |dir: &tempfile::TempDir| Tokenizer::load(dir.path()).unwrap_err().to_string();
        fs::write(
            path("tokenizer_config.json"),
            "{\n\"chat_template\": \"a\\n{% if %}\"}",
        )
        .unwrap();
        let said = error(&dir);
        assert!(
            said.contains("tokenizer_config.json: chat template \"default\" line 2"),
            "{said}"
        );
        fs::write(path("tokenizer_config.json"), "{\n\n x}").unwrap();
        let said = error(&dir);
        assert!(said.contains("tokenizer_config.json line 3"), "{said}");
        fs::write(path("tokenizer.json"), "{\"version\": 1}").unwrap();
        let said = error(&dir);
        assert!(said.contains("tokenizer.json is not a tokenizer"), "{said}");
        fs::remove_file(path("tokenizer.json")).unwrap();
        let said = error(&dir);
        assert!(
            said.contains("cannot read") && said.contains("tokenizer.json"),
            "{said}"
        );
    }
}
