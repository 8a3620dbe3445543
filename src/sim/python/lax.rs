//! A Python value -> the type a field has, as pydantic converts in its lax mode. PURE.
//!
//! vLLM's request types are pydantic models: `"stream": "True"`, `"n": 2.0` and
//! `"max_tokens": "16"` are fine, `16.5` is not, and what is not a field is ignored. All
//! faults of a body are told at once, in pydantic's words.
#![deny(clippy::disallowed_methods)]

use super::{Py, quoted};

/// Faults that are told; of more, only the number.
const MAX_TOLD: usize = 10;
/// Characters of a value that are told.
const MAX_INPUT: usize = 200;

/// One thing that is wrong with a body.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    kind: &'static str,
    at: String,
    message: String,
    input: String,
    context: String,
}

impl Fault {
    /// A fault of the value at `at`, which is a path like `body.stop.0`.
    pub fn new(kind: &'static str, at: &str, message: impl Into<String>, input: &Py) -> Self {
        Self {
            kind,
            at: at.to_owned(),
            message: message.into(),
            input: summary(input),
            context: String::new(),
        }
    }

    /// With the bounds that the value breaks, as Python writes a dict.
    #[must_use]
    pub fn with(mut self, context: String) -> Self {
        self.context = context;
        self
    }

    fn text(&self) -> String {
        let context = match self.context.as_str() {
            "" => String::new(),
            context => format!(", 'ctx': {{{context}}}"),
        };
        format!(
            "{{'type': '{}', 'loc': {}, 'msg': {}, 'input': {}{context}}}",
            self.kind,
            quoted(&self.at),
            quoted(&self.message),
            quoted(&self.input),
        )
    }
}

/// All faults of a body: what the client reads, and the field the first one is about.
pub fn told(faults: &[Fault]) -> (String, Option<String>) {
    let label = if faults.len() == 1 { "error" } else { "errors" };
    let mut message = format!("{} validation {label}:", faults.len());
    for fault in faults.iter().take(MAX_TOLD) {
        message.push_str("\n  ");
        message.push_str(&fault.text());
    }
    if let Some(more) = faults.len().checked_sub(MAX_TOLD).filter(|more| *more > 0) {
        message.push_str(&format!("\n  ...and {more} more {label}"));
    }
    (message, faults.first().map(|fault| fault.at.clone()))
}

fn summary(input: &Py) -> String {
    let text = match input {
        Py::List(items) => return format!("<list of {} items>", items.len()),
        Py::Dict(entries) => return format!("<dict of {} items>", entries.len()),
        other => other.text(),
    };
    match text.char_indices().nth(MAX_INPUT) {
        Some((end, _)) => format!("{}...[truncated]", &text[..end]),
        None => text,
    }
}

/// An `int`.
///
/// # Errors
/// Where pydantic takes none.
pub fn int(value: &Py, at: &str) -> Result<i128, Fault> {
    const PARSING: &str = "Input should be a valid integer, unable to parse string as an integer";
    let fault = |kind, message: &str| Err(Fault::new(kind, at, message, value));
    match value {
        Py::Int(number) => Ok(*number),
        Py::Bool(value) => Ok(i128::from(*value)),
        Py::Float(number) if !number.is_finite() => {
            fault("finite_number", "Input should be a finite number")
        }
        Py::Float(number) if number.fract() != 0.0 => fault(
            "int_from_float",
            "Input should be a valid integer, got a number with a fractional part",
        ),
        Py::Float(number) => Ok(*number as i128),
        Py::Str(text) => match int_text(text) {
            Some(number) => Ok(number),
            None => fault("int_parsing", PARSING),
        },
        _ => fault("int_type", "Input should be a valid integer"),
    }
}

