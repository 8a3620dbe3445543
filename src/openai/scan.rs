//! The bytes of a JSON text -> its members, elements and texts, borrowed from it. PURE.
//!
//! Tolerant, because a reader that routes must accept all that some engine accepts: `NaN`, a
//! byte order mark, duplicate keys, bytes that are not UTF-8, a text that is cut off anywhere.
//! What a strict parser accepts is read here as that parser reads it. What lies inside a value
//! is looked at only when it is asked for, so brackets in there are counted, not matched.
//!
//! Nothing is allocated but texts with escapes, nothing recurs, and every byte is looked at
//! once per reading: hostile texts cost what friendly ones of their length do.
#![deny(clippy::disallowed_methods)]

use std::borrow::Cow;

use memchr::{memchr, memchr_iter, memchr2};

/// The byte order mark that some clients put in front.
const MARK: &[u8] = b"\xef\xbb\xbf";
/// Bytes looked at together where nothing happens: long lists of numbers.
const CHUNK: usize = 32;
/// Bytes counted together: with the rest of an escape, their count fits into one.
const COUNTED: usize = 240;

/// One value as it stands in the text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Raw<'a> {
    bytes: &'a [u8],
    whole: bool,
}

/// One member of an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Member<'a> {
    /// Its key.
    pub key: Key<'a>,
    /// Offset of the key's opening quote in the text.
    pub start: usize,
    /// Offset of the value in the text.
    pub value_start: usize,
    /// Its value.
    pub value: Raw<'a>,
}

/// A key as it stands between its quotes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Key<'a>(&'a [u8]);

/// How a list of members or elements ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// With its bracket; this is the offset behind it.
    Closed(usize),
    /// The text ended before it.
    Cut,
    /// Something else stood at this offset; nothing behind it is read.
    Broken {
        /// Offset in the text.
        at: usize,
        /// What should have stood there.
        expected: &'static str,
    },
}

/// The members of an object, in the order of the text.
#[derive(Clone, Debug)]
pub struct Members<'a>(Items<'a>);

/// The elements of an array.
#[derive(Clone, Debug)]
pub struct Elements<'a>(Items<'a>);

/// What objects and arrays have in common.
#[derive(Clone, Debug)]
struct Items<'a> {
    text: &'a [u8],
    at: usize,
    started: bool,
    end: Option<End>,
}

impl<'a> Raw<'a> {
    /// A value again from its [`Raw::bytes`], which are not looked through for it: whether it
    /// was whole is told by its last byte. That is wrong where a text was cut behind a quote or
    /// bracket of its inside; such a value then ends one byte earlier.
    pub fn again(bytes: &'a [u8]) -> Self {
        let close = match bytes.first() {
            Some(b'"') => Some(b'"'),
            Some(b'[') => Some(b']'),
            Some(b'{') => Some(b'}'),
            _ => None,
        };
        let closed = |close| bytes.len() > 1 && bytes.last() == Some(&close);
        Self {
            bytes,
            whole: close.is_none_or(closed),
        }
    }

    /// The raw JSON; of a value that is not whole, as much of it as there is.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// False when the text ended inside of it.
    pub fn is_whole(self) -> bool {
        self.whole
    }

    /// True for `null`.
    pub fn is_null(self) -> bool {
        self.whole && self.bytes == b"null"
    }

    /// True for a list.
    pub fn is_array(self) -> bool {
        self.bytes.first() == Some(&b'[')
    }

    /// True for an object.
    pub fn is_object(self) -> bool {
        self.bytes.first() == Some(&b'{')
    }

    /// True for a text.
    pub fn is_text(self) -> bool {
        self.bytes.first() == Some(&b'"')
    }

    /// The members, where it is an object. Their offsets count from the value's first byte.
    pub fn members(self) -> Option<Members<'a>> {
        self.is_object().then(|| Members(Items::new(self.bytes, 1)))
    }

    /// The elements, where it is an array.
    pub fn elements(self) -> Option<Elements<'a>> {
        self.is_array().then(|| Elements(Items::new(self.bytes, 1)))
    }

    /// The text, where it is one, with its escapes read; of one that is not whole, what is
    /// certain. Bytes that are no UTF-8 and escapes that mean nothing become U+FFFD.
    pub fn text(self) -> Option<Cow<'a, str>> {
        Some(decode(self.quoted()?, self.whole))
    }

    /// Characters of that text, without reading it. Exact where the text is valid.
    pub fn text_chars(self) -> Option<usize> {
        self.quoted().map(count_chars)
    }

    /// Bytes inside the quotes or brackets, without blanks at their ends; of any other value
    /// all of its bytes. A longer list begins as a shorter one did.
    pub fn inside(self) -> &'a [u8] {
        let bytes = self.bytes;
        match bytes.first() {
            Some(b'"') => self.quoted().unwrap_or_default(),
            Some(b'[' | b'{') => {
                let end = bytes.len() - usize::from(self.whole);
                bytes[1..end].trim_ascii()
            }
            _ => bytes,
        }
    }

    /// What stands between the quotes of a text.
    fn quoted(self) -> Option<&'a [u8]> {
        let inside = self.bytes.strip_prefix(b"\"")?;
        Some(&inside[..inside.len() - usize::from(self.whole)])
    }
}

