//! sprig's defaults, conversions and questions about types. PURE.

use super::super::{Value, format};
use super::{Functions, string};

pub(super) fn add(functions: &mut Functions) {
    functions.add("default", "aa*", |args| {
        let given = args.get(1).filter(|given| given.truth());
        Ok(given.unwrap_or(&args[0]).clone())
    });
    functions.add("empty", "a", |args| Ok(Value::Bool(!args[0].truth())));
    functions.add("coalesce", "a*", |args| {
        let found = args.iter().find(|value| value.truth());
        Ok(found.cloned().unwrap_or_default())
    });
    functions.add("all", "a*", |args| {
        Ok(Value::Bool(args.iter().all(Value::truth)))
    });
    functions.add("any", "a*", |args| {
        Ok(Value::Bool(args.iter().any(Value::truth)))
    });
    functions.add("ternary", "aab", |args| {
        let yes = matches!(args[2], Value::Bool(true));
        Ok(args[usize::from(!yes)].clone())
    });
    functions.add("required", "sa", |args| match &args[1] {
        Value::Nil => Err(string(&args[0]).to_owned()),
        Value::String(text) if text.is_empty() => Err(string(&args[0]).to_owned()),
        value => Ok(value.clone()),
    });
    functions.add("fail", "s", |args| Err(string(&args[0]).to_owned()));
    functions.add("hello", "", |_| Ok("Hello!".into()));
    functions.add("typeOf", "a", |args| Ok(args[0].type_name().into()));
    functions.add("kindOf", "a", |args| Ok(args[0].kind().into()));
    functions.add("typeIs", "sa", |args| {
        Ok(Value::Bool(string(&args[0]) == args[1].type_name()))
    });
    functions.add("typeIsLike", "sa", |args| {
        let (wanted, is) = (string(&args[0]), args[1].type_name());
        Ok(Value::Bool(
            wanted == is || Some(wanted) == is.strip_prefix('*'),
        ))
    });
    functions.add("kindIs", "sa", |args| {
        Ok(Value::Bool(string(&args[0]) == args[1].kind()))
    });
    functions.add("deepEqual", "aa", |args| {
        Ok(Value::Bool(args[0].fingerprint() == args[1].fingerprint()))
    });
    functions.add("toString", "a", |args| Ok(format::plain(&args[0]).into()));
    functions.add("toStrings", "a", |args| Ok(Value::texts(texts(&args[0]))));
    functions.add("int", "a", |args| Ok(Value::Int(to_int(&args[0]))));
    functions.add("int64", "a", |args| Ok(Value::Int64(to_int(&args[0]))));
    functions.add("float64", "a", |args| Ok(Value::Float(to_float(&args[0]))));
    functions.add("atoi", "s", |args| {
        Ok(Value::Int(string(&args[0]).parse().unwrap_or(0)))
    });
    functions.add("toDecimal", "a", |args| Ok(octal(args)));
}

/// Reads an octal number.
fn octal(args: &[Value]) -> Value {
    let text = format::plain(&args[0]);
    Value::Int64(i64::from_str_radix(&text, 8).unwrap_or(0))
}

/// sprig's strslice: the texts of a list without its nils, or the one text.
pub(super) fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Nil => Vec::new(),
        Value::List(list) => {
            let items = list.items.iter();
            let items = items.filter(|item| !matches!(item, Value::Nil));
            items.map(format::plain).collect()
        }
        other => vec![format::plain(other)],
    }
}

/// As cast.ToInt64: what cannot be a number is 0.
pub(super) fn to_int(value: &Value) -> i64 {
    match value {
        Value::Int(number) | Value::Int64(number) => *number,
        // Go on amd64 gives the smallest number for what does not fit.
        Value::Float(number) if number.is_nan() || number.abs() >= 9.223_372_036_854_775e18 => {
            i64::MIN
        }
        Value::Float(number) => *number as i64,
        Value::Bool(flag) => i64::from(*flag),
        Value::String(text) => integer(without_zero_fraction(text)).unwrap_or(0),
        _ => 0,
    }
}

/// `12.00` is 12 for cast; `12.50` is nothing.
fn without_zero_fraction(text: &str) -> &str {
    match text.rsplit_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|b| b == b'0') => whole,
        _ => text,
    }
}

/// Go's `strconv.ParseInt(text, 0, 64)`.
pub(in super::super) fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    let prefixed = body.len() < lower.len();
    let clean = body.replace('_', "");
    let underscores = clean.len() < body.len();
    let misplaced = body.ends_with('_')
        || body.contains("__")
        || (!prefixed && (body.starts_with('_') || underscores && radix == 10));
    if clean.is_empty() || misplaced || !clean.bytes().all(|b| b.is_ascii_alphanumeric()) {
        // `1_000` is right in Go, where the base is found from the text.
        let decimal = underscores && radix == 10 && !body.ends_with('_') && !body.contains("__");
        if !decimal || body.starts_with('_') {
            return None;
        }
    }
    let size = u64::from_str_radix(&clean, radix).ok()?;
    match negative {
        true if size <= 1 << 63 => Some((size as i64).wrapping_neg()),
        false => i64::try_from(size).ok(),
        true => None,
    }
}

/// As cast.ToFloat64: what cannot be a number is 0.
pub(super) fn to_float(value: &Value) -> f64 {
    match value {
        Value::Int(number) | Value::Int64(number) => *number as f64,
        Value::Float(number) => *number,
        Value::Bool(flag) => f64::from(u8::from(*flag)),
        Value::String(text) => text.parse().unwrap_or(0.0),
        _ => 0.0,
    }
}
