//! Prompts in the order they were sent -> the most hits that any router could have had. PURE.
//!
//! For each request: the longest prefix of full blocks shared with any earlier request, at
//! most one token less than the prompt, since an engine always computes the last token
//! itself. One pod that never forgets reaches exactly this.
#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::exposition::Counters;

/// One answered request.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Its length in tokens, as the engine counted it.
    pub tokens: u64,
    /// Requests of the same number have the same prompt.
    pub text: usize,
    /// The shared system prompt in front of it.
    pub group: Option<usize>,
    /// Whether it lies in the measured window; others only fill the cache.
    pub measured: bool,
}

/// How the ceiling was found.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// From the tokens of every prompt, as the engine's `/tokenize` gave them.
    Tokens,
    /// From the lengths of equal prompts; what the chat template puts in front of
    /// different prompts is left out, as in the published figure.
    EqualPrompts,
    /// As before, and the length of shared system prompts estimated from the reported
    /// lengths of prompts with and without them.
    EstimatedPrefix,
}

impl Method {
    /// A sentence for people.
    pub fn explained(self) -> &'static str {
        match self {
            Self::Tokens => "from the tokens of every prompt, asked of the engine's /tokenize",
            Self::EqualPrompts => {
                "from the reported lengths of equal prompts: floor((n-1)/B)*B tokens each"
            }
            Self::EstimatedPrefix => {
                "from reported lengths; the length of each shared system prompt is estimated from prompts with and without it"
            }
        }
    }
}

/// Full blocks of `shared` tokens in a prompt of `length`, in tokens: never the whole prompt.
pub fn reusable(shared: u64, length: u64, block: u64) -> u64 {
    shared.min(length.saturating_sub(1)) / block * block
}

/// The ceiling from lengths alone. `prefixes` are the tokens of each group's system prompt;
/// a group that is absent shares nothing.
pub fn from_lengths(order: &[Prompt], prefixes: &BTreeMap<usize, u64>, block: u64) -> Counters {
    let mut seen_texts = std::collections::HashSet::new();
    let mut seen_groups = std::collections::HashSet::new();
    let mut sum = Counters::default();
    for prompt in order {
        let shared = if seen_texts.contains(&prompt.text) {
            prompt.tokens
        } else {
            prompt
                .group
                .filter(|group| seen_groups.contains(group))
                .and_then(|group| prefixes.get(&group).copied())
                .unwrap_or(0)
        };
        seen_texts.insert(prompt.text);
        seen_groups.extend(prompt.group);
        if prompt.measured {
            sum += Counters {
                query_tokens: prompt.tokens,
                hit_tokens: reusable(shared, prompt.tokens, block),
            };
        }
    }
    sum
}

/// The ceiling from the tokens of each text. `None` when a text is absent or has another
/// length than the engine reported: then the tokens are not those of the prompts.
pub fn from_tokens(
    order: &[Prompt],
    tokens: &BTreeMap<usize, Vec<u32>>,
    block: u64,
) -> Option<Counters> {
    let mut known: HashMap<(usize, &[u32]), usize> = HashMap::new();
    let mut sum = Counters::default();
    for prompt in order {
        let ids = tokens.get(&prompt.text)?;
        if ids.len() as u64 != prompt.tokens {
            return None;
        }
        let (mut at, mut shared, mut all_known) = (0, 0, true);
        for chunk in ids.chunks_exact(block as usize) {
            let next = known.len() + 1;
            let entry = known.entry((at, chunk));
            if matches!(entry, std::collections::hash_map::Entry::Vacant(_)) {
                all_known = false;
            }
            at = *entry.or_insert(next);
            shared += if all_known { block } else { 0 };
        }
        if prompt.measured {
            sum += Counters {
                query_tokens: prompt.tokens,
                hit_tokens: reusable(shared, prompt.tokens, block),
            };
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(tokens: u64, text: usize, measured: bool) -> Prompt {
        Prompt {
            tokens,
            text,
            group: None,
            measured,
        }
    }

    /// Warm-up, health check of 36 tokens, thirty prompts of 158 tokens.
    fn published(warm: bool) -> Vec<Prompt> {
        let mut order = Vec::new();
        if warm {
            order.push(prompt(158, 1, false));
        }
        order.push(prompt(36, 0, true));
        order.extend((0..30).map(|_| prompt(158, 1, true)));
        order
    }

    #[test]
    fn the_published_test_could_have_reached_90_45_percent() {
        let sum = from_lengths(&published(true), &BTreeMap::new(), 16);
        assert_eq!(sum.query_tokens, 4776);
        assert_eq!(sum.hit_tokens, 30 * 144);
        assert!((sum.percent().unwrap() - 90.452).abs() < 0.001);
    }

    #[test]
    fn one_cold_request_gives_the_published_87_44_percent() {
        let sum = from_lengths(&published(false), &BTreeMap::new(), 16);
        assert_eq!(sum.hit_tokens, 4176);
        assert!((sum.percent().unwrap() - 87.437).abs() < 0.001);
    }

    #[test]
    fn a_prompt_that_fills_its_blocks_recomputes_the_last_one() {
        assert_eq!(reusable(160, 160, 16), 144);
        assert_eq!(reusable(161, 161, 16), 160);
        assert_eq!(reusable(5, 0, 16), 0);
    }

    #[test]
    fn questions_of_one_group_share_its_system_prompt() {
        let order: Vec<_> = (0..4)
            .map(|text| Prompt {
                tokens: 100,
                text,
                group: Some(text % 2),
                measured: true,
            })
            .collect();
        let prefixes = BTreeMap::from([(0, 70)]);
        // Text 2 finds group 0's 70 tokens; group 1's length is not known.
        assert_eq!(from_lengths(&order, &prefixes, 16).hit_tokens, 64);
    }

    #[test]
    fn tokens_find_what_the_chat_template_shares() {
        let header: Vec<u32> = (0..32).collect();
        let long: Vec<u32> = header.iter().copied().chain(100..226).collect();
        let short: Vec<u32> = header.iter().copied().chain(900..904).collect();
        let tokens = BTreeMap::from([(1, long), (0, short)]);
        let sum = from_tokens(&published(true), &tokens, 16).unwrap();
        assert_eq!(sum.hit_tokens, 32 + 30 * 144);
    }

    #[test]
    fn tokens_of_another_length_are_not_believed() {
        let tokens = BTreeMap::from([(0, vec![1; 36]), (1, vec![1; 157])]);
        assert_eq!(from_tokens(&published(true), &tokens, 16), None);
        assert_eq!(from_tokens(&published(true), &BTreeMap::new(), 16), None);
    }

    proptest::proptest! {
        #[test]
        fn both_ways_agree_where_different_prompts_share_nothing(
            texts in proptest::collection::vec((0usize..4, proptest::bool::ANY), 0..40),
            lengths in proptest::collection::vec(1u64..80, 4),
            block in 1u64..20,
        ) {
            let order: Vec<_> = texts
                .iter()
                .map(|(text, measured)| prompt(lengths[*text], *text, *measured))
                .collect();
            let tokens = (0..4)
                .map(|text| (text, (0..lengths[text] as u32).map(|at| at + 1000 * text as u32).collect()))
                .collect();
            proptest::prop_assert_eq!(
                from_tokens(&order, &tokens, block),
                Some(from_lengths(&order, &BTreeMap::new(), block))
            );
        }
    }
}
