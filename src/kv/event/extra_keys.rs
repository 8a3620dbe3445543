//! The `extra_keys` of a stored run -> its salt, and where tokens stop naming blocks. PURE.
//!
//! Per block, null or an array of values. They carry no types, so their place must tell:
//! the adapter's name comes first in every block, then images and embeddings, and in a
//! prompt's first block the salt. (vLLM's `generate_block_hash_extra_keys`.)

use super::value::{Input, Value};
use super::{MAX_NAME_BYTES, Stored};

/// The value is not of the shape above.
pub(super) struct Unreadable;

impl From<super::DecodeError> for Unreadable {
    fn from(_: super::DecodeError) -> Self {
        Self
    }
}

/// Fills in [`Stored::salt`] and [`Stored::opaque_from`].
pub(super) fn read(
    mut input: Input<'_>,
    lora_name: Option<&str>,
    stored: &mut Stored,
) -> Result<(), Unreadable> {
    for block in 0..length(&mut input)? {
        let starts_prompt = block == 0 && stored.parent.is_none();
        for position in 0..length(&mut input)? {
            let text = text(&mut input)?;
            let is_lora = position == 0 && lora_name.is_some() && text == lora_name;
            // A lone text in the first block may be an image's name in older releases.
            // Taken for a salt it misses hits; the other way round it would invent some.
            let is_salt = starts_prompt
                && text.is_some_and(|text| stored.salt.as_deref().is_none_or(|salt| salt == text));
            if is_lora {
                continue;
            }
            if is_salt {
                stored.salt = text.map(str::to_owned);
            } else {
                stored.opaque_from = stored.opaque_from.or(Some(block as usize));
            }
        }
    }
    Ok(())
}

/// Of an array; nil is an empty one.
fn length(input: &mut Input<'_>) -> Result<u32, Unreadable> {
    match input.value()? {
        Value::Nil => Ok(0),
        Value::Array(items) => Ok(items),
        _ => Err(Unreadable),
    }
}

/// The next value if it is a text, else passes it.
fn text<'a>(input: &mut Input<'a>) -> Result<Option<&'a str>, Unreadable> {
    let start = *input;
    let Value::Str(bytes) = input.value()? else {
        *input = start;
        input.skip()?;
        return Ok(None);
    };
    if bytes.len() > MAX_NAME_BYTES {
        return Err(Unreadable);
    }
    Ok(std::str::from_utf8(bytes).ok())
}
