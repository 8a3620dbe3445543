//! An offset in a JSON text -> the offset behind what begins there. PURE.

use memchr::memchr2;

use super::work;

/// The byte order mark that some clients put in front.
const MARK: &[u8] = b"\xef\xbb\xbf";
/// Bytes looked at together where nothing happens: long lists of numbers.
const CHUNK: usize = 32;

/// Offset of the first byte that is neither a blank nor a byte order mark in front.
pub(super) fn start(text: &[u8]) -> usize {
    let mark = if text.starts_with(MARK) {
        MARK.len()
    } else {
        0
    };
    blanks_end(text, mark)
}

/// Offset behind blanks: JSON's four and no others. Were a NUL one, a text in UTF-16 would look
/// like an object with other keys than those an engine finds.
pub fn blanks_end(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    let blanks = rest.iter().take_while(|byte| is_blank(**byte)).count();
    work::looked_at(blanks + 1);
    at + blanks
}

/// Offset behind the value at `start`, and whether it is whole. Equal to `start` where there
/// is none.
pub(super) fn value_end(text: &[u8], start: usize) -> (usize, bool) {
    match text.get(start) {
        Some(b'"') => text_end(text, start + 1).map_or((text.len(), false), |at| (at + 1, true)),
        Some(b'[' | b'{') => list_end(text, start),
        Some(_) => {
            let rest = &text[start..];
            let length = rest.iter().position(|byte| !is_scalar(*byte));
            let end = start + length.unwrap_or(rest.len());
            work::looked_at(end - start + 1);
            // A number that the text ends with may have had more digits.
            (end, length.is_some())
        }
        None => (start, false),
    }
}

/// True for bytes of numbers and words.
fn is_scalar(byte: u8) -> bool {
    !is_blank(byte) && !matches!(byte, b',' | b':' | b'"' | b'[' | b']' | b'{' | b'}')
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Offset of the quote that ends the text whose first byte is at `at`.
pub(super) fn text_end(text: &[u8], mut at: usize) -> Option<usize> {
    let begin = at;
    let end = loop {
        let Some(found) = memchr2(b'"', b'\\', text.get(at..).unwrap_or_default()) else {
            break None;
        };
        at += found;
        if text[at] == b'"' {
            break Some(at);
        }
        // Escapes come in crowds.
        while text.get(at) == Some(&b'\\') {
            at += 2;
        }
    };
    work::looked_at(end.unwrap_or(text.len()).saturating_sub(begin) + 1);
    end
}

/// Offset behind the bracket that closes the one at `at`, and whether there is one.
fn list_end(text: &[u8], start: usize) -> (usize, bool) {
    let mut depth = 0_usize;
    let mut at = start;
    while let Some(byte) = text.get(at) {
        work::looked_at(1);
        at += 1;
        match byte {
            b'"' => match text_end(text, at) {
                Some(quote) => at = quote + 1,
                None => break,
            },
            b'[' | b'{' => depth += 1,
            b']' | b'}' => {
                depth -= 1;
                if depth == 0 {
                    return (at, true);
                }
            }
            _ => {
                while let Some(chunk) = text.get(at..).and_then(<[u8]>::first_chunk)
                    && is_plain(chunk)
                {
                    work::looked_at(CHUNK);
                    at += CHUNK;
                }
                let rest = text.get(at..).unwrap_or_default();
                let plain = rest.iter().take_while(|byte| !may_matter(**byte)).count();
                work::looked_at(plain);
                at += plain;
            }
        }
    }
    (text.len(), false)
}

/// True for quotes and brackets, and for a few others that look alike.
fn may_matter(byte: u8) -> bool {
    byte == b'"' || byte & 0xd9 == 0x59
}

/// True when no byte can matter; no branch, so that all are looked at together.
fn is_plain(chunk: &[u8; CHUNK]) -> bool {
    !chunk
        .iter()
        .fold(false, |found, byte| found | may_matter(*byte))
}
