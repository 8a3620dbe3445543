//! The values templates work on. PURE.

use std::collections::BTreeMap;

/// The most bytes one value may weigh, see [`Value::weigh`].
pub(super) const MAX_BYTES: usize = 1 << 20;
/// How deep lists and maps may lie in each other: printing, comparing and dropping recurse.
const MAX_NESTING: usize = 64;
/// What a value costs beside its text, about.
const NODE_BYTES: usize = 64;

/// A value of Go's template world, as far as JSON-like data reaches.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// Go's nil, or a key that a map does not have.
    #[default]
    Nil,
    /// A truth value.
    Bool(bool),
    /// Any integer.
    Int(i64),
    /// Any floating point number.
    Float(f64),
    /// Text.
    String(String),
    /// A slice.
    List(Vec<Value>),
    /// A map: an unknown key is nil.
    Map(BTreeMap<String, Value>),
    /// A struct: an unknown field is an error.
    Struct(BTreeMap<String, Value>),
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

    /// Go's truth: not false, zero, empty or nil.
    pub fn truth(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(flag) => *flag,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::String(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Map(fields) => !fields.is_empty(),
            Self::Struct(_) => true,
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
            Self::List(items) => {
                may_nest(nesting)?;
                for item in items {
                    item.add_weight(sum, nesting + 1)?;
                }
            }
            Self::Map(fields) | Self::Struct(fields) => {
                may_nest(nesting)?;
                for (key, value) in fields {
                    *sum += key.len();
                    value.add_weight(sum, nesting + 1)?;
                }
            }
            Self::Nil | Self::Bool(_) | Self::Int(_) | Self::Float(_) => {}
        }
        if *sum > MAX_BYTES {
            return Err(too_large());
        }
        Ok(())
    }

    /// Go's name of the type, for messages and `kindOf`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "invalid",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::String(_) => "string",
            Self::List(_) => "slice",
            Self::Map(_) => "map",
            Self::Struct(_) => "struct",
        }
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

impl From<serde_json::Value> for Value {
    fn from(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Nil,
            serde_json::Value::Bool(flag) => Self::Bool(flag),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(number) => Self::Int(number),
                None => Self::Float(number.as_f64().unwrap_or_default()),
            },
            serde_json::Value::String(text) => Self::String(text),
            serde_json::Value::Array(items) => {
                Self::List(items.into_iter().map(Self::from).collect())
            }
            serde_json::Value::Object(fields) => Self::Map(
                fields
                    .into_iter()
                    .map(|(key, value)| (key, Self::from(value)))
                    .collect(),
            ),
        }
    }
}
