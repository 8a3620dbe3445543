//! What strict parsers read is read alike; what they refuse costs nothing more.

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// A key, its raw value, and whether that is whole.
type Found = (String, Vec<u8>, bool);

/// The members, and how the object ended.
fn members(text: &[u8]) -> (Vec<Found>, Option<End>) {
    let Some(mut members) = Members::of(text) else {
        return (Vec::new(), None);
    };
    let found = members.by_ref().map(|member| {
        let at = member.value_start;
        let bytes = member.value.bytes();
        assert_eq!(&text[at..at + bytes.len()], bytes, "offsets are right");
        assert_eq!(text[member.start], b'"');
        let key = member.key.decode().into_owned();
        (key, bytes.to_vec(), member.value.is_whole())
    });
    (found.collect(), members.end())
}

/// One line for the members.
fn shown(text: &[u8]) -> String {
    let (members, end) = members(text);
    let members: Vec<_> = members
        .into_iter()
        .map(|(key, value, whole)| {
            let cut = if whole { "" } else { "…" };
            format!("{key}={}{cut}", String::from_utf8_lossy(&value))
        })
        .collect();
    let end = match end {
        None => "no object".to_owned(),
        Some(End::Closed(_)) => "closed".to_owned(),
        Some(End::Cut) => "cut".to_owned(),
        Some(End::Broken { at, .. }) => format!("broken at {at}"),
    };
    format!("{} {end}", members.join(" "))
}

fn value(text: &str) -> Raw<'_> {
    let mut members = Members::of(text.as_bytes()).unwrap();
    members.next().unwrap().value
}