/// `16`, ` +16 `, `1_6` and `16.0` are whole numbers to pydantic.
fn int_text(text: &str) -> Option<i128> {
    let text = text.trim();
    let whole = match text.split_once('.') {
        Some((whole, zeros)) if zeros.bytes().all(|byte| byte == b'0') => whole,
        Some(_) => return None,
        None => text,
    };
    let digits = whole.strip_prefix(['+', '-']).unwrap_or(whole);
    let wrong = digits.starts_with('_') || digits.ends_with('_') || digits.contains("__");
    if wrong
        || !digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'_')
    {
        return None;
    }
    whole.replace('_', "").parse().ok()
}

/// An `int` within bounds.
///
/// # Errors
/// Where pydantic takes none.
pub fn int_between(value: &Py, at: &str, least: i128, most: i128) -> Result<i128, Fault> {
    let number = int(value, at)?;
    let fault = |kind, word: &str, key: &str, bound: i128| {
        let message = format!("Input should be {word} than or equal to {bound}");
        Err(Fault::new(kind, at, message, value).with(format!("'{key}': {bound}")))
    };
    if number < least {
        fault("greater_than_equal", "greater", "ge", least)
    } else if number > most {
        fault("less_than_equal", "less", "le", most)
    } else {
        Ok(number)
    }
}

/// A `float`, which may be `nan` or `inf`.
///
/// # Errors
/// Where pydantic takes none.
pub fn float(value: &Py, at: &str) -> Result<f64, Fault> {
    const PARSING: &str = "Input should be a valid number, unable to parse string as a number";
    match value {
        Py::Str(text) => {
            let number = text.trim().replace('_', "").parse();
            number.map_err(|_| Fault::new("float_parsing", at, PARSING, value))
        }
        other => other
            .number()
            .ok_or_else(|| Fault::new("float_type", at, "Input should be a valid number", value)),
    }
}

/// A `bool`.
///
/// # Errors
/// Where pydantic takes none.
pub fn bool(value: &Py, at: &str) -> Result<bool, Fault> {
    const PARSING: &str = "Input should be a valid boolean, unable to interpret input";
    let parsed = match value {
        Py::Bool(value) => return Ok(*value),
        Py::Int(_) | Py::Float(_) if value.is_number(1) => return Ok(true),
        Py::Int(0) => return Ok(false),
        Py::Float(number) if *number == 0.0 => return Ok(false),
        Py::Int(number) if i64::try_from(*number).is_ok() => None,
        Py::Float(number) if number.fract() == 0.0 => None,
        Py::Str(text) => match text.to_ascii_lowercase().as_str() {
            "0" | "off" | "f" | "false" | "n" | "no" => Some(false),
            "1" | "on" | "t" | "true" | "y" | "yes" => Some(true),
            _ => None,
        },
        _ => {
            return Err(Fault::new(
                "bool_type",
                at,
                "Input should be a valid boolean",
                value,
            ));
        }
    };
    parsed.ok_or_else(|| Fault::new("bool_parsing", at, PARSING, value))
}

/// A `str`; nothing else is made into one.
///
/// # Errors
/// Where it is none.
pub fn text<'a>(value: &'a Py, at: &str) -> Result<&'a str, Fault> {
    value
        .as_str()
        .ok_or_else(|| Fault::new("string_type", at, "Input should be a valid string", value))
}

/// One of a few words.
///
/// # Errors
/// Where it is none of them.
pub fn one_of<'a>(value: &'a Py, at: &str, words: &[&str]) -> Result<&'a str, Fault> {
    if let Some(word) = value.as_str().filter(|word| words.contains(word)) {
        return Ok(word);
    }
    let quotes: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    let expected = match &quotes[..] {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        one => one.concat(),
    };
    let message = format!("Input should be {expected}");
    let fault = Fault::new("literal_error", at, message, value);
    Err(fault.with(format!("'expected': {}", quoted(&expected))))
}

