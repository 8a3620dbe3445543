//! sprig's arithmetic and conversions. PURE.

use super::super::Value;
use super::{Functions, Outcome, exactly};

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
        pair(args, |a, b| {
            a.checked_div(b).ok_or("division by zero".to_owned())
        })
    });
    functions.add("mod", |args| {
        pair(args, |a, b| {
            a.checked_rem(b).ok_or("division by zero".to_owned())
        })
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
        if count.abs() > 10_000 {
            return Err("list is too long".to_owned());
        }
        let range: Vec<Value> = if count >= 0 {
            (0..count).map(Value::Int).collect()
        } else {
            (count + 1..=0).rev().map(Value::Int).collect()
        };
        Ok(Value::List(range))
    });
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
