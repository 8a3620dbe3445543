//! Any bytes as a request body: everything of it is read, it is edited, and where a strict
//! parser takes it, both agree. The first byte picks the API and where the body is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llm_d_operator::openai::api::Api;
use llm_d_operator::openai::request::Request;
use llm_d_operator::openai::scan::{End, Members};
use llm_d_operator::openai::splice::Object;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, body)) = bytes.split_first() else {
        return;
    };
    let paths = Api::paths();
    let api = paths.get(usize::from(*first) % (paths.len() + 1));
    read(api.map(|(_, api)| *api), body);
    scan(body);
    splice(body);
});

fn read(api: Option<Api>, body: &[u8]) {
    let request = Request::read(api, body, true);
    let _ = (request.model(), request.streams(), request.streams_usage());
    let _ = (request.max_tokens(), request.cache_salt(), request.messages());
    let _ = (request.prompt_count(), request.one_transfer());
    let Some(prompt) = request.prompt() else {
        return;
    };
    let _ = prompt.chars();
    let all = prompt.prefix_bytes(usize::MAX).into_owned();
    for limit in [0, 1, 7, 64] {
        let some = prompt.prefix_bytes(limit);
        assert!(some.len() <= limit && all.starts_with(&some));
    }
}

/// What serde reads as an object has the same members here.
fn scan(body: &[u8]) {
    let Ok(Value::Object(want)) = serde_json::from_slice(body) else {
        return;
    };
    let mut members = Members::of(body).expect("serde sees an object");
    let mut got = serde_json::Map::new();
    for member in members.by_ref() {
        assert!(member.value.is_whole());
        let value = serde_json::from_slice(member.value.bytes()).expect("serde took it before");
        if let Value::String(text) = &value {
            assert_eq!(*member.value.text().expect("a text"), **text);
            assert_eq!(member.value.text_chars(), Some(text.chars().count()));
        }
        got.insert(member.key.decode().into_owned(), value);
    }
    assert!(matches!(members.end(), Some(End::Closed(_))));
    assert_eq!(got, want);
}

fn splice(body: &[u8]) {
    let Ok(mut object) = Object::read(body) else {
        assert!(!serde_json::from_slice(body).is_ok_and(|value: Value| {
            value.as_object().is_some_and(|it| it.len() < 1000)
        }));
        return;
    };
    assert_eq!(object.to_bytes(), body, "without edits nothing changes");
    object.set("max_tokens", "1");
    object.remove("stream");
    let nested = object.set_in(&["sampling_params", "max_tokens"], "1");
    let _ = object.remove_in(&["vllm_xargs", "kv_transfer_params"]);
    let edited = object.to_bytes();
    let again = Object::read(&edited).expect("an edited object is one");
    assert_eq!(again.get("max_tokens"), Some("1"));
    assert_eq!(again.get("stream"), None);
    let Ok(Value::Object(mut want)) = serde_json::from_slice(body) else {
        return;
    };
    want.insert("max_tokens".to_owned(), 1.into());
    want.shift_remove("stream");
    if nested.is_ok() {
        let params = want.entry("sampling_params").or_insert(Value::Null);
        if params.is_null() {
            *params = serde_json::json!({});
        }
        params["max_tokens"] = 1.into();
    }
    if let Some(Value::Object(arguments)) = want.get_mut("vllm_xargs") {
        arguments.remove("kv_transfer_params");
    }
    let got: Value = serde_json::from_slice(&edited).expect("strict before, strict after");
    assert_eq!(got, Value::Object(want));
}
