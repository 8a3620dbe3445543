//! Go's own functions: comparison, print, index, len, slice, escaping. PURE.

use std::cmp::Ordering;

use super::super::{Value, format};
use super::{Functions, Outcome, exactly, int, string};

pub(super) fn add(functions: &mut Functions) {
    functions.add("not", |args| {
        exactly::<1>(args).map(|[value]| Value::Bool(!value.truth()))
    });
    functions.add("print", |args| Ok(format::print(args).into()));
    functions.add("println", |args| {
        Ok((args.iter().map(format::plain).collect::<Vec<_>>().join(" ") + "\n").into())
    });
    functions.add("printf", |args| {
        let (format, args) = args.split_first().ok_or("wants a format")?;
        Ok(format::printf(string(format)?, args)?.into())
    });
    functions.add("len", len);
    functions.add("index", index);
    functions.add("slice", slice);
    functions.add("eq", |args| {
        let (first, rest) = args
            .split_first()
            .filter(|(_, rest)| !rest.is_empty())
            .ok_or("missing argument for comparison")?;
        for other in rest {
            if equal(first, other)? {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    });
    functions.add("ne", |args| {
        let [a, b] = exactly::<2>(args)?;
        Ok(Value::Bool(!equal(a, b)?))
    });
    functions.add("lt", |args| compare(args, |order| order == Ordering::Less));
    functions.add("le", |args| {
        compare(args, |order| order != Ordering::Greater)
    });
    functions.add("gt", |args| {
        compare(args, |order| order == Ordering::Greater)
    });
    functions.add("ge", |args| compare(args, |order| order != Ordering::Less));
    functions.add("html", |args| Ok(escape(&format::print(args), html).into()));
    functions.add("js", |args| Ok(escape(&format::print(args), js).into()));
    functions.add("urlquery", |args| Ok(urlquery(&format::print(args)).into()));
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::List(_) | Value::Map(_) | Value::Struct(_), _)
        | (_, Value::List(_) | Value::Map(_) | Value::Struct(_)) => {
            if matches!(a, Value::Nil) || matches!(b, Value::Nil) {
                return Ok(false);
            }
            Err("non-comparable type".to_owned())
        }
        (Value::Nil, _) | (_, Value::Nil) => Ok(a == b),
        // Numbers from YAML have no type of their own; `3` equals `3.0`.
        (Value::Int(int), Value::Float(float)) | (Value::Float(float), Value::Int(int)) => {
            Ok((*int as f64 - *float).abs() == 0.0)
        }
        _ if std::mem::discriminant(a) == std::mem::discriminant(b) => Ok(a == b),
        _ => Err("incompatible types for comparison".to_owned()),
    }
}

fn compare(args: &[Value], test: fn(Ordering) -> bool) -> Outcome {
    let order = match exactly::<2>(args)? {
        [Value::Int(a), Value::Int(b)] => a.cmp(b),
        [Value::Float(a), Value::Float(b)] => a.partial_cmp(b).ok_or("not a number")?,
        [Value::String(a), Value::String(b)] => a.cmp(b),
        [
            Value::Bool(_) | Value::List(_) | Value::Map(_) | Value::Nil,
            _,
        ] => {
            return Err("invalid type for comparison".to_owned());
        }
        _ => return Err("incompatible types for comparison".to_owned()),
    };
    Ok(Value::Bool(test(order)))
}

fn len(args: &[Value]) -> Outcome {
    let [value] = exactly::<1>(args)?;
    Ok(Value::Int(match value {
        Value::String(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Map(fields) => fields.len(),
        other => return Err(format!("len of type {}", other.kind())),
    } as i64))
}

fn index(args: &[Value]) -> Outcome {
    let (value, keys) = args.split_first().ok_or("wants something to index")?;
    let mut value = value;
    for (position, key) in keys.iter().enumerate() {
        let last = position + 1 == keys.len();
        value = match (value, key) {
            (Value::List(items), Value::Int(at)) => usize::try_from(*at)
                .ok()
                .and_then(|at| items.get(at))
                .ok_or_else(|| format!("index out of range: {at}"))?,
            (Value::String(text), Value::Int(at)) if last => {
                return usize::try_from(*at)
                    .ok()
                    .and_then(|at| text.as_bytes().get(at))
                    .map(|byte| Value::Int(i64::from(*byte)))
                    .ok_or_else(|| format!("index out of range: {at}"));
            }
            (Value::Map(fields), Value::String(key)) => fields.get(key).unwrap_or(&Value::Nil),
            (Value::Nil, _) => return Err("index of untyped nil".to_owned()),
            (value, key) => {
                return Err(format!("can't index {} with {}", value.kind(), key.kind()));
            }
        };
    }
    Ok(value.clone())
}

fn slice(args: &[Value]) -> Outcome {
    let (value, bounds) = args.split_first().ok_or("wants something to slice")?;
    let bounds: Vec<usize> = bounds
        .iter()
        .map(|bound| {
            int(bound)
                .and_then(|at| usize::try_from(at).map_err(|_| format!("index out of range: {at}")))
        })
        .collect::<Result<_, _>>()?;
    // sprig's slice has taken the place of Go's: lists only.
    let Value::List(items) = value else {
        return Err(format!(
            "list should be type of slice or array but {}",
            value.kind()
        ));
    };
    let from = bounds.first().copied().unwrap_or(0);
    let to = bounds.get(1).copied().unwrap_or(items.len());
    match items.get(from..to) {
        Some(cut) => Ok(Value::List(cut.to_vec())),
        None => Err(format!("index out of range: [{from}:{to}]")),
    }
}

fn escape(text: &str, one: fn(char) -> Option<String>) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match one(c) {
            Some(escaped) => out.push_str(&escaped),
            None => out.push(c),
        }
    }
    out
}

fn html(c: char) -> Option<String> {
    let escaped = match c {
        '<' => "&lt;",
        '>' => "&gt;",
        '&' => "&amp;",
        '\'' => "&#39;",
        '"' => "&#34;",
        '\0' => "\u{fffd}",
        _ => return None,
    };
    Some(escaped.to_owned())
}

fn js(c: char) -> Option<String> {
    Some(match c {
        '\\' => "\\\\".to_owned(),
        '\'' => "\\'".to_owned(),
        '"' => "\\\"".to_owned(),
        '<' => "\\u003C".to_owned(),
        '>' => "\\u003E".to_owned(),
        '&' => "\\u0026".to_owned(),
        '=' => "\\u003D".to_owned(),
        c if (c as u32) < 0x20 => format!("\\u{:04X}", c as u32),
        _ => return None,
    })
}

fn urlquery(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(byte as char);
            }
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
