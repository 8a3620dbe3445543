//! Go's own functions: comparison, print, index, len, slice, escaping. PURE.

use std::cmp::Ordering;

use super::super::{Value, format};
use super::conversions::to_int;
use super::{Functions, Outcome, string};

pub(super) fn add(functions: &mut Functions) {
    functions.add("not", "a", |args| Ok(Value::Bool(!args[0].truth())));
    functions.add("print", "a*", |args| Ok(format::print(args).into()));
    functions.add("println", "a*", |args| {
        Ok((args.iter().map(format::plain).collect::<Vec<_>>().join(" ") + "\n").into())
    });
    functions.add("printf", "sa*", |args| {
        Ok(format::printf(string(&args[0]), &args[1..])?.into())
    });
    functions.add("len", "a", len);
    functions.add("index", "aa*", index);
    functions.add("slice", "aa*", slice);
    functions.alias("mustSlice", "slice");
    functions.add("call", "aa*", |args| match &args[0] {
        Value::Nil => Err("call of nil".to_owned()),
        other => Err(format!("non-function of type {}", other.type_name())),
    });
    functions.add("eq", "aa*", |args| {
        if args.len() < 2 {
            return Err("missing argument for comparison".to_owned());
        }
        for other in &args[1..] {
            if equal(&args[0], other)? {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    });
    functions.add("ne", "aa", |args| {
        Ok(Value::Bool(!equal(&args[0], &args[1])?))
    });
    functions.add("lt", "aa", |args| {
        compare(args, |order| order == Some(Ordering::Less))
    });
    functions.add("le", "aa", |args| {
        compare(args, |order| {
            matches!(order, Some(Ordering::Less | Ordering::Equal))
        })
    });
    // As in Go, these are the opposites of the two above; it matters for NaN only.
    functions.add("gt", "aa", |args| {
        compare(args, |order| {
            !matches!(order, Some(Ordering::Less | Ordering::Equal))
        })
    });
    functions.add("ge", "aa", |args| {
        compare(args, |order| order != Some(Ordering::Less))
    });
    functions.add("html", "a*", |args| Ok(escape(&shown(args), html).into()));
    functions.add("js", "a*", |args| Ok(escape(&shown(args), js).into()));
    functions.add("urlquery", "a*", |args| Ok(urlquery(&shown(args)).into()));
}

/// What is escaped: as actions print it.
fn shown(args: &[Value]) -> String {
    match args {
        [one] => format::action(one),
        many => format::print(many),
    }
}

fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) | Value::Int64(number) => Some(*number),
        _ => None,
    }
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    if let (Some(a), Some(b)) = (whole(a), whole(b)) {
        return Ok(a == b);
    }
    match (a, b) {
        (Value::Nil, Value::Nil) => Ok(true),
        (Value::Nil, _) | (_, Value::Nil) => Ok(false),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Float(a), Value::Float(b)) => {
            Ok((a - b).abs() == 0.0 || a.to_bits() == b.to_bits())
        }
        (Value::String(a), Value::String(b)) => Ok(a == b),
        (a, b) if a.kind() == b.kind() => Err(format!("non-comparable type {}", a.type_name())),
        (a, b) => Err(format!(
            "incompatible types for comparison: {} and {}",
            a.type_name(),
            b.type_name()
        )),
    }
}

fn compare(args: &[Value], test: fn(Option<Ordering>) -> bool) -> Outcome {
    let basic = |value: &Value| {
        whole(value).is_some()
            || matches!(value, Value::Float(_) | Value::String(_) | Value::Bool(_))
    };
    let order = match (&args[0], &args[1]) {
        (a, b) if whole(a).is_some() && whole(b).is_some() => whole(a).partial_cmp(&whole(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (a, b) if !basic(a) || !basic(b) || matches!((a, b), (Value::Bool(_), Value::Bool(_))) => {
            return Err("invalid type for comparison".to_owned());
        }
        (a, b) => {
            return Err(format!(
                "incompatible types for comparison: {} and {}",
                a.type_name(),
                b.type_name()
            ));
        }
    };
    Ok(Value::Bool(test(order)))
}

fn len(args: &[Value]) -> Outcome {
    Ok(Value::Int(match &args[0] {
        Value::String(text) => text.len(),
        Value::List(list) => list.items.len(),
        Value::Map(dict) => dict.read().len(),
        other => return Err(format!("len of type {}", other.type_name())),
    } as i64))
}

fn index(args: &[Value]) -> Outcome {
    if matches!(args[0], Value::Nil) {
        return Err("index of untyped nil".to_owned());
    }
    let mut value = args[0].clone();
    for key in &args[1..] {
        let at = |length: usize| match whole(key) {
            Some(at) => usize::try_from(at)
                .ok()
                .filter(|at| *at < length)
                .ok_or_else(|| format!("index out of range: {at}")),
            None => Err(format!(
                "cannot index slice/array with type {}",
                key.type_name()
            )),
        };
        value = match &value {
            Value::List(list) => list.items[at(list.items.len())?].clone(),
            Value::String(text) => Value::Int(i64::from(text.as_bytes()[at(text.len())?])),
            Value::Map(dict) => match key {
                Value::String(key) => dict.read().get(key).cloned().unwrap_or_default(),
                other => {
                    return Err(format!(
                        "value has type {}; should be string",
                        other.type_name()
                    ));
                }
            },
            Value::Nil => return Err("index of nil pointer".to_owned()),
            other => return Err(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(value)
}

/// sprig's slice has taken the place of Go's: lists only.
fn slice(args: &[Value]) -> Outcome {
    let Value::List(list) = &args[0] else {
        return Err(format!(
            "list should be type of slice or array but {}",
            args[0].kind()
        ));
    };
    if list.items.is_empty() {
        return Ok(Value::Nil);
    }
    let bound = |index: usize, default: usize| match args.get(index) {
        Some(bound) => usize::try_from(to_int(bound)).map_err(|_| "slice index out of range"),
        None => Ok(default),
    };
    let (from, to) = (bound(1, 0)?, bound(2, list.items.len())?);
    match list.items.get(from..to) {
        Some(part) => Ok(Value::list_of(list.of, part.to_vec())),
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
        c if (c as u32) < 0x20 || !format::is_graphic(c) => format!("\\u{:04X}", c as u32),
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
