//! Template text -> tokens with byte offsets. PURE.
//!
//! `{{-` and `-}}` are applied here: the parser never sees the white space they remove.

use super::error::Fault;
use super::functions::integer;

/// Tokens of one template; a large real one has a thousand. A tree takes about 500 bytes for
/// each.
const MAX_TOKENS: usize = 50_000;

/// A token and where it starts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) offset: usize,
}

/// Kinds of tokens.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// Text between actions.
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// A word: keyword or function.
    Word(String),
    /// `.` alone.
    Dot,
    /// `.Name`, without the dot.
    Field(String),
    /// `$name`, without the dollar; empty for `$`.
    Variable(String),
    /// A quoted or raw string, unescaped.
    Str(String),
    /// An integer, or a character constant.
    Int(i64),
    /// A floating point number.
    Float(f64),
    /// `|`
    Pipe,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    /// `,`
    Comma,
    /// `(`
    Left,
    /// `)`
    Right,
    /// White space inside an action: it separates arguments from chained fields.
    Space,
}

/// Cuts the text into tokens.
pub(super) fn lex(text: &str) -> Result<Vec<Token>, Fault> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut trim_next = false;
    while let Some(found) = text[at..].find("{{") {
        let open = at + found;
        check_count(&tokens, open)?;
        let after = &text[open + 2..];
        let trim_left = after.starts_with('-') && after[1..].starts_with([' ', '\t', '\r', '\n']);
        push_text(&mut tokens, at, &text[at..open], trim_next, trim_left);
        let inner = open + 2 + if trim_left { 2 } else { 0 };
        if text[inner..].trim_start().starts_with("/*") && is_comment(&text[inner..]) {
            let (end, trim) =
                comment_end(text, inner).ok_or_else(|| Fault::new(open, "unclosed comment"))?;
            (at, trim_next) = (end, trim);
            continue;
        }
        tokens.push(Token {
            kind: Kind::Open,
            offset: open,
        });
        let mut action = Action {
            text,
            at: inner,
            open,
            parens: 0,
        };
        trim_next = action.lex(&mut tokens)?;
        at = action.at;
    }
    push_text(&mut tokens, at, &text[at..], trim_next, false);
    Ok(tokens)
}

fn check_count(tokens: &[Token], offset: usize) -> Result<(), Fault> {
    if tokens.len() < MAX_TOKENS {
        return Ok(());
    }
    Err(Fault::new(
        offset,
        format!("more than {MAX_TOKENS} words and signs in actions; split the template"),
    ))
}

fn push_text(tokens: &mut Vec<Token>, offset: usize, text: &str, trim_start: bool, trim_end: bool) {
    let mut kept = text;
    let space = [' ', '\t', '\r', '\n'];
    if trim_start {
        kept = kept.trim_start_matches(space);
    }
    if trim_end {
        kept = kept.trim_end_matches(space);
    }
    if !kept.is_empty() {
        tokens.push(Token {
            kind: Kind::Text(kept.to_owned()),
            offset,
        });
    }
}

/// Go allows a comment only as the whole action.
fn is_comment(inner: &str) -> bool {
    inner.starts_with("/*")
}

fn comment_end(text: &str, from: usize) -> Option<(usize, bool)> {
    let end = from + text[from..].find("*/")? + 2;
    let rest = &text[end..];
    if rest.starts_with("}}") {
        return Some((end + 2, false));
    }
    let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n']);
    (trimmed.len() < rest.len() && trimmed.starts_with("-}}"))
        .then(|| (text.len() - trimmed.len() + 3, true))
}

struct Action<'a> {
    text: &'a str,
    at: usize,
    open: usize,
    parens: usize,
}

