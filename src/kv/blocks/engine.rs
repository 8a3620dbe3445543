//! Blocks -> the hashes that vLLM itself gives them with `sha256_cbor`. PURE.
//!
//! For the simulator, which must look like vLLM on the wire. Nothing may route by these:
//! they depend on the engine's seed, algorithm and release.
//!
//! Follows `vllm/v1/core/kv_cache_utils.py` and `vllm/utils/hashing.py` of vLLM 0.32:
//! SHA-256 over canonical CBOR of `[parent, [token, ...], extras or null]`.

#![deny(clippy::disallowed_methods)]

use sha2::{Digest, Sha256};

/// What vLLM hashes where `PYTHONHASHSEED` is unset.
const DEFAULT_SEED: &str = "vllm-none-hash";

/// A whole block hash, 32 bytes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct EngineHash(pub [u8; 32]);

impl EngineHash {
    /// The form in events by default: the last 8 bytes, big-endian.
    pub fn as_u64(&self) -> u64 {
        self.0[24..]
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// What a block's hash covers beside its tokens and its parent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Extra {
    /// The adapter: name and path. Part of every block.
    pub lora: Option<(String, String)>,
    /// The request's `cache_salt`. vLLM puts it into a prompt's first block only.
    pub salt: Option<String>,
}

/// The parent of a prompt's first block; `seed` is the text of `PYTHONHASHSEED`.
pub fn none_hash(seed: Option<&str>) -> EngineHash {
    let mut cbor = Vec::new();
    text(&mut cbor, seed.unwrap_or(DEFAULT_SEED));
    EngineHash(Sha256::digest(&cbor).into())
}

/// The hash of the full block with these tokens that follows `parent`.
pub fn sha256_cbor(parent: &EngineHash, tokens: &[u32], extra: &Extra) -> EngineHash {
    let mut extras = Vec::new();
    let count = u64::from(extra.lora.is_some()) + u64::from(extra.salt.is_some());
    if count == 0 {
        extras.push(NULL);
    } else {
        head(&mut extras, ARRAY, count);
    }
    if let Some((name, path)) = &extra.lora {
        head(&mut extras, ARRAY, 3);
        for part in ["lora", name, path] {
            text(&mut extras, part);
        }
    }
    if let Some(salt) = &extra.salt {
        head(&mut extras, ARRAY, 2);
        text(&mut extras, "cache_salt");
        text(&mut extras, salt);
    }
    digest(parent, tokens, &extras)
}

fn digest(parent: &EngineHash, tokens: &[u32], extras: &[u8]) -> EngineHash {
    let mut cbor = Vec::with_capacity(64 + 5 * tokens.len() + extras.len());
    head(&mut cbor, ARRAY, 3);
    head(&mut cbor, BYTES, parent.0.len() as u64);
    cbor.extend(parent.0);
    head(&mut cbor, ARRAY, tokens.len() as u64);
    for token in tokens {
        head(&mut cbor, UNSIGNED, u64::from(*token));
    }
    cbor.extend(extras);
    EngineHash(Sha256::digest(&cbor).into())
}

// === canonical CBOR (RFC 8949): the few forms in a preimage ===

const UNSIGNED: u8 = 0 << 5;
const BYTES: u8 = 2 << 5;
const TEXT: u8 = 3 << 5;
const ARRAY: u8 = 4 << 5;
const NULL: u8 = 0xf6;

/// A major type with its argument, in the shortest form.
fn head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let bytes = argument.to_be_bytes();
    let (code, width) = match argument {
        0..24 => (argument as u8, 0),
        24..0x100 => (24, 1),
        0x100..0x1_0000 => (25, 2),
        0x1_0000..0x1_0000_0000 => (26, 4),
        _ => (27, 8),
    };
    out.push(major | code);
    out.extend(&bytes[8 - width..]);
}

