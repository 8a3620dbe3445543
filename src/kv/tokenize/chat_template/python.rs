//! What chat templates expect of Python: `json.dumps` and `strftime`. PURE.
#![deny(clippy::disallowed_methods)]

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// A point in time as a calendar shows it, in the engine's time zone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Civil {
    /// Year, for example 2026.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

const DAY_SECONDS: i64 = 86_400;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// From the weekday of 1970-01-01 on.
const WEEKDAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];

impl Civil {
    /// UTC, from seconds since 1970: containers of engines run in UTC.
    pub fn from_unix_seconds(seconds: i64) -> Self {
        let days = seconds.div_euclid(DAY_SECONDS);
        let rest = seconds.rem_euclid(DAY_SECONDS);
        // Years are counted from March on, so that the leap day is a year's last.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: month as u8,
            day: day as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }

    fn days_since_1970(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let shifted_month = (i64::from(self.month) + 9) % 12;
        let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        era * 146_097 + day_of_era - 719_468
    }

    fn month_name(self) -> &'static str {
        MONTHS[usize::from(self.month.clamp(1, 12)) - 1]
    }

    fn weekday_name(self) -> &'static str {
        WEEKDAYS[self.days_since_1970().rem_euclid(7) as usize]
    }

    fn day_of_year(self) -> i64 {
        let first = Self {
            month: 1,
            day: 1,
            ..self
        };
        self.days_since_1970() - first.days_since_1970() + 1
    }

    /// Python's `strftime` in the C locale. A directive it does not know stays as it is,
    /// as in glibc.
    pub fn format(self, format: &str) -> String {
        let mut out = String::with_capacity(format.len() + 16);
        let mut chars = format.chars();
        while let Some(char) = chars.next() {
            if char != '%' {
                out.push(char);
                continue;
            }
            let mut directive = chars.next();
            let padded = directive != Some('-');
            if !padded {
                directive = chars.next();
            }
            match directive {
                Some(directive) => self.put(&mut out, directive, padded),
                None => out.push('%'),
            }
        }
        out
    }

    fn put(self, out: &mut String, directive: char, padded: bool) {
        let two = |value: u8| {
            if padded {
                format!("{value:02}")
            } else {
                value.to_string()
            }
        };
        let hour_of_12 = match self.hour % 12 {
            0 => 12,
            hour => hour,
        };
        let text = match directive {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year.rem_euclid(100)),
            'm' => two(self.month),
            'd' => two(self.day),
            'e' => format!("{:2}", self.day),
            'B' => self.month_name().to_owned(),
            'b' | 'h' => self.month_name()[..3].to_owned(),
            'A' => self.weekday_name().to_owned(),
            'a' => self.weekday_name()[..3].to_owned(),
            'H' => two(self.hour),
            'I' => two(hour_of_12),
            'M' => two(self.minute),
            'S' => two(self.second),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'j' => format!("{:03}", self.day_of_year()),
            'F' => self.format("%Y-%m-%d"),
            'T' => self.format("%H:%M:%S"),
            'D' => self.format("%m/%d/%y"),
            'Z' => String::new(),
            '%' => "%".to_owned(),
            other => format!("%{other}"),
        };
        out.push_str(&text);
    }
}

/// Deeper than any JSON that was read.
const MAX_DEPTH: usize = 200;

/// How `json.dumps` shall write.
struct Dump {
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    ascii: bool,
    sorted: bool,
}

/// The filter `tojson`: transformers replaces Jinja's, which escapes for HTML, by `json.dumps`
/// (<https://github.com/huggingface/transformers/blob/main/src/transformers/utils/chat_template_utils.py>).
pub(super) fn to_json(
    state: &State,
    value: &Value,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sorted: Option<bool> = options.get("sort_keys")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    options.assert_all_used()?;
    let indent = match indent {
        None => None,
        Some(indent) if indent.is_none() => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(indent)?.min(16)),
        }),
    };
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "separators must be two strings",
            ));
        }
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let dump = Dump {
        indent,
        item_separator,
        key_separator,
        ascii: ascii.unwrap_or(false),
        sorted: sorted.unwrap_or(false),
    };
    let mut out = String::new();
    dump.value(&mut out, value, 0)?;
    state.consume_fuel(out.len() as u64 / 64)?;
    Ok(Value::from(out))
}

impl Dump {
    fn value(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "value is nested too deeply for JSON",
            ));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.open(out, '[', items.is_empty(), depth);
                for (index, item) in items.iter().enumerate() {
                    self.between(out, index, depth);
                    self.value(out, item, depth + 1)?;
                }
                self.close(out, ']', items.is_empty(), depth);
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.open(out, '{', keys.is_empty(), depth);
                for (index, key) in keys.iter().enumerate() {
                    self.between(out, index, depth);
                    self.key(out, key)?;
                    out.push_str(&self.key_separator);
                    self.value(out, &value.get_item(key)?, depth + 1)?;
                }
                self.close(out, '}', keys.is_empty(), depth);
            }
            other => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("a value of type {other} is not JSON serializable"),
                ));
            }
        }
        Ok(())
    }

    fn key(&self, out: &mut String, key: &Value) -> Result<(), Error> {
        if let Some(text) = key.as_str() {
            self.string(out, text);
        } else {
            let mut text = String::new();
            self.value(&mut text, key, MAX_DEPTH)?;
            self.string(out, &text);
        }
        Ok(())
    }

    fn line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    fn open(&self, out: &mut String, bracket: char, empty: bool, depth: usize) {
        out.push(bracket);
        if !empty {
            self.line(out, depth + 1);
        }
    }

    fn between(&self, out: &mut String, index: usize, depth: usize) {
        if index > 0 {
            out.push_str(&self.item_separator);
            self.line(out, depth + 1);
        }
    }

    fn close(&self, out: &mut String, bracket: char, empty: bool, depth: usize) {
        if !empty {
            self.line(out, depth);
        }
        out.push(bracket);
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for char in text.chars() {
            match char {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                char if char < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(char))),
                char if self.ascii && !(' '..='~').contains(&char) => {
                    for unit in char.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                char => out.push(char),
            }
        }
        out.push('"');
    }
}

/// Integers as they are, floats as Python's `repr` writes them.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(float) = f64::try_from(value.clone()) else {
        return value.to_string();
    };
    if float.is_nan() {
        return "NaN".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific
        .split_once('e')
        .expect("the e form has an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a number");
    if float != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{float:?}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_read_as_pythons_strftime_writes_them() {
        // 2024-02-29 13:05:09 UTC.
        let leap = Civil::from_unix_seconds(1_709_211_909);
        assert_eq!(leap.format("%d %b %Y"), "29 Feb 2024");
        assert_eq!(
            leap.format("%A, %B %-d, %Y %I:%M:%S %p %j %%"),
            "Thursday, February 29, 2024 01:05:09 PM 060 %"
        );
        assert_eq!(
            Civil::from_unix_seconds(0).format("%F %T %a"),
            "1970-01-01 00:00:00 Thu"
        );
        assert_eq!(Civil::from_unix_seconds(-1).format("%F"), "1969-12-31");
    }

    proptest! {
        #[test]
        fn a_date_and_its_day_number_agree(seconds in -62_000_000_000_i64..253_000_000_000) {
            let civil = Civil::from_unix_seconds(seconds);
            prop_assert_eq!(civil.days_since_1970(), seconds.div_euclid(DAY_SECONDS));
        }
    }
}
