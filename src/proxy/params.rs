//! A client's request body -> the same body without the transfer parameters it must not set, or
//! with those of a prefill. PURE.
//!
//! With such parameters a client would make the engine read KV blocks, or outputs of an
//! encoder, of another request or from a host of its choice.
#![deny(clippy::disallowed_methods)]

use std::borrow::Cow;

use crate::openai::splice::{Error, Object};

/// The member that says how KV cache gets from one engine to another.
pub const KV_TRANSFER_PARAMS: &str = "kv_transfer_params";
/// The same for the outputs of an encoder that runs apart.
const EC_TRANSFER_PARAMS: &str = "ec_transfer_params";
/// What the names of both end with.
const WORDS: &str = "transfer_params";
/// Other places that end in the same engine parameters: extra arguments are merged into them.
const NESTED: &[&[&str]] = &[
    &["vllm_xargs", KV_TRANSFER_PARAMS],
    &["vllm_xargs", EC_TRANSFER_PARAMS],
    &["sampling_params", "extra_args", KV_TRANSFER_PARAMS],
    &["sampling_params", "extra_args", EC_TRANSFER_PARAMS],
];

/// The body without transfer parameters; `None` when it has none and stays as it is.
///
/// # Errors
/// When the body has these words somewhere and cannot be looked into. Bodies without them are
/// never an error, whatever they are: the engine judges those.
pub fn strip(body: &[u8]) -> Result<Option<Object<'_>>, Error> {
    if !has_words(body) {
        return Ok(None);
    }
    let mut object = Object::read(body)?;
    Ok(strip_object(&mut object)?.then_some(object))
}

/// Takes them out of a request that is being edited. True when there were some.
///
/// # Errors
/// When an object inside has too many members to look into.
pub fn strip_object(object: &mut Object<'_>) -> Result<bool, Error> {
    let found = object.remove(KV_TRANSFER_PARAMS);
    strip_others(object, found)
}

/// Takes out all but the KV transfer parameters of the request itself. True when there were
/// some, or `found`.
fn strip_others(object: &mut Object<'_>, mut found: bool) -> Result<bool, Error> {
    found |= object.remove(EC_TRANSFER_PARAMS);
    for path in NESTED {
        found |= object.remove_in(path)?;
    }
    Ok(found)
}

/// [`strip_object`], then this value as KV transfer parameters, in their place where there were
/// some.
///
/// # Errors
/// When an object inside has too many members to look into.
pub fn replace(object: &mut Object<'_>, params: &str) -> Result<bool, Error> {
    let found = strip_others(object, object.get(KV_TRANSFER_PARAMS).is_some())?;
    object.set(KV_TRANSFER_PARAMS, params);
    Ok(found)
}

/// False only when no parser could find the key. A key can hide behind `\u00..` escapes (no
/// other escape makes one of its letters) or, for parsers that guess, behind UTF-16 and UTF-32,
/// where every letter has zero bytes beside it.
fn has_words(body: &[u8]) -> bool {
    let narrow = if body.contains(&0) {
        Cow::Owned(body.iter().copied().filter(|byte| *byte != 0).collect())
    } else {
        Cow::Borrowed(body)
    };
    let words = WORDS.as_bytes();
    let mut left = words;
    let mut at = 0;
    // No letter of the words is `t` but the first, so a failed match restarts only there.
    while at < narrow.len() {
        let (letter, length) = letter(&narrow[at..]);
        at += length;
        if left.first() == Some(&letter) {
            left = &left[1..];
        } else {
            left = if letter == words[0] {
                &words[1..]
            } else {
                words
            };
        }
        if left.is_empty() {
            return true;
        }
    }
    false
}

