//! Go's regular expressions -> those of the `regex` crate. PURE.
//!
//! Both come from RE2 and nearly agree. Where they do not: `\d`, `\w`, `\s` and `\b` mean
//! ASCII in Go; classes have no classes and no `&&` in them; a `{` that opens no repetition
//! is a letter; `\Q…\E` and octal numbers exist; flags are `i`, `m`, `s` and `U` only.

/// Repetitions of one thing, as in Go.
const MAX_REPEAT: usize = 1000;
/// Places of a pattern with its repetitions written out.
const MAX_STATES: usize = 20_000;

/// The pattern in the other syntax, and how many places it has, about.
pub(super) fn translate(pattern: &str) -> Result<(String, usize), String> {
    let mut reader = Reader {
        rest: pattern,
        out: String::with_capacity(pattern.len()),
        sizes: vec![0],
        last: 0,
        repeatable: false,
    };
    while !reader.rest.is_empty() {
        reader
            .one()
            .map_err(|why| format!("error parsing regexp: {why}: {pattern:?}"))?;
    }
    let states: usize = reader.sizes.iter().sum::<usize>() + 1;
    if states > MAX_STATES {
        return Err(format!(
            "error parsing regexp: with its repetitions written out it has more than \
             {MAX_STATES} places; repeat less"
        ));
    }
    Ok((reader.out, states))
}

struct Reader<'p> {
    rest: &'p str,
    out: String,
    /// Places of the groups that are open.
    sizes: Vec<usize>,
    /// Places of what was read last, which a repetition multiplies.
    last: usize,
    /// Whether a repetition may follow: not after another one, as in Go.
    repeatable: bool,
}

