//! Values as Go's fmt prints them. PURE.

mod number;
mod printf;
mod quote;

pub(super) use self::number::float_json;
pub(super) use self::printf::printf;
pub(super) use self::quote::{is_graphic, is_punctuation, quote};

use super::Value;
use super::value::{self, List};
use number::{Float, float};

/// The widest a number or text is padded; a template pads columns, not pages.
const MAX_WIDTH: usize = 1000;
/// Digits of a floating point number; it has 17 that mean something.
const MAX_PRECISION: usize = 100;

/// How an action prints a value: a missing one is `<no value>`.
pub(super) fn action(value: &Value) -> String {
    match value {
        Value::Nil => "<no value>".to_owned(),
        other => plain(other),
    }
}

/// `%v`.
pub(super) fn plain(value: &Value) -> String {
    let mut out = String::new();
    Spec::default().value(&mut out, 'v', value, 0);
    out
}

/// Go's `print`: a space between operands when neither is a string.
pub(super) fn print(args: &[Value]) -> String {
    let mut out = String::new();
    let mut after_string = true;
    for arg in args {
        let string = matches!(arg, Value::String(_));
        if !string && !after_string {
            out.push(' ');
        }
        out.push_str(&plain(arg));
        after_string = string;
    }
    out
}

/// What stands between `%` and the verb.
#[derive(Clone, Debug, Default)]
struct Spec {
    minus: bool,
    plus: bool,
    zero: bool,
    sharp: bool,
    space: bool,
    /// `%#v`, and `%+v`: the flags mean something else then.
    sharp_v: bool,
    plus_v: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

impl Spec {
    /// One value; `depth` counts the lists and maps around it.
    fn value(&self, out: &mut String, verb: char, value: &Value, depth: usize) {
        match value {
            Value::Nil if depth > 0 => out.push_str(if self.sharp_v {
                "interface {}(nil)"
            } else {
                "<nil>"
            }),
            Value::Nil if matches!(verb, 'v' | 'T') => self.pad(out, "<nil>", self.zero),
            Value::Nil => out.push_str(&format!("%!{verb}(<nil>)")),
            value if verb == 'T' && depth == 0 => self.text(out, value.type_name()),
            Value::Bool(flag) if matches!(verb, 't' | 'v') => {
                self.pad(out, if *flag { "true" } else { "false" }, self.zero);
            }
            Value::Int(number) | Value::Int64(number) => match self.integer(verb, *number) {
                Some(text) => out.push_str(&text),
                None => self.bad_verb(out, verb, value),
            },
            Value::Float(number) => match Float::of(verb) {
                Some(form) => self.float(out, *number, form),
                None => self.bad_verb(out, verb, value),
            },
            Value::String(text) => self.string(out, verb, value, text),
            Value::Version(version) if matches!(verb, 'v' | 's' | 'x' | 'X' | 'q') => {
                self.string(out, verb, value, &version.to_string());
            }
            Value::List(list) => self.list(out, verb, value, list, depth),
            Value::Map(dict) => {
                let entries = dict.read();
                self.fields(out, verb, value.type_name(), entries.iter(), depth);
            }
            Value::Struct(fields) => self.structure(out, verb, fields, depth),
            Value::Bool(_) | Value::Version(_) => self.bad_verb(out, verb, value),
        }
    }

    fn bad_verb(&self, out: &mut String, verb: char, value: &Value) {
        out.push_str(&format!("%!{verb}({}=", value.type_name()));
        self.value(out, 'v', value, 1);
        out.push(')');
    }

    fn list(&self, out: &mut String, verb: char, value: &Value, list: &List, depth: usize) {
        let (open, between, close) = if self.sharp_v {
            out.push_str(value.type_name());
            ("{", ", ", '}')
        } else {
            ("[", " ", ']')
        };
        out.push_str(open);
        for (index, item) in list.items.iter().enumerate() {
            if index > 0 {
                out.push_str(between);
            }
            self.value(out, verb, item, depth + 1);
            if out.len() > value::MAX_BYTES {
                return;
            }
        }
        out.push(close);
    }

