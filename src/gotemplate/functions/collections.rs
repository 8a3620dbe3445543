//! sprig's lists. PURE.

use std::collections::HashSet;

use super::super::Value;
use super::super::value::Of;
use super::conversions::texts;
use super::{Functions, Outcome, int, items, room, string};

pub(super) fn add(functions: &mut Functions) {
    functions.add("list", "a*", |args| Ok(Value::list(args.to_vec())));
    functions.alias("tuple", "list");
    for (name, must, run) in [
        ("first", "mustFirst", first as fn(&[Value]) -> Outcome),
        ("last", "mustLast", |args| {
            Ok(items("find last", &args[0])?
                .last()
                .cloned()
                .unwrap_or_default())
        }),
        ("rest", "mustRest", |args| {
            let items = items("find rest", &args[0])?;
            Ok(Value::list(items.iter().skip(1).cloned().collect()))
        }),
        ("initial", "mustInitial", |args| {
            let items = items("find initial", &args[0])?;
            Ok(Value::list(items[..items.len().saturating_sub(1)].to_vec()))
        }),
        ("reverse", "mustReverse", |args| {
            let items = items("find reverse", &args[0])?;
            Ok(Value::list(items.iter().rev().cloned().collect()))
        }),
        ("compact", "mustCompact", |args| {
            let items = items("compact", &args[0])?.iter();
            Ok(Value::list(
                items.filter(|item| item.truth()).cloned().collect(),
            ))
        }),
        ("uniq", "mustUniq", |args| {
            let mut seen = HashSet::new();
            let items = items("find uniq", &args[0])?.iter();
            Ok(Value::list(
                items
                    .filter(|item| seen.insert(item.fingerprint()))
                    .cloned()
                    .collect(),
            ))
        }),
    ] {
        functions.add(name, "a", run);
        functions.alias(must, name);
    }
    functions.add("append", "aa", |args| {
        let mut list = items("push", &args[0])?.to_vec();
        list.push(args[1].clone());
        Ok(Value::list(list))
    });
    functions.add("prepend", "aa", |args| {
        let mut list = vec![args[1].clone()];
        list.extend_from_slice(items("prepend", &args[0])?);
        Ok(Value::list(list))
    });
    functions.alias("push", "append");
    functions.alias("mustAppend", "append");
    functions.alias("mustPush", "append");
    functions.alias("mustPrepend", "prepend");
    functions.add("without", "aa*", |args| {
        let omitted: HashSet<_> = args[1..].iter().map(Value::fingerprint).collect();
        let items = items("find without", &args[0])?.iter();
        Ok(Value::list(
            items
                .filter(|item| !omitted.contains(&item.fingerprint()))
                .cloned()
                .collect(),
        ))
    });
    functions.alias("mustWithout", "without");
    functions.add("has", "aa", |args| {
        if matches!(args[1], Value::Nil) {
            return Ok(Value::Bool(false));
        }
        let wanted = args[0].fingerprint();
        let mut items = items("find has", &args[1])?.iter();
        Ok(Value::Bool(items.any(|item| item.fingerprint() == wanted)))
    });
    functions.alias("mustHas", "has");
    functions.add("concat", "a*", |args| {
        let mut all = Vec::new();
        for list in args {
            all.extend_from_slice(items("concat", list)?);
        }
        Ok(Value::list(all))
    });
    functions.add("chunk", "ia", chunk);
    functions.alias("mustChunk", "chunk");
    functions.add("sortAlpha", "a", |args| {
        let mut sorted = texts(&args[0]);
        sorted.sort_unstable();
        Ok(Value::texts(sorted))
    });
    functions.add("join", "sa", |args| {
        let (separator, parts) = (string(&args[0]), texts(&args[1]));
        room(separator.len().saturating_mul(parts.len()))?;
        Ok(parts.join(separator).into())
    });
    functions.add("splitList", "ss", |args| {
        split(string(&args[0]), string(&args[1]), None).map(Value::texts)
    });
    functions.add("split", "ss", |args| {
        Ok(numbered(split(string(&args[0]), string(&args[1]), None)?))
    });
    functions.add("splitn", "sis", |args| {
        Ok(numbered(split(
            string(&args[0]),
            string(&args[2]),
            Some(int(&args[1])),
        )?))
    });
}

fn first(args: &[Value]) -> Outcome {
    Ok(items("find first", &args[0])?
        .first()
        .cloned()
        .unwrap_or_default())
}

fn chunk(args: &[Value]) -> Outcome {
    let list = items("chunk", &args[1])?;
    let size = usize::try_from(int(&args[0]))
        .ok()
        .filter(|size| *size > 0)
        .ok_or("the size of a chunk must be 1 or more")?;
    let chunks = list.chunks(size).map(|chunk| Value::list(chunk.to_vec()));
    Ok(Value::list_of(Of::List, chunks.collect()))
}

/// Go's `strings.SplitN`: an empty separator cuts into characters.
pub(super) fn split<'t>(
    separator: &str,
    whole: &'t str,
    limit: Option<i64>,
) -> Result<Vec<&'t str>, String> {
    let limit = match limit {
        Some(0) => return Ok(Vec::new()),
        Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    let mut parts = Vec::new();
    let mut rest = whole;
    // Each part becomes a value, which weighs more than its text.
    let room_for = |parts: &Vec<&str>| room(parts.len() * 64 + whole.len());
    if separator.is_empty() {
        while let Some(c) = rest.chars().next() {
            if parts.len() + 1 == limit {
                break;
            }
            parts.push(&rest[..c.len_utf8()]);
            rest = &rest[c.len_utf8()..];
            room_for(&parts)?;
        }
        if !rest.is_empty() {
            parts.push(rest);
        }
        return Ok(parts);
    }
    while parts.len() + 1 < limit {
        let Some((part, after)) = rest.split_once(separator) else {
            break;
        };
        parts.push(part);
        rest = after;
        room_for(&parts)?;
    }
    parts.push(rest);
    Ok(parts)
}

/// `_0`, `_1` and so on.
fn numbered(parts: Vec<&str>) -> Value {
    let parts = parts.into_iter().enumerate();
    Value::map(
        parts
            .map(|(index, part)| (format!("_{index}"), part.into()))
            .collect(),
    )
}