#[test]
fn what_python_reads_is_read() {
    assert_eq!(shown(b"{}"), " closed");
    assert_eq!(
        shown(b"\xef\xbb\xbf \t\r\n{ \"a\" : NaN,\n\"b\":-Infinity , \"a\":1e5 } "),
        "a=NaN b=-Infinity a=1e5 closed"
    );
    assert_eq!(
        shown(br#"{"\u006bey":"\ud83d\ude00","x":[{"}":"]"},[[]]],"y":"\\"}"#),
        r#"key="\ud83d\ude00" x=[{"}":"]"},[[]]] y="\\" closed"#
    );
}

#[test]
fn of_what_no_parser_reads_the_beginning_is_read() {
    for (text, want) in [
        ("", " no object"),
        ("[1]", " no object"),
        ("{", " cut"),
        (r#"{"a"#, " cut"),
        (r#"{"a" 1}"#, " broken at 5"),
        (r#"{"a":}"#, " broken at 5"),
        (r#"{"a":1 "b":2}"#, "a=1 broken at 7"),
        (r#"{"a":1,}"#, "a=1 broken at 7"),
        (r#"{,"a":1}"#, " broken at 1"),
        (r"{'a':1}", " broken at 1"),
        (r#"{"a":1]"#, "a=1 broken at 6"),
        (r#"{"a":1,"b":12"#, "a=1 b=12… cut"),
        (r#"{"a":"x\""#, r#"a="x\"… cut"#),
        (r#"{"a":"x\"#, r#"a="x\… cut"#),
        ("{\0\"\0a\0\"\0:\0x\0}\0", " broken at 1"),
        ("{\u{a0}\"a\":1}", " broken at 1"),
        (r#"{"a":[{"b":[1]}"#, r#"a=[{"b":[1]}… cut"#),
    ] {
        assert_eq!(shown(text.as_bytes()), want, "{text}");
    }
}

#[test]
fn texts_are_read_with_all_escapes() {
    for (raw, want) in [
        (r#""""#, ""),
        (r#""a\n\t\r\b\f\"\\\/""#, "a\n\t\r\u{8}\u{c}\"\\/"),
        (r#""\u00e9\uD83D\uDE00é""#, "é😀é"),
        (r#""\ud83dx""#, "\u{fffd}x"),
        (r#""\ude00""#, "\u{fffd}"),
        (r#""\ud83d\u0041""#, "\u{fffd}A"),
        (r#""\uZZZZ\q""#, "\u{fffd}ZZZZq"),
    ] {
        let text = format!("{{\"a\":{raw}}}");
        assert_eq!(value(&text).text().unwrap(), want, "{raw}");
    }
    assert_eq!(value(r#"{"a":1}"#).text(), None);
    let (members, _) = members(b"{\"a\":\"x\xff\"}");
    assert_eq!(members[0].1, b"\"x\xff\"");
    let mut broken = Members::of(b"{\"a\":\"x\xff\\n\"}").unwrap();
    assert_eq!(broken.next().unwrap().value.text().unwrap(), "x\u{fffd}\n");
}

#[test]
fn a_text_that_is_cut_is_the_beginning_of_the_text() {
    let whole = r#"{"a":"aé\n\ud83d\ude00\u00e9 😀z"}"#;
    let want = value(whole).text().unwrap().into_owned();
    for cut in 6..whole.len() - 2 {
        let mut members = Members::of(&whole.as_bytes()[..cut]).unwrap();
        let got = members.next().unwrap().value;
        assert!(!got.is_whole());
        let got = got.text().unwrap();
        assert!(want.starts_with(&*got), "cut at {cut}: {got:?}");
    }
}

#[test]
fn what_is_inside_a_longer_list_begins_as_in_a_shorter_one() {
    let inside = |text: &'static str| value(text).inside();
    assert_eq!(inside(r#"{"a": [ 1, [2] ] }"#), b"1, [2]");
    assert_eq!(inside(r#"{"a":"x y "}"#), b"x y ");
    assert_eq!(inside(r#"{"a":[ 1, [2"#), b"1, [2");
    assert_eq!(inside(r#"{"a":[]}"#), b"");
    for text in [
        r#"{"a":[1,2]}"#,
        r#"{"a":"x"}"#,
        r#"{"a":{}}"#,
        r#"{"a":1}"#,
    ] {
        assert_eq!(Raw::again(value(text).bytes()), value(text), "{text}");
    }
    for cut in [r#"{"a":"#, r#"{"a":""#, r#"{"a":[1,"x""#, r#"{"a":[1"#] {
        let mut members = Members::of(cut.as_bytes()).unwrap();
        if let Some(member) = members.next() {
            assert_eq!(Raw::again(member.value.bytes()), member.value, "{cut}");
        }
    }
}

/// Any JSON, with texts that look like structure.
fn json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![any::<String>(), "[a-e]{0,3}", "[\\[\\]{}\",:\\\\]{0,9}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let object = prop::collection::btree_map(text.clone(), inner.clone(), 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..6).prop_map(Value::from),
            object.prop_map(|object| object.into_iter().collect()),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    let key = prop_oneof![any::<String>(), "[a-e]{1,2}"];
    prop::collection::vec((key, json()), 0..8).prop_map(|members| members.into_iter().collect())
}

/// The value with everything in it read by the scanner.
fn rebuilt(raw: Raw<'_>) -> Value {
    assert!(raw.is_whole());
    if let Some(mut members) = raw.members() {
        let object = members
            .by_ref()
            .map(|member| (member.key.decode().into_owned(), rebuilt(member.value)))
            .collect();
        assert_eq!(members.end(), Some(End::Closed(raw.bytes().len())));
        return object;
    }
    if let Some(elements) = raw.elements() {
        return elements.map(rebuilt).collect();
    }
    match raw.text() {
        Some(text) => {
            assert_eq!(raw.text_chars(), Some(text.chars().count()));
            text.into()
        }
        None => serde_json::from_slice(raw.bytes()).unwrap(),
    }
}

/// Every reading there is, of everything that is found.
fn read_all(text: &[u8]) {
    let Some(members) = Members::of(text) else {
        return;
    };
    for member in members {
        let _ = (member.key.decode(), member.key.short(3));
        for value in [member.value, Raw::again(member.value.bytes())] {
            let _ = (value.text(), value.text_chars(), value.inside());
            if let Some(elements) = value.elements() {
                assert!(elements.count() <= text.len());
            }
            if let Some(members) = value.members() {
                assert!(members.count() <= text.len());
            }
        }
    }
}

proptest! {
    #[test]
    fn objects_are_read_as_serde_reads_them(object in object(), pretty in any::<bool>()) {
        let text = if pretty {
            serde_json::to_string_pretty(&object)
        } else {
            serde_json::to_string(&object)
        }.unwrap();
        let list = format!("{{\"\":{text}}}");
        // What serde reads, not what it wrote: it rounds.
        let serde: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(rebuilt(value(&list)), serde);
    }

    #[test]
    fn characters_are_counted_as_they_are_read(
        pieces in prop::collection::vec(
            prop_oneof![
                Just("\\n"), Just("\\\\"), Just("\\u00e9"), Just("\\ud83d\\ude00"),
                Just("é"), Just("😀"), Just("plain text"), Just("\\\\\\\""),
            ],
            0..150,
        ),
    ) {
        let text = format!("{{\"\":\"{}\"}}", pieces.concat());
        let value = value(&text);
        prop_assert_eq!(value.text_chars(), Some(value.text().unwrap().chars().count()));
    }

    #[test]
    fn of_duplicates_the_last_one_counts(texts in prop::collection::vec(("[a-c]", -9_i64..9), 0..9)) {
        let written: Vec<_> = texts.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        let text = format!("{{{}}}", written.join(","));
        let serde: Value = serde_json::from_str(&text).unwrap();
        let list = format!("{{\"\":{text}}}");
        prop_assert_eq!(rebuilt(value(&list)), serde);
    }

    #[test]
    fn a_cut_leaves_what_was_complete(object in object(), at in 0.0..1.0_f64) {
        let text = object.to_string();
        let cut = &text.as_bytes()[..(at * text.len() as f64) as usize];
        let (all, _) = members(text.as_bytes());
        let (some, end) = members(cut);
        prop_assert!(end.is_none() || end == Some(End::Cut));
        for (at, (key, value, whole)) in some.iter().enumerate() {
            prop_assert_eq!(key, &all[at].0);
            prop_assert!(all[at].1.starts_with(value));
            prop_assert!(!whole || value == &all[at].1);
            prop_assert!(*whole || at + 1 == some.len(), "only the last one is cut");
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..99),
        text in "\\{\"[{}\\[\\]\",:a\\\\0u ]{0,40}",
    ) {
        read_all(&bytes);
        read_all(text.as_bytes());
        let mut after = b"{\"a\":\"".to_vec();
        after.extend(&bytes);
        read_all(&after);
    }
}

/// Hostile texts of about this length, each after the beginning of an object.
fn hostile(length: usize) -> Vec<Vec<u8>> {
    let pieces: &[&str] = &[
        "[",
        "{",
        "{\"a\":",
        "[[],",
        "{},",
        "\\",
        "\\\"",
        "\\u",
        "\\ud83d",
        "\"\",",
        "\"\":0,",
        "1,",
        "-",
        " ",
        "Y",
        "y_",
        "[1],",
        "{\"role\":\"system\"},",
        "\"\\u0061\":1,",
        "\"é\",",
    ];
    let mut texts = Vec::new();
    for piece in pieces {
        for begin in [
            "{",
            "{\"a\":[",
            "{\"a\":\"",
            "{\"messages\":[",
            "{\"prompt\":[",
            "{\"prompt\":\"",
            "{\"tools\":[],\"messages\":[",
        ] {
            texts.push((begin.to_owned() + &piece.repeat(length / piece.len())).into_bytes());
        }
    }
    texts
}

#[test]
fn no_text_costs_more_than_its_length() {
    for text in hostile(1 << 14) {
        let mut members = Members::of(&text).unwrap();
        let looked_at = work::of(|| members.by_ref().for_each(drop));
        let name = String::from_utf8_lossy(&text[..40]).into_owned();
        if members.end() == Some(End::Cut) {
            assert!(looked_at >= text.len(), "{name} was not read: {looked_at}");
        }
        assert!(
            looked_at <= 6 * text.len(),
            "{name} took {looked_at} of {}",
            text.len()
        );
    }
    for text in hostile(1 << 14) {
        let name = String::from_utf8_lossy(&text[..40]).into_owned();
        let looked_at = work::of(|| crate::openai::request::read_everything(&text));
        assert!(
            looked_at <= 200 * text.len(),
            "{name} took {looked_at} of {}",
            text.len()
        );
    }
}

#[test]
fn a_text_twice_as_long_takes_twice_the_work() {
    let work = |length| -> Vec<(String, usize)> {
        let count = |text: &Vec<u8>| {
            let name = String::from_utf8_lossy(&text[..40]).into_owned();
            (
                name,
                work::of(|| crate::openai::request::read_everything(text)),
            )
        };
        hostile(length).iter().map(count).collect()
    };
    for ((name, short), (_, long)) in work(1 << 13).into_iter().zip(work(1 << 14)) {
        assert!(
            long <= 2 * short + short / 8 + 4096,
            "{name}: {short}, then {long}"
        );
    }
}
