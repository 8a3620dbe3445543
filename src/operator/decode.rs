//! The YAML text of one base config value -> a typed Kubernetes object. PURE.
//!
//! Real base configs rely on loose decoding: `value: true` in env, duplicate keys, fields
//! that do not exist, keys followed by nothing. All of it is understood the way the user
//! meant it, guided by the schema of the target type; what is dropped becomes a warning.
#![deny(clippy::disallowed_methods)]

mod lines;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use self::lines::line_of;
pub use self::lines::{Lines, line_of_field, line_of_item};

/// Unknown fields of one value that are told one by one; the rest is a number.
const MAX_WARNINGS: usize = 20;

/// Why a value could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not YAML.
    #[error("{key}{at}: not valid YAML: {message}", at = at(*line))]
    Syntax {
        /// Key in the ConfigMap.
        key: String,
        /// Line in the rendered value, from 1.
        line: Option<u64>,
        /// What the parser said.
        message: String,
    },
    /// A field has a value of the wrong kind.
    #[error("{key}{at}: {path}: {message}", at = at(*line))]
    Field {
        /// Key in the ConfigMap.
        key: String,
        /// Line in the rendered value, from 1, where it could be found.
        line: Option<u64>,
        /// Path of the field, such as `spec.replicas`.
        path: String,
        /// What is wrong with it.
        message: String,
    },
}

fn at(line: Option<u64>) -> String {
    line.map_or_else(String::new, |line| format!(" line {line}"))
}

/// Reads YAML into JSON. `None` for a value that is blank, null or only comments.
///
/// # Errors
/// When the text is not YAML.
pub fn yaml(key: &str, text: &str) -> Result<Option<Value>, Error> {
    if text
        .lines()
        .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
    {
        return Ok(None);
    }
    let options = serde_yaml::options! {
        duplicate_keys: serde_yaml::options::DuplicateKeyPolicy::LastWins,
        // `on` and `yes` stay the words the user wrote.
        strict_booleans: true,
        with_snippet: false,
    };
    let value: Value =
        serde_yaml::from_str_with_options(text, options).map_err(|error| Error::Syntax {
            key: key.to_owned(),
            line: error.location().map(|location| location.line()),
            message: error.to_string(),
        })?;
    Ok(Some(value).filter(|value| !value.is_null()))
}

/// JSON -> `T`, with scalars turned into strings where `T` wants strings, nulls dropped,
/// and unknown fields dropped with a warning each: the first 20, and then how many more. The
/// work grows with the size of the value and not faster.
///
/// # Errors
/// When a field has a value `T` cannot take.
pub fn typed<T>(key: &str, text: &str, value: Value, warnings: &mut Vec<String>) -> Result<T, Error>
where
    T: DeserializeOwned + JsonSchema,
{
    let root = schema_of::<T>();
    let mut walk = Walk {
        key,
        text,
        root: &root,
        warnings,
        unknown: 0,
        path: Vec::new(),
    };
    let value = walk.fit(value, &root);
    walk.tell_the_rest();
    let value = value?.unwrap_or_else(|| Value::Object(Map::new()));
    serde_json::from_value(value).map_err(|error| Error::Field {
        key: key.to_owned(),
        line: None,
        path: "value".to_owned(),
        message: error.to_string(),
    })
}

/// The schema of a type, made once: making that of a Deployment costs more than reading one.
fn schema_of<T: JsonSchema>() -> Arc<Value> {
    static MADE: LazyLock<Mutex<HashMap<String, Arc<Value>>>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let schema = made.entry(T::schema_id().into_owned()).or_insert_with(|| {
        let settings = schemars::generate::SchemaSettings::draft2020_12();
        let schema = settings.into_generator().into_root_schema_for::<T>();
        Arc::new(schema.to_value())
    });
    Arc::clone(schema)
}