impl<'a> Key<'a> {
    /// As it stands in the text, escapes and all.
    pub fn raw(self) -> &'a [u8] {
        self.0
    }

    /// What it means.
    pub fn decode(self) -> Cow<'a, str> {
        decode(self.0, true)
    }

    /// What it means, where that has at most so many bytes of ASCII: a longer key is not even
    /// looked into.
    pub fn short(self, most: usize) -> Option<Cow<'a, str>> {
        // An escape has six bytes.
        (self.0.len() <= most * 6).then(|| self.decode())
    }
}

impl<'a> Members<'a> {
    /// The members of the object that a text consists of, or `None` where it is none. Offsets
    /// count from the text's first byte.
    pub fn of(text: &'a [u8]) -> Option<Self> {
        let start = start(text);
        (text.get(start) == Some(&b'{')).then(|| Self(Items::new(text, start + 1)))
    }

    /// How the object ended; `None` while there may be more members.
    pub fn end(&self) -> Option<End> {
        self.0.end
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Member<'a>;

    fn next(&mut self) -> Option<Member<'a>> {
        let items = &mut self.0;
        let text = items.text;
        let start = items.begin(b'}')?;
        if text[start] != b'"' {
            return items.broken(start, "a key");
        }
        let Some(quote) = text_end(text, start + 1) else {
            return items.cut();
        };
        let colon = blanks_end(text, quote + 1);
        match text.get(colon) {
            Some(b':') => {}
            Some(_) => return items.broken(colon, "`:`"),
            None => return items.cut(),
        }
        let value_start = blanks_end(text, colon + 1);
        let value = items.value(value_start)?;
        Some(Member {
            key: Key(&text[start + 1..quote]),
            start,
            value_start,
            value,
        })
    }
}

impl Elements<'_> {
    /// How the array ended; `None` while there may be more elements.
    pub fn end(&self) -> Option<End> {
        self.0.end
    }

    /// Offset behind the last element that came.
    pub fn offset(&self) -> usize {
        self.0.at
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Raw<'a>;

    fn next(&mut self) -> Option<Raw<'a>> {
        let start = self.0.begin(b']')?;
        self.0.value(start)
    }
}

impl<'a> Items<'a> {
    fn new(text: &'a [u8], at: usize) -> Self {
        Self {
            text,
            at,
            started: false,
            end: None,
        }
    }

    /// Offset of the next item, which is there; `None` at the end.
    fn begin(&mut self, close: u8) -> Option<usize> {
        if self.end.is_some() {
            return None;
        }
        let mut at = blanks_end(self.text, self.at);
        match self.text.get(at) {
            None => return self.cut(),
            Some(byte) if *byte == close => {
                self.end = Some(End::Closed(at + 1));
                return None;
            }
            Some(b',') if self.started => at = blanks_end(self.text, at + 1),
            Some(_) if self.started => return self.broken(at, "`,` or the closing bracket"),
            Some(_) => {}
        }
        if at >= self.text.len() {
            return self.cut();
        }
        self.started = true;
        Some(at)
    }

    /// The value at this offset.
    fn value(&mut self, start: usize) -> Option<Raw<'a>> {
        if start >= self.text.len() {
            return self.cut();
        }
        let (end, whole) = value_end(self.text, start);
        if end == start {
            return self.broken(start, "a value");
        }
        self.at = end;
        Some(Raw {
            bytes: &self.text[start..end],
            whole,
        })
    }

    fn cut<T>(&mut self) -> Option<T> {
        self.end = Some(End::Cut);
        None
    }

    fn broken<T>(&mut self, at: usize, expected: &'static str) -> Option<T> {
        self.end = Some(End::Broken { at, expected });
        None
    }
}

/// Offset of the first byte that is neither a blank nor a byte order mark in front.
fn start(text: &[u8]) -> usize {
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
fn value_end(text: &[u8], start: usize) -> (usize, bool) {
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
fn text_end(text: &[u8], mut at: usize) -> Option<usize> {
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

/// Reads escapes. Of a text that is cut off, what might have become another character goes.
fn decode(raw: &[u8], whole: bool) -> Cow<'_, str> {
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
    let (mut starts, mut escapes, mut odd) = (0_u8, 0_u8, false);
    for byte in bytes {
        starts += u8::from(byte & 0xc0 != 0x80);
        escapes += u8::from(*byte == b'\\');
    }
    for (byte, next) in bytes.iter().zip(next) {
        odd |= *byte == b'\\' && (*next == b'\\' || *next == b'u');
    }
    (usize::from(starts), usize::from(escapes), odd)
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

/// Bytes looked at, counted in tests only: that no text costs more than its length is a
/// promise, and clocks are no witnesses.
pub(crate) mod work {
    #[cfg(test)]
    thread_local!(static BYTES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });

    #[cfg(test)]
    pub(crate) fn looked_at(bytes: usize) {
        BYTES.set(BYTES.get() + bytes);
    }

    #[cfg(not(test))]
    pub(crate) const fn looked_at(_: usize) {}

    /// What a piece of work looked at.
    #[cfg(test)]
    pub(crate) fn of(work: impl FnOnce()) -> usize {
        let before = BYTES.get();
        work();
        BYTES.get() - before
    }
}

#[cfg(test)]
mod tests;
