//! The words of the prompts -> a tokenizer and a chat template, as the EPP mounts them and as
//! the fake engines answer `/tokenize`. Byte-level BPE: a word, with or without a space before
//! it, is one token; anything else falls to bytes. PURE but for `write`.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::prompts::WORDS;

/// What turns are framed by.
const SPECIAL: [&str; 2] = ["<|im_start|>", "<|im_end|>"];

const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
    {{ message.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// GPT-2's alphabet: one printable character for each byte.
fn alphabet() -> Vec<char> {
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut spare = 256;
    (0..256)
        .map(|byte| {
            let code = if printable(byte) {
                byte
            } else {
                spare += 1;
                spare - 1
            };
            char::from_u32(code).expect("codes below 512 are characters")
        })
        .collect()
}

/// Tokens by their text in the alphabet.
fn vocabulary() -> Vec<String> {
    let mut tokens: Vec<String> = SPECIAL.map(str::to_owned).to_vec();
    tokens.extend(alphabet().into_iter().map(String::from));
    for word in WORDS {
        tokens.push(word.to_owned());
        tokens.push(format!("Ġ{word}"));
    }
    tokens
}

/// Writes the files that a model's folder has.
///
/// # Errors
/// When a file cannot be written.
pub fn write(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let vocab: Map<String, Value> = vocabulary()
        .into_iter()
        .enumerate()
        .map(|(id, token)| (token, json!(id)))
        .collect();
    let special = |id: usize| {
        json!({"id": id, "content": SPECIAL[id], "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(0), special(1)],
        "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": true, "vocab": vocab, "merges": [],
        },
    });
    let config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[1]});
    for (name, text) in [
        ("tokenizer.json", tokenizer.to_string()),
        ("tokenizer_config.json", config.to_string()),
        ("chat_template.jinja", TEMPLATE.to_owned()),
    ] {
        let path = dir.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// What engines make of a prompt.
pub struct Tokenizer {
    words: HashMap<&'static str, u32>,
}

impl Default for Tokenizer {
    fn default() -> Self {
        let first = (SPECIAL.len() + 256) as u32;
        let words = WORDS
            .iter()
            .enumerate()
            .map(|(index, word)| (*word, first + 2 * index as u32))
            .collect();
        Self { words }
    }
}

impl Tokenizer {
    /// The tokens of the body of a `/tokenize` request, with messages or a prompt.
    pub fn tokens(&self, request: &Value) -> Vec<u32> {
        let mut tokens = Vec::new();
        let Some(messages) = request["messages"].as_array() else {
            self.text(request["prompt"].as_str().unwrap_or_default(), &mut tokens);
            return tokens;
        };
        for message in messages {
            tokens.push(0);
            self.text(message["role"].as_str().unwrap_or_default(), &mut tokens);
            bytes("\n", &mut tokens);
            self.text(message["content"].as_str().unwrap_or_default(), &mut tokens);
            tokens.push(1);
            bytes("\n", &mut tokens);
        }
        if request["add_generation_prompt"].as_bool().unwrap_or(true) {
            tokens.push(0);
            self.text("assistant\n", &mut tokens);
        }
        tokens
    }

    /// Words with single spaces between them.
    fn text(&self, text: &str, tokens: &mut Vec<u32>) {
        for (index, word) in text.split(' ').enumerate() {
            if let Some(id) = self.words.get(word) {
                tokens.push(id + u32::from(index > 0));
                continue;
            }
            if index > 0 {
                bytes(" ", tokens);
            }
            bytes(word, tokens);
        }
    }
}

/// Byte by byte.
fn bytes(text: &str, tokens: &mut Vec<u32>) {
    let first = SPECIAL.len() as u32;
    tokens.extend(text.bytes().map(|byte| first + u32::from(byte)));
}
