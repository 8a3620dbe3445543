//! What stands between the quotes of a JSON text -> the text, or only its characters. PURE.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter};

use super::work;

/// Bytes counted together: with the rest of an escape, their count fits into one.
const COUNTED: usize = 240;

/// Reads escapes. Of a text that is cut off, what might have become another character goes.
pub(super) fn decode(raw: &[u8], whole: bool) -> Cow<'_, str> {
    let raw = if whole { raw } else { certain(raw) };
    work::looked_at(raw.len());
    if memchr(b'\\', raw).is_none() {
        // Several times faster than its lossy sister.
        return match std::str::from_utf8(raw) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => String::from_utf8_lossy(raw),
        };
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        let Some((meaning, length)) = escape(rest, whole) else {
            rest = &[];
            break;
        };
        let mut buffer = [0; 4];
        out.extend_from_slice(meaning.encode_utf8(&mut buffer).as_bytes());
        rest = &rest[length..];
    }
    out.extend_from_slice(rest);
    let text = String::from_utf8(out);
    Cow::Owned(text.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// The text without a last character of which bytes are missing.
fn certain(raw: &[u8]) -> &[u8] {
    let first = raw.iter().rev().take(3).position(|byte| *byte >= 0xc0);
    let Some(from_end) = first.map(|at| at + 1) else {
        return raw;
    };
    let needed = match raw[raw.len() - from_end] {
        0xf0.. => 4,
        0xe0.. => 3,
        _ => 2,
    };
    if from_end < needed {
        &raw[..raw.len() - from_end]
    } else {
        raw
    }
}

/// The character that an escape stands for and its length in bytes. `None` when the text is
/// cut off inside of it.
fn escape(rest: &[u8], whole: bool) -> Option<(char, usize)> {
    let meaning = match rest.get(1) {
        Some(b'n') => '\n',
        Some(b't') => '\t',
        Some(b'r') => '\r',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'u') => return unicode(rest, whole),
        // What stands for itself, and what no parser knows.
        Some(byte) if byte.is_ascii() => char::from(*byte),
        Some(_) => return Some((char::REPLACEMENT_CHARACTER, 1)),
        None if whole => return Some((char::REPLACEMENT_CHARACTER, 1)),
        None => return None,
    };
    Some((meaning, 2))
}

fn unicode(rest: &[u8], whole: bool) -> Option<(char, usize)> {
    let Some(unit) = hex(rest) else {
        let cut = !whole && rest.len() < 6;
        return (!cut).then_some((char::REPLACEMENT_CHARACTER, 2));
    };
    if let Some(meaning) = char::from_u32(unit) {
        return Some((meaning, 6));
    }
    if !whole && unit < 0xdc00 && rest.len() < 12 {
        return None;
    }
    let low = hex(&rest[6..]).filter(|low| unit < 0xdc00 && (0xdc00..0xe000).contains(low));
    let pair =
        low.and_then(|low| char::from_u32(0x1_0000 + ((unit - 0xd800) << 10) + low - 0xdc00));
    Some(pair.map_or((char::REPLACEMENT_CHARACTER, 6), |meaning| (meaning, 12)))
}

/// The number in `\u` and four digits.
fn hex(escape: &[u8]) -> Option<u32> {
    let digits = escape.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |number, digit| {
        Some(number << 4 | char::from(*digit).to_digit(16)?)
    })
}

/// Characters of UTF-8 text with JSON's escapes.
pub fn count_chars(raw: &[u8]) -> usize {
    work::looked_at(2 * raw.len());
    let mut chars = 0;
    let mut at = 0;
    while let Some(rest) = raw.get(at..).filter(|rest| !rest.is_empty()) {
        let mut end = at + rest.len().min(COUNTED);
        let (starts, escapes, odd) = tally(&raw[at..end], &raw[at + 1..]);
        if odd {
            let (less, behind) = escaped(raw, at, end);
            end = end.max(behind).min(raw.len());
            let (starts, ..) = tally(&raw[at..end], &[]);
            chars += starts.saturating_sub(less);
        } else {
            // Two bytes for one character each.
            chars += starts - escapes;
        }
        at = end;
    }
    chars
}

/// Counts of a few bytes: those that begin a character and those that begin an escape, and
/// whether there is an escape that is longer or hides another. No branch, so that many bytes
/// are counted together.
fn tally(bytes: &[u8], next: &[u8]) -> (usize, usize, bool) {
    let (mut starts, mut escapes, mut odd) = (0_u8, 0_u8, 0_u8);
    for byte in bytes {
        starts += u8::from(byte & 0xc0 != 0x80);
        escapes += u8::from(*byte == b'\\');
    }
    for (byte, next) in bytes.iter().zip(next) {
        let long = u8::from(*next == b'\\') | u8::from(*next == b'u');
        odd |= u8::from(*byte == b'\\') & long;
    }
    (usize::from(starts), usize::from(escapes), odd != 0)
}

/// Bytes of the escapes that begin in a range less one for each character, and the offset
/// behind the last escape.
fn escaped(raw: &[u8], start: usize, end: usize) -> (usize, usize) {
    let (mut less, mut behind) = (0, start);
    for at in memchr_iter(b'\\', &raw[start..end]).map(|at| start + at) {
        // The second of two that mean one.
        if at < behind {
            continue;
        }
        let length = match &raw[at + 1..] {
            // The second half of a character.
            [b'u', b'd' | b'D', b'c'..=b'f' | b'C'..=b'F', ..] => {
                less += 1;
                6
            }
            [b'u', ..] => 6,
            _ => 2,
        };
        less += length - 1;
        behind = at + length;
    }
    (less, behind)
}
