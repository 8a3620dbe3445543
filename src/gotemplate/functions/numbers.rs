//! sprig's arithmetic and conversions. PURE.

use super::super::Value;
use super::{Functions, Outcome, exactly};

/// Numbers that `until` counts.
const MAX_UNTIL: u64 = 10_000;

pub(super) fn add(functions: &mut Functions) {
    functions.add("int", |args| {
        exactly::<1>(args).map(|[value]| Value::Int(to_int(value)))
    });
    functions.add("int64", |args| {
        exactly::<1>(args).map(|[value]| Value::Int(to_int(value)))
    });
    functions.add("float64", |args| {
        exactly::<1>(args).map(|[value]| Value::Float(to_float(value)))
    });
    functions.add("add", |args| {
        Ok(Value::Int(args.iter().fold(0, |sum: i64, value| {
            sum.wrapping_add(to_int(value))
        })))
    });
    functions.add("add1", |args| {
        exactly::<1>(args).map(|[value]| Value::Int(to_int(value).wrapping_add(1)))
    });
    functions.add("mul", |args| {
        Ok(Value::Int(args.iter().fold(1, |product: i64, value| {
            product.wrapping_mul(to_int(value))
        })))
    });
    functions.add("sub", |args| pair(args, |a, b| Ok(a.wrapping_sub(b))));
    functions.add("div", |args| {
        pair(args, |a, b| nonzero(b).map(|b| a.wrapping_div(b)))
    });
    functions.add("mod", |args| {
        pair(args, |a, b| nonzero(b).map(|b| a.wrapping_rem(b)))
    });
    functions.add("max", |args| {
        Ok(Value::Int(
            args.iter().map(to_int).max().ok_or("wants a number")?,
        ))
    });
    functions.add("min", |args| {
        Ok(Value::Int(
            args.iter().map(to_int).min().ok_or("wants a number")?,
        ))
    });
    functions.add("until", |args| {
        let [count] = exactly::<1>(args)?;
        let count = to_int(count);
        if count.unsigned_abs() > MAX_UNTIL {
            return Err(format!(
                "{count} numbers are too many; {MAX_UNTIL} are the most"
            ));
        }
        let range: Vec<Value> = if count >= 0 {
            (0..count).map(Value::Int).collect()
        } else {
            (count + 1..=0).rev().map(Value::Int).collect()
        };
        Ok(Value::List(range))
    });
}

fn nonzero(divisor: i64) -> Result<i64, String> {
    if divisor == 0 {
        return Err("division by zero".to_owned());
    }
    Ok(divisor)
}

fn pair(args: &[Value], of: impl Fn(i64, i64) -> Result<i64, String>) -> Outcome {
    let [a, b] = exactly::<2>(args)?;
    Ok(Value::Int(of(to_int(a), to_int(b))?))
}

/// As cast.ToInt64: what cannot be a number is 0.
fn to_int(value: &Value) -> i64 {
    match value {
        Value::Int(number) => *number,
        Value::Float(number) => *number as i64,
        Value::Bool(flag) => i64::from(*flag),
        Value::String(text) => text.parse().unwrap_or(0),
        _ => 0,
    }
}

fn to_float(value: &Value) -> f64 {
    match value {
        Value::Int(number) => *number as f64,
        Value::Float(number) => *number,
        Value::Bool(flag) => f64::from(u8::from(*flag)),
        Value::String(text) => text.parse().unwrap_or(0.0),
        _ => 0.0,
    }
}
