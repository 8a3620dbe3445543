//! The values templates work on. PURE.

use std::collections::BTreeMap;

pub(super) use super::dict::Dict;
use super::version::Version;

/// The most bytes one value may weigh, see [`Value::weigh`].
pub(super) const MAX_BYTES: usize = 1 << 20;
/// How deep lists and maps may lie in each other: printing, comparing and dropping recurse.
const MAX_NESTING: usize = 64;
/// What a value costs beside its text, about.
const NODE_BYTES: usize = 64;

/// A value of Go's template world, as far as JSON-like data reaches.
#[derive(Clone, Debug, Default)]
pub enum Value {
    /// Go's nil, or a key that a map does not have.
    #[default]
    Nil,
    /// A truth value.
    Bool(bool),
    /// Go's `int`: what a template's own integers are.
    Int(i64),
    /// Go's `int64`: what sprig's arithmetic gives.
    Int64(i64),
    /// Any floating point number.
    Float(f64),
    /// Text.
    String(String),
    /// A slice.
    List(List),
    /// A map: an unknown key is nil.
    Map(Dict),
    /// A struct: an unknown field is an error.
    Struct(BTreeMap<String, Value>),
    /// What sprig's `semver` gives.
    Version(Version),
}

/// A slice, and what Go calls its type.
#[derive(Clone, Debug)]
pub struct List {
    pub(super) items: Vec<Value>,
    pub(super) of: Of,
}

/// The type of a list's items, as Go has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Of {
    /// `[]interface {}`
    Any,
    /// `[]string`
    Text,
    /// `[]int`
    Int,
    /// `[][]interface {}`
    List,
}

impl List {
    /// A list of anything.
    pub fn new(items: Vec<Value>) -> Self {
        Self { items, of: Of::Any }
    }
}

impl Value {
    /// A struct of these fields.
    pub fn structure<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
        Self::Struct(
            fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        )
    }

    /// A list of anything.
    pub(super) fn list(items: Vec<Value>) -> Self {
        Self::List(List::new(items))
    }

    /// A list whose items Go gives one type.
    pub(super) fn list_of(of: Of, items: Vec<Value>) -> Self {
        Self::List(List { items, of })
    }

    /// A list of texts.
    pub(super) fn texts<T: Into<Value>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::list_of(Of::Text, items.into_iter().map(Into::into).collect())
    }

    /// A map.
    pub(super) fn map(fields: BTreeMap<String, Value>) -> Self {
        Self::Map(Dict::new(fields))
    }

    /// Go's truth: not false, zero, empty or nil.
    pub fn truth(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(flag) => *flag,
            Self::Int(number) | Self::Int64(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::String(text) => !text.is_empty(),
            Self::List(list) => !list.items.is_empty(),
            Self::Map(dict) => !dict.read().is_empty(),
            Self::Struct(_) | Self::Version(_) => true,
        }
    }

    /// Bytes it takes in memory, about.
    ///
    /// # Errors
    /// Says so when it is more than [`MAX_BYTES`], or lists and maps lie too deep in each
    /// other. The work is bounded by the same numbers.
    pub(super) fn weigh(&self) -> Result<usize, String> {
        let mut sum = 0;
        self.add_weight(&mut sum, 0)?;
        Ok(sum)
    }

    fn add_weight(&self, sum: &mut usize, nesting: usize) -> Result<(), String> {
        *sum += NODE_BYTES;
        match self {
            Self::String(text) => *sum += text.len(),
            Self::List(list) => {
                may_nest(nesting)?;
                for item in &list.items {
                    item.add_weight(sum, nesting + 1)?;
                }
            }
            Self::Map(dict) => {
                may_nest(nesting)?;
                for (key, value) in dict.read().iter() {
                    *sum += key.len();
                    value.add_weight(sum, nesting + 1)?;
                }
            }
            Self::Struct(fields) => {
                may_nest(nesting)?;
                for (key, value) in fields {
                    *sum += key.len();
                    value.add_weight(sum, nesting + 1)?;
                }
            }
            Self::Version(version) => *sum += 2 * version.original().len(),
            Self::Nil | Self::Bool(_) | Self::Int(_) | Self::Int64(_) | Self::Float(_) => {}
        }
        if *sum > MAX_BYTES {
            return Err(too_large());
        }
        Ok(())
    }

    /// Go's name of the kind, for messages and `kindOf`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "invalid",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Int64(_) => "int64",
            Self::Float(_) => "float64",
            Self::String(_) => "string",
            Self::List(_) => "slice",
            Self::Map(_) => "map",
            Self::Struct(_) => "struct",
            Self::Version(_) => "ptr",
        }
    }

    /// Go's name of the type, for messages, `typeOf` and `%T`.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Nil => "<nil>",
            Self::List(list) => match list.of {
                Of::Any => "[]interface {}",
                Of::Text => "[]string",
                Of::Int => "[]int",
                Of::List => "[][]interface {}",
            },
            Self::Map(_) => "map[string]interface {}",
            Self::Version(_) => "*semver.Version",
            other => other.kind(),
        }
    }

    /// Text that is the same for two values just when Go's `reflect.DeepEqual` says that they
    /// are (but NaN equals itself here): so that many can be compared at once.
    pub(super) fn fingerprint(&self) -> String {
        let mut out = String::new();
        self.add_fingerprint(&mut out);
        out
    }

    fn add_fingerprint(&self, out: &mut String) {
        out.push_str(self.type_name());
        match self {
            Self::Nil => {}
            Self::Bool(flag) => out.push_str(&format!(":{flag};")),
            Self::Int(number) | Self::Int64(number) => out.push_str(&format!(":{number};")),
            // 0 and -0 are equal.
            Self::Float(number) => out.push_str(&format!(":{:?};", number + 0.0)),
            Self::String(text) => out.push_str(&format!(":{}:{text}", text.len())),
            Self::List(list) => {
                out.push_str(&format!(":{}[", list.items.len()));
                list.items.iter().for_each(|item| item.add_fingerprint(out));
            }
            Self::Map(dict) => add_fields(&dict.read(), out),
            Self::Struct(fields) => add_fields(fields, out),
            Self::Version(version) => out.push_str(&format!(":{};", version.original())),
        }
    }
}

fn add_fields(fields: &BTreeMap<String, Value>, out: &mut String) {
    out.push_str(&format!(":{}{{", fields.len()));
    for (key, value) in fields {
        out.push_str(&format!("{}:{key}", key.len()));
        value.add_fingerprint(out);
    }
}

fn may_nest(nesting: usize) -> Result<(), String> {
    if nesting < MAX_NESTING {
        return Ok(());
    }
    Err(format!(
        "lists and dicts lie more than {MAX_NESTING} deep in each other; make it flatter"
    ))
}

/// The message for a value beyond [`MAX_BYTES`].
pub(super) fn too_large() -> String {
    format!(
        "the value would be larger than {MAX_BYTES} bytes; build it from less, or write it out \
         as plain text"
    )
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

/// As Go's encoding/json decodes into an `interface{}`: every number is a float64.
impl From<serde_json::Value> for Value {
    fn from(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Nil,
            serde_json::Value::Bool(flag) => Self::Bool(flag),
            serde_json::Value::Number(number) => Self::Float(number.as_f64().unwrap_or_default()),
            serde_json::Value::String(text) => Self::String(text),
            serde_json::Value::Array(items) => {
                Self::list(items.into_iter().map(Self::from).collect())
            }
            serde_json::Value::Object(fields) => Self::map(
                fields
                    .into_iter()
                    .map(|(key, value)| (key, Self::from(value)))
                    .collect(),
            ),
        }
    }
}