struct Walk<'a> {
    key: &'a str,
    text: &'a str,
    root: &'a Value,
    warnings: &'a mut Vec<String>,
    /// Unknown fields so far.
    unknown: usize,
    path: Vec<String>,
}

impl<'a> Walk<'a> {
    /// Makes one value fit its schema; `None` when it is to be left out.
    fn fit(&mut self, value: Value, schema: &'a Value) -> Result<Option<Value>, Error> {
        if value.is_null() {
            return Ok(None);
        }
        let schema = deref(self.root, schema);
        if wants(schema, "string") && schema.get("x-kubernetes-int-or-string").is_none() {
            return self.string(value, schema).map(Some);
        }
        match value {
            Value::Object(fields) if schema.get("properties").is_some() => {
                self.object(fields, schema).map(Some)
            }
            Value::Object(fields) => match schema.get("additionalProperties") {
                Some(of) if of.is_object() => self.map(fields, of).map(Some),
                _ => Ok(Some(Value::Object(fields))),
            },
            Value::Array(items) if wants(schema, "array") => {
                let of = schema.get("items").unwrap_or(&Value::Bool(true));
                let mut out = Vec::with_capacity(items.len());
                for (index, item) in items.into_iter().enumerate() {
                    self.path.push(format!("[{index}]"));
                    // A null in a list of strings is an empty string.
                    let item = if item.is_null() && wants(deref(self.root, of), "string") {
                        Value::String(String::new())
                    } else {
                        item
                    };
                    out.extend(self.fit(item, of)?);
                    self.path.pop();
                }
                Ok(Some(Value::Array(out)))
            }
            other => self.check_kind(other, schema).map(Some),
        }
    }

    fn object(&mut self, fields: Map<String, Value>, schema: &'a Value) -> Result<Value, Error> {
        let mut out = Map::new();
        for (name, value) in fields {
            let known = schema["properties"].get(&name);
            self.path.push(name.clone());
            match known {
                Some(of) => {
                    if let Some(value) = self.fit(value, of)? {
                        out.insert(name, value);
                    }
                }
                // Parts of every object that the schema of a custom type may not list.
                None if self.path.len() == 1
                    && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") =>
                {
                    out.insert(name, value);
                }
                None => self.tell_unknown(),
            }
            self.path.pop();
        }
        Ok(Value::Object(out))
    }

    /// Finding a line reads the whole text, so only a few are looked for.
    fn tell_unknown(&mut self) {
        self.unknown += 1;
        if self.unknown <= MAX_WARNINGS {
            let at = at(self.line());
            self.warnings.push(format!(
                "{}{at}: unknown field {} was dropped",
                self.key,
                self.path_text()
            ));
        }
    }

    fn tell_the_rest(&mut self) {
        let more = self.unknown.saturating_sub(MAX_WARNINGS);
        if more > 0 {
            self.warnings.push(format!(
                "{}: and {more} more unknown fields were dropped",
                self.key
            ));
        }
    }

    fn map(&mut self, fields: Map<String, Value>, of: &'a Value) -> Result<Value, Error> {
        let mut out = Map::new();
        for (name, value) in fields {
            self.path.push(name.clone());
            // `labels: {a: }` means an empty value.
            let value = if value.is_null() && wants(deref(self.root, of), "string") {
                Value::String(String::new())
            } else {
                value
            };
            if let Some(value) = self.fit(value, of)? {
                out.insert(name, value);
            }
            self.path.pop();
        }
        Ok(Value::Object(out))
    }

    fn string(&self, value: Value, _schema: &Value) -> Result<Value, Error> {
        match value {
            Value::String(_) => Ok(value),
            Value::Bool(flag) => Ok(Value::String(flag.to_string())),
            Value::Number(number) => Ok(Value::String(number.to_string())),
            other => Err(self.wrong(&format!("a text is wanted, not {}", kind(&other)))),
        }
    }

