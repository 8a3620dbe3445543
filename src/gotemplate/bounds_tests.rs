//! Templates that mean harm: each ends soon, on a small stack, in little memory, with an
//! error that says where and what to do.

use proptest::prelude::*;

use super::{Error, Functions, Limits, Template, Value};

/// The stack of a thread that renders; the operator's threads have 2 MiB.
const STACK_BYTES: usize = 1 << 20;

fn render(text: &str) -> Result<String, Error> {
    let functions = Functions::standard();
    let data = Value::structure([("Name", "llama".into())]);
    Template::parse("key", text, &functions)?.render(&data, &functions, &Limits::default())
}

/// Renders on a small stack: an overflow ends the whole test program.
fn render_small(text: String) -> Result<String, Error> {
    std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || render(&text))
        .unwrap()
        .join()
        .unwrap()
}

#[track_caller]
fn refused(text: &str, why: &str) -> Error {
    let Err(error) = render_small(text.to_owned()) else {
        panic!("rendered: {}", text.chars().take(200).collect::<String>());
    };
    assert!(error.message.contains(why), "{error}");
    assert!(error.to_string().len() < 1500, "an error is not a dump");
    error
}

fn else_ifs(count: usize) -> String {
    let mut text = "{{ if false }}a".to_owned();
    text.push_str(&"{{ else if false }}b".repeat(count));
    text + "{{ else }}c{{ end }}"
}

fn nested(open: &str, inner: &str, close: &str, depth: usize) -> String {
    open.repeat(depth) + inner + &close.repeat(depth)
}

#[test]
fn a_chain_of_else_ifs_counts_as_nesting() {
    assert_eq!(render_small(else_ifs(50)).unwrap(), "c");
    let error = refused(&else_ifs(4_000), "nested more than 64 deep");
    assert_eq!((error.line, error.column), (1, 16 + 62 * 20 + 10));
    let withs = "{{ with false }}".to_owned() + &"{{ else with false }}".repeat(5_000);
    refused(&withs, "nested more than 64 deep");
}

#[test]
fn every_kind_of_nesting_ends_at_the_same_depth() {
    for (open, inner, close) in [
        ("{{ if true }}", "x", "{{ end }}"),
        ("{{ with 1 }}", "x", "{{ end }}"),
        ("{{ range until 1 }}", "x", "{{ end }}"),
        ("{{ if false }}{{ else }}", "x", "{{ end }}"),
    ] {
        assert_eq!(render_small(nested(open, inner, close, 63)).unwrap(), "x");
        refused(&nested(open, inner, close, 65), "nested more than 64 deep");
        refused(
            &nested(open, inner, close, 2_000),
            "nested more than 64 deep",
        );
    }
    let parentheses = |depth| format!("{{{{ {} }}}}", nested("(", "1", ")", depth));
    assert_eq!(render_small(parentheses(63)).unwrap(), "1");
    refused(&parentheses(20_000), "nested more than 64 deep");
    let defines = nested("{{ define \"a\" }}", "x", "{{ end }}", 3_000);
    refused(&defines, "templates are defined outside of blocks");
}

#[test]
fn templates_and_blocks_share_one_depth_when_they_run() {
    let blocks = nested("{{ if true }}", "{{ template \"t\" . }}", "{{ end }}", 60);
    let error = refused(
        &format!("{{{{ define \"t\" }}}}{blocks}{{{{ end }}}}\n{{{{ template \"t\" . }}}}"),
        "blocks and templates are nested more than 100 deep",
    );
    assert_eq!(error.line, 1);
    // Each name calls the next, from inside parentheses and blocks.
    let mut text = String::new();
    for index in 0..500 {
        text.push_str(&format!(
            "{{{{ define \"t{index}\" }}}}{{{{ if ((true)) }}}}{{{{ template \"t{}\" . }}}}{{{{ end }}}}{{{{ end }}}}\n",
            index + 1
        ));
    }
    refused(
        &(text + "{{ template \"t0\" . }}"),
        "blocks and templates are nested more than 100 deep",
    );
}

