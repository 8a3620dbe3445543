//! A client's request body -> the same body without the KV transfer parameters it must not
//! set, or with those of a prefill. PURE.
//!
//! With such parameters a client would make the engine read KV blocks of another request, or
//! from a host of its choice.

use crate::openai::splice::{Error, Object};

/// The member that says how KV cache gets from one engine to another.
pub const KV_TRANSFER_PARAMS: &str = "kv_transfer_params";
/// Other places that end in the same engine parameter: extra arguments are merged into it.
const NESTED: &[&[&str]] = &[
    &["vllm_xargs", KV_TRANSFER_PARAMS],
    &["sampling_params", "extra_args", KV_TRANSFER_PARAMS],
];

/// The body without KV transfer parameters; `None` when it has none and stays as it is.
///
/// # Errors
/// When the body might have some but is no JSON object to look into.
pub fn strip(body: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    if !may_have_params(body) {
        return Ok(None);
    }
    let mut object = Object::read(body)?;
    Ok(strip_object(&mut object)?.then(|| object.to_string().into_bytes()))
}

/// Takes them out of a request that is being edited. True when there were some.
///
/// # Errors
/// When an object inside has too many members to look into.
pub fn strip_object(object: &mut Object<'_>) -> Result<bool, Error> {
    let mut found = object.remove(KV_TRANSFER_PARAMS);
    for path in NESTED {
        found |= object.remove_in(path)?;
    }
    Ok(found)
}

/// [`strip_object`], then this value in the member's place.
///
/// # Errors
/// When an object inside has too many members to look into.
pub fn replace(object: &mut Object<'_>, params: &str) -> Result<bool, Error> {
    let had = object.get(KV_TRANSFER_PARAMS).is_some();
    let mut found = had;
    for path in NESTED {
        found |= object.remove_in(path)?;
    }
    object.set(KV_TRANSFER_PARAMS, params);
    Ok(found)
}

/// False only when no parser could find the key. A key can hide behind `\u` escapes (no other
/// escape makes a letter) or, for parsers that guess, behind UTF-16 and UTF-32, where letters
/// have zero bytes beside them.
fn may_have_params(body: &[u8]) -> bool {
    std::str::from_utf8(body).map_or(true, |text| {
        text.contains(KV_TRANSFER_PARAMS) || text.contains("\\u") || text.contains('\0')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(body: &str) -> Option<String> {
        let body = strip(body.as_bytes()).unwrap()?;
        Some(String::from_utf8(body).unwrap())
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
    }

    #[test]
    fn a_body_that_may_hide_parameters_must_be_readable() {
        let utf16: Vec<u8> =
            r#"{"kv_transfer_params":1}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(strip(&utf16).is_err());
        assert!(strip(b"\xff\xfe").is_err());
        // What Python reads is looked into.
        assert_eq!(
            stripped("\u{feff}{\"kv_transfer_params\":1}").unwrap(),
            "\u{feff}{}"
        );
        let less = stripped(r#"{"kv_transfer_params":1,"x":NaN}"#).unwrap();
        assert_eq!(less, r#"{"x":NaN}"#);
    }

    #[test]
    fn the_prefills_parameters_take_the_clients_place() {
        let body = r#"{"kv_transfer_params":{"a":1},"n":9007199254740993,"vllm_xargs":{"kv_transfer_params":2}}"#;
        let mut object = Object::read(body.as_bytes()).unwrap();
        assert!(replace(&mut object, r#"{"b":18446744073709551616}"#).unwrap());
        assert_eq!(
            object.to_string(),
            r#"{"kv_transfer_params":{"b":18446744073709551616},"n":9007199254740993,"vllm_xargs":{}}"#
        );
    }
}
