//! Tokens of text pieces seen before, so that a shared prefix is tokenized once. PURE but for its
//! locks: no IO, no clock.
//!
//! A prompt is cut at special tokens ([`Tokenizer::pieces`]), and the tokens of each piece are
//! kept. Byte-pair merges never cross a special token, so the pieces' tokens joined are the
//! prompt's tokens. Requests with a common system prompt, and the turns of one conversation, have
//! their first pieces in common; a prompt seen before is all pieces.
//!
//! There is no lock that all requests share: pieces are spread over shards by their hash, and a
//! shard is locked for a look-up or an insertion of one piece (well under a microsecond), never
//! while text is tokenized. A lock-free map would need its own order of eviction beside it; with
//! 64 shards two requests rarely meet at one.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::local::{EncodeError, Tokenizer};

const SHARDS: usize = 64;

/// What the cache has done so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CacheStats {
    /// Tokens that were found.
    pub hit_tokens: u64,
    /// Tokens that had to be made.
    pub missed_tokens: u64,
    /// Pieces thrown out to make room.
    pub evicted: u64,
    /// Pieces that are too long to keep.
    pub too_large: u64,
}

/// Tokens by piece of text, bounded by the tokens held; the longest unused go first.
#[derive(Debug)]
pub struct TokenCache {
    shards: Vec<Mutex<Shard>>,
    shard_tokens: usize,
    seed: u64,
    hit_tokens: AtomicU64,
    missed_tokens: AtomicU64,
    evicted: AtomicU64,
    too_large: AtomicU64,
}

#[derive(Debug, Default)]
struct Shard {
    pieces: HashMap<u128, Piece>,
    /// Pieces by their last use.
    order: BTreeMap<u64, u128>,
    uses: u64,
    tokens: usize,
}

#[derive(Debug)]
struct Piece {
    tokens: Arc<[u32]>,
    last_use: u64,
}

impl TokenCache {
    /// A cache of at most this many tokens (4 bytes each, and about 150 bytes per piece).
    pub fn new(limit_tokens: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            shard_tokens: limit_tokens / SHARDS,
            // Nobody outside can make up two texts of one hash without it.
            seed: RandomState::new().hash_one(0),
            hit_tokens: AtomicU64::new(0),
            missed_tokens: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            too_large: AtomicU64::new(0),
        }
    }

    /// What `tokenizer.encode(text, add_special_tokens)` gives, from as many known pieces as
    /// there are.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, EncodeError> {
        let (before, after) = match tokenizer.added_around() {
            _ if !add_special_tokens => (&[][..], &[][..]),
            Some(around) => around,
            None => return tokenizer.encode(text, true),
        };
        let seed = self.seed ^ tokenizer.fingerprint();
        let mut tokens = before.to_vec();
        for piece in tokenizer.pieces(text) {
            let key = xxh3_128_with_seed(piece.as_bytes(), seed);
            if let Some(known) = self.get(key) {
                count(&self.hit_tokens, known.len());
                tokens.extend_from_slice(&known);
            } else {
                let made = tokenizer.encode(piece, false)?;
                count(&self.missed_tokens, made.len());
                tokens.extend_from_slice(&made);
                self.insert(key, made.into());
            }
        }
        tokens.extend_from_slice(after);
        Ok(tokens)
    }

    /// What the cache has done so far.
    pub fn stats(&self) -> CacheStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStats {
            hit_tokens: load(&self.hit_tokens),
            missed_tokens: load(&self.missed_tokens),
            evicted: load(&self.evicted),
            too_large: load(&self.too_large),
        }
    }

    /// Tokens held now.
    pub fn tokens_held(&self) -> usize {
        (0..SHARDS).map(|index| self.lock(index).tokens).sum()
    }

    fn get(&self, key: u128) -> Option<Arc<[u32]>> {
        self.lock(shard_of(key)).get(key)
    }

    fn insert(&self, key: u128, tokens: Arc<[u32]>) {
        if tokens.len() > self.shard_tokens {
            count(&self.too_large, 1);
            return;
        }
        let evicted = self
            .lock(shard_of(key))
            .insert(key, tokens, self.shard_tokens);
        count(&self.evicted, evicted);
    }

    /// A shard stays whole whatever panicked beside it, so a poisoned lock is as good as any.
    fn lock(&self, index: usize) -> MutexGuard<'_, Shard> {
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn get(&mut self, key: u128) -> Option<Arc<[u32]>> {
        let piece = self.pieces.get_mut(&key)?;
        self.uses += 1;
        self.order.remove(&piece.last_use);
        piece.last_use = self.uses;
        self.order.insert(self.uses, key);
        Some(Arc::clone(&piece.tokens))
    }

    /// Returns how many pieces went.
    fn insert(&mut self, key: u128, tokens: Arc<[u32]>, limit_tokens: usize) -> usize {
        self.uses += 1;
        self.tokens += cost(&tokens);
        let piece = Piece {
            tokens,
            last_use: self.uses,
        };
        if let Some(old) = self.pieces.insert(key, piece) {
            self.order.remove(&old.last_use);
            self.tokens -= cost(&old.tokens);
        }
        self.order.insert(self.uses, key);
        let mut evicted = 0;
        while self.tokens > limit_tokens
            && let Some((_, oldest)) = self.order.pop_first()
        {
            if let Some(piece) = self.pieces.remove(&oldest) {
                self.tokens -= cost(&piece.tokens);
                evicted += 1;
            }
        }
        evicted
    }
}

