//! What the KV cache holds -> the tokens of an answer. PURE.
//!
//! An engine attends to its KV cache and not to the text it was sent. So the answer is made of
//! what the cache holds when the first token comes: who decodes on the KV cache of another
//! prompt gets another answer, as with a real model.

use std::sync::Arc;

/// How answers are made; cheap to clone.
#[derive(Clone, Debug)]
pub struct Script {
    /// First words; there is at least one.
    pub heads: Arc<[Arc<[u32]>]>,
    /// The words after it; there is at least one, and none is empty.
    pub words: Arc<[Arc<[u32]>]>,
    /// How many of the last words are marks, which do not follow each other.
    pub marks: usize,
    /// Other answers to the same prompt: the request's seed and the number of the sample.
    pub salt: u64,
    /// The answer repeats the prompt.
    pub echo: bool,
}

/// An answer on its way.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    script: Script,
    /// The word being said, or the whole of an echo.
    word: Arc<[u32]>,
    /// Its next token.
    at: usize,
    state: u64,
    after_mark: bool,
}

impl Script {
    /// The answer to what the cache holds.
    pub(super) fn answer(&self, kv: &[u32]) -> Answer {
        let seed = kv.iter().fold(kv.len() as u64, |seed, token| {
            mixed(seed.rotate_left(5) ^ u64::from(*token))
        });
        let seed = mixed(seed ^ self.salt.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let word = if self.echo && !kv.is_empty() {
            kv.into()
        } else {
            self.heads[(seed % self.heads.len() as u64) as usize].clone()
        };
        Answer {
            script: self.clone(),
            word,
            at: 0,
            state: seed,
            after_mark: false,
        }
    }
}

impl Answer {
    /// The next token.
    pub(super) fn next(&mut self) -> u32 {
        if self.at == self.word.len() {
            self.at = 0;
            if !self.script.echo {
                self.choose();
            }
        }
        self.at += 1;
        self.word[self.at - 1]
    }

    fn choose(&mut self) {
        self.state = mixed(self.state.wrapping_add(0x9e37_79b9_7f4a_7c15));
        let words = &self.script.words;
        let plain = words.len() - self.script.marks;
        let choice = if self.after_mark { plain } else { words.len() };
        let choice = (self.state % choice as u64) as usize;
        self.after_mark = choice >= plain;
        self.word = words[choice].clone();
    }
}

/// Spreads every bit over all of them (SplitMix64).
fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(salt: u64, echo: bool) -> Script {
        Script {
            heads: (0..6).map(|word| [word].into()).collect(),
            words: (10..33).map(|word| [word].into()).collect(),
            marks: 2,
            salt,
            echo,
        }
    }

    fn say(script: &Script, kv: &[u32]) -> Vec<u32> {
        let mut answer = script.answer(kv);
        (0..30).map(|_| answer.next()).collect()
    }

    #[test]
    fn an_answer_is_made_of_cache_seed_and_sample() {
        let plain = say(&script(0, false), &[1, 2, 3]);
        assert_eq!(plain, say(&script(0, false), &[1, 2, 3]));
        assert_ne!(plain, say(&script(0, false), &[1, 2, 4]));
        assert_ne!(plain, say(&script(0, false), &[1, 3, 2]));
        assert_ne!(plain, say(&script(1, false), &[1, 2, 3]));
        assert!(plain.windows(2).all(|pair| pair[0] < 31 || pair[1] < 31));
    }

    #[test]
    fn an_echo_is_the_prompt_again_and_again() {
        assert_eq!(say(&script(0, true), &[7, 8])[..5], [7, 8, 7, 8, 7]);
    }
}
