//! Text -> tokens without a tokenizer's files: like a BPE in lengths and in where it cuts,
//! the same on every machine. PURE.
#![deny(clippy::disallowed_methods)]

use std::borrow::Cow;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

/// Ordinary tokens are numbered below this, as in Llama 3; special ones from it on.
const VOCABULARY: u64 = 128_000;
/// Letters of a word that are one token. English text then has about 1.15 tokens a word.
const WORD_LETTERS: usize = 9;
/// Characters of a run of spaces or marks that are one token.
const RUN_CHARS: usize = 8;

const BEGIN: u32 = 128_000;
const START_HEADER: u32 = 128_006;
const END_HEADER: u32 = 128_007;
const END_OF_TURN: u32 = 128_009;
const SPECIAL: [(u32, &str); 4] = [
    (BEGIN, "<|begin_of_text|>"),
    (START_HEADER, "<|start_header_id|>"),
    (END_HEADER, "<|end_header_id|>"),
    (END_OF_TURN, "<|eot_id|>"),
];

/// The tokenizer. It remembers which text a token stands for: the first one, since some
/// texts share a number. Numbers must be the same in every process, so they are hashes.
#[derive(Debug)]
pub struct BuiltIn {
    texts: Box<[OnceLock<Box<str>>]>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Cow<'a, str>,
    #[serde(default)]
    content: Value,
}

impl Default for BuiltIn {
    fn default() -> Self {
        Self {
            texts: (0..VOCABULARY).map(|_| OnceLock::new()).collect(),
        }
    }
}

impl BuiltIn {
    /// The tokens of a completion's prompt.
    pub fn completion(&self, prompt: &str) -> Vec<u32> {
        let mut tokens = vec![BEGIN];
        self.encode(prompt, &mut tokens);
        tokens
    }

    /// The tokens of a chat, framed as Llama 3 frames it.
    ///
    /// # Errors
    /// When this is not a list of messages.
    pub fn chat(&self, messages: &RawValue, generation_prompt: bool) -> Result<Vec<u32>, String> {
        let messages: Vec<Message<'_>> =
            serde_json::from_str(messages.get()).map_err(|error| format!("messages: {error}"))?;
        if messages.is_empty() {
            return Err("messages must not be empty".to_owned());
        }
        let mut tokens = vec![BEGIN];
        for message in &messages {
            self.header(&message.role, &mut tokens);
            self.encode(content(&message.content).trim(), &mut tokens);
            tokens.push(END_OF_TURN);
        }
        if generation_prompt {
            self.header("assistant", &mut tokens);
        }
        Ok(tokens)
    }

    fn header(&self, role: &str, tokens: &mut Vec<u32>) {
        tokens.push(START_HEADER);
        self.encode(role, tokens);
        tokens.push(END_HEADER);
        self.encode("\n\n", tokens);
    }

    /// Adds the tokens of a text.
    pub fn encode(&self, text: &str, tokens: &mut Vec<u32>) {
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(piece_bytes(rest));
            tokens.push(self.token(piece));
            rest = after;
        }
    }

    fn token(&self, piece: &str) -> u32 {
        let token = xxh3_64(piece.as_bytes()) % VOCABULARY;
        self.texts[token as usize].get_or_init(|| piece.into());
        token as u32
    }

    /// The text of a token; empty for one that no text has been made to.
    pub fn text(&self, token: u32) -> &str {
        let special = SPECIAL.iter().find(|(special, _)| *special == token);
        let ordinary = || self.texts.get(token as usize)?.get().map(Box::as_ref);
        special
            .map(|(_, text)| *text)
            .or_else(ordinary)
            .unwrap_or_default()
    }
}

/// How many bytes of the text are its first token.
fn piece_bytes(text: &str) -> usize {
    let mut chars = text.chars();
    let first = chars.next().unwrap_or_default();
    let second = chars.next().unwrap_or_default();
    let run = |from: usize, limit: usize, belongs: fn(char) -> bool| {
        let chars = text[from..].chars().take(limit);
        from + chars
            .take_while(|c| belongs(*c))
            .map(char::len_utf8)
            .sum::<usize>()
    };
    match first {
        // A space goes with the word or the mark after it.
        ' ' if second.is_alphabetic() => run(1, WORD_LETTERS, char::is_alphabetic),
        ' ' if is_mark(second) => run(1, RUN_CHARS, is_mark),
        '\n' | '\r' => run(0, RUN_CHARS, |c| matches!(c, '\n' | '\r')),
        // Of a run of spaces, the last goes with what follows.
        c if c.is_whitespace() => {
            let end = run(0, RUN_CHARS, |c| {
                c.is_whitespace() && !matches!(c, '\n' | '\r')
            });
            let next = text[end..].chars().next();
            let lends = text[..end].ends_with(' ') && end > 1;
            end - usize::from(lends && next.is_some_and(|c| !c.is_whitespace()))
        }
        c if c.is_alphabetic() => run(0, WORD_LETTERS, char::is_alphabetic),
        c if c.is_numeric() => run(0, 3, char::is_numeric),
        _ => run(0, RUN_CHARS, is_mark).max(first.len_utf8()),
    }
}

