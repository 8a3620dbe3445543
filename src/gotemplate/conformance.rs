//! Agreement with real Helm's output, case by case. Needs the conformance folder beside
//! the checkout, or `LLM_D_SHARED`; says so loudly and passes where there is neither.

use std::io::Write as _;
use std::path::PathBuf;

use serde_json::Value as Json;

use super::{Functions, Limits, Template, Value};

/// How many cases there are, at least: a file that lost its cases is not a success.
const CASES: usize = 73;

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
fn renders_what_helm_renders_and_refuses_what_helm_refuses() {
    let Some(cases) = cases() else {
        say("SKIPPED: gotemplate conformance: no ../shared beside the checkout, no LLM_D_SHARED");
        return;
    };
    let data = Value::from(cases["data"].clone());
    let functions = Functions::standard();
    let (mut agree, mut wrong) = (0, Vec::new());
    for case in cases["cases"].as_array().unwrap() {
        let template = case["template"].as_str().unwrap();
        let want = case["want"]["ok"].as_str();
        let got = Template::parse("case", template, &functions)
            .and_then(|parsed| parsed.render(&data, &functions, &Limits::default()));
        match (want, got) {
            (Some(want), Ok(got)) if want == got => agree += 1,
            (None, Err(_)) => agree += 1,
            (Some(want), got) => {
                wrong.push(format!("{template}\n   want {want:?}\n   got  {got:?}"));
            }
            (None, got) => wrong.push(format!("{template}\n   want an error\n   got  {got:?}")),
        }
    }
    say(&format!(
        "gotemplate conformance: {agree} agree, {} do not",
        wrong.len()
    ));
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(agree >= CASES, "only {agree} cases");
}
