//! Agreement with real Helm's output, case by case. Needs the conformance folder beside
//! the checkout, or `LLM_D_SHARED`; says so loudly and passes where it is absent.

use std::path::PathBuf;

use serde_json::Value as Json;

use super::{Functions, Limits, Template, Value};

#[allow(clippy::disallowed_methods, reason = "a test reads its cases")]
fn cases() -> Option<Json> {
    let shared = std::env::var_os("LLM_D_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let text = std::fs::read_to_string(shared.join("conformance/gotemplate/cases.json")).ok()?;
    serde_json::from_str(&text).ok()
}

#[test]
fn renders_what_helm_renders_or_refuses_loudly() {
    let Some(cases) = cases() else {
        eprintln!("SKIPPED: no conformance/gotemplate/cases.json beside the checkout");
        return;
    };
    let data = Value::from(cases["data"].clone());
    let functions = Functions::standard();
    let (mut agree, mut refused, mut wrong) = (0, Vec::new(), Vec::new());
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
            (Some(_), Err(error))
                if error.message.contains("not defined")
                    || error.message.contains("is refused") =>
            {
                refused.push(format!("{template}: {error}"));
            }
            (Some(want), Err(error)) => {
                wrong.push(format!("{template}\n   want {want:?}\n   got  {error}"));
            }
        }
    }
    eprintln!(
        "gotemplate conformance: {agree} agree, {} refused, {} wrong",
        refused.len(),
        wrong.len()
    );
    for line in &refused {
        eprintln!("refused: {line}");
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
