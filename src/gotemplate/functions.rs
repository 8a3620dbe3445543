//! The functions templates may call, by family. PURE.
//!
//! A name that is not here is refused when the template is parsed; the names in
//! `refused.rs` with the reason. Every function says which types it takes, as Go's have
//! types, so that each may rely on them.

mod builtin;
mod collections;
mod conversions;
mod decimal;
mod dicts;
mod encode;
mod json;
mod numbers;
mod paths;
mod patterns;
mod refused;
mod text;
mod words;
mod yaml;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub(super) use conversions::integer;

use super::Value;
use super::value;

/// What a function gives, or why it cannot.
pub(super) type Outcome = Result<Value, String>;
type Own = Arc<dyn Fn(&[Value]) -> Outcome + Send + Sync>;

/// What a function may use beside its arguments: compiled patterns, and a budget for work
/// that its result does not show.
#[derive(Default)]
pub(super) struct Work {
    patterns: HashMap<String, patterns::Pattern>,
    /// Bytes' worth of work that may be done.
    pub(super) left: usize,
    /// What was done of it in this call.
    pub(super) taken: usize,
}

impl Work {
    fn take(&mut self, bytes: usize) -> Result<(), String> {
        self.taken = self.taken.saturating_add(bytes);
        if self.taken <= self.left {
            return Ok(());
        }
        Err("more work than one rendering may do; use a shorter text or a simpler pattern".into())
    }
}

#[derive(Clone)]
enum Run {
    Plain(fn(&[Value]) -> Outcome),
    Busy(fn(&mut Work, &[Value]) -> Outcome),
    Own(Own),
}

/// A function and its parameters: one letter each, see [`Functions::add`].
#[derive(Clone)]
struct Function {
    parameters: &'static str,
    run: Run,
}

/// A table of functions.
#[derive(Clone)]
pub struct Functions {
    table: HashMap<&'static str, Function>,
}

impl std::fmt::Debug for Functions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Functions")
            .field("count", &self.table.len())
            .finish()
    }
}

impl Functions {
    /// Go's builtins and sprig's text functions.
    pub fn standard() -> Self {
        let mut functions = Self {
            table: HashMap::new(),
        };
        builtin::add(&mut functions);
        collections::add(&mut functions);
        conversions::add(&mut functions);
        dicts::add(&mut functions);
        encode::add(&mut functions);
        json::add(&mut functions);
        numbers::add(&mut functions);
        paths::add(&mut functions);
        patterns::add(&mut functions);
        text::add(&mut functions);
        words::add(&mut functions);
        yaml::add(&mut functions);
        functions
    }

