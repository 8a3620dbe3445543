//! A tiny model for tests: a byte-level BPE trained on the spot, with Llama 3's special tokens,
//! pre-tokenization and a chat template in its manner.

use std::fs;
use std::sync::LazyLock;

use serde_json::value::RawValue;
use tempfile::TempDir;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, PreTokenizerWrapper, TokenizerBuilder};

use super::local::Tokenizer;

/// Special tokens; the trainer numbers them from 0.
pub(crate) const SPECIAL: [&str; 6] = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|eom_id|>",
];

/// A chat template of the kind that Llama 3.2 has.
pub(crate) const LLAMA_TEMPLATE: &str = include_str!("testing/llama.jinja");

const WORDS: &str = "A model reads a prompt as a list of numbers. The same words give the same numbers, \
    so that what was computed for the beginning of one prompt serves the next prompt with that \
    beginning. Where is the station? Turn left, then go on until you see the old clock tower.";

static TRAINED: LazyLock<tokenizers::Tokenizer> = LazyLock::new(|| {
    let split = Split::new(
        SplitPattern::Regex(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
                .to_owned(),
        ),
        SplitDelimiterBehavior::Isolated,
        false,
    )
    .unwrap();
    let bytes = ByteLevel::new(false, true, false);
    let mut tokenizer = TokenizerBuilder::<_, tokenizers::NormalizerWrapper, _, _, _>::new()
        .with_model(BPE::default())
        .with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(vec![
            split.into(),
            bytes.into(),
        ]))))
        .with_post_processor(Some(
            TemplateProcessing::builder()
                .try_single("<|begin_of_text|> $A")
                .unwrap()
                .special_tokens(vec![("<|begin_of_text|>", 0)])
                .build()
                .unwrap(),
        ))
        .with_decoder(Some(bytes))
        .build()
        .unwrap();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(600)
        .show_progress(false)
        .special_tokens(SPECIAL.map(|token| AddedToken::from(token, true)).to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let pangram = "the quick brown fox jumps over the lazy dog. You are a helpful assistant.\n";
    let corpus = [WORDS, LLAMA_TEMPLATE].into_iter().chain([pangram; 20]);
    tokenizer.train(&mut trainer, corpus).unwrap();
    tokenizer.to_string(false).unwrap().parse().unwrap()
});

/// A folder with the model's files.
pub(crate) fn tiny_model() -> TempDir {
    tiny_model_with(|_| {})
}

/// A folder with the model's files, after a change.
pub(crate) fn tiny_model_with(change: impl FnOnce(&mut tokenizers::Tokenizer)) -> TempDir {
    let mut tokenizer = TRAINED.clone();
    change(&mut tokenizer);
    let dir = tempfile::tempdir().unwrap();
    tokenizer
        .save(dir.path().join("tokenizer.json"), false)
        .unwrap();
    let config = serde_json::json!({
        "bos_token": "<|begin_of_text|>",
        "eos_token": {"content": "<|eot_id|>", "special": true},
        "chat_template": LLAMA_TEMPLATE,
    });
    fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    dir
}

/// The tokenizer of a folder.
pub(crate) fn load(dir: &TempDir) -> Tokenizer {
    Tokenizer::load(dir.path()).unwrap()
}

/// JSON as it stands in a request.
pub(crate) fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}
