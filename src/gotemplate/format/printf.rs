//! Go's `printf`: format + arguments -> text, its complaints included. PURE.

use super::{MAX_PRECISION, MAX_WIDTH, Spec, plain};
use crate::gotemplate::Value;
use crate::gotemplate::value;

/// `printf`.
///
/// # Errors
/// For a width, a precision or a result that is too large, and for `%p`.
pub(in super::super) fn printf(format: &str, args: &[Value]) -> Result<String, String> {
    let mut printer = Printer {
        format,
        args,
        at: 0,
        next: 0,
        reordered: false,
        good_index: true,
        after_index: false,
        out: String::new(),
    };
    printer.run()?;
    Ok(printer.out)
}

struct Printer<'a> {
    format: &'a str,
    args: &'a [Value],
    /// Place in the format.
    at: usize,
    /// The next argument.
    next: usize,
    reordered: bool,
    good_index: bool,
    after_index: bool,
    out: String,
}

impl Printer<'_> {
    fn run(&mut self) -> Result<(), String> {
        while let Some(found) = self.format[self.at..].find('%') {
            self.out.push_str(&self.format[self.at..self.at + found]);
            self.at += found + 1;
            self.one()?;
            if self.out.len() > value::MAX_BYTES {
                return Err(value::too_large());
            }
        }
        self.out.push_str(&self.format[self.at..]);
        if !self.reordered && self.next < self.args.len() {
            let extra: Vec<_> = self.args[self.next..]
                .iter()
                .map(|arg| match arg {
                    Value::Nil => "<nil>".to_owned(),
                    arg => format!("{}={}", arg.type_name(), plain(arg)),
                })
                .collect();
            self.out
                .push_str(&format!("%!(EXTRA {})", extra.join(", ")));
        }
        Ok(())
    }

    fn peek(&self) -> Option<u8> {
        self.format.as_bytes().get(self.at).copied()
    }

    /// One directive, from after its `%`.
    fn one(&mut self) -> Result<(), String> {
        (self.good_index, self.after_index) = (true, false);
        let mut spec = self.spec()?;
        let Some(verb) = self.format[self.at..].chars().next() else {
            self.out.push_str("%!(NOVERB)");
            return Ok(());
        };
        self.at += verb.len_utf8();
        if verb == '%' {
            self.out.push('%');
        } else if !self.good_index {
            self.out.push_str(&format!("%!{verb}(BADINDEX)"));
        } else if let Some(arg) = self.args.get(self.next) {
            if verb == 'p' {
                return Err("%p would print an address, which differs each time".to_owned());
            }
            self.next += 1;
            if verb == 'v' {
                spec.sharp_v = std::mem::take(&mut spec.sharp);
                spec.plus_v = std::mem::take(&mut spec.plus);
            }
            spec.value(&mut self.out, verb, arg, 0);
        } else {
            self.out.push_str(&format!("%!{verb}(MISSING)"));
        }
        Ok(())
    }

    /// Flags, indexes, width and precision.
    fn spec(&mut self) -> Result<Spec, String> {
        let mut spec = Spec::default();
        while let Some(flag) = self.peek() {
            match flag {
                b'-' => spec.minus = true,
                b'+' => spec.plus = true,
                b'0' => spec.zero = true,
                b'#' => spec.sharp = true,
                b' ' => spec.space = true,
                _ => break,
            }
            self.at += 1;
        }
        self.index();
        if self.peek() == Some(b'*') {
            self.at += 1;
            match self.argument() {
                Some(width) => {
                    // As Go does: a negative width by argument pads on the right.
                    if width < 0 {
                        spec.minus = true;
                        spec.zero = false;
                    }
                    spec.width = Some(width.unsigned_abs().try_into().unwrap_or(usize::MAX));
                }
                None => self.out.push_str("%!(BADWIDTH)"),
            }
            self.after_index = false;
        } else {
            spec.width = self.number();
            if self.after_index && spec.width.is_some() {
                self.good_index = false;
            }
        }
        if let Some(width) = spec.width.filter(|width| *width > MAX_WIDTH) {
            return Err(format!(
                "a width of {width} is too large; {MAX_WIDTH} is the most"
            ));
        }
        if self.peek() == Some(b'.') && self.at + 1 < self.format.len() {
            self.at += 1;
            self.precision(&mut spec)?;
        }
        if !self.after_index {
            self.index();
        }
        Ok(spec)
    }

    fn precision(&mut self, spec: &mut Spec) -> Result<(), String> {
        if self.after_index {
            self.good_index = false;
        }
        self.index();
        if self.peek() == Some(b'*') {
            self.at += 1;
            let given = self.argument();
            spec.precision = given.and_then(|precision| usize::try_from(precision).ok());
            if spec.precision.is_none() {
                self.out.push_str("%!(BADPREC)");
            }
            self.after_index = false;
        } else {
            spec.precision = Some(self.number().unwrap_or(0));
        }
        let numeric = |arg: &Value| {
            matches!(
                arg,
                Value::Float(_) | Value::Int(_) | Value::Int64(_) | Value::List(_) | Value::Map(_)
            )
        };
        match spec.precision {
            Some(precision) if precision > MAX_PRECISION && self.args.iter().any(numeric) => {
                Err(format!(
                    "a precision of {precision} digits is too large; {MAX_PRECISION} is the most"
                ))
            }
            _ => Ok(()),
        }
    }

    /// `[n]`: the next argument is the n-th.
    fn index(&mut self) {
        if self.peek() != Some(b'[') {
            self.after_index = false;
            return;
        }
        self.reordered = true;
        let rest = &self.format[self.at..];
        let Some(close) = rest.find(']').filter(|_| rest.len() >= 3) else {
            self.good_index = false;
            self.after_index = false;
            self.at += 1;
            return;
        };
        self.at += close + 1;
        let digits = &rest[1..close];
        let number = Some(digits)
            .filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| digits.parse::<usize>().ok());
        self.after_index = number.is_some();
        match number.and_then(|number| number.checked_sub(1)) {
            Some(index) if index < self.args.len() => self.next = index,
            _ => self.good_index = false,
        }
    }

    /// The integer that a `*` stands for.
    fn argument(&mut self) -> Option<i64> {
        let arg = self.args.get(self.next)?;
        self.next += 1;
        match arg {
            Value::Int(number) | Value::Int64(number) => Some(*number),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<usize> {
        let digits = self.format[self.at..]
            .bytes()
            .take_while(u8::is_ascii_digit)
            .count();
        let text = &self.format[self.at..self.at + digits];
        self.at += digits;
        (digits > 0).then(|| text.parse().unwrap_or(usize::MAX))
    }
}