#[test]
fn a_value_that_doubles_is_stopped_whatever_doubles_it() {
    for grow in [
        "print $x $x",
        "printf \"%s%s\" $x $x",
        "printf \"%v\" (list $x $x)",
        "cat $x $x",
        "quote $x $x",
        "println $x $x",
        "list $x $x | join \"\"",
        "list \"a\" \"b\" \"c\" \"d\" | join $x",
        "replace \"a\" \"aa\" $x",
        "replace \"\" \"bb\" $x",
        "repeat 2 $x",
        "(print $x \"\\n\") | nindent 900",
        "js (print $x \"=<\")",
    ] {
        let text = format!(
            "{{{{ $x := \"a\" }}}}\n{{{{ range until 60 }}}}{{{{ $x = {grow} }}}}{{{{ end }}}}"
        );
        let error = refused(&text, " bytes");
        assert_eq!(error.line, 2, "{error}");
    }
}

#[test]
fn a_list_or_dict_that_doubles_or_nests_is_stopped() {
    for (grow, why) in [
        ("list $x $x", "larger than 1048576 bytes"),
        ("dict \"a\" $x \"b\" $x", "larger than 1048576 bytes"),
        ("append $x $x", "larger than 1048576 bytes"),
        ("list $x", "more than 64 deep in each other"),
        ("dict \"a\" $x", "more than 64 deep in each other"),
        ("append (list) $x", "more than 64 deep in each other"),
    ] {
        refused(
            &format!(
                "{{{{ $x := list 1 }}}}{{{{ range until 9000 }}}}{{{{ $x = {grow} }}}}{{{{ end }}}}"
            ),
            why,
        );
    }
}

#[test]
fn one_call_cannot_multiply_two_large_arguments() {
    let large = |call: &str| {
        format!(
            "{{{{ $a := repeat 300000 \"a\" }}}}{{{{ $b := repeat 300000 \"b\" }}}}{{{{ $n := repeat 300000 \"\\n\" }}}}{{{{ {call} }}}}"
        )
    };
    for call in [
        "replace \"a\" $b $a",
        "replace \"\" $b $a",
        "join $a (splitList \"\" \"abcdefgh\")",
        "splitList \"\" $a",
        "splitList \"a\" $a",
        "indent 1000 $n",
        "nindent 9223372036854775807 $n",
        "repeat 9223372036854775807 $a",
        "print $a $a $a $a",
    ] {
        refused(&large(call), "larger than 1048576 bytes");
    }
    let columns = format!("printf (repeat 1100 \"%1000d\"){}", " 1".repeat(1100));
    refused(&large(&columns), "larger than 1048576 bytes");
    assert_eq!(render(&large("trimAll $b $a | len")).unwrap(), "300000");
}

#[test]
fn widths_and_precisions_are_capped() {
    for (call, why) in [
        ("printf \"%*d\" 2000000000 1", "a width of 2000000000"),
        ("printf \"%-*s\" -2000000000 \"a\"", "a width of 2000000000"),
        ("printf \"%2000000000d\" 1", "a width of 2000000000"),
        ("printf \"%99999999999999999999d\" 1", "a width of"),
        ("printf \"%.99999f\" 1.5", "a precision of 99999"),
        ("printf \"%.*g\" 99999 1.5", "a precision of 99999"),
        ("printf \"%.70000e\" 1.5", "a precision of 70000"),
    ] {
        let error = refused(&format!("a\n {{{{ {call} }}}}"), why);
        assert_eq!((error.line, error.column), (2, 5), "{error}");
    }
    assert_eq!(render("{{ printf \"%[2]d%[1]d\" 1 2 }}").unwrap(), "21");
    assert_eq!(render("{{ printf \"%*d|\" 4 1 }}").unwrap(), "   1|");
    assert_eq!(render("{{ printf \"%*d|\" -4 1 }}").unwrap(), "1   |");
    assert_eq!(render("{{ printf \"%.*f\" 2 1.5 }}").unwrap(), "1.50");
    assert_eq!(render("{{ printf \"%.3s\" \"abcd\" }}").unwrap(), "abc");
}

