//! Text <-> tokens of the simulated model: the model's own tokenizer where its files are
//! there, else a built-in one. Loading is IO, the rest is CPU work.

pub mod builtin;

use std::path::Path;
use std::sync::Arc;

use serde_json::value::RawValue;

use self::builtin::BuiltIn;
use super::engine::Script;
use crate::kv::tokenize::chat_template::ChatOptions;
use crate::kv::tokenize::local::Tokenizer;

/// First words of answers.
const FIRST: [&str; 6] = ["Yes", "Well", "Sure", "Here", "So", "Now"];
/// What follows, marks at the end. Each is one token for most tokenizers, and so is each when
/// a client sends the answer back as a part of its next prompt: its blocks are found again.
const WORDS: [&str; 22] = [
    " the", " cache", " holds", " this", " prefix", " and", " answer", " comes", " sooner",
    " than", " from", " a", " cold", " engine", " what", " is", " new", " takes", " its", " time",
    ";", ".",
];
const MARKS: usize = 2;

/// The tokenizer of the simulated model.
#[derive(Debug)]
pub struct Tokens {
    kind: Kind,
    first: Arc<[Arc<[u32]>]>,
    words: Arc<[Arc<[u32]>]>,
}

#[derive(Debug)]
enum Kind {
    BuiltIn(BuiltIn),
    Local(Box<Tokenizer>),
}

impl Tokens {
    /// The built-in tokenizer.
    pub fn built_in() -> Self {
        Self::new(Kind::BuiltIn(BuiltIn::default()))
    }

    /// The tokenizer in the folder; the built-in one where there is none.
    ///
    /// # Errors
    /// When there are files that cannot be used.
    pub fn load(folder: &Path) -> anyhow::Result<Self> {
        if !folder.join("tokenizer.json").is_file() {
            return Ok(Self::built_in());
        }
        Ok(Self::new(Kind::Local(Box::new(Tokenizer::load(folder)?))))
    }

    fn new(kind: Kind) -> Self {
        let encode = |word: &&str| -> Arc<[u32]> {
            let tokens = kind.encode(word).filter(|tokens| !tokens.is_empty());
            tokens.unwrap_or_else(|| vec![0]).into()
        };
        Self {
            first: FIRST.iter().map(encode).collect(),
            words: WORDS.iter().map(encode).collect(),
            kind,
        }
    }

    /// True where the model has files of its own.
    pub fn is_local(&self) -> bool {
        matches!(self.kind, Kind::Local(_))
    }

    /// The tokens of a completion's prompt.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn completion(&self, prompt: &str) -> Result<Vec<u32>, String> {
        match &self.kind {
            Kind::BuiltIn(tokenizer) => Ok(tokenizer.completion(prompt)),
            Kind::Local(tokenizer) => {
                let tokens = tokenizer.completion(prompt);
                tokens.map_err(|error| error.to_string())
            }
        }
    }

    /// The tokens of a text and nothing around it.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn plain(&self, text: &str) -> Result<Vec<u32>, String> {
        let tokens = self.kind.encode(text);
        tokens.ok_or_else(|| "the text cannot be tokenized".to_owned())
    }

    /// The tokens of a chat; `body` is the request they come from, whose other fields matter
    /// to templates.
    ///
    /// # Errors
    /// When these are no messages, or the template refuses them.
    pub fn chat(&self, messages: &RawValue, body: &[u8]) -> Result<Vec<u32>, String> {
        let options = ChatOptions::from_body(body).map_err(|error| error.to_string())?;
        match &self.kind {
            Kind::BuiltIn(tokenizer) => tokenizer.chat(messages, options.add_generation_prompt),
            Kind::Local(tokenizer) => {
                let tokens = tokenizer.chat(messages, &options);
                tokens.map_err(|error| error.to_string())
            }
        }
    }

    /// The text of tokens, special ones included.
    pub fn text(&self, tokens: &[u32]) -> String {
        match &self.kind {
            Kind::BuiltIn(tokenizer) => tokens.iter().map(|token| tokenizer.text(*token)).collect(),
            Kind::Local(tokenizer) => tokenizer.decode(tokens),
        }
    }

    /// The text that a token adds after `before`.
    pub fn piece(&self, before: Option<u32>, token: u32) -> String {
        let (Some(before), Kind::Local(tokenizer)) = (before, &self.kind) else {
            return self.text(&[token]);
        };
        // Decoders drop a space at the start of a text.
        let both = tokenizer.decode(&[before, token]);
        let alone = tokenizer.decode(&[before]);
        both.strip_prefix(&alone)
            .map_or_else(|| tokenizer.decode(&[token]), str::to_owned)
    }

    /// How answers are made: `salt` gives others to the same prompt, and with `echo` the
    /// answer is the prompt.
    pub fn script(&self, salt: u64, echo: bool) -> Script {
        Script {
            heads: self.first.clone(),
            words: self.words.clone(),
            marks: MARKS,
            salt,
            echo,
        }
    }

    /// The tokens that might have come in the place of an answer's token, likeliest first.
    pub fn alternatives(&self, token: u32) -> impl Iterator<Item = u32> + '_ {
        let words = self.words.iter().chain(self.first.iter());
        words
            .map(|word| word[0])
            .filter(move |other| *other != token)
    }
}

impl Kind {
    fn encode(&self, text: &str) -> Option<Vec<u32>> {
        match self {
            Self::BuiltIn(tokenizer) => {
                let mut tokens = Vec::new();
                tokenizer.encode(text, &mut tokens);
                Some(tokens)
            }
            Self::Local(tokenizer) => tokenizer.encode(text, false).ok(),
        }
    }
}
