//! sprig's regular expressions: Go's syntax, compiled by the `regex` crate, which takes
//! linear time as Go's does. PURE.

mod syntax;

use regex::{Regex, RegexBuilder};

use super::super::{Value, value};
use super::{Functions, Outcome, Work, int, room, string};

/// Bytes of one compiled pattern.
const SIZE_LIMIT: usize = 1 << 19;
/// Bytes of text that one pattern state may look at for one byte of work.
const STATES_PER_BYTE: usize = 16;

/// A compiled pattern.
#[derive(Clone)]
pub(super) struct Pattern {
    regex: Regex,
    /// Places in the pattern with its repetitions written out, about.
    states: usize,
}

pub(super) fn add(functions: &mut Functions) {
    for (name, must, parameters, run) in [
        (
            "regexMatch",
            "mustRegexMatch",
            "ss",
            matches as fn(&mut Work, &[Value]) -> Outcome,
        ),
        ("regexFind", "mustRegexFind", "ss", find),
        ("regexFindAll", "mustRegexFindAll", "ssi", find_all),
        ("regexSplit", "mustRegexSplit", "ssi", split),
        ("regexReplaceAll", "mustRegexReplaceAll", "sss", replace),
        (
            "regexReplaceAllLiteral",
            "mustRegexReplaceAllLiteral",
            "sss",
            replace_literal,
        ),
    ] {
        functions.busy(name, parameters, run);
        functions.alias(must, name);
    }
    // A pattern that is wrong matches nothing.
    functions.busy("regexMatch", "ss", |work, args| match matches(work, args) {
        Err(message) if message.starts_with("error parsing regexp") => Ok(Value::Bool(false)),
        other => other,
    });
    functions.add("regexQuoteMeta", "s", |args| {
        let mut out = String::new();
        for c in string(&args[0]).chars() {
            if r"\.+*?()|[]{}^$".contains(c) {
                out.push('\\');
            }
            out.push(c);
        }
        Ok(out.into())
    });
}

impl Work {
    /// The pattern, compiled once a rendering.
    fn pattern(&mut self, text: &str) -> Result<Pattern, String> {
        if let Some(known) = self.patterns.get(text) {
            return Ok(known.clone());
        }
        let (translated, states) = syntax::translate(text)?;
        // Compiling costs more than most matches.
        self.take(4096 + states * 64)?;
        let regex = RegexBuilder::new(&translated)
            .size_limit(SIZE_LIMIT)
            .dfa_size_limit(SIZE_LIMIT)
            .nest_limit(64)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => format!(
                    "error parsing regexp: the pattern takes more than {SIZE_LIMIT} bytes; \
                     repeat less"
                ),
                _ => format!("error parsing regexp: {text:?} is not one that can be read"),
            })?;
        let pattern = Pattern { regex, states };
        self.patterns.insert(text.to_owned(), pattern.clone());
        Ok(pattern)
    }

    /// One search in so many bytes.
    fn search(&mut self, pattern: &Pattern, bytes: usize) -> Result<(), String> {
        self.take(bytes.saturating_mul(pattern.states) / STATES_PER_BYTE)
    }
}

fn matches(work: &mut Work, args: &[Value]) -> Outcome {
    let (pattern, text) = (work.pattern(string(&args[0]))?, string(&args[1]));
    work.search(&pattern, text.len())?;
    Ok(Value::Bool(pattern.regex.is_match(text)))
}

fn find(work: &mut Work, args: &[Value]) -> Outcome {
    let (pattern, text) = (work.pattern(string(&args[0]))?, string(&args[1]));
    work.search(&pattern, text.len())?;
    Ok(pattern
        .regex
        .find(text)
        .map_or("", |found| found.as_str())
        .into())
}

/// Places of matches, as Go counts them: an empty one right after another is none.
fn places(
    work: &mut Work,
    pattern: &Pattern,
    text: &str,
    limit: i64,
) -> Result<Vec<(usize, usize)>, String> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut places: Vec<(usize, usize)> = Vec::new();
    let mut matches = pattern.regex.find_iter(text);
    let mut at = 0;
    loop {
        // Each search may look at all that is left.
        work.search(pattern, text.len() - at + 1)?;
        let Some(found) = matches.next().filter(|_| places.len() < limit) else {
            return Ok(places);
        };
        at = found.end();
        if !(found.is_empty() && places.last().is_some_and(|last| last.1 == found.start())) {
            places.push((found.start(), found.end()));
        }
    }
}

fn find_all(work: &mut Work, args: &[Value]) -> Outcome {
    let (pattern, text) = (work.pattern(string(&args[0]))?, string(&args[1]));
    let places = places(work, &pattern, text, int(&args[2]))?;
    room(places.len() * 64)?;
    Ok(Value::texts(
        places.into_iter().map(|(start, end)| &text[start..end]),
    ))
}

fn split(work: &mut Work, args: &[Value]) -> Outcome {
    let (pattern, text, limit) = (
        work.pattern(string(&args[0]))?,
        string(&args[1]),
        int(&args[2]),
    );
    if limit == 0 {
        return Ok(Value::texts::<&str>([]));
    }
    if !string(&args[0]).is_empty() && text.is_empty() {
        return Ok(Value::texts([""]));
    }
    let (mut parts, mut begin, mut end) = (Vec::new(), 0, 0);
    for (start, stop) in places(work, &pattern, text, limit)? {
        if limit > 0 && parts.len() as i64 == limit - 1 {
            break;
        }
        end = start;
        if stop != 0 {
            parts.push(&text[begin..end]);
        }
        begin = stop;
    }
    if end != text.len() {
        parts.push(&text[begin..]);
    }
    room(parts.len() * 64)?;
    Ok(Value::texts(parts))
}

fn replace(work: &mut Work, args: &[Value]) -> Outcome {
    let template = string(&args[2]);
    replace_with(work, args, |captures, out| expand(template, captures, out))
}

fn replace_literal(work: &mut Work, args: &[Value]) -> Outcome {
    let text = string(&args[2]);
    replace_with(work, args, |_, out| out.push_str(text))
}

fn replace_with(
    work: &mut Work,
    args: &[Value],
    by: impl Fn(&regex::Captures<'_>, &mut String),
) -> Outcome {
    let (pattern, text) = (work.pattern(string(&args[0]))?, string(&args[1]));
    let (mut out, mut at, mut last) = (String::new(), 0, None);
    for captures in pattern.regex.captures_iter(text) {
        work.search(&pattern, text.len() - at + 1)?;
        let Some(found) = captures.get(0) else { break };
        if found.is_empty() && last == Some(found.start()) {
            continue;
        }
        out.push_str(&text[at..found.start()]);
        by(&captures, &mut out);
        at = found.end();
        last = Some(at);
        if out.len() > value::MAX_BYTES {
            return Err(value::too_large());
        }
    }
    out.push_str(&text[at..]);
    Ok(out.into())
}

/// `$1`, `${1}`, `$name`, `$$`: a group that there is not is empty.
fn expand(template: &str, captures: &regex::Captures<'_>, out: &mut String) {
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let (braced, body) = match rest.strip_prefix('{') {
            Some(body) => (true, body),
            None => (false, rest),
        };
        let end = body
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(body.len());
        let closed = !braced || body[end..].starts_with('}');
        if end == 0 || !closed {
            out.push('$');
            continue;
        }
        let name = &body[..end];
        let group = match name.parse::<usize>() {
            Ok(number) => captures.get(number),
            Err(_) => captures.name(name),
        };
        out.push_str(group.map_or("", |group| group.as_str()));
        rest = &body[end + usize::from(braced)..];
    }
    out.push_str(rest);
}
