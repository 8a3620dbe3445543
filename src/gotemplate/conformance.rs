//! Agreement with real Helm's output, case by case. Needs the conformance folder beside
//! the checkout, or `LLM_D_SHARED`; says so loudly and passes where there is neither.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use serde_json::Value as Json;

use super::{Functions, Limits, Template, Value};

/// Cases that Helm renders and this engine refuses, by the function refused, and how many.
/// A function that goes missing is not in here.
const REFUSED: &[(&str, usize)] = &[
    ("b64dec", 1),
    ("concat", 1),
    ("dig", 1),
    ("floor", 1),
    ("fromJson", 1),
    ("keys", 1),
    ("merge", 1),
    ("regexMatch", 1),
    ("required", 1),
    ("semverCompare", 1),
    ("seq", 1),
    ("toJson", 2),
    ("toPrettyJson", 1),
    ("toYaml", 2),
    ("typeOf", 1),
    ("untilStep", 1),
];

/// How many cases agree, at least: a file that lost its cases is not a success.
const AGREE: usize = 55;

/// `None` only where the whole folder is absent and nobody said where it is.
#[allow(clippy::disallowed_methods, reason = "a test reads its cases")]
fn cases() -> Option<Json> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let shared = match std::env::var_os("LLM_D_SHARED") {
        Some(folder) => PathBuf::from(folder),
        None if beside.exists() => beside,
        None => return None,
    };
    let path = shared.join("conformance/gotemplate/cases.json");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Some(serde_json::from_str(&text).unwrap())
}

/// Past the capture of the test harness, which hides what `eprintln!` prints.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[test]
fn renders_what_helm_renders_or_refuses_loudly() {
    let Some(cases) = cases() else {
        say("SKIPPED: gotemplate conformance: no ../shared beside the checkout, no LLM_D_SHARED");
        return;
    };
    let data = Value::from(cases["data"].clone());
    let functions = Functions::standard();
    let (mut agree, mut wrong) = (0, Vec::new());
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    for case in cases["cases"].as_array().unwrap() {
        let template = case["template"].as_str().unwrap();
        let want = case["want"]["ok"].as_str();
        let got = Template::parse("case", template, &functions)
            .and_then(|parsed| parsed.render(&data, &functions, &Limits::default()));
        match (want, got) {
            (Some(want), Ok(got)) if want == got => agree += 1,
            (Some(want), Ok(got)) => {
                wrong.push(format!("{template}\n   want {want:?}\n   got  {got:?}"));
            }
            (None, Err(_)) => agree += 1,
            (None, Ok(got)) => wrong.push(format!("{template}\n   want an error\n   got  {got:?}")),
            (Some(want), Err(error)) => match unknown_function(&error.message) {
                Some(name) => *refused.entry(name.to_owned()).or_default() += 1,
                None => wrong.push(format!("{template}\n   want {want:?}\n   got  {error}")),
            },
        }
    }
    say(&format!(
        "gotemplate conformance: {agree} agree, {} wrong, refused {refused:?}",
        wrong.len()
    ));
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    let expected: BTreeMap<String, usize> = REFUSED
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect();
    assert_eq!(
        refused, expected,
        "functions refused, and in how many cases"
    );
    assert!(agree >= AGREE, "only {agree} cases agree");
}

/// `nindent` of `function "nindent" not defined` or `function "nindent" is refused: …`.
fn unknown_function(message: &str) -> Option<&str> {
    let (name, rest) = message.strip_prefix("function \"")?.split_once('"')?;
    (rest == " not defined" || rest.starts_with(" is refused")).then_some(name)
}
