//! sprig's changes of case, and wrapping. PURE.

use super::super::{Value, format};
use super::{Functions, Outcome, cut, int, room, string};

pub(super) fn add(functions: &mut Functions) {
    functions.add("upper", "s", |args| Ok(each(&args[0], upper)));
    functions.add("lower", "s", |args| Ok(each(&args[0], lower)));
    functions.add("title", "s", |args| {
        let mut start = true;
        Ok(each(&args[0], |c| {
            let first = std::mem::replace(&mut start, separates(c));
            if first { upper(c) } else { c }
        }))
    });
    functions.add("untitle", "s", |args| {
        let mut start = true;
        Ok(each(&args[0], |c| {
            let first = start && !c.is_whitespace();
            start = c.is_whitespace() || (start && !first);
            if first { lower(c) } else { c }
        }))
    });
    functions.add("swapcase", "s", |args| {
        let mut gap = true;
        Ok(each(&args[0], |c| {
            if c.is_uppercase() {
                gap = false;
                lower(c)
            } else if c.is_lowercase() {
                gap = false;
                upper(c)
            } else {
                gap = c.is_whitespace();
                c
            }
        }))
    });
    // As in Go these two look at bytes, and make one character of each.
    functions.add("nospace", "s", |args| {
        let text = string(&args[0]);
        let bytes = text.bytes().map(char::from);
        let kept: String = bytes.filter(|c| !c.is_whitespace()).collect();
        let untouched = kept.chars().count() == text.len();
        Ok(if untouched { text.into() } else { kept.into() })
    });
    functions.add("initials", "s", |args| {
        let mut gap = true;
        let bytes = string(&args[0]).bytes().map(char::from);
        let first = bytes.filter(|c| {
            let first = gap && !c.is_whitespace();
            gap = c.is_whitespace();
            first
        });
        Ok(first.collect::<String>().into())
    });
    functions.add("camelcase", "s", |args| Ok(camel(string(&args[0])).into()));
    functions.add("snakecase", "s", |args| {
        Ok(joined(string(&args[0]), '_').into())
    });
    functions.add("kebabcase", "s", |args| {
        Ok(joined(string(&args[0]), '-').into())
    });
    functions.add("wrap", "is", |args| {
        wrap(string(&args[1]), int(&args[0]), "\n", false)
    });
    functions.add("wrapWith", "iss", |args| {
        wrap(string(&args[2]), int(&args[0]), string(&args[1]), true)
    });
}

fn each(value: &Value, change: impl FnMut(char) -> char) -> Value {
    string(value).chars().map(change).collect::<String>().into()
}

/// One character for one, as Go has it: `ß` stays.
fn upper(c: char) -> char {
    let mut upper = c.to_uppercase();
    match (upper.next(), upper.next()) {
        (Some(one), None) => one,
        _ => c,
    }
}

fn lower(c: char) -> char {
    c.to_lowercase().next().unwrap_or(c)
}

/// What ends a word for `title`.
fn separates(c: char) -> bool {
    if c.is_ascii() {
        !(c.is_ascii_alphanumeric() || c == '_')
    } else {
        !c.is_alphanumeric() && c.is_whitespace()
    }
}

fn connects(c: char) -> bool {
    c == '-' || c == '_' || c.is_whitespace()
}

fn camel(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    let mut last = None;
    // Connectors at the start stay.
    for c in chars.by_ref() {
        if !connects(c) {
            last = Some(c);
            break;
        }
        out.push(c);
    }
    let Some(first) = last else {
        // The last connector is written twice, as upstream does.
        out.extend(text.chars().next_back());
        return out;
    };
    let mut first_upper = first.is_uppercase();
    let mut before = upper(first);
    for mut c in chars {
        if connects(c) && connects(before) {
            out.push(before);
            continue;
        }
        if connects(before) {
            first_upper = c.is_uppercase();
            c = upper(c);
        } else {
            if first_upper {
                if c.is_uppercase() {
                    c = lower(c);
                } else {
                    first_upper = false;
                }
            }
            out.push(before);
        }
        before = c;
    }
    out.push(before);
    out
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Number,
    Upper,
    Letters,
    Connector,
    Punctuation,
    Other,
}

fn letter(c: char) -> bool {
    c.is_alphabetic() && (c as u32) < 0x3400
}

fn punctuation(c: char) -> bool {
    let symbol = matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '`' | '|' | '~');
    if c.is_ascii() {
        c.is_ascii_punctuation() && !symbol
    } else {
        !c.is_alphanumeric() && !c.is_whitespace() && format::is_punctuation(c)
    }
}

