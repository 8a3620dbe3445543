//! The functions templates may call, by family. PURE.
//!
//! A name that is not here is refused when the template is parsed; the names in
//! [`REFUSED`] with the reason.

mod builtin;
mod collections;
mod numbers;
mod text;

use std::collections::HashMap;
use std::sync::Arc;

use super::Value;
use super::value;

/// What a function gives, or why it cannot.
pub(super) type Outcome = Result<Value, String>;
type Function = Arc<dyn Fn(&[Value]) -> Outcome + Send + Sync>;

/// Functions of sprig and Helm that are refused, and why.
const REFUSED: &[(&[&str], &str)] = &[
    (
        &["env", "expandenv"],
        "would show the operator's environment to whoever writes a template",
    ),
    (&["getHostByName"], "would ask the network"),
    (
        &[
            "now",
            "date",
            "dateInZone",
            "date_in_zone",
            "dateModify",
            "date_modify",
            "ago",
            "htmlDate",
            "htmlDateInZone",
            "toDate",
            "mustToDate",
            "mustDateModify",
            "must_date_modify",
            "unixEpoch",
            "duration",
            "durationRound",
        ],
        "depends on the time: the same template would render differently each time",
    ),
    (
        &[
            "randAlpha",
            "randAlphaNum",
            "randAscii",
            "randNumeric",
            "randBytes",
            "randInt",
            "uuidv4",
            "shuffle",
        ],
        "is random: the same template would render differently each time",
    ),
    (
        &[
            "genPrivateKey",
            "genCA",
            "genCAWithKey",
            "genSelfSignedCert",
            "genSelfSignedCertWithKey",
            "genSignedCert",
            "genSignedCertWithKey",
            "derivePassword",
            "buildCustomCert",
            "bcrypt",
            "htpasswd",
            "encryptAES",
            "decryptAES",
        ],
        "makes keys or secrets, which do not belong into a template",
    ),
    (
        &[
            "include", "tpl", "required", "lookup", "toYaml", "fromYaml", "toToml", "fail",
        ],
        "is not part of this template language (Helm has it)",
    ),
];

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
        text::add(&mut functions);
        numbers::add(&mut functions);
        collections::add(&mut functions);
        functions
    }

    /// Adds one function; it may hold state.
    pub fn with<F>(mut self, name: &'static str, function: F) -> Self
    where
        F: Fn(&[Value]) -> Result<Value, String> + Send + Sync + 'static,
    {
        self.table.insert(name, Arc::new(function));
        self
    }

    pub(super) fn add(&mut self, name: &'static str, function: fn(&[Value]) -> Outcome) {
        self.table.insert(name, Arc::new(function));
    }

    /// Says why a name cannot be called.
    pub(super) fn check(&self, name: &str) -> Result<(), String> {
        if self.table.contains_key(name) || matches!(name, "and" | "or") {
            return Ok(());
        }
        match REFUSED.iter().find(|(names, _)| names.contains(&name)) {
            Some((_, why)) => Err(format!("function {name:?} is refused: it {why}")),
            None => Err(format!("function {name:?} not defined")),
        }
    }

    pub(super) fn call(&self, name: &str, args: &[Value]) -> Outcome {
        match self.table.get(name) {
            Some(function) => function(args),
            None => Err("not defined".to_owned()),
        }
    }
}

/// Exactly `N` arguments.
fn exactly<const N: usize>(args: &[Value]) -> Result<&[Value; N], String> {
    args.try_into()
        .map_err(|_| format!("wrong number of args: want {N} got {}", args.len()))
}

fn int(value: &Value) -> Result<i64, String> {
    match value {
        Value::Int(number) => Ok(*number),
        Value::Float(number) => Ok(*number as i64),
        other => Err(format!("wants an integer, not {}", other.kind())),
    }
}

fn string(value: &Value) -> Result<&str, String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(format!(
            "wrong type for value; expected string; got {}",
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
