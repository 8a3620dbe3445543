//! Bytes -> a Python value, as `json.loads` reads them. PURE. The errors are Python's own, with
//! the character they are at, since clients see both.
#![deny(clippy::disallowed_methods)]

use std::collections::HashMap;

use super::Py;

/// Lists and dicts within each other; Python gives up somewhat below 1,000.
const MAX_DEPTH: usize = 960;
/// Dicts up to this size look for a key written twice by comparing all keys.
const SMALL_DICT: usize = 16;

/// Why a body is no JSON to Python.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    /// What Python expected, and the character it is about.
    #[error("{message}: char {at}")]
    Json {
        /// Python's words.
        message: &'static str,
        /// Counted in characters, from 0.
        at: usize,
    },
    /// It is not UTF-8, or nested too deeply.
    #[error("There was an error parsing the body")]
    Unreadable,
}

/// Reads a body.
///
/// # Errors
/// Where Python's `json.loads` fails.
pub fn loads(body: &[u8]) -> Result<Py, Error> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let text = std::str::from_utf8(body).map_err(|_| Error::Unreadable)?;
    let mut reader = Reader { text, at: 0 };
    reader.spaces();
    let value = reader.value(0)?;
    reader.spaces();
    if reader.at < text.len() {
        return Err(reader.error("Extra data", reader.at));
    }
    Ok(value)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.text[self.at..].starts_with(word);
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn spaces(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn error(&self, message: &'static str, at: usize) -> Error {
        let at = self.text[..at].chars().count();
        Error::Json { message, at }
    }

    fn value(&mut self, depth: usize) -> Result<Py, Error> {
        if depth > MAX_DEPTH {
            return Err(Error::Unreadable);
        }
        let value = match self.peek() {
            Some(b'"') => return self.string().map(Py::Str),
            Some(b'{') => return self.dict(depth),
            Some(b'[') => return self.list(depth),
            Some(b'n') if self.take("null") => Py::None,
            Some(b't') if self.take("true") => Py::Bool(true),
            Some(b'f') if self.take("false") => Py::Bool(false),
            Some(b'N') if self.take("NaN") => Py::Float(f64::NAN),
            Some(b'I') if self.take("Infinity") => Py::Float(f64::INFINITY),
            Some(b'-') if self.take("-Infinity") => Py::Float(f64::NEG_INFINITY),
            Some(b'-' | b'0'..=b'9') => return self.number(),
            _ => return Err(self.error("Expecting value", self.at)),
        };
        Ok(value)
    }

    fn list(&mut self, depth: usize) -> Result<Py, Error> {
        self.at += 1;
        self.spaces();
        let mut items = Vec::new();
        if self.take("]") {
            return Ok(Py::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.spaces();
            if self.take("]") {
                return Ok(Py::List(items));
            }
            if !self.take(",") {
                return Err(self.error("Expecting ',' delimiter", self.at));
            }
            self.spaces();
        }
    }

    fn dict(&mut self, depth: usize) -> Result<Py, Error> {
        const KEY: &str = "Expecting property name enclosed in double quotes";
        self.at += 1;
        self.spaces();
        let mut entries = Entries::default();
        if self.take("}") {
            return Ok(Py::Dict(entries.list));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.error(KEY, self.at));
            }
            let key = self.string()?;
            self.spaces();
            if !self.take(":") {
                return Err(self.error("Expecting ':' delimiter", self.at));
            }
            self.spaces();
            let value = self.value(depth + 1)?;
            entries.set(key, value);
            self.spaces();
            if self.take("}") {
                return Ok(Py::Dict(entries.list));
            }
            if !self.take(",") {
                return Err(self.error("Expecting ',' delimiter", self.at));
            }
            self.spaces();
        }
    }

    fn digits(&mut self) -> bool {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at > from
    }

    fn number(&mut self) -> Result<Py, Error> {
        let from = self.at;
        self.take("-");
        if !self.take("0") && !self.digits() {
            return Err(self.error("Expecting value", from));
        }
        let mut whole = true;
        let mut mark = self.at;
        if self.take(".") {
            if self.digits() {
                whole = false;
                mark = self.at;
            } else {
                self.at = mark;
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            let _ = self.take("+") || self.take("-");
            if self.digits() {
                whole = false;
            } else {
                self.at = mark;
            }
        }
        let text = &self.text[from..self.at];
        if whole {
            let most = if text.starts_with('-') {
                i128::MIN
            } else {
                i128::MAX
            };
            return Ok(Py::Int(text.parse().unwrap_or(most)));
        }
        // Every text of this form is a float; what is too large is infinite, as in Python.
        Ok(Py::Float(text.parse().unwrap_or(f64::INFINITY)))
    }

    fn string(&mut self) -> Result<String, Error> {
        let start = self.at;
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            let plain = rest
                .iter()
                .position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
            let Some(plain) = plain else {
                return Err(self.error("Unterminated string starting at", start));
            };
            out.push_str(&self.text[self.at..self.at + plain]);
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape(start)?),
                _ => return Err(self.error("Invalid control character at", self.at)),
            }
        }
    }

    fn escape(&mut self, start: usize) -> Result<char, Error> {
        let at = self.at;
        self.at += 1;
        let Some(letter) = self.peek() else {
            return Err(self.error("Unterminated string starting at", start));
        };
        self.at += 1;
        let plain = match letter {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return Err(self.error("Invalid \\escape", at)),
        };
        Ok(plain)
    }

    fn unicode(&mut self) -> Result<char, Error> {
        let first = self.hex()?;
        if (0xd800..0xdc00).contains(&first) && self.text[self.at..].starts_with("\\u") {
            let mark = self.at;
            self.at += 2;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                let both = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(both).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = mark;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Result<u32, Error> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4);
        let digits = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let text = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let code = text.and_then(|text| u32::from_str_radix(text, 16).ok());
        let code = code.ok_or_else(|| self.error("Invalid \\uXXXX escape", self.at - 1))?;
        self.at += 4;
        Ok(code)
    }
}