fn is_mark(c: char) -> bool {
    !c.is_alphanumeric() && !c.is_whitespace() && c != char::default()
}

/// The text of a message: a string, or the text parts of a list.
fn content(content: &Value) -> Cow<'_, str> {
    match content {
        Value::String(text) => Cow::Borrowed(text),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part["text"].as_str());
            Cow::Owned(texts.collect::<Vec<_>>().join("\n"))
        }
        _ => Cow::Borrowed(""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONSULTING: &str = "You are an experienced platform architect who advises a large retail bank. \
        The bank wants to offer its customers an assistant that answers questions about accounts, cards and loans, \
        and it expects up to 10,000 concurrent users on a busy evening. Please write a proposal for the technical \
        board. It must cover the following points: 1. the hardware and the software that are needed; 2. how requests \
        are spread over the machines so that cached work is used again; 3. how the service grows and shrinks with the \
        number of users; 4. how failures of single machines are found and repaired; 5. what the whole thing costs in \
        the first year and where money can be saved. Keep the language simple, give reasons for each choice, and name \
        the two greatest risks at the end.";

    fn pieces(text: &str) -> Vec<String> {
        let mut rest = text;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(piece_bytes(rest));
            pieces.push(piece.to_owned());
            rest = after;
        }
        pieces
    }

    #[test]
    fn text_is_cut_where_a_bpe_would_cut_it() {
        assert_eq!(pieces("Hi there, you"), ["Hi", " there", ",", " you"]);
        assert_eq!(
            pieces("in 12345 (years)"),
            ["in", " ", "123", "45", " (", "years", ")"]
        );
        assert_eq!(pieces("a\n\n   b"), ["a", "\n\n", "  ", " b"]);
        assert_eq!(pieces(" internationally"), [" internati", "onally"]);
    }

    #[test]
    fn a_prompt_of_130_words_is_about_158_tokens() {
        let words = CONSULTING.split_whitespace().count();
        assert!((128..=136).contains(&words), "{words} words");
        let messages = serde_json::json!([{"role": "user", "content": CONSULTING}]).to_string();
        let raw: Box<RawValue> = serde_json::from_str(&messages).unwrap();
        let tokens = BuiltIn::default().chat(&raw, true).unwrap().len();
        assert!((150..=174).contains(&tokens), "{tokens} tokens");
    }

    #[test]
    fn a_chat_is_framed_by_single_tokens() {
        let raw: Box<RawValue> =
            serde_json::from_str(r#"[{"role":"user","content":" hi "}]"#).unwrap();
        let tokenizer = BuiltIn::default();
        let tokens = tokenizer.chat(&raw, true).unwrap();
        assert_eq!(tokens.len(), 11);
        let text: String = tokens.iter().map(|t| tokenizer.text(*t)).collect();
        assert_eq!(
            text,
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        );
        assert_eq!(tokenizer.chat(&raw, false).unwrap().len(), 7);
    }

    proptest! {
        #[test]
        fn equal_beginnings_are_cut_alike(text in "[a-z0-9 ,.(\n]{0,80}", more in "[a-z ]{0,20}") {
            let (short, long) = (pieces(&text), pieces(&format!("{text} {more}")));
            let shared = short.iter().zip(&long).take_while(|(a, b)| a == b).count();
            prop_assert!(shared + 2 >= short.len());
        }

        #[test]
        fn any_text_is_cut_and_nothing_is_lost(text in any::<String>()) {
            prop_assert_eq!(pieces(&text).concat(), text.as_str());
            let mut tokens = Vec::new();
            BuiltIn::default().encode(&text, &mut tokens);
            prop_assert_eq!(tokens.len(), pieces(&text).len());
            prop_assert!(tokens.len() <= text.chars().count());
        }
    }
}