    fn fields<'a>(
        &self,
        out: &mut String,
        verb: char,
        name: &str,
        fields: impl Iterator<Item = (&'a String, &'a Value)>,
        depth: usize,
    ) {
        let (between, close) = if self.sharp_v {
            out.push_str(name);
            out.push('{');
            (", ", '}')
        } else {
            out.push_str("map[");
            (" ", ']')
        };
        for (index, (key, value)) in fields.enumerate() {
            if index > 0 {
                out.push_str(between);
            }
            self.value(out, verb, &Value::from(key.as_str()), depth + 1);
            out.push(':');
            self.value(out, verb, value, depth + 1);
            if out.len() > value::MAX_BYTES {
                return;
            }
        }
        out.push(close);
    }

    fn structure(
        &self,
        out: &mut String,
        verb: char,
        fields: &std::collections::BTreeMap<String, Value>,
        depth: usize,
    ) {
        out.push('{');
        for (index, (name, value)) in fields.iter().enumerate() {
            if index > 0 {
                out.push_str(if self.sharp_v { ", " } else { " " });
            }
            if self.sharp_v || self.plus_v {
                out.push_str(&format!("{name}:"));
            }
            self.value(out, verb, value, depth + 1);
        }
        out.push('}');
    }

    fn string(&self, out: &mut String, verb: char, value: &Value, text: &str) {
        match verb {
            'v' if self.sharp_v => self.quoted(out, text),
            'v' | 's' => self.text(out, text),
            'q' => self.quoted(out, text),
            'x' => self.bytes(out, text, false),
            'X' => self.bytes(out, text, true),
            _ => self.bad_verb(out, verb, value),
        }
    }

    fn cut<'t>(&self, text: &'t str) -> &'t str {
        let end = self
            .precision
            .and_then(|limit| text.char_indices().nth(limit));
        end.map_or(text, |(end, _)| &text[..end])
    }

    fn text(&self, out: &mut String, text: &str) {
        self.pad(out, self.cut(text), self.zero);
    }

    fn quoted(&self, out: &mut String, text: &str) {
        let text = self.cut(text);
        let raw = |c: char| c != '`' && c != '\u{feff}' && c != '\u{7f}' && (c >= ' ' || c == '\t');
        let quoted = if self.sharp && text.chars().all(raw) {
            format!("`{text}`")
        } else {
            quote::quoted(text, '"', self.plus)
        };
        self.pad(out, &quoted, self.zero);
    }

    /// `%x` of a text.
    fn bytes(&self, out: &mut String, text: &str, upper: bool) {
        let length = self.precision.unwrap_or(usize::MAX).min(text.len());
        let prefix = match (self.sharp, upper) {
            (false, _) => "",
            (true, false) => "0x",
            (true, true) => "0X",
        };
        let mut hex = String::new();
        for (index, byte) in text.as_bytes()[..length].iter().enumerate() {
            if self.space && index > 0 {
                hex.push(' ');
            }
            if index == 0 || self.space {
                hex.push_str(prefix);
            }
            hex.push_str(&if upper {
                format!("{byte:02X}")
            } else {
                format!("{byte:02x}")
            });
        }
        self.pad(out, &hex, self.zero);
    }

    /// Pads to the width: with zeros only on the left.
    fn pad(&self, out: &mut String, body: &str, zero: bool) {
        let missing = self
            .width
            .map_or(0, |width| width.saturating_sub(body.chars().count()));
        if missing == 0 {
            out.push_str(body);
        } else if self.minus {
            out.push_str(body);
            out.extend(std::iter::repeat_n(' ', missing));
        } else {
            out.extend(std::iter::repeat_n(if zero { '0' } else { ' ' }, missing));
            out.push_str(body);
        }
    }

    fn float(&self, out: &mut String, number: f64, form: Float) {
        let precision = self.precision.or(form.precision);
        let mut text = float(number, form.verb, precision);
        if !text.starts_with(['-', '+']) {
            text.insert(0, '+');
        }
        if self.space && text.starts_with('+') && !self.plus {
            text.replace_range(..1, " ");
        }
        if !number.is_finite() {
            if !self.space && !self.plus && (number.is_nan() || text.starts_with('+')) {
                text.remove(0);
            }
            return self.pad(out, &text, false);
        }
        if self.sharp {
            text = number::sharp(&text, form.verb, precision);
        }
        if self.plus || !text.starts_with('+') {
            let missing = self.width.unwrap_or(0).saturating_sub(text.len());
            if self.zero && !self.minus && missing > 0 {
                out.push_str(&text[..1]);
                out.push_str(&"0".repeat(missing));
                out.push_str(&text[1..]);
                return;
            }
            return self.pad(out, &text, self.zero);
        }
        self.pad(out, &text[1..], self.zero);
    }
}