impl Reader<'_> {
    fn atom(&mut self, text: &str, size: usize) {
        self.out.push_str(text);
        self.last = size;
        self.repeatable = true;
        if let Some(open) = self.sizes.last_mut() {
            *open = open.saturating_add(size);
        }
    }

    fn one(&mut self) -> Result<(), String> {
        let c = self.rest.chars().next().unwrap_or_default();
        match c {
            '\\' => return self.escape(),
            '[' => return self.class(),
            '(' => return self.group(),
            '*' | '+' | '?' => {
                let repeated = self.rest[1..].starts_with('?');
                let text = self.rest[..=usize::from(repeated)].to_owned();
                return self.repeat(&text, 1);
            }
            '{' => {
                if let Some((text, count)) = counted(self.rest)? {
                    return self.repeat(&text, count.max(1));
                }
                self.atom("\\{", 1);
            }
            ')' => {
                let size = self.sizes.pop().unwrap_or(0);
                if self.sizes.is_empty() {
                    return Err("unexpected )".to_owned());
                }
                self.atom(")", size + 1);
            }
            '|' => {
                self.out.push('|');
                self.repeatable = false;
            }
            '^' | '$' | '.' => self.atom(&c.to_string(), 1),
            c => self.atom(&regex::escape(&c.to_string()), 1),
        }
        self.rest = &self.rest[c.len_utf8()..];
        Ok(())
    }

    fn repeat(&mut self, text: &str, count: usize) -> Result<(), String> {
        if !self.repeatable {
            return Err(if self.out.is_empty() {
                format!("missing argument to repetition operator: `{text}`")
            } else {
                format!("invalid nested repetition operator: `{text}`")
            });
        }
        self.out.push_str(text);
        self.repeatable = false;
        if let Some(open) = self.sizes.last_mut() {
            *open = open.saturating_add(self.last.saturating_mul(count - 1));
        }
        self.rest = &self.rest[text.len()..];
        Ok(())
    }

    /// `(`, `(?:`, `(?i)`, `(?P<name>`.
    fn group(&mut self) -> Result<(), String> {
        let end = match self.rest.strip_prefix("(?") {
            None => 1,
            Some(body) if body.starts_with("P<") || body.starts_with('<') => {
                self.rest.find('>').ok_or("invalid named capture")? + 1
            }
            Some(body) => {
                let flags = body
                    .find(|c: char| !"imsU-".contains(c))
                    .ok_or("missing closing )")?;
                let alone = body[flags..].starts_with(')');
                if !(alone || body[flags..].starts_with(':')) {
                    return Err("invalid or unsupported Perl syntax".to_owned());
                }
                if alone {
                    self.out.push_str(&self.rest[..flags + 3]);
                    self.rest = &self.rest[flags + 3..];
                    self.repeatable = false;
                    return Ok(());
                }
                flags + 3
            }
        };
        self.out.push_str(&self.rest[..end]);
        self.rest = &self.rest[end..];
        self.sizes.push(0);
        self.repeatable = false;
        Ok(())
    }

    fn escape(&mut self) -> Result<(), String> {
        let mut chars = self.rest[1..].chars();
        let c = chars
            .next()
            .ok_or("trailing backslash at end of expression")?;
        let after = 1 + c.len_utf8();
        let fixed = match c {
            'A' => "\\A",
            'z' => "\\z",
            'b' => "(?-u:\\b)",
            'B' => "(?-u:\\B)",
            'Q' => {
                let body = &self.rest[2..];
                let end = body.find("\\E").unwrap_or(body.len());
                for c in body[..end].chars() {
                    self.atom(&regex::escape(&c.to_string()), 1);
                }
                self.rest = body[end..].strip_prefix("\\E").unwrap_or("");
                return Ok(());
            }
            'C' => return Err("\\C, one byte, is not supported".to_owned()),
            _ => "",
        };
        if !fixed.is_empty() {
            self.atom(fixed, 1);
            self.rest = &self.rest[after..];
            return Ok(());
        }
        let (text, length) = item(self.rest)?;
        let size = if c == 'p' || c == 'P' { 40 } else { 1 };
        match text.strip_prefix("[^").or(text.strip_prefix('[')) {
            Some(_) => self.atom(&text, size),
            None if matches!(c, 'd' | 's' | 'w') => self.atom(&format!("[{text}]"), size),
            None => self.atom(&text, size),
        }
        self.rest = &self.rest[length..];
        Ok(())
    }

    fn class(&mut self) -> Result<(), String> {
        let mut rest = &self.rest[1..];
        let mut out = "[".to_owned();
        if let Some(after) = rest.strip_prefix('^') {
            out.push('^');
            rest = after;
        }
        let (mut first, mut size) = (true, 1);
        loop {
            let c = rest.chars().next().ok_or("missing closing ]")?;
            if c == ']' && !first {
                break;
            }
            first = false;
            if c == '\\' {
                let (text, length) = item(rest)?;
                size += usize::from(matches!(rest.as_bytes()[1], b'p' | b'P')) * 40;
                out.push_str(&text);
                rest = &rest[length..];
            } else if let Some(end) = rest.strip_prefix("[:").and_then(|body| body.find(":]")) {
                out.push_str(&rest[..end + 4]);
                rest = &rest[end + 4..];
            } else if c == '-' {
                out.push('-');
                rest = &rest[1..];
            } else {
                if c.is_ascii_punctuation() {
                    out.push('\\');
                }
                out.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        out.push(']');
        // A dash that stands for itself may follow a class or be last.
        self.atom(&out.replace("--", "-\\-"), size);
        self.rest = &rest[1..];
        Ok(())
    }
}

/// `{2}`, `{2,}`, `{2,3}` and what may follow; `None` when it is only a brace.
fn counted(rest: &str) -> Result<Option<(String, usize)>, String> {
    let Some(end) = rest.find('}') else {
        return Ok(None);
    };
    let body = &rest[1..end];
    let (low, high) = body.split_once(',').unwrap_or((body, body));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if low.is_empty() || !digits(low) || !digits(high) {
        return Ok(None);
    }
    let wrong = || format!("invalid repeat count: `{{{body}}}`");
    let least: usize = low.parse().map_err(|_| wrong())?;
    let most: usize = match high {
        "" => least,
        high => high.parse().map_err(|_| wrong())?,
    };
    if least > MAX_REPEAT || most > MAX_REPEAT || most < least {
        return Err(wrong());
    }
    let lazy = rest[end + 1..].starts_with('?');
    let text = rest[..end + 1 + usize::from(lazy)].to_owned();
    Ok(Some((text, most)))
}

/// An escape that may stand inside a class too, and its length.
fn item(rest: &str) -> Result<(String, usize), String> {
    let c = rest[1..]
        .chars()
        .next()
        .ok_or("trailing backslash at end of expression")?;
    let body = &rest[2..];
    let wrong = || format!("invalid escape sequence: `\\{c}`");
    Ok(match c {
        'd' => ("0-9".to_owned(), 2),
        's' => ("\\t\\n\\f\\r ".to_owned(), 2),
        'w' => ("0-9A-Za-z_".to_owned(), 2),
        'D' => ("[^0-9]".to_owned(), 2),
        'S' => ("[^\\t\\n\\f\\r ]".to_owned(), 2),
        'W' => ("[^0-9A-Za-z_]".to_owned(), 2),
        'p' | 'P' => {
            let length = match body.strip_prefix('{') {
                Some(name) => name.find('}').ok_or_else(wrong)? + 2,
                None => body.chars().next().ok_or_else(wrong)?.len_utf8(),
            };
            (rest[..2 + length].to_owned(), 2 + length)
        }
        'x' => {
            let length = match body.strip_prefix('{') {
                Some(digits) => digits.find('}').ok_or_else(wrong)? + 2,
                None => 2,
            };
            let text = body.get(..length).ok_or_else(wrong)?;
            (format!("\\x{text}"), 2 + length)
        }
        '0'..='7' => {
            let digits = body
                .bytes()
                .take(2)
                .take_while(|b| (b'0'..=b'7').contains(b))
                .count();
            if c != '0' && digits == 0 {
                return Err(wrong());
            }
            let text = format!("{c}{}", &body[..digits]);
            let point = u32::from_str_radix(&text, 8).map_err(|_| wrong())?;
            (format!("\\x{{{point:x}}}"), 2 + digits)
        }
        'a' | 'f' | 'n' | 'r' | 't' | 'v' => (format!("\\{c}"), 2),
        c if c.is_ascii_punctuation() => (format!("\\{c}"), 2),
        _ => return Err(wrong()),
    })
}
