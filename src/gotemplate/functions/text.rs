//! sprig's string functions. PURE.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use super::super::{Value, format};
use super::{Functions, Outcome, exactly, int, room, string};

pub(super) fn add(functions: &mut Functions) {
    functions.add("quote", |args| {
        Ok(joined(args, |value| format::quote(&text(value))))
    });
    functions.add("squote", |args| {
        Ok(joined(args, |value| format!("'{}'", text(value))))
    });
    functions.add("toString", |args| {
        exactly::<1>(args).map(|[value]| text(value).into())
    });
    functions.add("trim", |args| one(args, |text| text.trim().to_owned()));
    functions.add("upper", |args| one(args, str::to_uppercase));
    functions.add("lower", |args| one(args, str::to_lowercase));
    functions.add("title", |args| one(args, title));
    functions.add("untitle", |args| {
        one(args, |text| first_letter(text, char::to_lowercase))
    });
    functions.add("nospace", |args| {
        one(args, |text| {
            text.chars().filter(|c| !c.is_whitespace()).collect()
        })
    });
    functions.add("trimSuffix", |args| {
        two(args, |cut, text| {
            text.strip_suffix(cut).unwrap_or(text).to_owned()
        })
    });
    functions.add("trimPrefix", |args| {
        two(args, |cut, text| {
            text.strip_prefix(cut).unwrap_or(text).to_owned()
        })
    });
    functions.add("trimAll", |args| two(args, trim_all));
    functions.add("trimall", |args| two(args, trim_all));
    functions.add("contains", |args| {
        test(args, |part, text| text.contains(part))
    });
    functions.add("hasPrefix", |args| {
        test(args, |part, text| text.starts_with(part))
    });
    functions.add("hasSuffix", |args| {
        test(args, |part, text| text.ends_with(part))
    });
    functions.add("replace", |args| {
        let [old, new, text] = exactly::<3>(args)?;
        let (old, new, text) = (string(old)?, string(new)?, string(text)?);
        let found = text.matches(old).count();
        room(text.len().saturating_add(found.saturating_mul(new.len())))?;
        Ok(text.replace(old, new).into())
    });
    functions.add("repeat", |args| {
        let [count, text] = exactly::<2>(args)?;
        let count = usize::try_from(int(count)?).map_err(|_| "negative count")?;
        let text = string(text)?;
        room(text.len().saturating_mul(count))?;
        Ok(text.repeat(count).into())
    });
    functions.add("trunc", |args| {
        let [count, text] = exactly::<2>(args)?;
        let (count, text) = (int(count)?, string(text)?);
        let length = text.chars().count();
        let keep = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
        Ok(if count >= 0 {
            text.chars().take(keep).collect::<String>()
        } else {
            text.chars().skip(length.saturating_sub(keep)).collect()
        }
        .into())
    });
    functions.add("indent", |args| indent(args, ""));
    functions.add("nindent", |args| indent(args, "\n"));
    functions.add("cat", |args| {
        Ok(args
            .iter()
            .filter(|v| !matches!(v, Value::Nil))
            .map(text)
            .collect::<Vec<_>>()
            .join(" ")
            .into())
    });
    functions.add("b64enc", |args| one(args, |text| base64(text.as_bytes())));
    functions.add("sha256sum", |args| {
        one(args, |text| {
            Sha256::digest(text.as_bytes())
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect()
        })
    });
    functions.add("kebabcase", |args| one(args, |text| separated(text, '-')));
    functions.add("snakecase", |args| one(args, |text| separated(text, '_')));
}

/// sprig's strval.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Nil => String::new(),
        other => format::plain(other),
    }
}

fn joined(args: &[Value], one: impl Fn(&Value) -> String) -> Value {
    args.iter()
        .filter(|value| !matches!(value, Value::Nil))
        .map(one)
        .collect::<Vec<_>>()
        .join(" ")
        .into()
}

fn one(args: &[Value], change: impl Fn(&str) -> String) -> Outcome {
    let [value] = exactly::<1>(args)?;
    Ok(change(string(value)?).into())
}

fn two(args: &[Value], change: impl Fn(&str, &str) -> String) -> Outcome {
    let [a, b] = exactly::<2>(args)?;
    Ok(change(string(a)?, string(b)?).into())
}

fn test(args: &[Value], test: impl Fn(&str, &str) -> bool) -> Outcome {
    let [a, b] = exactly::<2>(args)?;
    Ok(Value::Bool(test(string(a)?, string(b)?)))
}

fn indent(args: &[Value], before: &str) -> Outcome {
    let [count, text] = exactly::<2>(args)?;
    let (count, text) = (int(count)?, string(text)?);
    let count = usize::try_from(count).map_err(|_| "negative count")?;
    let lines = text.matches('\n').count() + 1;
    room(lines.saturating_mul(count).saturating_add(text.len()))?;
    let pad = " ".repeat(count);
    Ok(format!("{before}{pad}{}", text.replace('\n', &format!("\n{pad}"))).into())
}

/// The set is looked up for every character, so it is one first.
fn trim_all(set: &str, text: &str) -> String {
    let set: BTreeSet<char> = set.chars().collect();
    text.trim_matches(|c| set.contains(&c)).to_owned()
}

fn title(text: &str) -> String {
    let mut out = String::new();
    let mut start = true;
    for c in text.chars() {
        if start {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        start = !(c.is_alphanumeric() || c == '_' || c == '\'');
    }
    out
}

fn first_letter<I: Iterator<Item = char>>(text: &str, change: fn(char) -> I) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|c| change(c).chain(chars).collect())
        .unwrap_or_default()
}

fn separated(text: &str, separator: char) -> String {
    let mut out = String::new();
    let mut before_lower = false;
    for c in text.chars() {
        if c.is_alphanumeric() {
            if c.is_uppercase() && before_lower {
                out.push(separator);
            }
            before_lower = c.is_lowercase() || c.is_ascii_digit();
            out.extend(c.to_lowercase());
        } else {
            if !out.is_empty() && !out.ends_with(separator) {
                out.push(separator);
            }
            before_lower = false;
        }
    }
    out.trim_end_matches(separator).to_owned()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for index in 0..4 {
            if index <= chunk.len() {
                out.push(ALPHABET[(bits >> (18 - 6 * index) & 63) as usize] as char);
            } else {
                out.push('=');
            }
        }
    }
    out
}