#[test]
fn numbers_at_their_ends_neither_panic_nor_count_for_ever() {
    const MIN: &str = "(int (sub -9223372036854775807 1))";
    refused(&format!("{{{{ until {MIN} }}}}"), "10000 are the most");
    refused("{{ until 10001 }}", "10000 are the most");
    refused("{{ until -10001 }}", "10000 are the most");
    refused(
        "{{ range 9223372036854775807 }}{{ end }}",
        "more than 200000 steps",
    );
    assert_eq!(
        render(&format!("{{{{ range {MIN} }}}}x{{{{ end }}}}")).unwrap(),
        ""
    );
    assert_eq!(
        render(&format!("{{{{ div {MIN} -1 }}}} {{{{ mod {MIN} -1 }}}}")).unwrap(),
        "-9223372036854775808 0"
    );
    refused("{{ div 1 0 }}", "division by zero");
    assert_eq!(
        render(&format!("{{{{ trunc {MIN} \"ab\" }}}}")).unwrap(),
        "ab"
    );
    refused(&format!("{{{{ repeat {MIN} \"a\" }}}}"), "negative count");
}

#[test]
fn work_is_counted_by_steps_and_by_bytes_copied() {
    let error = refused(
        "\n{{ range 10000 }}{{ len (until 10000) }}{{ end }}",
        " bytes of values made in one rendering",
    );
    assert_eq!(error.line, 2);
    refused(
        "{{ range 10000 }}{{ range 10000 }}{{ end }}{{ end }}",
        "more than 200000 steps",
    );
    let literal = "a".repeat(500_000);
    refused(
        &format!("{{{{ range 10000 }}}}{{{{ $x := len \"{literal}\" }}}}{{{{ end }}}}"),
        " bytes of values made in one rendering",
    );
    refused(
        &format!(
            "{{{{ $x := \"{literal}\" }}}}{{{{ range 10000 }}}}{{{{ $y := $x }}}}{{{{ end }}}}"
        ),
        " bytes of values made in one rendering",
    );
    refused(
        &format!("{{{{ range 10000 }}}}{literal}{{{{ end }}}}"),
        "more than 1048576 bytes of output",
    );
}

#[test]
fn a_template_has_a_bounded_number_of_tokens_and_variables() {
    refused(&"{{.}}".repeat(200_000), "more than 50000 words and signs");
    refused(
        &format!("{{{{ print {} }}}}", "1 ".repeat(400_000)),
        "more than 50000 words and signs",
    );
    refused(
        &"x{{/**/}}".repeat(100_000),
        "more than 50000 words and signs",
    );
    let declarations: String = (0..300).map(|n| format!("{{{{ $v{n} := 1 }}}}")).collect();
    refused(&declarations, "more than 256 variables");
}

#[test]
fn a_megabyte_of_one_thing_is_read_in_one_pass() {
    // Each of these was, or could be, looked at again for every token.
    for text in [
        format!("{{{{ print {} }}}}", "00 ".repeat(16_000)),
        "{{ ".repeat(300_000),
        "(".repeat(1_000_000),
        "{{ (".to_owned() + &"(".repeat(1_000_000),
        "{{- /* */ -}} ".repeat(70_000),
        format!("{{{{ {} }}}}", "a".repeat(1_000_000)),
        format!("{{{{ .{} }}}}", ".a".repeat(20_000)),
    ] {
        let _ = render_small(text);
    }
}