impl Action<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// Tokens up to the closing braces; true when they trim what follows.
    fn lex(&mut self, tokens: &mut Vec<Token>) -> Result<bool, Fault> {
        loop {
            let offset = self.at;
            check_count(tokens, offset)?;
            let Some(c) = self.rest().chars().next() else {
                return Err(Fault::new(self.open, "unclosed action: }} is missing"));
            };
            if self.rest().starts_with("}}") {
                if self.parens > 0 {
                    return Err(Fault::new(offset, "unclosed left parenthesis"));
                }
                self.at += 2;
                tokens.push(Token {
                    kind: Kind::Close,
                    offset,
                });
                return Ok(false);
            }
            if c.is_ascii_whitespace() {
                let spaces = self.rest().len()
                    - self
                        .rest()
                        .trim_start_matches([' ', '\t', '\r', '\n'])
                        .len();
                self.at += spaces.max(1);
                if self.rest().starts_with("-}}") {
                    tokens.push(Token {
                        kind: Kind::Close,
                        offset: self.at,
                    });
                    self.at += 3;
                    return Ok(true);
                }
                tokens.push(Token {
                    kind: Kind::Space,
                    offset,
                });
                continue;
            }
            let kind = self.one(c)?;
            tokens.push(Token { kind, offset });
        }
    }

    fn one(&mut self, c: char) -> Result<Kind, Fault> {
        let offset = self.at;
        let single = |kind| Ok(kind);
        match c {
            '|' => {
                self.at += 1;
                single(Kind::Pipe)
            }
            ',' => {
                self.at += 1;
                single(Kind::Comma)
            }
            '(' => {
                self.at += 1;
                self.parens += 1;
                single(Kind::Left)
            }
            ')' => {
                if self.parens == 0 {
                    return Err(Fault::new(offset, "unexpected right parenthesis"));
                }
                self.at += 1;
                self.parens -= 1;
                single(Kind::Right)
            }
            '=' => {
                self.at += 1;
                single(Kind::Assign)
            }
            ':' if self.rest().starts_with(":=") => {
                self.at += 2;
                single(Kind::Declare)
            }
            '"' => self.quoted().map(Kind::Str),
            '`' => {
                let end = self.rest()[1..]
                    .find('`')
                    .ok_or_else(|| Fault::new(offset, "unterminated raw string"))?;
                let raw = self.rest()[1..=end].replace('\r', "");
                self.at += end + 2;
                Ok(Kind::Str(raw))
            }
            '\'' => self.character(),
            '$' => {
                self.at += 1;
                let name = self.word();
                self.ended()?;
                Ok(Kind::Variable(name))
            }
            '.' if self.rest()[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number(),
            '.' => {
                self.at += 1;
                let name = self.word();
                self.ended()?;
                Ok(if name.is_empty() {
                    Kind::Dot
                } else {
                    Kind::Field(name)
                })
            }
            '+' | '-' | '0'..='9' => self.number(),
            c if c.is_alphabetic() || c == '_' => {
                let word = self.word();
                self.ended()?;
                Ok(Kind::Word(word))
            }
            c => Err(Fault::new(offset, format!("unexpected {c:?} in an action"))),
        }
    }

    /// A name ends at white space or at a sign that may follow one.
    fn ended(&self) -> Result<(), Fault> {
        match self.rest().chars().next() {
            None | Some(' ' | '\t' | '\r' | '\n' | '.' | ',' | '|' | ':' | '(' | ')') => Ok(()),
            Some(_) if self.rest().starts_with("}}") => Ok(()),
            Some(c) => Err(Fault::new(
                self.at,
                format!("bad character {c:?} after a name"),
            )),
        }
    }

    fn word(&mut self) -> String {
        let word: String = self
            .rest()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        self.at += word.len();
        word
    }

    fn quoted(&mut self) -> Result<String, Fault> {
        let offset = self.at;
        self.at += 1;
        let mut out = String::new();
        loop {
            let Some(c) = self.rest().chars().next() else {
                return Err(Fault::new(offset, "unterminated quoted string"));
            };
            self.at += c.len_utf8();
            match c {
                '"' => return Ok(out),
                '\n' => return Err(Fault::new(offset, "unterminated quoted string")),
                '\\' => out.push(self.escape('"')?),
                c => out.push(c),
            }
        }
    }

    fn character(&mut self) -> Result<Kind, Fault> {
        let offset = self.at;
        self.at += 1;
        let Some(c) = self.rest().chars().next() else {
            return Err(Fault::new(offset, "unterminated character constant"));
        };
        self.at += c.len_utf8();
        let c = if c == '\\' { self.escape('\'')? } else { c };
        if !self.rest().starts_with('\'') {
            return Err(Fault::new(offset, "unterminated character constant"));
        }
        self.at += 1;
        Ok(Kind::Int(i64::from(u32::from(c))))
    }

    fn escape(&mut self, quote: char) -> Result<char, Fault> {
        let offset = self.at - 1;
        let Some(c) = self.rest().chars().next() else {
            return Err(Fault::new(offset, "unterminated escape"));
        };
        self.at += c.len_utf8();
        let digits = |action: &mut Self, count: usize, radix: u32, first: Option<char>| {
            let mut text: String = first.into_iter().collect();
            text.extend(action.rest().chars().take(count));
            action.at += text.len() - first.map_or(0, char::len_utf8);
            u32::from_str_radix(&text, radix)
                .ok()
                .and_then(char::from_u32)
                .ok_or_else(|| Fault::new(offset, "invalid escape"))
        };
        Ok(match c {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            '\\' => '\\',
            'x' => digits(self, 2, 16, None)?,
            'u' => digits(self, 4, 16, None)?,
            'U' => digits(self, 8, 16, None)?,
            '0'..='7' => digits(self, 2, 8, Some(c))?,
            c if c == quote => c,
            _ => return Err(Fault::new(offset, format!("unknown escape \\{c}"))),
        })
    }

    fn number(&mut self) -> Result<Kind, Fault> {
        let offset = self.at;
        let mut end = 0;
        let rest = self.rest();
        let unsigned = rest.strip_prefix(['+', '-']).unwrap_or(rest);
        let hex = unsigned.starts_with("0x") || unsigned.starts_with("0X");
        for (index, c) in rest.char_indices() {
            let exponent_sign = matches!(c, '+' | '-')
                && (index == 0 || (!hex && rest[..index].ends_with(['e', 'E'])));
            if !(c.is_alphanumeric() || matches!(c, '.' | '_') || exponent_sign) {
                break;
            }
            end = index + c.len_utf8();
        }
        let text = rest[..end].to_owned();
        self.at += end;
        parse_number(&text).ok_or_else(|| Fault::new(offset, format!("bad number {text:?}")))
    }
}

