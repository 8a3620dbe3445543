//! Edits keep every byte they do not name.

use proptest::prelude::*;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::*;

fn edit(text: &str, change: impl FnOnce(&mut Object<'_>)) -> String {
    let mut object = Object::read(text.as_bytes()).unwrap();
    change(&mut object);
    object.to_string()
}

#[test]
fn a_new_member_goes_behind_the_last_one() {
    let set = |text: &str| edit(text, |object| object.set("k", "1"));
    assert_eq!(set("{}"), r#"{"k":1}"#);
    assert_eq!(set(" {\n} "), " {\"k\":1\n} ");
    assert_eq!(set("{ \"a\" : 2 }\n"), "{ \"a\" : 2,\"k\":1 }\n");
}

#[test]
fn a_member_is_replaced_in_its_place_and_its_duplicates_go() {
    let set = |text: &str| edit(text, |object| object.set("k", "{}"));
    assert_eq!(
        set(r#"{"a":1, "k" : [2], "b":3}"#),
        r#"{"a":1, "k" : {}, "b":3}"#
    );
    assert_eq!(
        set(r#"{"k":1,"a":12345678901234567890123, "\u006b": 2}"#),
        r#"{"k":{},"a":12345678901234567890123}"#
    );
}

#[test]
fn a_removed_member_takes_one_comma_with_it() {
    let remove = |text: &str| {
        edit(text, |object| {
            object.remove("k");
        })
    };
    assert_eq!(remove(r#"{"k":1}"#), "{}");
    assert_eq!(remove(r#"{ "k":1, "a":2 }"#), r#"{ "a":2 }"#);
    assert_eq!(remove(r#"{ "a":2 , "k":1 }"#), r#"{ "a":2 }"#);
    assert_eq!(
        remove(r#"{"a":1,"k":2, "b":"}\",{"}"#),
        r#"{"a":1, "b":"}\",{"}"#
    );
    assert_eq!(remove(r#"{"a":1,"k":1,"k":1}"#), r#"{"a":1}"#);
    assert_eq!(remove(r#"{"a":{"k":1}}"#), r#"{"a":{"k":1}}"#);
}

#[test]
fn nested_objects_are_made_where_they_are_missing_or_null() {
    let path = ["usage", "details", "cached"];
    let set = |text: &str| edit(text, |object| object.set_in(&path, "7").unwrap());
    assert_eq!(
        set(r#"{"usage":{"p":1, "details":{"cached":0,"x":[]}}}"#),
        r#"{"usage":{"p":1, "details":{"cached":7,"x":[]}}}"#
    );
    assert_eq!(
        set(r#"{"usage": {"details":null, "p":1}}"#),
        r#"{"usage": {"details":{"cached":7}, "p":1}}"#
    );
    assert_eq!(set("{}"), r#"{"usage":{"details":{"cached":7}}}"#);
    let mut object = Object::read(br#"{"usage":[1]}"#).unwrap();
    assert_eq!(
        object.set_in(&path, "7"),
        Err(Error::MemberNotAnObject {
            key: "usage".to_owned()
        })
    );
}

#[test]
fn a_nested_member_is_removed_from_every_duplicate() {
    let text = r#"{"x":{"k":1,"a":2},"x":{"k":3}, "x":4}"#;
    let mut object = Object::read(text.as_bytes()).unwrap();
    assert!(object.remove_in(&["x", "k"]).unwrap());
    assert_eq!(object.to_string(), r#"{"x":{"a":2},"x":{}, "x":4}"#);
    assert!(!object.remove_in(&["x", "k"]).unwrap());
}

#[test]
fn reading_sees_edits_and_takes_the_last_duplicate() {
    let mut object = Object::read(br#"{"a":1,"a":2,"b":{"c":{"d":3}}}"#).unwrap();
    assert_eq!(object.get("a"), Some("2"));
    assert_eq!(object.get_in(&["b", "c", "d"]).as_deref(), Some("3"));
    assert_eq!(object.get_in(&["a", "c"]), None);
    object.set("a", "9");
    object.set("n", "8");
    assert_eq!((object.get("a"), object.get("n")), (Some("9"), Some("8")));
    object.remove("a");
    assert_eq!(object.get("a"), None);
    object.set("a", "5");
    assert_eq!(
        object.to_string(),
        r#"{"b":{"c":{"d":3}},"n":8,"a":5}"#,
        "a removed member that is set again is a new one"
    );
}

#[test]
fn what_is_no_object_is_said() {
    let error = |text: &[u8]| Object::read(text).unwrap_err();
    for text in ["[1]", "1", "\"{}\"", "null", " true"] {
        assert_eq!(error(text.as_bytes()), Error::NotAnObject, "{text}");
    }
    for text in [
        "",
        "{",
        "{\"a\":1",
        "{\"a\" 1}",
        "{} {}",
        "{\"a\":}",
        "{\"a\":1,}",
    ] {
        assert!(
            error(text.as_bytes())
                .to_string()
                .starts_with("invalid JSON at line 1"),
            "{text}"
        );
    }
    assert_eq!(
        error(b"{\n \"a\":1 2}").to_string(),
        "invalid JSON at line 2 column 8: expected `,` or the closing bracket"
    );
    let many: Vec<String> = (0..=MAX_MEMBERS).map(|n| format!("\"{n}\":0")).collect();
    let many = format!("{{{}}}", many.join(","));
    assert_eq!(error(many.as_bytes()), Error::TooManyMembers);
}

#[test]
fn what_only_some_parsers_take_is_edited_as_well() {
    let edit = |text: &[u8]| {
        let mut object = Object::read(text).unwrap();
        object.set("k", "1");
        object.remove("gone");
        object.to_bytes()
    };
    assert_eq!(
        edit(b"\xef\xbb\xbf{\"a\":NaN,\"gone\":-Infinity,\"b\":\"\xff\"}"),
        b"\xef\xbb\xbf{\"a\":NaN,\"b\":\"\xff\",\"k\":1}"
    );
    assert_eq!(edit(b"{\"a\":[tru e]}"), b"{\"a\":[tru e],\"k\":1}");
    let mut object = Object::read(b"{\"x\":{\"a\":\"\xff\"},\"y\":\"\xff\"}").unwrap();
    assert_eq!(object.get("y"), None, "no UTF-8");
    assert_eq!(object.get_bytes("y"), Some(&b"\"\xff\""[..]));
    object.set_in(&["x", "b"], "2").unwrap();
    assert_eq!(
        object.to_bytes(),
        b"{\"x\":{\"a\":\"\xff\",\"b\":2},\"y\":\"\xff\"}"
    );
    assert!(object.remove_in(&["x", "a"]).unwrap());
    assert_eq!(object.get_in(&["x", "b"]).as_deref(), Some("2"));
}

/// A key as written in the text, and what it means.
fn key() -> impl Strategy<Value = (String, String)> {
    prop_oneof![
        4 => "[a-e]".prop_map(|key| (format!("\"{key}\""), key)),
        1 => "[a-e]".prop_map(|key| {
            let code = u32::from(key.chars().next().expect("one letter"));
            (format!("\"\\u{code:04x}\""), key)
        }),
        1 => any::<String>().prop_map(|key| {
            (serde_json::to_string(&key).expect("a text is JSON"), key)
        }),
    ]
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "-?[1-9][0-9]{0,30}(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?",
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).expect("a text is JSON")),
        Just(r#""a\"},{\\""#.to_owned()),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| format!("[{}]", items.join(" , "))),
            prop::collection::vec((key(), inner), 0..4).prop_map(|items| {
                let items: Vec<String> = items
                    .into_iter()
                    .map(|((key, _), value)| format!("{key}: {value}"))
                    .collect();
                format!("{{ {} }}", items.join(","))
            }),
        ]
    })
}

type Parts = Vec<((String, String), String)>;

/// An object's text, and its members as (meaning of key, raw value).
fn object() -> impl Strategy<Value = (String, Vec<(String, String)>)> {
    let blank = || "[ \t\n\r]{0,2}";
    let members = prop::collection::vec((key(), value()), 0..7);
    (members, prop::collection::vec(blank(), 32)).prop_map(|(members, blanks): (Parts, _)| {
        let mut blanks = blanks.into_iter().cycle();
        let mut blank = move || blanks.next().expect("endless");
        let mut text = format!("{}{{", blank());
        for (at, ((key, _), value)) in members.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            text += &format!(
                "{comma}{}{key}{}:{}{value}{}",
                blank(),
                blank(),
                blank(),
                blank()
            );
        }
        text += &format!("}}{}", blank());
        let means = members.into_iter().map(|((_, key), value)| (key, value));
        (text, means.collect())
    })
}

/// The same edit on a plain list.
fn set_in_list(list: &mut Vec<(String, String)>, key: &str, value: &str) {
    let Some(first) = list.iter().position(|(name, _)| name == key) else {
        list.push((key.to_owned(), value.to_owned()));
        return;
    };
    list[first].1 = value.to_owned();
    let mut at = 0;
    list.retain(|(name, _)| {
        at += 1;
        at - 1 <= first || name != key
    });
}

/// The members as serde finds them, duplicates and all.
fn list(text: &str) -> Vec<(String, String)> {
    serde_json::from_str::<Found>(text).unwrap().0
}

struct Found(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Found {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Found;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
                let mut found = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    found.push((key, value.get().to_owned()));
                }
                Ok(Found(found))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

proptest! {
    #[test]
    fn without_edits_the_text_stays((text, _) in object()) {
        prop_assert_eq!(edit(&text, |_| {}), text);
    }

    #[test]
    fn edits_mean_what_they_mean_on_a_list(
        (text, members) in object(),
        edits in prop::collection::vec(("[a-g]", prop::option::of(value())), 0..6),
    ) {
        let mut want = members;
        let got = edit(&text, |object| for (key, value) in &edits {
            if let Some(value) = value {
                object.set(key, value);
                set_in_list(&mut want, key, value);
            } else {
                let there = want.iter().any(|(name, _)| name == key);
                assert_eq!(object.remove(key), there);
                want.retain(|(name, _)| name != key);
            }
            let last = want.iter().rev().find(|(name, _)| name == key);
            assert_eq!(object.get(key), last.map(|(_, value)| value.as_str()));
        });
        // Raw values are compared as text, so big integers count to the last digit.
        prop_assert_eq!(list(&got), want);
    }

    #[test]
    fn an_edit_and_its_undoing_leave_the_text((text, members) in object(), value in value()) {
        prop_assume!(members.iter().all(|(key, _)| key != "k"));
        let set = edit(&text, |object| object.set("k", &value));
        let undone = edit(&set, |object| { object.remove("k"); });
        prop_assert_eq!(undone, text);
    }

    #[test]
    fn nested_edits_agree_with_serde(members in prop::collection::vec(("[a-c]", -9_i64..9), 0..4), null in any::<bool>()) {
        let inner: serde_json::Map<String, serde_json::Value> =
            members.into_iter().map(|(key, value)| (key, value.into())).collect();
        let mut tree = serde_json::json!({"x": 1, "u": {"d": if null { serde_json::Value::Null } else { inner.into() }, "p": 2}});
        let got = edit(&tree.to_string(), |object| object.set_in(&["u", "d", "b"], "77").unwrap());
        tree["u"]["d"]["b"] = 77.into();
        prop_assert_eq!(got, tree.to_string());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "[{}\\[\\]\",:a\\\\0 ]{0,24}") {
        for body in [bytes.as_slice(), text.as_bytes()] {
            if let Ok(mut object) = Object::read(body) {
                object.set("a", "1");
                let edited = object.to_bytes();
                let again = Object::read(&edited).unwrap();
                prop_assert_eq!(again.get("a"), Some("1"));
            }
        }
    }
}
