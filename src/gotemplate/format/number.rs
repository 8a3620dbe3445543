//! Integers and floating point numbers as Go's strconv and fmt write them. PURE.

use super::Spec;
use super::quote::quoted;

/// How a verb writes a floating point number.
#[derive(Clone, Copy)]
pub(super) struct Float {
    /// One of `e`, `E`, `f`, `g`, `G`.
    pub(super) verb: char,
    /// Digits unless the template gives some; `None` for as many as are needed.
    pub(super) precision: Option<usize>,
}

impl Float {
    /// `None` for a verb that is not for floating point numbers. `%b` and `%x` of them, which
    /// show binary exponents, are not known.
    pub(super) fn of(verb: char) -> Option<Self> {
        let (verb, precision) = match verb {
            'v' => ('g', None),
            'g' | 'G' => (verb, None),
            'e' | 'E' | 'f' => (verb, Some(6)),
            'F' => ('f', Some(6)),
            _ => return None,
        };
        Some(Self { verb, precision })
    }
}

/// `strconv.FormatFloat`.
pub(super) fn float(number: f64, verb: char, precision: Option<usize>) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    match verb {
        'f' => match precision {
            Some(precision) => format!("{number:.precision$}"),
            None => format!("{number}"),
        },
        'e' | 'E' => {
            let (mantissa, exponent) = scientific(number, precision);
            with_exponent(&mantissa, exponent, verb)
        }
        _ => {
            let digits = precision.map(|precision| precision.max(1) - 1);
            let (mantissa, exponent) = scientific(number, digits);
            let mantissa = if mantissa.contains('.') {
                mantissa.trim_end_matches('0').trim_end_matches('.')
            } else {
                &mantissa
            };
            let count = mantissa.bytes().filter(u8::is_ascii_digit).count() as i32;
            let mut limit = precision.map_or(6, |precision| precision.max(1) as i32);
            if limit > count && count > exponent {
                limit = count;
            }
            // The shortest form decides as if it had 6 digits.
            if precision.is_none() {
                limit = 6;
            }
            if exponent < -4 || exponent >= limit {
                let verb = if verb == 'G' { 'E' } else { 'e' };
                return with_exponent(mantissa, exponent, verb);
            }
            format!("{number:.*}", (count - 1 - exponent).max(0) as usize)
        }
    }
}

fn scientific(number: f64, precision: Option<usize>) -> (String, i32) {
    let text = match precision {
        Some(precision) => format!("{number:.precision$e}"),
        None => format!("{number:e}"),
    };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (mantissa.to_owned(), exponent.parse().unwrap_or(0))
}

/// Go's exponents have two digits at least.
fn with_exponent(mantissa: &str, exponent: i32, verb: char) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}{verb}{sign}{:02}", exponent.abs())
}

/// As encoding/json writes a number; it must be finite.
pub(in super::super) fn float_json(number: f64) -> String {
    let size = number.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        let (mantissa, exponent) = scientific(number, None);
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{}", exponent.abs());
    }
    format!("{number}")
}

/// The `#` flag: always a point, and for `%g` its zeros. `text` starts with its sign.
pub(super) fn sharp(text: &str, verb: char, precision: Option<usize>) -> String {
    let at = text.find(['e', 'E']).unwrap_or(text.len());
    let (mut digits, tail) = (text[..at].to_owned(), &text[at..]);
    let significant = digits.trim_start_matches(['+', '-', ' ', '0', '.']);
    let mut shown = significant.bytes().filter(u8::is_ascii_digit).count();
    if !digits.contains('.') {
        if digits.len() == 2 && digits.ends_with('0') {
            shown += 1;
        }
        digits.push('.');
    }
    if matches!(verb, 'g' | 'G') {
        let missing = precision.unwrap_or(6).saturating_sub(shown);
        digits.push_str(&"0".repeat(missing));
    }
    digits + tail
}

impl Spec {
    /// An integer; `None` for a verb that is not for integers.
    pub(super) fn integer(&self, verb: char, number: i64) -> Option<String> {
        let mut out = String::new();
        let rune = || {
            let point = u32::try_from(number).ok().and_then(char::from_u32);
            point.unwrap_or('\u{fffd}')
        };
        match verb {
            'v' | 'd' => self.digits(&mut out, number, |n| n.to_string(), ""),
            'b' => self.digits(&mut out, number, |n| format!("{n:b}"), "0b"),
            'o' => self.digits(&mut out, number, |n| format!("{n:o}"), "0"),
            'O' => self.digits(&mut out, number, |n| format!("0o{n:o}"), "0"),
            'x' => self.digits(&mut out, number, |n| format!("{n:x}"), "0x"),
            'X' => self.digits(&mut out, number, |n| format!("{n:X}"), "0X"),
            'c' => self.pad(&mut out, &rune().to_string(), self.zero),
            'q' => {
                let text = quoted(&rune().to_string(), '\'', self.plus);
                self.pad(&mut out, &text, self.zero);
            }
            'U' => self.unicode(&mut out, number),
            _ => return None,
        }
        Some(out)
    }

    fn digits(&self, out: &mut String, number: i64, write: impl Fn(u64) -> String, prefix: &str) {
        let signed = number < 0 || self.plus || self.space;
        let mut wanted = 0;
        if let Some(precision) = self.precision {
            if precision == 0 && number == 0 {
                out.push_str(&" ".repeat(self.width.unwrap_or(0)));
                return;
            }
            wanted = precision;
        } else if let Some(width) = self.width.filter(|_| self.zero && !self.minus) {
            wanted = width.saturating_sub(usize::from(signed));
        }
        let written = write(number.unsigned_abs());
        let (radix, digits) = match written.strip_prefix("0o") {
            Some(digits) => ("0o", digits.to_owned()),
            None => ("", written),
        };
        let digits = format!(
            "{}{digits}",
            "0".repeat(wanted.saturating_sub(digits.len()))
        );
        let prefix = if self.sharp && !(prefix == "0" && digits.starts_with('0')) {
            prefix
        } else {
            ""
        };
        let sign = match () {
            () if number < 0 => "-",
            () if self.plus => "+",
            () if self.space => " ",
            () => "",
        };
        self.pad(out, &format!("{sign}{radix}{prefix}{digits}"), false);
    }

    /// `%U`.
    fn unicode(&self, out: &mut String, number: i64) {
        let wanted = self.precision.unwrap_or(4).max(4);
        let mut text = format!("U+{:0wanted$X}", number as u64);
        let point = u32::try_from(number).ok().and_then(char::from_u32);
        if let Some(c) = point.filter(|c| self.sharp && super::is_graphic(*c)) {
            text.push_str(&format!(" '{c}'"));
        }
        self.pad(out, &text, false);
    }
}
