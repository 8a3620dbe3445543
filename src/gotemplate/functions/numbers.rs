//! sprig's arithmetic. PURE.

use super::super::Value;
use super::super::value::Of;
use super::conversions::{to_float, to_int};
use super::decimal::Decimal;
use super::{Functions, Outcome, int};

/// Numbers that `until` counts.
const MAX_UNTIL: usize = 10_000;

pub(super) fn add(functions: &mut Functions) {
    functions.add("add", "a*", |args| {
        Ok(Value::Int64(
            args.iter().map(to_int).fold(0, i64::wrapping_add),
        ))
    });
    functions.add("add1", "a", |args| {
        Ok(Value::Int64(to_int(&args[0]).wrapping_add(1)))
    });
    functions.add("mul", "aa*", |args| {
        Ok(Value::Int64(
            args.iter().map(to_int).fold(1, i64::wrapping_mul),
        ))
    });
    functions.add("sub", "aa", |args| pair(args, |a, b| Ok(a.wrapping_sub(b))));
    functions.add("div", "aa", |args| {
        pair(args, |a, b| nonzero(b).map(|b| a.wrapping_div(b)))
    });
    functions.add("mod", "aa", |args| {
        pair(args, |a, b| nonzero(b).map(|b| a.wrapping_rem(b)))
    });
    functions.add("max", "aa*", |args| {
        Ok(Value::Int64(args.iter().map(to_int).max().unwrap_or(0)))
    });
    functions.alias("biggest", "max");
    functions.add("min", "aa*", |args| {
        Ok(Value::Int64(args.iter().map(to_int).min().unwrap_or(0)))
    });
    functions.add("maxf", "aa*", |args| Ok(fold(args, f64::max)));
    functions.add("minf", "aa*", |args| Ok(fold(args, f64::min)));
    functions.add("floor", "a", |args| {
        Ok(Value::Float(to_float(&args[0]).floor()))
    });
    functions.add("ceil", "a", |args| {
        Ok(Value::Float(to_float(&args[0]).ceil()))
    });
    functions.add("round", "aif*", |args| Ok(round(args)));
    functions.add("add1f", "a", |args| {
        decimals(&[args[0].clone(), Value::Int(1)], Decimal::add)
    });
    functions.add("addf", "a*", |args| {
        let mut all = vec![Value::Int(0)];
        all.extend_from_slice(args);
        decimals(&all, Decimal::add)
    });
    functions.add("subf", "aa*", |args| decimals(args, Decimal::sub));
    functions.add("mulf", "aa*", |args| decimals(args, Decimal::mul));
    functions.add("divf", "aa*", |args| decimals(args, Decimal::div));
    functions.add("until", "i", |args| {
        let count = int(&args[0]);
        numbers(0, count, if count < 0 { -1 } else { 1 }).map(list)
    });
    functions.add("untilStep", "iii", |args| {
        numbers(int(&args[0]), int(&args[1]), int(&args[2])).map(list)
    });
    functions.add("seq", "i*", seq);
}

fn list(numbers: Vec<i64>) -> Value {
    Value::list_of(Of::Int, numbers.into_iter().map(Value::Int).collect())
}

fn nonzero(divisor: i64) -> Result<i64, String> {
    if divisor == 0 {
        return Err("division by zero".to_owned());
    }
    Ok(divisor)
}

fn pair(args: &[Value], of: impl Fn(i64, i64) -> Result<i64, String>) -> Outcome {
    Ok(Value::Int64(of(to_int(&args[0]), to_int(&args[1]))?))
}

/// NaN wins, as in Go.
fn fold(args: &[Value], of: fn(f64, f64) -> f64) -> Value {
    let join = |a: f64, b: f64| {
        if a.is_nan() || b.is_nan() {
            f64::NAN
        } else {
            of(a, b)
        }
    };
    Value::Float(args.iter().map(to_float).reduce(join).unwrap_or(0.0))
}

/// sprig's own rule: up from the given fraction, which is a half unless a third argument
/// says otherwise; of negative numbers too.
fn round(args: &[Value]) -> Value {
    let up_from = args.get(2).map_or(0.5, to_float);
    let power = 10f64.powf(int(&args[1]) as f64);
    let digits = power * to_float(&args[0]);
    let rounded = if digits.fract() >= up_from {
        digits.ceil()
    } else {
        digits.floor()
    };
    Value::Float(rounded / power)
}

fn decimals(args: &[Value], of: fn(Decimal, Decimal) -> Result<Decimal, String>) -> Outcome {
    let mut result = Decimal::new(to_float(&args[0]))?;
    for next in &args[1..] {
        result = of(result, Decimal::new(to_float(next))?)?;
    }
    Ok(Value::Float(result.to_float()))
}

/// From `start` to before `stop`.
fn numbers(start: i64, stop: i64, step: i64) -> Result<Vec<i64>, String> {
    let mut out = Vec::new();
    if (stop < start && step >= 0) || (stop >= start && step <= 0) {
        return Ok(out);
    }
    let mut at = start;
    while if step > 0 { at < stop } else { at > stop } {
        if out.len() == MAX_UNTIL {
            return Err(format!(
                "so many numbers are too many; {MAX_UNTIL} are the most"
            ));
        }
        out.push(at);
        match at.checked_add(step) {
            Some(next) => at = next,
            None => break,
        }
    }
    Ok(out)
}

/// Like the command: first, step and last, with a step of 1 or -1 where none is given.
fn seq(args: &[Value]) -> Outcome {
    let given: Vec<i64> = args.iter().map(int).collect();
    let toward = |start: i64, end: i64| if end < start { -1 } else { 1 };
    let (start, step, end) = match given[..] {
        [end] => (1, toward(1, end), end),
        [start, end] => (start, toward(start, end), end),
        [start, step, end] if end < start && step > 0 => (start, step, start),
        [start, step, end] => (start, step, end),
        _ => return Ok("".into()),
    };
    if given.len() == 3 && given[2] < start && step > 0 {
        return Ok("".into());
    }
    let stop = end.saturating_add(toward(start, end));
    let texts: Vec<_> = numbers(start, stop, step)?
        .iter()
        .map(i64::to_string)
        .collect();
    Ok(texts.join(" ").into())
}
