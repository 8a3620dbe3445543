//! Values as Go's fmt prints them. PURE.

use super::{Value, value};

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
    match value {
        Value::Nil => "<nil>".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => float_g(*number, None),
        Value::String(text) => text.clone(),
        Value::List(items) => {
            format!(
                "[{}]",
                items.iter().map(plain).collect::<Vec<_>>().join(" ")
            )
        }
        Value::Map(fields) => {
            let entries: Vec<_> = fields
                .iter()
                .map(|(key, value)| format!("{key}:{}", plain(value)))
                .collect();
            format!("map[{}]", entries.join(" "))
        }
        Value::Struct(fields) => {
            format!(
                "{{{}}}",
                fields.values().map(plain).collect::<Vec<_>>().join(" ")
            )
        }
    }
}

/// Go's `print`: a space between operands when neither is a string.
pub(super) fn print(args: &[Value]) -> String {
    let mut out = String::new();
    for (index, arg) in args.iter().enumerate() {
        let strings = matches!(arg, Value::String(_))
            || index
                .checked_sub(1)
                .is_some_and(|before| matches!(args[before], Value::String(_)));
        if index > 0 && !strings {
            out.push(' ');
        }
        out.push_str(&plain(arg));
    }
    out
}

/// Go's `%q` and `strconv.Quote`.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `%e` with Go's two-digit exponent.
fn float_e(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    format!(
        "{mantissa}e{}{:02}",
        if exponent < 0 { '-' } else { '+' },
        exponent.abs()
    )
}

/// `%g`: the shortest form, with an exponent for very large and very small numbers.
pub(super) fn float_g(number: f64, precision: Option<usize>) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 {
            "+Inf".to_owned()
        } else {
            "-Inf".to_owned()
        };
    }
    if number == 0.0 {
        return if number.is_sign_negative() {
            "-0".to_owned()
        } else {
            "0".to_owned()
        };
    }
    let shortest = match precision {
        Some(precision) => format!("{number:.*e}", precision.max(1) - 1),
        None => format!("{number:e}"),
    };
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let limit = precision.map_or(21, |precision| precision.max(1) as i32);
    let trimmed = if mantissa.contains('.') {
        mantissa.trim_end_matches('0').trim_end_matches('.')
    } else {
        mantissa
    };
    if exponent < -4 || exponent >= limit {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{trimmed}e{sign}{:02}", exponent.abs());
    }
    let digits = trimmed.trim_start_matches('-').replace('.', "").len() as i32;
    format!("{number:.*}", (digits - 1 - exponent).max(0) as usize)
}

/// `printf`.
///
/// # Errors
/// For a width, a precision or a result that is too large, and for `%[1]d`.
pub(super) fn printf(format: &str, args: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut next = 0;
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if out.len() > value::MAX_BYTES {
            return Err(value::too_large());
        }
        if c != '%' {
            out.push(c);
            continue;
        }
        let spec = Spec::read(&mut chars, args, &mut next)?;
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some('[') => return Err("%[n] is not supported; give the arguments in order".into()),
            Some(verb) => match args.get(next) {
                Some(arg) => {
                    next += 1;
                    out.push_str(&spec.apply(verb, arg)?);
                }
                None => out.push_str(&format!("%!{verb}(MISSING)")),
            },
        }
    }
    if next < args.len() {
        let extra: Vec<_> = args[next..]
            .iter()
            .map(|arg| format!("{}={}", go_type(arg), plain(arg)))
            .collect();
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    Ok(out)
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// A number of the format, or the argument a `*` stands for.
fn number(chars: &mut Chars<'_>, args: &[Value], next: &mut usize) -> Option<i64> {
    if chars.next_if_eq(&'*').is_some() {
        let Some(Value::Int(given)) = args.get(*next) else {
            return None;
        };
        *next += 1;
        return Some(*given);
    }
    let mut number = None;
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        let digit = i64::from(u32::from(digit) - u32::from('0'));
        let before: i64 = number.unwrap_or(0);
        number = Some(before.saturating_mul(10).saturating_add(digit));
    }
    number
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Nil => "<nil>",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::List(_) => "[]interface {}",
        Value::Map(_) => "map[string]interface {}",
        Value::Struct(_) => "struct",
    }
}