/// The first byte of a text and its length, an escape of an ASCII letter decoded.
fn letter(text: &[u8]) -> (u8, usize) {
    let escaped = text.strip_prefix(b"\\u00").and_then(|rest| rest.get(..2));
    let value = escaped
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| u8::from_str_radix(digits, 16).ok());
    value.map_or((text[0], 1), |value| (value, 6))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stripped(body: &str) -> Option<String> {
        strip(body.as_bytes()).unwrap().map(|body| body.to_string())
    }

    #[test]
    fn a_body_without_parameters_stays_as_it_is() {
        for body in [
            "{}",
            "not json",
            r#"{"prompt":"kv_transfer_params \u00e9"}"#,
            r#"{"messages":[{"kv_transfer_params":1}]}"#,
        ] {
            assert_eq!(stripped(body), None, "{body}");
        }
    }

    #[test]
    fn parameters_go_wherever_an_engine_would_find_them() {
        let strip = |body| stripped(body).unwrap();
        assert_eq!(
            strip(r#"{"a":1,"kv_transfer_params":{"x":1},"b":2}"#),
            r#"{"a":1,"b":2}"#
        );
        assert_eq!(
            strip(r#"{"kv\u005Ftransfer_params":1,"kv_transfer_params":null}"#),
            "{}"
        );
        assert_eq!(
            strip(r#"{"vllm_xargs":{"kv_transfer_params":{},"a":1}}"#),
            r#"{"vllm_xargs":{"a":1}}"#
        );
        assert_eq!(
            strip(r#"{"sampling_params":{"extra_args":{"kv_transfer_params":{}}}}"#),
            r#"{"sampling_params":{"extra_args":{}}}"#
        );
        assert_eq!(
            strip(
                r#"{"ec_transfer_params":{"x":1},"vllm_xargs":{"ec_transfer_params":{},"a":1},"sampling_params":{"extra_args":{"ec_transfer_params":{}}}}"#
            ),
            r#"{"vllm_xargs":{"a":1},"sampling_params":{"extra_args":{}}}"#
        );
        // What Python reads is looked into.
        assert_eq!(strip("\u{feff}{\"kv_transfer_params\":1}"), "\u{feff}{}");
        assert_eq!(strip(r#"{"kv_transfer_params":1,"x":NaN}"#), r#"{"x":NaN}"#);
    }

    #[test]
    fn a_body_that_names_parameters_must_be_readable() {
        let utf16: Vec<u8> =
            r#"{"kv_transfer_params":1}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(strip(&utf16).is_err());
        assert!(strip(b"\xff{\"kv_transfer_params\":1").is_err());
        assert!(strip(b"[{\"kv_transfer_params\":1}]").is_err());
    }

    #[test]
    fn a_body_that_names_none_need_not_be() {
        for body in [
            &b"\xff\xfe"[..],
            b"[1, {\"\\u00e9\":NaN}]",
            b"{\"a\\ud800\":1",
            b"\0\0\0{",
            b"{\"kv_kv_transfer\":1, \"_params\":",
        ] {
            assert_eq!(strip(body).unwrap().map(|body| body.to_string()), None);
        }
    }

    #[test]
    fn the_prefills_parameters_take_the_clients_place() {
        let body = r#"{"kv_transfer_params":{"a":1},"ec_transfer_params":{},"n":9007199254740993,"vllm_xargs":{"kv_transfer_params":2}}"#;
        let mut object = Object::read(body.as_bytes()).unwrap();
        assert!(replace(&mut object, r#"{"b":18446744073709551616}"#).unwrap());
        assert_eq!(
            object.to_string(),
            r#"{"kv_transfer_params":{"b":18446744073709551616},"n":9007199254740993,"vllm_xargs":{}}"#
        );
    }

    proptest! {
        #[test]
        fn the_words_are_found_however_they_are_written(
            front in ".{0,20}", back in ".{0,20}", wide in any::<bool>(),
            escaped in prop::collection::vec(0..3u8, WORDS.len()),
        ) {
            let words: String = WORDS.chars().zip(escaped).map(|(letter, how)| match how {
                0 => letter.to_string(),
                1 => format!("\\u{:04x}", u32::from(letter)),
                _ => format!("\\u{:04X}", u32::from(letter)),
            }).collect();
            let text = format!("{front}{words}{back}");
            let bytes = if wide {
                text.encode_utf16().flat_map(u16::to_be_bytes).collect()
            } else {
                text.into_bytes()
            };
            prop_assert!(has_words(&bytes));
        }
    }
}