/// A `list`, each element through `each`.
///
/// # Errors
/// Where it is none; of its elements, all faults.
pub fn list<'a, T>(
    value: &'a Py,
    at: &str,
    each: impl Fn(&'a Py, &str) -> Result<T, Fault>,
) -> Result<Vec<T>, Vec<Fault>> {
    let Some(items) = value.as_list() else {
        let fault = Fault::new("list_type", at, "Input should be a valid list", value);
        return Err(vec![fault]);
    };
    let (mut good, mut bad) = (Vec::with_capacity(items.len()), Vec::new());
    for (place, item) in items.iter().enumerate() {
        match each(item, &format!("{at}.{place}")) {
            Ok(item) => good.push(item),
            Err(fault) => bad.push(fault),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}

/// A `dict`.
///
/// # Errors
/// Where it is none.
pub fn dict<'a>(value: &'a Py, at: &str) -> Result<&'a Py, Fault> {
    if value.is_dict() {
        return Ok(value);
    }
    let message = "Input should be a valid dictionary";
    Err(Fault::new("dict_type", at, message, value))
}

/// The fields of a dict, which collects the faults of all that are read.
#[derive(Debug)]
pub struct Fields<'a> {
    dict: &'a Py,
    at: String,
    /// What was wrong so far.
    pub faults: Vec<Fault>,
}

impl<'a> Fields<'a> {
    /// The fields of a dict at `at`.
    ///
    /// # Errors
    /// When it is no dict.
    pub fn new(dict: &'a Py, at: &str) -> Result<Self, Fault> {
        if !dict.is_dict() {
            let message = "Input should be a valid dictionary or object to extract fields from";
            return Err(Fault::new("model_attributes_type", at, message, dict));
        }
        Ok(Self {
            dict,
            at: at.to_owned(),
            faults: Vec::new(),
        })
    }

