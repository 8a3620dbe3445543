//! Quoted text, as Go's strconv writes it. PURE.

use std::sync::LazyLock;

use regex::Regex;

/// Letters, marks, numbers, punctuation and symbols.
static GRAPHIC: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^[\p{L}\p{M}\p{N}\p{P}\p{S}]$").expect("a constant pattern is right")
});

/// Go's `unicode.IsPrint`: what is shown as it is.
pub(in super::super) fn is_graphic(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    GRAPHIC.is_match(c.encode_utf8(&mut [0; 4]))
}

/// `strconv.Quote`.
pub(in super::super) fn quote(text: &str) -> String {
    quoted(text, '"', false)
}

/// Text between quotes; `ascii` escapes everything else.
pub(super) fn quoted(text: &str, mark: char, ascii: bool) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(mark);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if c == mark => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c if c.is_ascii() || (!ascii && is_graphic(c)) => out.push(c),
            c if (c as u32) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push(mark);
    out
}

static PUNCTUATION: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^\p{P}$").expect("a constant pattern is right"));

/// Go's `unicode.IsPunct`.
pub(in super::super) fn is_punctuation(c: char) -> bool {
    PUNCTUATION.is_match(c.encode_utf8(&mut [0; 4]))
}