/// Even an empty piece takes room.
fn cost(tokens: &[u32]) -> usize {
    tokens.len().max(1)
}

fn shard_of(key: u128) -> usize {
    (key % SHARDS as u128) as usize
}

fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::kv::tokenize::chat_template::ChatOptions;
    use crate::kv::tokenize::testing::{load, raw, tiny_model, tiny_model_with};

    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| load(&tiny_model()));

    fn chat(system: &str, turns: usize) -> String {
        let mut messages = vec![serde_json::json!({"role": "system", "content": system})];
        for turn in 0..turns {
            let role = if turn % 2 == 0 { "user" } else { "assistant" };
            messages.push(serde_json::json!({"role": role, "content": format!("turn {turn} about the lazy dog ").repeat(40)}));
        }
        let raw = raw(&serde_json::to_string(&messages).unwrap());
        TOKENIZER.render(&raw, &ChatOptions::default()).unwrap()
    }

    #[test]
    fn a_conversation_that_goes_on_is_tokenized_only_at_its_end() {
        let cache = TokenCache::new(1 << 20);
        let first = chat(&"You are a helpful assistant. ".repeat(200), 3);
        let tokens = cache.encode(&TOKENIZER, &first, false).unwrap();
        assert_eq!(cache.stats().hit_tokens, 0);
        let next = chat(&"You are a helpful assistant. ".repeat(200), 4);
        let before = cache.stats();
        cache.encode(&TOKENIZER, &next, false).unwrap();
        let after = cache.stats();
        assert!(
            after.hit_tokens as usize > tokens.len() * 9 / 10,
            "{after:?}"
        );
        assert!(
            after.missed_tokens - before.missed_tokens < 1000,
            "{after:?}"
        );
        cache.encode(&TOKENIZER, &next, false).unwrap();
        assert_eq!(cache.stats().missed_tokens, after.missed_tokens);
    }

    #[test]
    fn no_more_tokens_are_held_than_allowed() {
        let cache = TokenCache::new(SHARDS * 1000);
        for number in 0..300 {
            let text = format!("{number} the quick brown fox ").repeat(100);
            cache.encode(&TOKENIZER, &text, true).unwrap();
            assert!(cache.tokens_held() <= SHARDS * 1000);
        }
        assert!(cache.stats().evicted > 0);
        let long = "some text ".repeat(5000);
        cache.encode(&TOKENIZER, &long, true).unwrap();
        assert!(cache.stats().too_large > 0);
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let mut shard = Shard::default();
        let tokens: Arc<[u32]> = [1, 2, 3].into();
        assert_eq!(shard.insert(1, tokens.clone(), 6), 0);
        assert_eq!(shard.insert(2, tokens.clone(), 6), 0);
        assert!(shard.get(1).is_some());
        assert_eq!(shard.insert(3, tokens, 6), 1);
        assert!(shard.get(1).is_some() && shard.get(2).is_none() && shard.get(3).is_some());
    }

    #[test]
    fn a_tokenizer_whose_tokens_look_at_their_neighbours_is_not_cut() {
        let dir = tiny_model_with(|tokenizer| {
            tokenizer
                .add_special_tokens([tokenizers::AddedToken::from("word", true).single_word(true)])
                .unwrap();
        });
        let text = "<|eot_id|> the quick brown fox ".repeat(100);
        assert_eq!(load(&dir).pieces(&text), [text.as_str()]);
        assert!(TOKENIZER.pieces(&text).len() > 2);
    }

    /// Words and special tokens in any order, long enough to be cut.
    fn texts() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            4 => "[a-zA-Zäöü0-9 ,.\n]{0,80}",
            1 => Just("<|eot_id|>".to_owned()),
            1 => Just("<|start_header_id|>".to_owned()),
            1 => Just("<|end_header_id|>\n\n".to_owned()),
            1 => Just(" <|left|>".to_owned()),
            1 => Just("<|right|>  ".to_owned()),
            1 => Just("<|normal|>".to_owned()),
            1 => Just("<|eot".to_owned()),
            1 => "\\PC{0,20}",
        ];
        proptest::collection::vec(part, 0..60).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn tokens_are_the_same_with_and_without_the_cache(list in proptest::collection::vec(texts(), 1..6), special: bool) {
            static CACHE: LazyLock<TokenCache> = LazyLock::new(|| TokenCache::new(200_000));
            static ODD: LazyLock<Tokenizer> = LazyLock::new(|| load(&tiny_model_with(|tokenizer| {
                tokenizer.add_special_tokens([
                    tokenizers::AddedToken::from("<|left|>", true).lstrip(true),
                    tokenizers::AddedToken::from("<|right|>", true).rstrip(true),
                ]).unwrap();
                tokenizer.add_tokens([tokenizers::AddedToken::from("<|normal|>", false).normalized(true)]).unwrap();
            })));
            // Each text starts with the ones before it, so that later ones find pieces.
            let mut whole = String::new();
            for text in list {
                whole.push_str(&text);
                for tokenizer in [&*TOKENIZER, &*ODD] {
                    prop_assert_eq!(
                        CACHE.encode(tokenizer, &whole, special).unwrap(),
                        tokenizer.encode(&whole, special).unwrap()
                    );
                }
            }
        }
    }
}