/// The next word and the rest: `HTTPServer2` is HTTP, Server, 2.
fn next_word(text: &str) -> Option<(Kind, &str, &str)> {
    let mut chars = text.chars();
    let first = chars.next()?;
    let until = |of: fn(char) -> bool| {
        text[first.len_utf8()..]
            .find(|c| !of(c))
            .map_or(text.len(), |at| at + first.len_utf8())
    };
    let small: fn(char) -> bool = |c| letter(c) && !c.is_uppercase();
    let (kind, end) = if connects(first) {
        (Kind::Connector, until(connects))
    } else if punctuation(first) {
        (Kind::Punctuation, until(punctuation))
    } else if first.is_uppercase() {
        let end = match chars.next() {
            Some(second) if second.is_uppercase() => {
                let end = until(char::is_uppercase);
                // The last capital starts the next word when letters follow.
                match text[end..].chars().next() {
                    Some(next) if letter(next) => {
                        end - text[..end].chars().next_back().map_or(0, char::len_utf8)
                    }
                    _ => end,
                }
            }
            _ => until(small),
        };
        (Kind::Upper, end)
    } else if letter(first) {
        (Kind::Letters, until(small))
    } else if first.is_numeric() {
        (Kind::Number, until(char::is_numeric))
    } else {
        let other: fn(char) -> bool =
            |c| !(connects(c) || letter(c) || c.is_numeric() || punctuation(c));
        (Kind::Other, until(other))
    };
    Some((kind, &text[..end], &text[end..]))
}

struct Joiner<'t> {
    out: String,
    connector: char,
    kind: Option<Kind>,
    word: &'t str,
    rest: &'t str,
}

impl Joiner<'_> {
    fn advance(&mut self) {
        if let Some((kind, word, rest)) = next_word(self.rest) {
            (self.kind, self.word, self.rest) = (Some(kind), word, rest);
        } else {
            (self.kind, self.word) = (None, "");
        }
    }

    fn write(&mut self, kind: Option<Kind>, word: &str) {
        if !matches!(kind, Some(Kind::Upper | Kind::Connector)) {
            return self.out.push_str(word);
        }
        for c in word.chars() {
            self.out.push(if connects(c) {
                self.connector
            } else {
                lower(c)
            });
        }
    }

    fn words_after_a_number(&mut self) {
        while matches!(self.kind, Some(Kind::Letters | Kind::Number)) {
            self.write(self.kind, self.word);
            self.advance();
        }
        if !matches!(self.kind, None | Some(Kind::Connector | Kind::Punctuation)) {
            self.out.push(self.connector);
        }
    }

    /// What follows a word of letters.
    fn after_letters(&mut self) {
        if self.kind != Some(Kind::Number) {
            if !matches!(self.kind, Some(Kind::Connector | Kind::Punctuation)) {
                self.out.push(self.connector);
            }
            return;
        }
        if self.rest.is_empty() {
            return;
        }
        let number = self.word;
        self.advance();
        if self.kind == Some(Kind::Letters) {
            // Small letters after a number belong to it: HTTP2xx is http_2xx.
            self.out.push(self.connector);
            self.out.push_str(number);
            self.words_after_a_number();
        } else {
            // A number belongs to the word before: Bld4Floor is bld4_floor.
            self.out.push_str(number);
            if !matches!(self.kind, Some(Kind::Connector | Kind::Punctuation)) {
                self.out.push(self.connector);
            }
        }
    }
}

/// Words in lower case with a connector between, by the rules of xstrings.
fn joined(text: &str, connector: char) -> String {
    let mut joiner = Joiner {
        out: String::new(),
        connector,
        kind: None,
        word: "",
        rest: text,
    };
    joiner.advance();
    while !joiner.rest.is_empty() {
        let (before, word) = (joiner.kind, joiner.word);
        if before != Some(Kind::Connector) {
            joiner.write(before, word);
        }
        joiner.advance();
        match before {
            Some(Kind::Number) => joiner.words_after_a_number(),
            Some(Kind::Connector) => joiner.write(before, word),
            Some(Kind::Punctuation) => {}
            _ => joiner.after_letters(),
        }
    }
    let (kind, word) = (joiner.kind, joiner.word);
    joiner.write(kind, word);
    joiner.out
}

/// Lines of so many bytes, cut at blanks; `long` cuts words that are longer too.
fn wrap(text: &str, width: i64, line: &str, long: bool) -> Outcome {
    let width = usize::try_from(width.max(1)).unwrap_or(usize::MAX);
    let line = if line.is_empty() { "\n" } else { line };
    room((text.len() / width).saturating_mul(line.len()))?;
    let bytes = text.as_bytes();
    let blank = |part: &[u8]| part.iter().rposition(|byte| *byte == b' ');
    let (mut out, mut at) = (String::new(), 0);
    while bytes.len() - at > width {
        if bytes[at] == b' ' {
            at += 1;
            continue;
        }
        let end = at + width;
        if let Some(found) = blank(&bytes[at..=end]) {
            out.push_str(&cut(text, at, at + found)?);
            at += found + 1;
        } else if long {
            out.push_str(&cut(text, at, end)?);
            at = end;
        } else if let Some(found) = bytes[end..].iter().position(|byte| *byte == b' ') {
            out.push_str(&cut(text, at, end + found)?);
            at = end + found + 1;
        } else {
            out.push_str(&cut(text, at, text.len())?);
            at = text.len();
            break;
        }
        out.push_str(line);
        room(out.len())?;
    }
    out.push_str(&cut(text, at, text.len())?);
    Ok(out.into())
}
