//! A raw value -> a flag or a count, as forgiving as engines are: clients send numbers as
//! texts and flags as numbers, and Python's web frameworks take them. PURE.

use std::borrow::Cow;

use crate::openai::scan::Raw;

/// The longest text that may be a flag or a number.
const MAX_BYTES: usize = 64;

/// `true`, `1`, `1.0`, `"True"`, `"yes"`, `"on"` and their opposites; `None` for all else.
pub(super) fn flag(value: Raw<'_>) -> Option<bool> {
    let word = word(value)?.to_ascii_lowercase();
    match word.as_str() {
        "true" | "t" | "yes" | "y" | "on" => Some(true),
        "false" | "f" | "no" | "n" | "off" => Some(false),
        number => match number.parse::<f64>() {
            Ok(1.0) => Some(true),
            Ok(0.0) => Some(false),
            _ => None,
        },
    }
}

/// `16`, `16.0`, `1.6e1`, `"16"`, `true`; `None` for all else and for what is below 0. Too
/// large a number is the largest.
pub(super) fn count(value: Raw<'_>) -> Option<u64> {
    let word = word(value)?;
    // As Python writes long numbers.
    let word = word.replace('_', "");
    let word = word.strip_prefix('+').unwrap_or(&word);
    if let Ok(count) = word.parse() {
        return Some(count);
    }
    if word.eq_ignore_ascii_case("true") || word.eq_ignore_ascii_case("false") {
        return Some(u64::from(word.eq_ignore_ascii_case("true")));
    }
    let number: f64 = word.parse().ok()?;
    (number >= 0.0 && number.fract() == 0.0).then_some(number as u64)
}

/// The value as a word, quotes off.
fn word(value: Raw<'_>) -> Option<Cow<'_, str>> {
    if value.bytes().len() > MAX_BYTES || value.is_array() || value.is_object() {
        return None;
    }
    let text = match value.text() {
        Some(text) => text,
        None => Cow::Borrowed(std::str::from_utf8(value.bytes()).ok()?),
    };
    Some(match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
        Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
    })
}