    /// Adds one function; it may hold state.
    pub fn with<F>(mut self, name: &'static str, function: F) -> Self
    where
        F: Fn(&[Value]) -> Result<Value, String> + Send + Sync + 'static,
    {
        let function = Function {
            parameters: "a*",
            run: Run::Own(Arc::new(function)),
        };
        self.table.insert(name, function);
        self
    }

    /// Adds a function with its parameters: `a` anything, `s` text, `i` int, `b` bool, `f`
    /// float, `m` map; a `*` after the last one means any number of it.
    fn add(&mut self, name: &'static str, parameters: &'static str, run: fn(&[Value]) -> Outcome) {
        let run = Run::Plain(run);
        self.table.insert(name, Function { parameters, run });
    }

    fn busy(
        &mut self,
        name: &'static str,
        parameters: &'static str,
        run: fn(&mut Work, &[Value]) -> Outcome,
    ) {
        let run = Run::Busy(run);
        self.table.insert(name, Function { parameters, run });
    }

    /// The same function by another name.
    fn alias(&mut self, name: &'static str, of: &str) {
        if let Some(function) = self.table.get(of).cloned() {
            self.table.insert(name, function);
        }
    }

    /// Says why a name cannot be called.
    pub(super) fn check(&self, name: &str) -> Result<(), String> {
        if self.table.contains_key(name) || matches!(name, "and" | "or" | "include") {
            return Ok(());
        }
        match refused::why(name) {
            Some(why) => Err(format!("function {name:?} is refused: it {why}")),
            None => Err(format!("function {name:?} not defined{}", self.near(name))),
        }
    }

    /// A known name that differs by case or by a letter or two.
    fn near(&self, name: &str) -> String {
        let lower = name.to_lowercase();
        let mut names: Vec<_> = self.table.keys().copied().collect();
        names.sort_unstable();
        let found = names.iter().find(|known| {
            let known = known.to_lowercase();
            known == lower || known == format!("{lower}s") || lower == format!("{known}s")
        });
        found.map_or_else(String::new, |known| format!("; did you mean {known}?"))
    }

    /// Calls a function; `literal` says which arguments are constants of the template, which
    /// Go fits to the parameter's type.
    pub(super) fn call(
        &self,
        name: &str,
        work: &mut Work,
        mut args: Vec<Value>,
        literal: &[bool],
    ) -> Outcome {
        let Some(function) = self.table.get(name) else {
            return Err("not defined".to_owned());
        };
        check_types(function.parameters, &mut args, literal)?;
        match &function.run {
            Run::Plain(run) => run(&args),
            Run::Busy(run) => run(work, &args),
            Run::Own(run) => run(&args),
        }
    }
}

fn check_types(parameters: &str, args: &mut [Value], literal: &[bool]) -> Result<(), String> {
    let fixed = parameters.trim_end_matches('*');
    let variadic = fixed.len() < parameters.len();
    let least = fixed.len() - usize::from(variadic);
    let got = args.len();
    if got < least || (!variadic && got > least) {
        let at_least = if variadic { "at least " } else { "" };
        return Err(format!(
            "wrong number of args: want {at_least}{least} got {got}"
        ));
    }
    for (index, arg) in args.iter_mut().enumerate() {
        let kind = fixed.as_bytes()[index.min(fixed.len() - 1)];
        let literal = literal.get(index).copied().unwrap_or(false);
        let wanted = match (kind, &*arg) {
            (b'a', _) | (b'm', Value::Map(_) | Value::Nil) => continue,
            (b's', Value::String(_)) | (b'i', Value::Int(_)) => continue,
            (b'b', Value::Bool(_)) | (b'f', Value::Float(_)) => continue,
            (b'f', Value::Int(number)) if literal => {
                *arg = Value::Float(*number as f64);
                continue;
            }
            (b'i', Value::Float(number)) if literal && number.fract() == 0.0 => {
                *arg = Value::Int(*number as i64);
                continue;
            }
            (b's', _) => "string",
            (b'i', _) => "int",
            (b'b', _) => "bool",
            (b'f', _) => "float64",
            _ => "map[string]interface {}",
        };
        return Err(match arg {
            Value::Nil => format!("invalid value; expected {wanted}"),
            _ => format!(
                "wrong type for value; expected {wanted}; got {}",
                arg.type_name()
            ),
        });
    }
    Ok(())
}

/// A text argument; its type was checked.
fn string(value: &Value) -> &str {
    match value {
        Value::String(text) => text,
        _ => "",
    }
}

/// An int argument; its type was checked.
fn int(value: &Value) -> i64 {
    match value {
        Value::Int(number) => *number,
        _ => 0,
    }
}

/// A map argument's entries; its type was checked, and nil counts as empty.
fn fields(value: &Value) -> BTreeMap<String, Value> {
    match value {
        Value::Map(dict) => dict.entries(),
        _ => BTreeMap::new(),
    }
}

fn items<'v>(what: &str, value: &'v Value) -> Result<&'v [Value], String> {
    match value {
        Value::List(list) => Ok(&list.items),
        other => Err(format!(
            "cannot {what} on type {}; a list is wanted",
            other.kind()
        )),
    }
}

/// Whether a text of so many bytes, or a list that weighs as much, may be made. For
/// functions whose result can be many times their arguments; all results are checked again
/// when they are made.
fn room(bytes: usize) -> Result<(), String> {
    if bytes <= value::MAX_BYTES {
        Ok(())
    } else {
        Err(value::too_large())
    }
}

/// A part of a text by bytes, as Go cuts; inside a character it would be no text any more.
fn cut(text: &str, from: usize, to: usize) -> Result<String, String> {
    match text.get(from..to) {
        Some(part) => Ok(part.to_owned()),
        None if from > to || to > text.len() => {
            Err(format!("slice bounds out of range [{from}:{to}]"))
        }
        None => Err(format!(
            "[{from}:{to}] cuts a character in two; positions count bytes"
        )),
    }
}
