//! sprig's defaults, lists and dicts. PURE.

use std::collections::BTreeMap;

use super::super::Value;
use super::text::text;
use super::{Functions, Outcome, exactly, room, string};

pub(super) fn add(functions: &mut Functions) {
    functions.add("default", |args| match args {
        [default] => Ok(default.clone()),
        [default, value] => Ok(if value.truth() {
            value.clone()
        } else {
            default.clone()
        }),
        _ => Err(format!("wrong number of args: want 2 got {}", args.len())),
    });
    functions.add("empty", |args| {
        exactly::<1>(args).map(|[value]| Value::Bool(!value.truth()))
    });
    functions.add("coalesce", |args| {
        Ok(args
            .iter()
            .find(|value| value.truth())
            .cloned()
            .unwrap_or_default())
    });
    functions.add("ternary", |args| {
        let [yes, no, test] = exactly::<3>(args)?;
        match test {
            Value::Bool(test) => Ok(if *test { yes } else { no }.clone()),
            other => Err(format!(
                "wrong type for value; expected bool; got {}",
                other.kind()
            )),
        }
    });
    functions.add("kindOf", |args| {
        exactly::<1>(args).map(|[value]| value.kind().into())
    });
    functions.add("kindIs", |args| {
        let [kind, value] = exactly::<2>(args)?;
        Ok(Value::Bool(string(kind)? == value.kind()))
    });
    functions.add("list", |args| Ok(Value::List(args.to_vec())));
    functions.add("tuple", |args| Ok(Value::List(args.to_vec())));
    functions.add("first", |args| {
        items(args).map(|list| list.first().cloned().unwrap_or_default())
    });
    functions.add("last", |args| {
        items(args).map(|list| list.last().cloned().unwrap_or_default())
    });
    functions.add("rest", |args| {
        items(args).map(|list| Value::List(list.iter().skip(1).cloned().collect()))
    });
    functions.add("initial", |args| {
        items(args).map(|list| Value::List(list[..list.len().saturating_sub(1)].to_vec()))
    });
    functions.add("reverse", |args| {
        items(args).map(|list| Value::List(list.iter().rev().cloned().collect()))
    });
    functions.add("append", |args| {
        let [list, item] = exactly::<2>(args)?;
        let mut list = items(std::slice::from_ref(list))?.to_vec();
        list.push(item.clone());
        Ok(Value::List(list))
    });
    functions.add("has", |args| {
        let [item, list] = exactly::<2>(args)?;
        Ok(Value::Bool(
            items(std::slice::from_ref(list))?.contains(item),
        ))
    });
    functions.add("join", join);
    functions.add("splitList", split_list);
    functions.add("dict", |args| {
        let mut dict = BTreeMap::new();
        for pair in args.chunks(2) {
            dict.insert(
                text(&pair[0]),
                pair.get(1).cloned().unwrap_or_else(|| "".into()),
            );
        }
        Ok(Value::Map(dict))
    });
    functions.add("get", |args| {
        let [dict, key] = exactly::<2>(args)?;
        Ok(fields(dict)?
            .get(string(key)?)
            .cloned()
            .unwrap_or_else(|| "".into()))
    });
    functions.add("hasKey", |args| {
        let [dict, key] = exactly::<2>(args)?;
        Ok(Value::Bool(fields(dict)?.contains_key(string(key)?)))
    });
    functions.add("values", |args| {
        let [dict] = exactly::<1>(args)?;
        Ok(Value::List(fields(dict)?.values().cloned().collect()))
    });
}

fn join(args: &[Value]) -> Outcome {
    let [separator, list] = exactly::<2>(args)?;
    let separator = string(separator)?;
    let parts: Vec<String> = match list {
        Value::List(items) => items
            .iter()
            .filter(|v| !matches!(v, Value::Nil))
            .map(text)
            .collect(),
        other => vec![text(other)],
    };
    room(separator.len().saturating_mul(parts.len()))?;
    Ok(parts.join(separator).into())
}

fn split_list(args: &[Value]) -> Outcome {
    let [separator, whole] = exactly::<2>(args)?;
    let (separator, whole) = (string(separator)?, string(whole)?);
    // As Go does: an empty separator cuts into characters.
    let parts: Box<dyn Iterator<Item = &str>> = if separator.is_empty() {
        Box::new(whole.split("").filter(|part| !part.is_empty()))
    } else {
        Box::new(whole.split(separator))
    };
    let mut list = Value::List(Vec::new());
    let mut bytes = list.weigh()?;
    for part in parts {
        let part = Value::from(part);
        bytes += part.weigh()?;
        room(bytes)?;
        if let Value::List(items) = &mut list {
            items.push(part);
        }
    }
    Ok(list)
}

fn items(args: &[Value]) -> Result<&[Value], String> {
    match exactly::<1>(args)? {
        [Value::List(items)] => Ok(items),
        [other] => Err(format!("wants a list, not {}", other.kind())),
    }
}

fn fields(value: &Value) -> Result<&BTreeMap<String, Value>, String> {
    match value {
        Value::Map(fields) => Ok(fields),
        other => Err(format!("wants a dict, not {}", other.kind())),
    }
}
