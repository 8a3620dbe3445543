//! A request's body as vLLM sees it: bytes -> what Python's `json.loads` makes of them. PURE.
//!
//! The engine is a Python program, and its JSON reader takes more than JSON: `NaN`, keys
//! written twice, numbers of any size. A stand-in must take the same, or tests of what is in
//! front of it prove nothing. So it reads with code of its own, not with a parser that the
//! programs under test use too.
#![deny(clippy::disallowed_methods)]

pub mod lax;
pub mod read;

use std::fmt::Write as _;

pub use self::read::loads;

/// A value of Python.
#[derive(Clone, Debug, PartialEq)]
pub enum Py {
    /// `None`
    None,
    /// `bool`
    Bool(bool),
    /// `int`; what does not fit is cut to the largest that does.
    Int(i128),
    /// `float`, with `nan` and `inf`.
    Float(f64),
    /// `str`; half of a surrogate pair, which Python keeps, is U+FFFD here.
    Str(String),
    /// `list`
    List(Vec<Py>),
    /// `dict`, in the order in which keys first came.
    Dict(Vec<(String, Py)>),
}

impl Py {
    /// The value under a key; `None` where this is no dict or there is no such key.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Dict(entries) = self else {
            return None;
        };
        entries
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value)
    }

    /// The text, where it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The elements, where it is a list.
    pub fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// True where it is a dict.
    pub fn is_dict(&self) -> bool {
        matches!(self, Self::Dict(_))
    }

    /// True where it is `None`.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// `type(value).__name__`
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Dict(_) => "dict",
        }
    }

    /// What `if value:` asks.
    pub fn truthy(&self) -> bool {
        match self {
            Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Dict(entries) => !entries.is_empty(),
        }
    }

    /// The number, as comparisons see it: `True` is 1.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Bool(value) => Some(f64::from(u8::from(*value))),
            Self::Int(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// True where comparisons see this whole number.
    pub fn is_number(&self, number: i32) -> bool {
        let number = f64::from(number);
        self.number()
            .is_some_and(|own| own.total_cmp(&number).is_eq())
    }

    /// `str(value)`.
    pub fn text(&self) -> String {
        match self {
            Self::Str(text) => text.clone(),
            other => other.repr(),
        }
    }

    /// `repr(value)`.
    pub fn repr(&self) -> String {
        match self {
            Self::None => "None".to_owned(),
            Self::Bool(true) => "True".to_owned(),
            Self::Bool(false) => "False".to_owned(),
            Self::Int(value) => value.to_string(),
            Self::Float(value) => float(*value),
            Self::Str(text) => quoted(text),
            Self::List(items) => {
                let items: Vec<String> = items.iter().map(Self::repr).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Dict(entries) => {
                let entry =
                    |(key, value): &(String, Self)| format!("{}: {}", quoted(key), value.repr());
                let entries: Vec<String> = entries.iter().map(entry).collect();
                format!("{{{}}}", entries.join(", "))
            }
        }
    }

    /// The value as JSON, keys in order; `nan` and `inf` are null.
    pub fn json(&self) -> String {
        let mut out = String::new();
        self.write_json(&mut out);
        out
    }

    fn write_json(&self, out: &mut String) {
        match self {
            Self::None => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Int(value) => {
                // Writing to a String cannot fail.
                let _ = write!(out, "{value}");
            }
            Self::Float(value) => out.push_str(&serde_json::json!(value).to_string()),
            Self::Str(text) => write_text(text, out),
            Self::List(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    item.write_json(out);
                }
                out.push(']');
            }
            Self::Dict(entries) => {
                out.push('{');
                for (at, (key, value)) in entries.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    write_text(key, out);
                    out.push(':');
                    value.write_json(out);
                }
                out.push('}');
            }
        }
    }

    /// A `str`.
    pub fn from_text(text: &str) -> Self {
        Self::Str(text.to_owned())
    }

    /// A `dict` of these entries.
    pub fn dict(entries: impl IntoIterator<Item = (&'static str, Self)>) -> Self {
        let entry = |(key, value): (&str, Self)| (key.to_owned(), value);
        Self::Dict(entries.into_iter().map(entry).collect())
    }

    /// The value for code that works on JSON values.
    pub fn value(&self) -> serde_json::Value {
        serde_json::from_str(&self.json()).unwrap_or_default()
    }
}

fn write_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// As Python writes a float: `16.5`, `1e+30`, `inf`.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or_default();
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{value:?}")
}

/// A string in Python's quotes.
pub(super) fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_python_writes_them() {
        for (json, repr) in [
            ("[1,2.5,1e30,0.00001]", "[1, 2.5, 1e+30, 1e-05]"),
            ("{\"a\":null,\"b\":true}", "{'a': None, 'b': True}"),
            ("\"it's\"", "\"it's\""),
            ("\"a\\n\\\"'\"", "'a\\n\"\\''"),
            ("[NaN,-Infinity]", "[nan, -inf]"),
        ] {
            assert_eq!(loads(json.as_bytes()).unwrap().repr(), repr);
        }
    }

    #[test]
    fn json_keeps_order_and_has_no_nan() {
        let value = loads(br#"{"b":[1.0,"\u00e9"],"a":NaN}"#).unwrap();
        assert_eq!(value.json(), r#"{"b":[1.0,"é"],"a":null}"#);
    }
}