fn text(out: &mut Vec<u8>, value: &str) {
    head(out, TEXT, value.len() as u64);
    out.extend(value.bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(hash: EngineHash) -> String {
        hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn first_block(parent: &EngineHash, extra: &Extra) -> EngineHash {
        let tokens: Vec<u32> = (0..16).collect();
        sha256_cbor(parent, &tokens, extra)
    }

    /// Seed, its none hash, the first block's hash and u64, the second's u64: computed by vLLM 0.32.
    const CHAINS: [(Option<&str>, &str, &str, u64, u64); 3] = [
        (
            Some("42"),
            "9fa6eb003f14425eb9c8e6baacfbcaab26257357b829c7bfa74ffcc4f31c1780",
            "63876f948a5f9ef88191c7d6554fbeeea5c622d4da15d0d527bd352623590b0d",
            2_863_503_375_995_570_957,
            13_957_787_785_847_563_040,
        ),
        (
            Some("0"),
            "4e1195df020de59e0d65a33a4279f1183e7ae4e5d980e309f8b55adff2e61c3e",
            "d830de3d42c00f25a2949b5d12d98642664a44872c1614c5b0147556276afc9c",
            12_687_895_063_098_490_012,
            1_814_341_696_565_857_452,
        ),
        (
            None,
            "9bd96a485ad84efdafb72ee48a1d7a69bcead0f8f0433173941b276b9581eef0",
            "dc918a88b139e5afe60b88eda27508d4aee16c10fdc354791efea06206ac0749",
            2_233_398_808_101_521_225,
            17_911_472_383_915_781_900,
        ),
    ];

    #[test]
    fn chains_equal_those_of_vllm() {
        let second: Vec<u32> = (16..32).collect();
        for (seed, none, first_hex, first_u64, second_u64) in CHAINS {
            let parent = none_hash(seed);
            assert_eq!(hex(parent), none);
            let first = first_block(&parent, &Extra::default());
            assert_eq!(hex(first), first_hex);
            assert_eq!(first.as_u64(), first_u64);
            let next = sha256_cbor(&first, &second, &Extra::default());
            assert_eq!(next.as_u64(), second_u64);
        }
    }

    #[test]
    fn salt_and_adapter_are_hashed_as_vllm_does() {
        let parent = none_hash(Some("42"));
        let salted = Extra {
            salt: Some("abc".to_owned()),
            ..Extra::default()
        };
        let hash = first_block(&parent, &salted);
        assert_eq!(hash.as_u64(), 12_492_325_922_080_366_639);
        assert_eq!(
            hex(hash),
            "cfe4c579acf906f2c4129f11fd0394c43a7ff0cf98023285ad5da83d2c01202f"
        );
        let adapted = Extra {
            lora: Some(("my-lora".to_owned(), "/p".to_owned())),
            ..Extra::default()
        };
        let hash = first_block(&parent, &adapted);
        assert_eq!(hash.as_u64(), 13_302_654_397_597_232_753);
        assert_eq!(
            hex(hash),
            "2f5c162209afcbec30dc7abc1ef6845981c3d87f8f47b455b89c85b1b2922e71"
        );
    }

    #[test]
    fn the_preimage_also_fits_forms_that_the_simulator_does_not_send() {
        let parent = none_hash(Some("42"));
        let tokens: Vec<u32> = (0..16).collect();

        let mut image = Vec::new();
        head(&mut image, ARRAY, 1);
        head(&mut image, ARRAY, 3);
        text(&mut image, "mm");
        text(&mut image, "img1");
        head(&mut image, UNSIGNED, 4);
        assert_eq!(
            hex(digest(&parent, &tokens, &image)),
            "e389303fd7452ad06c3e8b458197ebf543047ea639638a0aade5533b2807f605"
        );

        let mut untagged_salt = Vec::new();
        head(&mut untagged_salt, ARRAY, 1);
        text(&mut untagged_salt, "abc");
        assert_eq!(
            hex(digest(&parent, &tokens, &untagged_salt)),
            "c7e66cc6443fdaed9fb44ea910cd6ea55a241b269df94ebfc4d2dc1f474f402f"
        );
    }

    #[test]
    fn large_tokens_take_the_shortest_cbor_form() {
        let forms = [
            (23, vec![23]),
            (24, vec![24, 24]),
            (255, vec![24, 255]),
            (256, vec![25, 1, 0]),
            (65_536, vec![26, 0, 1, 0, 0]),
            (1 << 32, vec![27, 0, 0, 0, 1, 0, 0, 0, 0]),
        ];
        for (number, expected) in forms {
            let mut out = Vec::new();
            head(&mut out, UNSIGNED, number);
            assert_eq!(out, expected);
        }
    }
}
