//! YAML in and out, as Helm's functions do it. PURE.

use std::sync::LazyLock;

use regex::Regex;

use super::super::{Value, format, value};
use super::conversions::integer;
use super::{Functions, Outcome, string};

pub(super) fn add(functions: &mut Functions) {
    functions.add("toYaml", "a", |args| {
        let mut out = String::new();
        write(&mut out, &args[0], 0, false)?;
        Ok(out.trim_end_matches('\n').into())
    });
    functions.alias("mustToYaml", "toYaml");
    functions.add("fromYaml", "s", |args| match read(string(&args[0]))? {
        Value::Nil => Ok(Value::map(std::collections::BTreeMap::new())),
        Value::Map(dict) => Ok(Value::Map(dict)),
        _ => Err("the text is not a YAML mapping".to_owned()),
    });
    functions.add("fromYamlArray", "s", |args| match read(string(&args[0]))? {
        Value::Nil => Ok(Value::list(Vec::new())),
        Value::List(list) => Ok(Value::List(list)),
        _ => Err("the text is not a YAML list".to_owned()),
    });
}

fn read(text: &str) -> Outcome {
    let options = serde_yaml::options! {
        strict_booleans: false,
        with_snippet: false,
    };
    serde_yaml::from_str_with_options::<serde_json::Value>(text, options)
        .map(Value::from)
        .map_err(|error| format!("not valid YAML: {error}"))
}

/// One value at the end of a line that has begun; `inline` after a dash.
fn write(out: &mut String, value: &Value, indent: usize, inline: bool) -> Result<(), String> {
    if out.len() > value::MAX_BYTES {
        return Err(value::too_large());
    }
    match value {
        Value::Map(dict) => {
            let entries: Vec<_> = dict.entries().into_iter().collect();
            mapping(out, &entries, indent, inline)
        }
        Value::Struct(fields) => {
            let entries: Vec<_> = fields.clone().into_iter().collect();
            mapping(out, &entries, indent, inline)
        }
        Value::List(list) if list.items.is_empty() => line(out, "[]"),
        Value::List(list) => {
            for (index, item) in list.items.iter().enumerate() {
                if index > 0 || !inline {
                    out.push_str(&" ".repeat(indent));
                }
                out.push_str("- ");
                write(out, item, indent + 2, true)?;
            }
            Ok(())
        }
        Value::String(text) => line(out, &scalar(text, indent, false)),
        Value::Nil => line(out, "null"),
        Value::Float(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
            line(out, &format!("{number:.0}"))
        }
        Value::Version(version) => line(out, &scalar(&version.to_string(), indent, false)),
        other => line(out, &format::plain(other)),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "an arm of what may fail")]
fn line(out: &mut String, text: &str) -> Result<(), String> {
    out.push_str(text);
    out.push('\n');
    Ok(())
}

fn mapping(
    out: &mut String,
    entries: &[(String, Value)],
    indent: usize,
    inline: bool,
) -> Result<(), String> {
    if entries.is_empty() {
        return line(out, "{}");
    }
    for (index, (key, item)) in entries.iter().enumerate() {
        if index > 0 || !inline {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str(&scalar(key, indent, true));
        out.push(':');
        match item {
            // A list lies under its key, not further in.
            Value::List(list) if !list.items.is_empty() => {
                out.push('\n');
                write(out, item, indent, false)?;
            }
            Value::Map(dict) if !dict.read().is_empty() => {
                out.push('\n');
                write(out, item, indent + 2, false)?;
            }
            Value::Struct(_) => {
                out.push('\n');
                write(out, item, indent + 2, false)?;
            }
            _ => {
                out.push(' ');
                write(out, item, indent + 2, true)?;
            }
        }
    }
    Ok(())
}

static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?)$",
    )
    .expect("a constant pattern is right")
});

/// Whether plain text would be read as something that is no text.
fn means_something_else(text: &str) -> bool {
    let lower = text.to_lowercase();
    let words = [
        "", "~", "null", "y", "n", "yes", "no", "on", "off", "true", "false", ".nan", ".inf",
        "+.inf", "-.inf", "<<",
    ];
    words.contains(&lower.as_str())
        || NUMBER.is_match(text)
        || (text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+')
            && (integer(&text.replace('_', "")).is_some()
                || NUMBER.is_match(&text.replace('_', ""))))
}

/// A text as the value of a key, or as a key.
fn scalar(text: &str, indent: usize, key: bool) -> String {
    let printable = |c: char| {
        c == '\n'
            || (c >= ' ' && c != '\u{7f}' && !(c > '\u{7e}' && c < '\u{a0}') && c != '\u{feff}')
    };
    let special = text.chars().any(|c| !printable(c)) || text.contains(" \n");
    let edge = |c: char| c == ' ' || c == '\n';
    if text.contains('\n') {
        if special || key || text.ends_with(' ') {
            return double(text);
        }
        return literal(text, indent);
    }
    if means_something_else(text) {
        return double(text);
    }
    if special {
        return double(text);
    }
    let first = text.chars().next().unwrap_or_default();
    let followed = text[first.len_utf8()..].starts_with(' ') || text.len() == first.len_utf8();
    let marks = text.starts_with("---") || text.starts_with("...");
    let opens = "#,[]{}&*!|>'\"%@`".contains(first) || ("?:-".contains(first) && followed);
    let edges = text.starts_with(edge) || text.ends_with(':') || text.ends_with(edge);
    let holds = text.contains(": ") || text.contains(" #");
    let plain = !(marks || opens || edges || holds);
    if plain {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "''"))
}

fn double(text: &str) -> String {
    let mut out = "\"".to_owned();
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\0' => out.push_str("\\0"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\u{1b}' => out.push_str("\\e"),
            '\u{85}' => out.push_str("\\N"),
            '\u{a0}' => out.push_str("\\_"),
            '\u{2028}' => out.push_str("\\L"),
            '\u{2029}' => out.push_str("\\P"),
            c if c < ' ' || ('\u{7f}'..'\u{a0}').contains(&c) => {
                out.push_str(&format!("\\x{:02X}", c as u32));
            }
            '\u{feff}' => out.push_str("\\uFEFF"),
            c => out.push(c),
        }
    }
    out + "\""
}

/// `|`, with the marks for blanks at the start and line ends at the end.
fn literal(text: &str, indent: usize) -> String {
    let mut out = "|".to_owned();
    if text.starts_with([' ', '\n']) {
        out.push('2');
    }
    if !text.ends_with('\n') {
        out.push('-');
    } else if text.ends_with("\n\n") || text == "\n" {
        out.push('+');
    }
    let pad = " ".repeat(indent.max(2));
    for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            out.push_str(&pad);
            out.push_str(line);
        }
    }
    out
}