/// Programs that are grammatical, so that they get far: nested blocks around statements
/// that make values larger.
fn programs() -> impl Strategy<Value = String> {
    let name = prop_oneof![Just("$x"), Just("$y"), Just("."), Just("$")];
    let literal = prop_oneof![
        Just("\"a\\nb\""),
        Just("9223372036854775807"),
        Just("-9223372036854775808"),
        Just("1e300"),
        Just("7"),
        Just("true"),
        Just("nil"),
        Just("(list 1 \"b\")"),
        Just("(dict \"k\" 1)"),
        Just("\"%*d %.*g %q %v\""),
    ];
    let value = prop_oneof![2 => name.boxed(), 1 => literal.boxed()];
    let function = proptest::sample::select(vec![
        "print",
        "printf",
        "println",
        "list",
        "dict",
        "append",
        "join",
        "splitList",
        "replace",
        "repeat",
        "nindent",
        "indent",
        "quote",
        "squote",
        "cat",
        "index",
        "slice",
        "len",
        "until",
        "add",
        "sub",
        "mul",
        "div",
        "mod",
        "max",
        "trunc",
        "trimAll",
        "first",
        "last",
        "rest",
        "initial",
        "reverse",
        "has",
        "get",
        "values",
        "default",
        "ternary",
        "coalesce",
        "and",
        "or",
        "not",
        "eq",
        "lt",
        "html",
        "js",
        "urlquery",
        "b64enc",
        "sha256sum",
        "title",
        "kebabcase",
        "snakecase",
        "upper",
        "int",
        "float64",
        "toString",
    ]);
    let call = (function, prop::collection::vec(value, 0..4))
        .prop_map(|(function, args)| format!("{function} {}", args.join(" ")));
    let piped = prop::collection::vec(call, 1..4).prop_map(|calls| calls.join(" | "));
    let statement = prop_oneof![
        piped.clone().prop_map(|call| format!("{{{{ {call} }}}}")),
        piped
            .clone()
            .prop_map(|call| format!("{{{{ $x = {call} }}}}")),
        piped
            .clone()
            .prop_map(|call| format!("{{{{ $y = {call} }}}}")),
        Just("{{ $x = print $x $x }}".to_owned()),
        Just("{{ $y = list $y $x }}".to_owned()),
        Just("{{ template \"t\" $x }}".to_owned()),
        Just("text\n".to_owned()),
    ];
    let body = statement.prop_recursive(12, 60, 4, move |inner| {
        let inner = prop::collection::vec(inner, 1..4).prop_map(|parts| parts.concat());
        prop_oneof![
            inner
                .clone()
                .prop_map(|body| format!("{{{{ range 50 }}}}{body}{{{{ end }}}}")),
            inner
                .clone()
                .prop_map(|body| format!("{{{{ range $i, $e := $x }}}}{body}{{{{ end }}}}")),
            (piped.clone(), inner.clone())
                .prop_map(|(call, body)| format!("{{{{ with {call} }}}}{body}{{{{ end }}}}")),
            (inner.clone(), inner).prop_map(|(a, b)| format!(
                "{{{{ if $x }}}}{a}{{{{ else if $y }}}}{b}{{{{ else }}}}{a}{{{{ end }}}}"
            )),
        ]
    });
    (body.clone(), body).prop_map(|(defined, body)| {
        let start = "{{ $x := \"a\" }}{{ $y := list 1 }}";
        format!("{{{{ define \"t\" }}}}{start}{defined}{{{{ end }}}}{start}{body}")
    })
}

proptest! {
    #[test]
    fn any_text_ends_without_a_panic(text in "\\PC{0,60}|(\\{\\{|\\}\\}|[ -~\n]){0,60}") {
        let _ = render(&text);
    }

    #[test]
    fn any_program_ends_within_the_bounds(text in programs()) {
        if let Ok(out) = render_small(text) {
            prop_assert!(out.len() <= Limits::default().output_bytes);
        }
    }

    #[test]
    fn any_nesting_ends_without_an_overflow(
        opens in prop::collection::vec(
            proptest::sample::select(vec![
                "{{ if true }}", "{{ if false }}{{ else }}", "{{ with 1 }}", "{{ range 2 }}",
                "{{ else if true }}", "{{ define \"t\" }}", "{{ block \"t\" . }}",
                "{{ template \"t\" . }}", "{{ print ((((1)))) }}", "{{ end }}", "{{ else }}",
            ]),
            0..400,
        ),
        closed in any::<bool>(),
    ) {
        let mut text = opens.concat();
        if closed {
            text.push_str(&"{{ end }}".repeat(opens.len()));
        }
        let _ = render_small(text);
    }
}
