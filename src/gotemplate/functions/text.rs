//! sprig's string functions. PURE.

use std::collections::BTreeSet;

use super::super::{Value, format, version};
use super::{Functions, Outcome, cut, int, room, string};

pub(super) fn add(functions: &mut Functions) {
    functions.add("quote", "a*", |args| {
        Ok(joined(args, |value| format::quote(&format::plain(value))))
    });
    functions.add("squote", "a*", |args| {
        Ok(joined(args, |value| format!("'{}'", format::plain(value))))
    });
    functions.add("cat", "a*", |args| {
        // The format has a blank after each, and is trimmed; what is printed is not.
        Ok(joined(args, format::plain))
    });
    functions.add("trim", "s", |args| Ok(string(&args[0]).trim().into()));
    functions.add("trimSuffix", "ss", |args| {
        let (cut, text) = (string(&args[0]), string(&args[1]));
        Ok(text.strip_suffix(cut).unwrap_or(text).into())
    });
    functions.add("trimPrefix", "ss", |args| {
        let (cut, text) = (string(&args[0]), string(&args[1]));
        Ok(text.strip_prefix(cut).unwrap_or(text).into())
    });
    functions.add("trimAll", "ss", |args| {
        // The set is looked up for every character, so it is one first.
        let set: BTreeSet<char> = string(&args[0]).chars().collect();
        Ok(string(&args[1]).trim_matches(|c| set.contains(&c)).into())
    });
    functions.alias("trimall", "trimAll");
    functions.add("contains", "ss", |args| {
        Ok(Value::Bool(string(&args[1]).contains(string(&args[0]))))
    });
    functions.add("hasPrefix", "ss", |args| {
        Ok(Value::Bool(string(&args[1]).starts_with(string(&args[0]))))
    });
    functions.add("hasSuffix", "ss", |args| {
        Ok(Value::Bool(string(&args[1]).ends_with(string(&args[0]))))
    });
    functions.add("replace", "sss", |args| {
        let (old, new, text) = (string(&args[0]), string(&args[1]), string(&args[2]));
        let found = text.matches(old).count();
        room(text.len().saturating_add(found.saturating_mul(new.len())))?;
        Ok(text.replace(old, new).into())
    });
    functions.add("repeat", "is", |args| {
        let count = usize::try_from(int(&args[0])).map_err(|_| "negative count")?;
        let text = string(&args[1]);
        room(text.len().saturating_mul(count))?;
        Ok(text.repeat(count).into())
    });
    functions.add("trunc", "is", |args| {
        let (count, text) = (int(&args[0]), string(&args[1]));
        let keep = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
        if keep >= text.len() {
            return Ok(text.into());
        }
        if count < 0 {
            cut(text, text.len() - keep, text.len()).map(Value::from)
        } else {
            cut(text, 0, keep).map(Value::from)
        }
    });
    functions.add("substr", "iis", |args| {
        let (start, end, text) = (int(&args[0]), int(&args[1]), string(&args[2]));
        let size = text.len() as i64;
        let from = start.max(0) as usize;
        let to = if start >= 0 && (end < 0 || end > size) {
            text.len()
        } else {
            usize::try_from(end).map_err(|_| "the end is negative")?
        };
        cut(text, from, to).map(Value::from)
    });
    functions.add("abbrev", "is", |args| {
        abbreviate(string(&args[1]), 0, int(&args[0]))
    });
    functions.add("abbrevboth", "iis", |args| {
        let (left, right) = (int(&args[0]), int(&args[1]));
        if right < 4 || (left > 0 && right < 7) {
            return Ok(args[2].clone());
        }
        abbreviate(string(&args[2]), left, right)
    });
    functions.add("indent", "is", |args| indent(args, ""));
    functions.add("nindent", "is", |args| indent(args, "\n"));
    functions.add("plural", "ssi", |args| {
        Ok(args[usize::from(int(&args[2]) != 1)].clone())
    });
    functions.add("semver", "s", |args| {
        version::Version::parse(string(&args[0])).map(Value::Version)
    });
    functions.add("semverCompare", "ss", |args| {
        let (constraint, version) = (string(&args[0]), string(&args[1]));
        let version = version::Version::parse(version)?;
        version::satisfies(constraint, &version).map(Value::Bool)
    });
}

fn joined(args: &[Value], one: impl Fn(&Value) -> String) -> Value {
    args.iter()
        .filter(|value| !matches!(value, Value::Nil))
        .map(one)
        .collect::<Vec<_>>()
        .join(" ")
        .into()
}

fn indent(args: &[Value], before: &str) -> Outcome {
    let text = string(&args[1]);
    let count = usize::try_from(int(&args[0])).map_err(|_| "negative count")?;
    let lines = text.matches('\n').count() + 1;
    room(lines.saturating_mul(count).saturating_add(text.len()))?;
    let pad = " ".repeat(count);
    Ok(format!("{before}{pad}{}", text.replace('\n', &format!("\n{pad}"))).into())
}

/// Dots where something was left out; widths count bytes.
fn abbreviate(text: &str, offset: i64, width: i64) -> Outcome {
    let size = text.len() as i64;
    if width < 4 || size <= width {
        return Ok(text.into());
    }
    let mut offset = offset.min(size);
    if size - offset < width - 3 {
        offset = size - (width - 3);
    }
    let part = |from: i64, to: i64| cut(text, from.max(0) as usize, to.max(0) as usize);
    if offset <= 4 {
        return Ok(format!("{}...", part(0, width - 3)?).into());
    }
    if width < 7 {
        return Ok("".into());
    }
    if offset + width - 3 < size {
        let inner = abbreviate(&part(offset, size)?, 0, width - 3)?;
        return Ok(format!("...{}", string(&inner)).into());
    }
    Ok(format!("...{}", part(size - (width - 3), size)?).into())
}
