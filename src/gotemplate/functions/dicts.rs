//! sprig's dicts. PURE.
//!
//! As in Go a dict is one thing however many names it has: `set`, `unset` and `merge` change
//! their first argument.

use std::collections::BTreeMap;

use super::super::value::Dict;
use super::super::{Value, format};
use super::{Functions, Outcome, fields, string};

pub(super) fn add(functions: &mut Functions) {
    functions.add("dict", "a*", |args| {
        let mut dict = BTreeMap::new();
        for pair in args.chunks(2) {
            let value = pair.get(1).cloned().unwrap_or_else(|| "".into());
            dict.insert(format::plain(&pair[0]), value);
        }
        Ok(Value::map(dict))
    });
    functions.add("get", "ms", |args| {
        let found = fields(&args[0]).remove(string(&args[1]));
        Ok(found.unwrap_or_else(|| "".into()))
    });
    functions.add("set", "msa", |args| {
        let dict = changeable(&args[0])?;
        dict.insert(string(&args[1]).to_owned(), args[2].clone())?;
        Ok(args[0].clone())
    });
    functions.add("unset", "ms", |args| {
        if let Value::Map(dict) = &args[0] {
            dict.remove(string(&args[1]));
        }
        Ok(args[0].clone())
    });
    functions.add("hasKey", "ms", |args| {
        Ok(Value::Bool(fields(&args[0]).contains_key(string(&args[1]))))
    });
    functions.add("pluck", "sm*", |args| {
        let dicts = args[1..].iter();
        let found = dicts.filter_map(|dict| fields(dict).remove(string(&args[0])));
        Ok(Value::list(found.collect()))
    });
    // Go's order is random; here it is the alphabet's.
    functions.add("keys", "m*", |args| {
        Ok(Value::texts(
            args.iter().flat_map(|dict| fields(dict).into_keys()),
        ))
    });
    functions.add("values", "m", |args| {
        Ok(Value::list(fields(&args[0]).into_values().collect()))
    });
    functions.add("pick", "ms*", |args| {
        let mut dict = fields(&args[0]);
        let keys = args[1..].iter().map(string);
        Ok(Value::map(
            keys.filter_map(|key| dict.remove_entry(key)).collect(),
        ))
    });
    functions.add("omit", "ms*", |args| {
        let mut dict = fields(&args[0]);
        for key in &args[1..] {
            dict.remove(string(key));
        }
        Ok(Value::map(dict))
    });
    functions.add("merge", "mm*", |args| merge_all(args, false));
    functions.add("mergeOverwrite", "mm*", |args| merge_all(args, true));
    functions.alias("mustMerge", "merge");
    functions.alias("mustMergeOverwrite", "mergeOverwrite");
    functions.add("deepCopy", "a", |args| Ok(deep_copy(&args[0])));
    functions.alias("mustDeepCopy", "deepCopy");
    functions.add("dig", "aaaa*", dig);
}

fn changeable(value: &Value) -> Result<&Dict, String> {
    match value {
        Value::Map(dict) => Ok(dict),
        _ => Err("assignment to entry in nil map; make one with dict".to_owned()),
    }
}

fn merge_all(args: &[Value], overwrite: bool) -> Outcome {
    let into = changeable(&args[0])?;
    for from in &args[1..] {
        merge(into, fields(from), overwrite)?;
    }
    Ok(args[0].clone())
}

/// Maps are merged into each other. Otherwise an empty value gives way to the other's, and
/// with `overwrite` any value does, but not a list that is not empty to an empty one's source.
fn merge(into: &Dict, from: BTreeMap<String, Value>, overwrite: bool) -> Result<(), String> {
    for (key, theirs) in from {
        let ours = into.read().get(&key).cloned();
        match (&ours, &theirs) {
            (Some(Value::Map(ours)), Value::Map(theirs)) if !ours.read().is_empty() => {
                let theirs = theirs.entries();
                merge(ours, theirs, overwrite)?;
            }
            // Nil says nothing, unless it is to overwrite.
            (_, Value::Nil) if !overwrite => {}
            (Some(ours), _) if ours.truth() && !overwrite => {}
            _ => into.insert(key, theirs)?,
        }
    }
    Ok(())
}

fn deep_copy(value: &Value) -> Value {
    match value {
        Value::Map(dict) => {
            let entries = dict.entries().into_iter();
            Value::map(
                entries
                    .map(|(key, value)| (key, deep_copy(&value)))
                    .collect(),
            )
        }
        Value::List(list) => Value::list_of(list.of, list.items.iter().map(deep_copy).collect()),
        other => other.clone(),
    }
}

/// `dig "a" "b" default dict`
fn dig(args: &[Value]) -> Outcome {
    let (keys, rest) = args.split_at(args.len() - 2);
    let mut value = rest[1].clone();
    for key in keys {
        let Value::String(key) = key else {
            return Err(format!("a key must be a text, not {}", key.type_name()));
        };
        let Value::Map(dict) = &value else {
            return Err(format!(
                "{key:?} is looked for in a value of type {}, not in a dict",
                value.type_name()
            ));
        };
        let found = dict.read().get(key).cloned();
        match found {
            Some(next) => value = next,
            None => return Ok(rest[0].clone()),
        }
    }
    Ok(value)
}