#[derive(Default)]
struct Spec {
    left: bool,
    plus: bool,
    zero: bool,
    sharp: bool,
    space: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

impl Spec {
    /// Flags, width and precision: what stands between `%` and the verb.
    fn read(chars: &mut Chars<'_>, args: &[Value], next: &mut usize) -> Result<Self, String> {
        let mut spec = Self::default();
        while let Some(flag) = chars.next_if(|c| "+-# 0".contains(*c)) {
            spec.flag(flag);
        }
        if let Some(width) = number(chars, args, next) {
            // As Go does: a negative width by argument pads on the right.
            spec.left |= width < 0;
            let width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
            if width > MAX_WIDTH {
                return Err(format!(
                    "a width of {width} is too large; {MAX_WIDTH} is the most"
                ));
            }
            spec.width = Some(width);
        }
        if chars.next_if_eq(&'.').is_some() {
            let precision = number(chars, args, next).unwrap_or(0);
            spec.precision = usize::try_from(precision).ok();
        }
        Ok(spec)
    }

    fn flag(&mut self, flag: char) {
        match flag {
            '-' => self.left = true,
            '+' => self.plus = true,
            '0' => self.zero = true,
            '#' => self.sharp = true,
            _ => self.space = true,
        }
    }

    fn apply(&self, verb: char, arg: &Value) -> Result<String, String> {
        if let (Value::Float(_), Some(precision)) = (arg, self.precision)
            && precision > MAX_PRECISION
        {
            return Err(format!(
                "a precision of {precision} digits is too large; {MAX_PRECISION} is the most"
            ));
        }
        let body = match (verb, arg) {
            ('v', Value::Float(number)) => self.signed(*number, float_g(*number, self.precision)),
            ('v' | 's', Value::String(text)) => self.cut(text),
            ('v', other) => plain(other),
            ('d', Value::Int(number)) => self.signed(*number as f64, number.to_string()),
            ('s', Value::List(_) | Value::Map(_)) => plain(arg),
            ('q', Value::String(text)) => quote(text),
            ('t', Value::Bool(flag)) => flag.to_string(),
            ('f' | 'F', Value::Float(number)) => {
                self.signed(*number, format!("{number:.*}", self.precision.unwrap_or(6)))
            }
            ('e', Value::Float(number)) => {
                self.signed(*number, float_e(*number, self.precision.unwrap_or(6)))
            }
            ('g', Value::Float(number)) => self.signed(*number, float_g(*number, self.precision)),
            ('x', Value::Int(number)) => radix(*number, if self.sharp { "0x" } else { "" }, |n| {
                format!("{n:x}")
            }),
            ('X', Value::Int(number)) => radix(*number, if self.sharp { "0X" } else { "" }, |n| {
                format!("{n:X}")
            }),
            ('o', Value::Int(number)) => radix(*number, "", |n| format!("{n:o}")),
            ('b', Value::Int(number)) => radix(*number, "", |n| format!("{n:b}")),
            ('c', Value::Int(number)) => u32::try_from(*number)
                .ok()
                .and_then(char::from_u32)
                .unwrap_or('\u{fffd}')
                .to_string(),
            ('x', Value::String(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
            ('T', other) => go_type(other).to_owned(),
            (verb, Value::Nil) => format!("%!{verb}(<nil>)"),
            (verb, other) => format!("%!{verb}({}={})", go_type(other), plain(other)),
        };
        Ok(self.pad(body, matches!(arg, Value::Int(_) | Value::Float(_))))
    }

    fn cut(&self, text: &str) -> String {
        match self.precision {
            Some(limit) => text.chars().take(limit).collect(),
            None => text.to_owned(),
        }
    }

    fn signed(&self, number: f64, body: String) -> String {
        if number < 0.0 || body.starts_with('-') {
            body
        } else if self.plus {
            format!("+{body}")
        } else if self.space {
            format!(" {body}")
        } else {
            body
        }
    }

    fn pad(&self, body: String, numeric: bool) -> String {
        let Some(missing) = self
            .width
            .and_then(|width| width.checked_sub(body.chars().count()))
        else {
            return body;
        };
        if self.left {
            return format!("{body}{}", " ".repeat(missing));
        }
        if self.zero && numeric {
            let (sign, digits) = match body.strip_prefix(['-', '+']) {
                Some(digits) => (&body[..1], digits),
                None => ("", body.as_str()),
            };
            return format!("{sign}{}{digits}", "0".repeat(missing));
        }
        format!("{}{body}", " ".repeat(missing))
    }
}

fn radix(number: i64, prefix: &str, digits: impl Fn(u64) -> String) -> String {
    format!(
        "{}{prefix}{}",
        if number < 0 { "-" } else { "" },
        digits(number.unsigned_abs())
    )
}
