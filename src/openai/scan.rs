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

mod skip;
mod text;

use std::borrow::Cow;

pub use self::skip::blanks_end;
use self::skip::{start, text_end, value_end};
pub use self::text::count_chars;
use self::text::decode;

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