/// A dict that grows: of keys written twice the last counts.
#[derive(Default)]
struct Entries {
    list: Vec<(String, Py)>,
    places: HashMap<String, usize>,
}

impl Entries {
    fn set(&mut self, key: String, value: Py) {
        let place = if self.places.is_empty() {
            self.list.iter().position(|(known, _)| *known == key)
        } else {
            self.places.get(&key).copied()
        };
        if let Some(place) = place {
            self.list[place].1 = value;
            return;
        }
        if self.list.len() == SMALL_DICT {
            let all = self.list.iter().enumerate();
            self.places = all.map(|(at, (key, _))| (key.clone(), at)).collect();
        }
        if !self.places.is_empty() {
            self.places.insert(key.clone(), self.list.len());
        }
        self.list.push((key, value));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn int(number: i128) -> Py {
        Py::Int(number)
    }

    #[test]
    fn what_json_forbids_and_python_takes() {
        let read = |text: &str| loads(text.as_bytes()).unwrap();
        assert!(matches!(read("NaN"), Py::Float(nan) if nan.is_nan()));
        assert_eq!(read(" -Infinity\n"), Py::Float(f64::NEG_INFINITY));
        assert_eq!(read("1e400"), Py::Float(f64::INFINITY));
        let twice = r#"{"a":1,"b":2,"a":3}"#;
        let entries = vec![("a".to_owned(), int(3)), ("b".to_owned(), int(2))];
        assert_eq!(read(twice), Py::Dict(entries));
        assert_eq!(read("\u{feff}-0"), int(0));
        assert_eq!(
            read("123456789012345678901"),
            int(123_456_789_012_345_678_901)
        );
        assert_eq!(
            read(r#""\ud83d\ude00 \ud800""#),
            Py::Str("😀 \u{fffd}".to_owned())
        );
        let many: Vec<String> = (0..40).map(|at| format!("\"k{}\":{at}", at % 20)).collect();
        let many = read(&format!("{{{}}}", many.join(",")));
        assert_eq!(many.get("k3"), Some(&int(23)));
    }

    #[test]
    fn errors_are_pythons_own() {
        for (text, message, at) in [
            ("", "Expecting value", 0),
            ("{\"prompt\"", "Expecting ':' delimiter", 9),
            ("{\"é\":\"a\" \"b\":1}", "Expecting ',' delimiter", 9),
            (
                "{'a':1}",
                "Expecting property name enclosed in double quotes",
                1,
            ),
            ("[1,]", "Expecting value", 3),
            (
                "{\"a\":1,}",
                "Expecting property name enclosed in double quotes",
                7,
            ),
            ("01", "Extra data", 1),
            ("-", "Expecting value", 0),
            ("\"a", "Unterminated string starting at", 0),
            ("\"a\nb\"", "Invalid control character at", 2),
            ("\"\\x\"", "Invalid \\escape", 1),
            ("\"\\u12\"", "Invalid \\uXXXX escape", 2),
            ("nul", "Expecting value", 0),
        ] {
            let error = loads(text.as_bytes()).unwrap_err();
            assert_eq!(error, Error::Json { message, at }, "{text}");
        }
        assert_eq!(loads(b"\"\xff\""), Err(Error::Unreadable));
        assert_eq!(loads("[".repeat(5000).as_bytes()), Err(Error::Unreadable));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = loads(&body);
        }

        #[test]
        fn json_is_read_as_it_is(text in "[a-z\"\\\\\u{0}-\u{20}é😀]{0,12}", number in any::<i64>(), float in any::<f64>()) {
            let value = serde_json::json!({"a": [text, number, null, true], "b": float});
            let body = value.to_string();
            let read = loads(body.as_bytes()).unwrap();
            // Through the same reader of floats, which is not exact to the last bit.
            prop_assert_eq!(read.value(), serde_json::from_str::<serde_json::Value>(&body).unwrap());
        }
    }
}