    fn check_kind(&self, value: Value, schema: &Value) -> Result<Value, Error> {
        let fits = match schema.get("type") {
            None => true,
            Some(_) => match &value {
                Value::Number(number) => {
                    wants(schema, "number")
                        || (wants(schema, "integer") && (number.is_i64() || number.is_u64()))
                }
                Value::Bool(_) => wants(schema, "boolean"),
                Value::String(_) => wants(schema, "string"),
                Value::Array(_) => wants(schema, "array"),
                Value::Object(_) => wants(schema, "object"),
                Value::Null => true,
            },
        };
        if fits {
            return Ok(value);
        }
        let wanted = match &schema["type"] {
            Value::String(name) => name.clone(),
            Value::Array(names) => names
                .iter()
                .filter_map(Value::as_str)
                .filter(|name| *name != "null")
                .collect::<Vec<_>>()
                .join(" or "),
            _ => "another kind of value".to_owned(),
        };
        Err(self.wrong(&format!("{wanted} is wanted, not {}", kind(&value))))
    }

    fn wrong(&self, message: &str) -> Error {
        Error::Field {
            key: self.key.to_owned(),
            line: self.line(),
            path: self.path_text(),
            message: message.to_owned(),
        }
    }

    fn path_text(&self) -> String {
        self.path.join(".").replace(".[", "[")
    }

    fn line(&self) -> Option<u64> {
        line_of(self.text, &self.path)
    }
}

/// Follows references.
fn deref<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    let mut schema = schema;
    for _ in 0..8 {
        let target = schema.get("$ref").and_then(Value::as_str).or_else(|| {
            // `anyOf: [{$ref}, {type: null}]` is how an optional object looks.
            let options = schema.get("anyOf").and_then(Value::as_array)?;
            options
                .iter()
                .find_map(|option| option.get("$ref")?.as_str())
        });
        match target.and_then(|target| root.pointer(target.strip_prefix('#')?)) {
            Some(next) => schema = next,
            None => break,
        }
    }
    schema
}

fn wants(schema: &Value, kind: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(name)) => name == kind,
        Some(Value::Array(names)) => names.iter().any(|name| name == kind),
        _ => false,
    }
}

