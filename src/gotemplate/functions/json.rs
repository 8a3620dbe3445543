//! JSON in and out, as Go's encoding/json does it. PURE.

use super::super::{Value, format, value};
use super::{Functions, Outcome, string};

pub(super) fn add(functions: &mut Functions) {
    functions.add("toJson", "a", |args| write(&args[0], true, None));
    functions.add("toPrettyJson", "a", |args| write(&args[0], true, Some(0)));
    functions.add("toRawJson", "a", |args| write(&args[0], false, None));
    functions.alias("mustToJson", "toJson");
    functions.alias("mustToPrettyJson", "toPrettyJson");
    functions.alias("mustToRawJson", "toRawJson");
    functions.add("fromJson", "s", |args| {
        Ok(read(string(&args[0])).unwrap_or_default())
    });
    functions.add("mustFromJson", "s", |args| read(string(&args[0])));
    functions.add("fromJsonArray", "s", |args| match read(string(&args[0]))? {
        Value::List(list) => Ok(Value::List(list)),
        _ => Err("the text is not a JSON list".to_owned()),
    });
}

fn read(text: &str) -> Outcome {
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| format!("not valid JSON: {error}"))?;
    Ok(value.into())
}

fn write(value: &Value, html: bool, indent: Option<usize>) -> Outcome {
    let mut writer = Writer {
        out: String::new(),
        html,
    };
    writer.value(value, indent)?;
    Ok(writer.out.into())
}

struct Writer {
    out: String,
    /// Whether `<`, `>` and `&` are escaped.
    html: bool,
}

impl Writer {
    fn value(&mut self, value: &Value, indent: Option<usize>) -> Result<(), String> {
        if self.out.len() > value::MAX_BYTES {
            return Err(value::too_large());
        }
        match value {
            Value::Nil => self.out.push_str("null"),
            Value::Bool(_) | Value::Int(_) | Value::Int64(_) => {
                self.out.push_str(&format::plain(value));
            }
            Value::Float(number) if !number.is_finite() => {
                return Err(format!("unsupported value: {}", format::plain(value)));
            }
            Value::Float(number) => self.out.push_str(&format::float_json(*number)),
            Value::String(text) => self.text(text),
            Value::Version(version) => self.text(&version.to_string()),
            Value::List(list) => {
                let items = list.items.iter().map(|item| (None, item));
                self.many(('[', ']'), items, indent)?;
            }
            Value::Map(dict) => {
                let entries = dict.read();
                let items = entries.iter().map(|(key, item)| (Some(key), item));
                self.many(('{', '}'), items, indent)?;
            }
            Value::Struct(fields) => {
                let items = fields.iter().map(|(key, item)| (Some(key), item));
                self.many(('{', '}'), items, indent)?;
            }
        }
        Ok(())
    }

    fn many<'v>(
        &mut self,
        (open, close): (char, char),
        items: impl Iterator<Item = (Option<&'v String>, &'v Value)>,
        indent: Option<usize>,
    ) -> Result<(), String> {
        let inner = indent.map(|indent| indent + 1);
        self.out.push(open);
        let mut empty = true;
        for (key, item) in items {
            if !empty {
                self.out.push(',');
            }
            empty = false;
            self.line(inner);
            if let Some(key) = key {
                self.text(key);
                self.out.push_str(if indent.is_some() { ": " } else { ":" });
            }
            self.value(item, inner)?;
        }
        if !empty {
            self.line(indent);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, indent: Option<usize>) {
        if let Some(indent) = indent {
            self.out.push('\n');
            self.out.push_str(&"  ".repeat(indent));
        }
    }

    fn text(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                '<' | '>' | '&' if self.html => self.escape(c),
                '\u{2028}' | '\u{2029}' => self.escape(c),
                c if c < ' ' => self.escape(c),
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }

    fn escape(&mut self, c: char) {
        self.out.push_str(&format!("\\u{:04x}", c as u32));
    }
}
