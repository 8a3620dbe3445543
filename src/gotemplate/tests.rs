//! What users of templates see: output, and errors with a place.

use proptest::prelude::*;

use super::{Functions, Limits, Template, Value};

fn render(text: &str) -> Result<String, super::Error> {
    let functions = Functions::standard();
    let data = Value::structure([("HFModelName", "org/m".into()), ("ModelPath", "".into())]);
    Template::parse("decodeDeployment", text, &functions)?.render(
        &data,
        &functions,
        &Limits::default(),
    )
}

#[test]
fn an_unknown_field_names_key_line_column_and_what_there_is() {
    let error = render("spec:\n  x: {{ .Nope }}\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "decodeDeployment line 2 column 9: there is no field .Nope; known are .HFModelName, .ModelPath"
    );
}

#[test]
fn an_unknown_field_in_a_branch_not_taken_is_no_error() {
    assert_eq!(
        render("{{ if .HFModelName }}a{{ else }}{{ .Nope }}{{ end }}").unwrap(),
        "a"
    );
}

#[test]
fn unknown_and_refused_functions_are_found_before_anything_runs() {
    let error = render("{{ if false }}{{ lookup . }}{{ end }}").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("decodeDeployment line 1 column 18: function \"lookup\" is refused"),
        "{error}"
    );
    let error = render("{{ nonsense }}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "decodeDeployment line 1 column 4: function \"nonsense\" not defined"
    );
    assert!(
        render("{{ env \"HOME\" }}")
            .unwrap_err()
            .message
            .contains("environment")
    );
}

#[test]
fn functions_of_chance_time_secrets_and_the_world_are_refused_in_branches_never_taken() {
    for name in [
        "env",
        "expandenv",
        "getHostByName",
        "now",
        "date",
        "ago",
        "randAlphaNum",
        "randInt",
        "uuidv4",
        "shuffle",
        "genPrivateKey",
        "genSelfSignedCert",
        "bcrypt",
        "htpasswd",
        "derivePassword",
        "encryptAES",
    ] {
        let error = render(&format!(
            "{{{{ if false }}}}{{{{ {name} 1 }}}}{{{{ end }}}}"
        ));
        let message = error.unwrap_err().message;
        assert!(
            message.starts_with(&format!("function \"{name}\" is refused: it ")),
            "{message}"
        );
    }
}

#[test]
fn an_unclosed_block_is_named_where_it_opens() {
    let error = render("a\n{{ if .HFModelName }}").unwrap_err();
    assert_eq!((error.line, error.column), (2, 1));
}

#[test]
fn output_and_work_are_bounded() {
    assert!(render("{{ range until 10000 }}{{ range until 10000 }}x{{ end }}{{ end }}").is_err());
    assert!(
        render("{{ define \"t\" }}{{ template \"t\" . }}{{ end }}{{ template \"t\" . }}").is_err()
    );
}

proptest! {
    #[test]
    fn nothing_makes_the_engine_panic(text in "(\\{\\{|\\}\\}|-|[ .$a-z\"`()|:=0-9'\\\\\n]|if |end|range |else|printf |é){0,40}") {
        let _ = render(&text);
    }
}