fn kind(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(flag) => format!("the truth value {flag}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text {text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::Deployment;

    fn read(text: &str) -> (Result<Deployment, Error>, Vec<String>) {
        let mut warnings = Vec::new();
        let value = match yaml("decodeDeployment", text) {
            Ok(value) => value.unwrap_or_default(),
            Err(error) => return (Err(error), warnings),
        };
        (
            typed("decodeDeployment", text, value, &mut warnings),
            warnings,
        )
    }

    #[test]
    fn scalars_become_strings_where_kubernetes_wants_strings() {
        let text = "metadata:\n  labels:\n    a: true\n    b:\nspec:\n  template:\n    spec:\n      containers:\n      - name: c\n        args: [1, 1.5, true, on]\n        env:\n        - name: E\n          value: true\n        resources:\n          limits:\n            nvidia.com/gpu: 4\n";
        let deployment = read(text).0.unwrap();
        let labels = deployment.metadata.labels.unwrap();
        assert_eq!(labels["a"], "true");
        assert_eq!(labels["b"], "");
        let container = &deployment.spec.template.spec.unwrap().containers[0];
        assert_eq!(
            container.args.as_ref().unwrap(),
            &["1", "1.5", "true", "on"]
        );
        assert_eq!(
            container.env.as_ref().unwrap()[0].value.as_deref(),
            Some("true")
        );
        assert_eq!(
            container
                .resources
                .as_ref()
                .unwrap()
                .limits
                .as_ref()
                .unwrap()["nvidia.com/gpu"]
                .0,
            "4"
        );
    }

    #[test]
    fn unknown_fields_are_dropped_with_a_warning_that_says_where() {
        let (result, warnings) = read("spec:\n  replicas: 2\n  nonsense: 1\n");
        assert_eq!(result.unwrap().spec.replicas, Some(2));
        assert_eq!(
            warnings,
            ["decodeDeployment line 3: unknown field spec.nonsense was dropped"]
        );
    }

    #[test]
    fn of_many_unknown_fields_the_first_are_told_and_the_rest_counted() {
        let fields: String = (0..60_000).map(|n| format!("  f{n}: 1\n")).collect();
        let (result, warnings) = read(&format!("spec:\n  replicas: 2\n{fields}"));
        assert_eq!(result.unwrap().spec.replicas, Some(2));
        assert_eq!(warnings.len(), 21);
        assert_eq!(
            warnings[0],
            "decodeDeployment line 3: unknown field spec.f0 was dropped"
        );
        assert_eq!(
            warnings[19],
            "decodeDeployment line 22: unknown field spec.f19 was dropped"
        );
        assert_eq!(
            warnings[20],
            "decodeDeployment: and 59980 more unknown fields were dropped"
        );
    }

    #[test]
    fn an_error_comes_with_the_warnings_before_it() {
        let fields: String = (0..25).map(|n| format!("  f{n}: 1\n")).collect();
        let (result, warnings) = read(&format!("spec:\n{fields}  replicas: two\n"));
        assert!(
            result
                .unwrap_err()
                .to_string()
                .contains(" line 27: spec.replicas")
        );
        assert_eq!(
            warnings[20],
            "decodeDeployment: and 5 more unknown fields were dropped"
        );
    }

    #[test]
    fn twenty_thousand_containers_are_read() {
        let containers: String = (0..20_000)
            .map(|n| format!("      - name: c{n}\n"))
            .collect();
        let text = format!("spec:\n  template:\n    spec:\n      containers:\n{containers}");
        let deployment = read(&text).0.unwrap();
        let containers = deployment.spec.template.spec.unwrap().containers;
        assert_eq!(containers.len(), 20_000);
        assert_eq!(containers[19_999].name, "c19999");
        let lines = Lines::new(&text);
        assert_eq!(lines.item(None, "c19999"), Some(20_004));
    }

    #[test]
    fn yaml_that_grows_or_nests_without_end_is_refused_with_key_and_line() {
        let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
        for n in 1..12 {
            let item = format!("*a{}, ", n - 1).repeat(9);
            laughs.push_str(&format!("a{n}: &a{n} [{item}]\n"));
        }
        let nested = format!("a: {}1{}\n", "[".repeat(5_000), "]".repeat(5_000));
        let indented: String = (0..3_000)
            .map(|n| format!("{}a:\n", " ".repeat(n)))
            .collect();
        for text in [laughs, nested, indented] {
            let error = yaml("decodeDeployment", &text).unwrap_err().to_string();
            assert!(error.starts_with("decodeDeployment line "), "{error}");
            assert!(error.len() < 1000, "{error}");
        }
    }

    #[test]
    fn a_text_where_a_number_belongs_names_key_line_and_field() {
        let error = read("spec:\n  replicas: \"two\"\n").0.unwrap_err();
        assert_eq!(
            error.to_string(),
            "decodeDeployment line 2: spec.replicas: integer is wanted, not the text \"two\""
        );
    }

    #[test]
    fn text_that_is_not_yaml_names_key_and_line() {
        let error = read("spec:\n  replicas: [1\n").0.unwrap_err();
        assert!(
            error.to_string().starts_with("decodeDeployment line "),
            "{error}"
        );
    }

    #[test]
    fn of_duplicate_keys_the_last_wins() {
        let deployment = read("spec:\n  replicas: 1\n  replicas: 3\n").0.unwrap();
        assert_eq!(deployment.spec.replicas, Some(3));
    }

    #[test]
    fn blank_and_comment_only_values_count_as_absent() {
        assert!(yaml("k", "\n # nothing\n").unwrap().is_none());
        assert!(yaml("k", "null").unwrap().is_none());
        assert!(yaml("k", "{}").unwrap().is_some());
    }
}