/// As Go: an integer in any base, or a floating point number; digits may be grouped by `_`
/// only where the base is written or found from the text.
fn parse_number(text: &str) -> Option<Kind> {
    if let Some(number) = integer(text) {
        return Some(Kind::Int(number));
    }
    let hexadecimal = text.contains(['x', 'X']);
    if !text.contains(['.', 'e', 'E', 'p', 'P']) || text.contains('_') && !hexadecimal {
        return None;
    }
    if hexadecimal {
        return hexadecimal_float(text).map(Kind::Float);
    }
    let shape = |b: u8| b.is_ascii_digit() || b".eE+-".contains(&b);
    let number: f64 = text.parse().ok().filter(|_| text.bytes().all(shape))?;
    number.is_finite().then_some(Kind::Float(number))
}

/// `0x1.8p3`; the exponent is a must.
fn hexadecimal_float(text: &str) -> Option<f64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.replace('_', "").to_ascii_lowercase();
    let (mantissa, exponent) = lower.strip_prefix("0x")?.split_once('p')?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let number = u64::from_str_radix(&format!("{whole}{fraction}"), 16).ok()?;
    let exponent = exponent.parse::<i32>().ok()? - 4 * fraction.len() as i32;
    Some(sign * number as f64 * 2f64.powi(exponent))
}
