//! Tokens of one request -> vLLM's hash of every full block, as the tokens come. PURE.

use crate::kv::blocks::engine::{EngineHash, Extra, sha256_cbor};

/// How blocks are hashed, the same for all requests of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Hashing {
    /// The parent of every first block: vLLM's `NONE_HASH`.
    pub root: EngineHash,
    /// Tokens in a block.
    pub block_size: usize,
    /// False where the prefix cache is off: then nothing is hashed.
    pub enabled: bool,
}

/// An adapter of the model, as requests and events name it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lora {
    /// Its number in this engine, from 1.
    pub id: u32,
    /// The name requests ask for.
    pub name: String,
    /// Where its weights are.
    pub path: String,
}

/// The tokens of one request with the hashes of its full blocks.
#[derive(Clone, Debug)]
pub struct Chain {
    hashing: Hashing,
    tokens: Vec<u32>,
    hashes: Vec<EngineHash>,
    lora: Option<Lora>,
    salt: Option<String>,
}

impl Chain {
    /// Hashes a prompt: about a quarter of a microsecond a block, so callers do it on their
    /// own task and not on the engine's.
    pub fn new(
        hashing: Hashing,
        tokens: Vec<u32>,
        lora: Option<Lora>,
        salt: Option<String>,
    ) -> Self {
        let mut chain = Self {
            hashing,
            tokens,
            hashes: Vec::new(),
            lora,
            salt,
        };
        chain.extend_hashes();
        chain
    }

    /// Adds a generated token.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
        self.extend_hashes();
    }

    fn extend_hashes(&mut self) {
        let size = self.hashing.block_size;
        if !self.hashing.enabled {
            return;
        }
        let lora = self
            .lora
            .as_ref()
            .map(|lora| (lora.name.clone(), lora.path.clone()));
        while (self.hashes.len() + 1) * size <= self.tokens.len() {
            let at = self.hashes.len();
            let extra = Extra {
                lora: lora.clone(),
                // The first block is in every chain, so the salt is needed only there.
                salt: self.salt.clone().filter(|_| at == 0),
            };
            let parent = self.hashes.last().unwrap_or(&self.hashing.root);
            let block = &self.tokens[at * size..(at + 1) * size];
            self.hashes.push(sha256_cbor(parent, block, &extra));
        }
    }

    /// Tokens so far.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// True without tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The hashes of the full blocks so far.
    pub fn hashes(&self) -> &[EngineHash] {
        &self.hashes
    }

    /// The adapter.
    pub fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    /// The salt.
    pub fn salt(&self) -> Option<&str> {
        self.salt.as_deref()
    }
}