    /// The path of a field.
    pub fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.at)
    }

    /// The raw value of a field; `None` where it is absent.
    pub fn raw(&self, name: &str) -> Option<&'a Py> {
        self.dict.get(name)
    }

    /// A field that may be absent or null.
    pub fn optional<T>(
        &mut self,
        name: &str,
        convert: impl Fn(&'a Py, &str) -> Result<T, Fault>,
    ) -> Option<T> {
        let value = self.raw(name).filter(|value| !value.is_none())?;
        self.take(convert(value, &self.path(name)))
    }

    /// A field that may be absent but not null.
    pub fn plain<T>(
        &mut self,
        name: &str,
        default: T,
        convert: impl Fn(&'a Py, &str) -> Result<T, Fault>,
    ) -> T {
        let Some(value) = self.raw(name) else {
            return default;
        };
        self.take(convert(value, &self.path(name)))
            .unwrap_or(default)
    }

    /// A list that may be absent or null.
    pub fn optional_list<T>(
        &mut self,
        name: &str,
        each: impl Fn(&'a Py, &str) -> Result<T, Fault>,
    ) -> Option<Vec<T>> {
        let value = self.raw(name).filter(|value| !value.is_none())?;
        match list(value, &self.path(name), each) {
            Ok(items) => Some(items),
            Err(faults) => {
                self.faults.extend(faults);
                None
            }
        }
    }

    /// A list that must be there.
    pub fn required_list<T>(
        &mut self,
        name: &str,
        each: impl Fn(&'a Py, &str) -> Result<T, Fault>,
    ) -> Option<Vec<T>> {
        let value = self.required(name)?;
        match list(value, &self.path(name), each) {
            Ok(items) => Some(items),
            Err(faults) => {
                self.faults.extend(faults);
                None
            }
        }
    }

    /// A field that must be there, as it is.
    pub fn required(&mut self, name: &str) -> Option<&'a Py> {
        let value = self.raw(name);
        if value.is_none() {
            let path = self.path(name);
            let fault = Fault::new("missing", &path, "Field required", self.dict);
            self.faults.push(fault);
        }
        value
    }

    /// Keeps a fault, or the value.
    pub fn take<T>(&mut self, result: Result<T, Fault>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(fault) => {
                self.faults.push(fault);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::loads;
    use super::*;

    fn value(json: &str) -> Py {
        loads(json.as_bytes()).unwrap()
    }

    #[test]
    fn whole_numbers_as_pydantic_takes_them() {
        for (json, number) in [
            ("16", 16),
            ("16.0", 16),
            ("\"16\"", 16),
            ("\"16.0\"", 16),
            ("\" +1_6 \"", 16),
            ("true", 1),
            ("\"-3\"", -3),
        ] {
            assert_eq!(int(&value(json), "a"), Ok(number), "{json}");
        }
        for (json, kind) in [
            ("16.5", "int_from_float"),
            ("\"16.5\"", "int_parsing"),
            ("\"x\"", "int_parsing"),
            ("\"_1\"", "int_parsing"),
            ("\"\"", "int_parsing"),
            ("NaN", "finite_number"),
            ("null", "int_type"),
            ("[]", "int_type"),
        ] {
            assert_eq!(int(&value(json), "a").unwrap_err().kind, kind, "{json}");
        }
        let fault = int_between(&value("-1"), "body.a", 0, 9).unwrap_err();
        assert_eq!(
            fault.text(),
            "{'type': 'greater_than_equal', 'loc': 'body.a', 'msg': 'Input should be greater than or equal to 0', 'input': '-1', 'ctx': {'ge': 0}}"
        );
    }

    #[test]
    fn truth_as_pydantic_takes_it() {
        for json in ["true", "1", "1.0", "\"True\"", "\"1\"", "\"on\"", "\"YES\""] {
            assert_eq!(bool(&value(json), "a"), Ok(true), "{json}");
        }
        for json in ["false", "0", "0.0", "\"False\"", "\"off\""] {
            assert_eq!(bool(&value(json), "a"), Ok(false), "{json}");
        }
        for (json, kind) in [
            ("2", "bool_parsing"),
            ("\"maybe\"", "bool_parsing"),
            ("3.0", "bool_parsing"),
            ("0.5", "bool_type"),
            ("99999999999999999999", "bool_type"),
            ("null", "bool_type"),
        ] {
            assert_eq!(bool(&value(json), "a").unwrap_err().kind, kind, "{json}");
        }
    }

    #[test]
    fn numbers_may_be_none_and_texts_may_not_be_numbers() {
        assert!(float(&value("NaN"), "a").unwrap().is_nan());
        assert_eq!(float(&value("\"0.5\""), "a"), Ok(0.5));
        assert_eq!(float(&value("true"), "a"), Ok(1.0));
        assert!(float(&value("\"x\""), "a").is_err());
        assert!(text(&value("5"), "a").is_err());
    }

    #[test]
    fn all_faults_are_told_with_bounds() {
        let body = value(r#"{"n":"x","stream":"maybe","stop":[1,2,3,4,5,6,7,8,9,10,11]}"#);
        let mut fields = Fields::new(&body, "body").unwrap();
        assert_eq!(fields.plain("n", 1, int), 1);
        assert_eq!(fields.optional("stream", bool), None);
        let (message, field) = told(&fields.faults);
        assert_eq!(
            message,
            "2 validation errors:\n  {'type': 'int_parsing', 'loc': 'body.n', 'msg': 'Input should be a valid integer, unable to parse string as an integer', 'input': 'x'}\n  {'type': 'bool_parsing', 'loc': 'body.stream', 'msg': 'Input should be a valid boolean, unable to interpret input', 'input': 'maybe'}"
        );
        assert_eq!(field.as_deref(), Some("body.n"));
        assert_eq!(fields.optional_list("stop", text), None);
        assert!(told(&fields.faults).0.ends_with("\n  ...and 3 more errors"));
        assert_eq!(fields.required("model"), None);
        let fault = Fields::new(&value("[]"), "body").unwrap_err();
        assert_eq!(
            told(&[fault]).0,
            "1 validation error:\n  {'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be a valid dictionary or object to extract fields from', 'input': '<list of 0 items>'}"
        );
    }
}
