//! Tokens (or text) of a prompt -> block keys, each naming one block and all before it. PURE.
//!
//! These are keys of our own, never sent to an engine: both sides of the index, events and
//! requests, are keyed by the same functions, so an engine's seed, hash algorithm and
//! release do not matter. [`engine`] has the engine's own hashes, for the simulator.
//!
//! The hash is xxh3 and has no secret. A client who looks for collisions can at most send
//! its own requests to a worse endpoint.

#![deny(clippy::disallowed_methods)]

pub mod engine;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Names a block by its content and the content of every block before it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BlockKey(pub u64);

/// Keeps the three kinds of input apart: equal bytes of two kinds give different keys.
#[derive(Clone, Copy)]
enum Domain {
    Root = 1,
    Tokens = 2,
    Text = 3,
}

/// The parent of a prompt's first block: everything beside the tokens that decides whether
/// two requests may share blocks. Fields are length-prefixed, so no two triples look alike.
pub fn root(model: &str, lora: Option<&str>, salt: Option<&str>) -> BlockKey {
    let mut bytes = Vec::new();
    for field in [Some(model), lora, salt] {
        // Absent differs from empty.
        let length = field.map_or(u64::MAX, |text| text.len() as u64);
        bytes.extend(length.to_le_bytes());
        bytes.extend(field.unwrap_or_default().bytes());
    }
    BlockKey(xxh3_64_with_seed(&bytes, Domain::Root as u64))
}

/// The key of the block with these tokens that follows `parent`.
pub fn child(parent: BlockKey, tokens: &[u32]) -> BlockKey {
    token_key(&mut Vec::new(), parent, tokens)
}

/// The keys of a prompt's full blocks, `block_size` tokens each; the rest of a block at the
/// end has none. No keys for a block size of 0.
pub fn keys(root: BlockKey, tokens: &[u32], block_size: usize) -> Vec<BlockKey> {
    if block_size == 0 {
        return Vec::new();
    }
    let mut buffer = Vec::with_capacity(8 + 4 * block_size.min(tokens.len()));
    chain(root, tokens.chunks_exact(block_size), |parent, block| {
        token_key(&mut buffer, parent, block)
    })
}

/// Approximate blocks, for prompts whose tokens are not known: `block_bytes` bytes each,
/// full blocks only, at most `max_blocks`. They never equal keys over tokens.
pub fn text_keys(
    root: BlockKey,
    text: &[u8],
    block_bytes: usize,
    max_blocks: usize,
) -> Vec<BlockKey> {
    if block_bytes == 0 {
        return Vec::new();
    }
    let mut buffer = Vec::with_capacity(8 + block_bytes.min(text.len()));
    let blocks = text.chunks_exact(block_bytes).take(max_blocks);
    chain(root, blocks, |parent, block| {
        key(&mut buffer, parent, Domain::Text, block.iter().copied())
    })
}

fn chain<Block>(
    root: BlockKey,
    blocks: impl Iterator<Item = Block>,
    mut next: impl FnMut(BlockKey, Block) -> BlockKey,
) -> Vec<BlockKey> {
    blocks
        .scan(root, |parent, block| {
            *parent = next(*parent, block);
            Some(*parent)
        })
        .collect()
}

fn token_key(buffer: &mut Vec<u8>, parent: BlockKey, tokens: &[u32]) -> BlockKey {
    let bytes = tokens.iter().flat_map(|token| token.to_le_bytes());
    key(buffer, parent, Domain::Tokens, bytes)
}

/// One hash over parent and content; the buffer is the caller's so that a chain allocates once.
fn key(
    buffer: &mut Vec<u8>,
    parent: BlockKey,
    domain: Domain,
    content: impl Iterator<Item = u8>,
) -> BlockKey {
    buffer.clear();
    buffer.extend(parent.0.to_le_bytes());
    buffer.extend(content);
    BlockKey(xxh3_64_with_seed(buffer, domain as u64))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_keys_never_change() {
        // Replicas and stored snapshots share these keys. Computed with another xxh3 library.
        let root = root("m", None, None);
        let tokens: Vec<u32> = (0..32).collect();
        assert_eq!(root, BlockKey(13_324_848_403_408_694_920));
        let expected = [12_030_903_169_667_078_731, 4_110_541_582_917_122_093];
        assert_eq!(keys(root, &tokens, 16), expected.map(BlockKey));
        let expected = [BlockKey(14_786_808_923_571_857_755)];
        assert_eq!(text_keys(root, b"abcd", 4, 1), expected);
    }

    #[test]
    fn model_adapter_and_salt_each_part_the_roots() {
        let some = |text| Some(text);
        let roots = [
            root("ab", None, None),
            root("a", some("b"), None),
            root("a", None, some("b")),
            root("a", some("b"), some("")),
            root("a", some(""), some("b")),
            root("a", some(""), None),
            root("", some("ab"), None),
        ];
        assert_eq!(HashSet::from(roots).len(), roots.len());
    }

    #[test]
    fn text_and_tokens_of_equal_bytes_have_different_keys() {
        let root = root("m", None, None);
        let tokens = [0x0403_0201];
        assert_ne!(keys(root, &tokens, 1), text_keys(root, &[1, 2, 3, 4], 4, 8));
    }

    #[test]
    fn only_full_blocks_have_keys() {
        let root = root("m", None, None);
        assert_eq!(keys(root, &[1, 2, 3], 2).len(), 1);
        assert_eq!(text_keys(root, b"abcdefg", 2, 9).len(), 3);
        assert_eq!(text_keys(root, b"abcdefg", 2, 2).len(), 2);
        assert!(keys(root, &[1, 2], 0).is_empty());
        assert!(text_keys(root, b"ab", 0, 9).is_empty());
    }

    proptest! {
        #[test]
        fn prompts_share_exactly_the_keys_of_their_common_blocks(
            shared in proptest::collection::vec(any::<u32>(), 0..40),
            left in proptest::collection::vec(any::<u32>(), 0..40),
            right in proptest::collection::vec(any::<u32>(), 0..40),
            block_size in 1_usize..9,
        ) {
            let root = root("m", None, None);
            let prompts = [[shared.clone(), left].concat(), [shared, right].concat()];
            let [a, b] = prompts.each_ref().map(|prompt| keys(root, prompt, block_size));
            let same_tokens = prompts[0].iter().zip(&prompts[1]).take_while(|(a, b)| a == b).count();
            let same_keys = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            prop_assert_eq!(same_keys, same_tokens / block_size);
        }

        #[test]
        fn a_chain_continues_from_any_of_its_keys(
            tokens in proptest::collection::vec(any::<u32>(), 1..60),
            block_size in 1_usize..9,
        ) {
            let all = keys(root("m", Some("l"), Some("s")), &tokens, block_size);
            for (at, pair) in all.windows(2).enumerate() {
                let block = &tokens[(at + 1) * block_size..(at + 2) * block_size];
                prop_assert_eq!(child(pair[0], block), pair[1]);
            }
        }
    }
}
