//! The model that is not there: which prompt blocks are cached, and what is answered. PURE:
//! no clock, no randomness; `server` waits and counts.
#![deny(clippy::disallowed_methods)]

use std::collections::HashMap;

/// Text -> tokens: words with the space before them. Close enough to a tokenizer for lengths
/// and prefixes, and the same on every machine.
pub fn tokenize(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut start = 0;
    for (index, c) in text.char_indices() {
        if c == ' ' && index > start {
            tokens.push(&text[start..index]);
            start = index;
        }
    }
    if start < text.len() {
        tokens.push(&text[start..]);
    }
    tokens
}

/// Which blocks of prompts are in the cache, oldest forgotten first.
#[derive(Debug)]
pub struct PrefixCache {
    block_size: usize,
    capacity: usize,
    /// Block key -> when it was last used.
    blocks: HashMap<u64, u64>,
    uses: u64,
}

impl PrefixCache {
    /// An empty cache of `capacity` blocks of `block_size` tokens; 0 blocks is no cache.
    pub fn new(block_size: usize, capacity: usize) -> Self {
        Self {
            block_size: block_size.max(1),
            capacity,
            blocks: HashMap::new(),
            uses: 0,
        }
    }

    /// Takes a prompt in and says how many of its tokens were there already. Only whole
    /// blocks count, and only from the start: a block's key covers everything before it.
    pub fn admit(&mut self, tokens: &[&str]) -> usize {
        let mut cached_blocks = 0;
        let mut hit = true;
        let mut parent = 0_u64;
        for block in tokens.chunks_exact(self.block_size) {
            parent = block
                .iter()
                .fold(mix(parent, b"|"), |key, token| mix(key, token.as_bytes()));
            self.uses += 1;
            let known = self.blocks.insert(parent, self.uses).is_some();
            hit &= known;
            cached_blocks += usize::from(hit);
        }
        while self.blocks.len() > self.capacity {
            let oldest = self
                .blocks
                .iter()
                .min_by_key(|(_, used)| **used)
                .map(|(key, _)| *key);
            let Some(oldest) = oldest else { break };
            self.blocks.remove(&oldest);
        }
        cached_blocks * self.block_size
    }

    /// The share of the cache in use, from 0 to 1.
    pub fn usage(&self) -> f64 {
        if self.capacity == 0 {
            0.0
        } else {
            self.blocks.len() as f64 / self.capacity as f64
        }
    }
}

fn mix(seed: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

/// The words answers are made of.
const WORDS: &[&str] = &[
    "The", " cache", " already", " holds", " this", " prefix", ",", " so", " the", " answer",
    " comes", " sooner", " than", " it", " would", " from", " a", " cold", " engine", ".",
];

/// The tokens of an answer: the prompt's own in echo mode, else words in turn from a place
/// that depends on the prompt, so that equal requests get equal answers.
pub fn answer(prompt: &[&str], count: usize, echo: bool) -> Vec<String> {
    if echo {
        return prompt
            .iter()
            .take(count)
            .map(|token| (*token).to_owned())
            .collect();
    }
    let start = prompt
        .iter()
        .fold(0, |key, token| mix(key, token.as_bytes())) as usize;
    (0..count)
        .map(|index| WORDS[(start % WORDS.len() + index) % WORDS.len()].to_owned())
        .collect()
}
