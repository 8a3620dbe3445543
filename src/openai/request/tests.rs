//! What is read of requests, API by API.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::openai::scan::work;

fn read(api: Api, body: &str) -> Request<'_> {
    Request::read(Some(api), body.as_bytes(), true)
}

/// A prompt in one line.
fn shown(api: Option<Api>, body: &str) -> String {
    let request = Request::read(api, body.as_bytes(), true);
    let count = request.prompt_count();
    let text = |raw: &[u8]| String::from_utf8_lossy(raw).into_owned();
    let prompt = match request.prompt() {
        None => "none".to_owned(),
        Some(Prompt::Text(text)) => format!("text {text}"),
        Some(Prompt::Tokens(tokens)) => format!("tokens {tokens:?}"),
        Some(Prompt::Chat {
            form,
            system,
            tools,
            messages,
        }) => format!(
            "{form:?} {} {} {}",
            system.map_or("-".to_owned(), text),
            tools.map_or("-".to_owned(), text),
            text(messages)
        ),
    };
    format!("{count}: {prompt}")
}

#[test]
fn only_what_is_needed_is_read() {
    let body = r#"{"model":"m\u0041","messages":[{"role":"user","content":"hi"}],"x":12345678901234567890123,"stream":true}"#;
    let request = read(Api::Chat, body);
    assert_eq!(request.model().unwrap(), "mA");
    assert!(request.streams());
    assert_eq!(request.prompt().unwrap().chars(), 2);
    assert_eq!(
        request.messages().unwrap(),
        br#"[{"role":"user","content":"hi"}]"#
    );
    assert_eq!(request.one_transfer(), Ok(()));
}

#[test]
fn a_request_that_an_engine_takes_is_read_whatever_its_fields_look_like() {
    let chat = |fields: &str| {
        let body = format!(r#"{{{fields}"messages":[{{"role":"user","content":"hello"}}]}}"#);
        let request = read(Api::Chat, &body);
        assert_eq!(request.prompt().unwrap().chars(), 5, "{fields}");
        assert_eq!(request.one_transfer(), Ok(()), "{fields}");
        let model = request.model().unwrap_or_default();
        format!(
            "{model} {:?} {} {}",
            request.max_tokens(),
            request.streams(),
            request.streams_usage()
        )
    };
    for (fields, want) in [
        (
            r#""model":"m","max_tokens":7,"max_tokens":9,"#,
            "m Some(9) false false",
        ),
        (
            r#""model":"m","temperature":NaN,"top_p":Infinity,"max_tokens":7,"#,
            "m Some(7) false false",
        ),
        (r#""model":"m","max_tokens":7.0,"#, "m Some(7) false false"),
        (r#""model":"m","max_tokens":"7","#, "m Some(7) false false"),
        (r#""max_tokens":7,"#, " Some(7) false false"),
        (
            r#""model":null,"max_tokens":null,"stream":null,"#,
            " None false false",
        ),
        (
            r#""model":7,"max_tokens":[7],"stream":{},"#,
            " None false false",
        ),
        (
            r#""stream":"True","stream_options":{"include_usage":1},"#,
            " None true true",
        ),
        (
            r#""stream":1,"stream_options":{"include_usage":"no"},"#,
            " None true false",
        ),
        (r#""stream":"on","stream_options":7,"#, " None true false"),
        (r#""stream":0,"stream_options":null,"#, " None false false"),
        (
            r#""max_tokens":-1,"seed":12345678901234567890123,"#,
            " None false false",
        ),
        (
            r#""max_completion_tokens":3,"max_tokens":7,"#,
            " Some(3) false false",
        ),
        (
            r#""max_completion_tokens":null,"max_tokens":1e2,"#,
            " Some(100) false false",
        ),
        (
            r#""n":"1","best_of":1.0,"use_beam_search":"false","#,
            " None false false",
        ),
    ] {
        assert_eq!(chat(fields), want, "{fields}");
    }
}

#[test]
fn what_is_no_object_has_no_fields() {
    for body in [
        "",
        "[]",
        "[{\"model\":\"m\"}]",
        "7",
        "\"{}\"",
        "null",
        "\u{0}\u{1}",
        "<html>",
    ] {
        let request = read(Api::Chat, body);
        assert!(
            request.model().is_none() && request.prompt().is_none(),
            "{body}"
        );
        assert_eq!(
            request.one_transfer(),
            Err(NotOneTransfer::Unreadable),
            "{body}"
        );
    }
}

#[test]
fn the_name_for_most_tokens_is_the_apis_own() {
    let body = r#"{"max_tokens":1,"max_completion_tokens":2,"max_output_tokens":3,"sampling_params":{"max_tokens":4}}"#;
    for (api, want) in [
        (Api::Chat, 2),
        (Api::Completions, 1),
        (Api::Messages, 1),
        (Api::Responses, 3),
        (Api::Generate, 4),
    ] {
        assert_eq!(read(api, body).max_tokens(), Some(want), "{api:?}");
    }
}

#[test]
fn every_form_of_a_prompt_is_understood() {
    let prompt = |body| shown(Some(Api::Completions), body);
    for (body, want) in [
        (r#"{"prompt":"a\nb"}"#, "1: text a\nb"),
        (r#"{"prompt":["a","b"]}"#, "2: text a"),
        (r#"{"prompt":["a"]}"#, "1: text a"),
        (r#"{"prompt":[1, 2,3.0 ]}"#, "1: tokens [1, 2, 3]"),
        (r#"{"prompt":[[3],[4],[5]]}"#, "3: tokens [3]"),
        (r#"{"prompt":[]}"#, "0: none"),
        (r#"{"prompt":[1,"x"]}"#, "1: none"),
        (r#"{"prompt":[4294967296]}"#, "1: none"),
        (r#"{"prompt":[4294967295]}"#, "1: tokens [4294967295]"),
        (r#"{"prompt":7}"#, "0: none"),
        (r#"{"prompt":null}"#, "0: none"),
        (r#"{"prompt":"a","prompt":["b"]}"#, "1: text b"),
        (r#"{"messages":[]}"#, "0: none"),
        ("{}", "0: none"),
    ] {
        assert_eq!(prompt(body), want, "{body}");
    }
}

#[test]
fn every_api_has_its_prompt_where_it_keeps_it() {
    let body = r#"{"messages":[1],"prompt":"p","input":"i","token_ids":[7],"system":"s","instructions":"o","tools":[2],"query":"q","documents":["d","e","f"]}"#;
    for (api, want) in [
        (Some(Api::Chat), "1: OpenAi - [2] [1]"),
        (Some(Api::RenderChat), "1: OpenAi - [2] [1]"),
        (Some(Api::Completions), "1: text p"),
        (Some(Api::RenderCompletions), "1: text p"),
        (Some(Api::Responses), r#"1: Responses "o" [2] "i""#),
        (Some(Api::Messages), r#"1: Anthropic "s" [2] [1]"#),
        (Some(Api::CountTokens), r#"1: Anthropic "s" [2] [1]"#),
        (Some(Api::Generate), "1: tokens [7]"),
        (Some(Api::Embeddings), "1: OpenAi - [2] [1]"),
        (Some(Api::Tokenize), "1: OpenAi - [2] [1]"),
        (Some(Api::Score), "3: text q"),
        (Some(Api::Rerank), "3: text q"),
        (None, r#"1: Anthropic "s" [2] [1]"#),
    ] {
        assert_eq!(shown(api, body), want, "{api:?}");
    }
    for (api, path) in Api::paths().iter().map(|(path, api)| (*api, path)) {
        assert_ne!(shown(Some(api), body), "0: none", "{path}");
        assert_eq!(shown(Some(api), "{}"), "0: none", "{path}");
    }
}

#[test]
fn the_other_forms_of_each_api() {
    for (api, body, want) in [
        (
            Some(Api::Responses),
            r#"{"input":[{"role":"user"}]}"#,
            r#"1: Responses - - [{"role":"user"}]"#,
        ),
        (Some(Api::Responses), r#"{"input":7}"#, "0: none"),
        (
            Some(Api::Messages),
            r#"{"system":null,"tools":null,"messages":[]}"#,
            "1: Anthropic - - []",
        ),
        (Some(Api::Chat), r#"{"messages":"hi"}"#, "0: none"),
        (Some(Api::Generate), r#"{"token_ids":[]}"#, "0: tokens []"),
        (
            Some(Api::Embeddings),
            r#"{"messages":null,"input":["a","b"]}"#,
            "2: text a",
        ),
        (
            Some(Api::Pooling),
            r#"{"input":[[1,2]]}"#,
            "1: tokens [1, 2]",
        ),
        (Some(Api::Classify), r#"{"input":"a"}"#, "1: text a"),
        (Some(Api::Tokenize), r#"{"prompt":"a"}"#, "1: text a"),
        (
            Some(Api::Score),
            r#"{"text_1":["a"],"text_2":["b","c"]}"#,
            "2: text a",
        ),
        (
            Some(Api::Score),
            r#"{"queries":"a","items":["b"]}"#,
            "1: text a",
        ),
        (
            Some(Api::Score),
            r#"{"data_1":"a","data_2":"b"}"#,
            "1: text a",
        ),
        (None, r#"{"prompt":["a","b"]}"#, "2: text a"),
        (None, r#"{"messages":[]}"#, "1: OpenAi - - []"),
        (None, r#"{"input":"a"}"#, "1: text a"),
        (None, r#"{"token_ids":[5]}"#, "1: tokens [5]"),
    ] {
        assert_eq!(shown(api, body), want, "{api:?} {body}");
    }
}

#[test]
fn texts_tools_system_and_media_count_as_characters() {
    let chars = |api, body: &str| read(api, body).prompt().unwrap().chars();
    let chat = |messages: &str| chars(Api::Chat, &format!(r#"{{"messages":[{messages}]}}"#));
    for (messages, want) in [
        (r#"{"role":"user","content":"h\u00e9llo\n"}"#, 6),
        (
            r#"{"role":"user","content":null},{"role":"tool"},7,null"#,
            0,
        ),
        (
            r#"{"content":[{"type":"text","text":"héllo"},{"type":"text","text":"yo"}]}"#,
            7,
        ),
        (
            r#"{"content":[{"type":"text","text":"hi"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAAAAAA"}}]}"#,
            2 + IMAGE_CHARS,
        ),
        (
            r#"{"content":[{"image_url":{"url":"x"}},{"type":"input_audio","input_audio":{"data":"AAAA"}},{"type":"video_url"}]}"#,
            IMAGE_CHARS + AUDIO_CHARS + VIDEO_CHARS,
        ),
        (
            r#"{"role":"assistant","content":"a","tool_calls":[{"id":1}],"reasoning_content":"bc"}"#,
            3 + 8,
        ),
    ] {
        assert_eq!(chat(messages), want, "{messages}");
    }
    let tools = r#"{"tools":[{"name":"f"}],"messages":[{"content":"hi"}]}"#;
    assert_eq!(chars(Api::Chat, tools), 2 + 12);
    let anthropic = r#"{"system":[{"type":"text","text":"be brief"}],"messages":[{"role":"user","content":[
        {"type":"image","source":{"type":"base64","data":"AAAAAAAAAAAA"}},
        {"type":"tool_use","input":{"a":1}},
        {"type":"tool_result","content":[{"type":"text","text":"ok"}]}]}]}"#;
    assert_eq!(chars(Api::Messages, anthropic), 8 + IMAGE_CHARS + 5 + 2);
    let responses = r#"{"instructions":"short","input":[{"role":"user","content":[{"type":"input_text","text":"hi"}]},{"type":"function_call","arguments":"{}"},{"type":"function_call_output","output":"done"}]}"#;
    assert_eq!(chars(Api::Responses, responses), 5 + 2 + 2 + 4);
    assert_eq!(chars(Api::Responses, r#"{"input":"hello"}"#), 5);
    assert_eq!(chars(Api::Completions, r#"{"prompt":[1,2,3]}"#), 12);
    // Deeper than any message: counted as it is written.
    let deep = format!(r#"{{"messages":{}{}}}"#, "[".repeat(50), "]".repeat(50));
    assert!(chars(Api::Chat, &deep) <= 100);
}

fn prefix(api: Api, body: &str) -> String {
    let request = read(api, body);
    let bytes = request.prompt().unwrap().prefix_bytes(1000).into_owned();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_prompt_that_goes_on_begins_with_the_same_bytes() {
    let user = r#"{"role":"user","content":"hi"}"#;
    let answer = r#"{"role":"assistant","content":"ho"}"#;
    let tools = r#""tools":[{"name":"f"}],"#;
    let system = r#"{"role":"system","content":"s"}"#;
    for (api, shorter, longer) in [
        (
            Api::Chat,
            format!(r#"{{"messages":[{user}]}}"#),
            format!(r#"{{"messages":[{user},{answer}]}}"#),
        ),
        (
            Api::Chat,
            format!(r#"{{"messages": [ {user} ] }}"#),
            format!(r#"{{"messages": [ {user},{answer}]}}"#),
        ),
        (
            Api::Chat,
            format!(r#"{{{tools}"messages":[{system},{user}]}}"#),
            format!(r#"{{{tools}"messages":[{system},{user},{answer}]}}"#),
        ),
        (
            Api::Chat,
            format!(r#"{{{tools}"messages":[{system}]}}"#),
            format!(r#"{{"messages":[{system},{user}],{tools}"x":1}}"#),
        ),
        (
            Api::Messages,
            format!(r#"{{"system":"s",{tools}"messages":[{user}]}}"#),
            format!(r#"{{"messages":[{user},{answer}],{tools}"system":"s"}}"#),
        ),
        (
            Api::Responses,
            r#"{"instructions":"s","input":"hi"}"#.to_owned(),
            r#"{"input":"hi there","instructions":"s"}"#.to_owned(),
        ),
        (
            Api::Completions,
            r#"{"prompt":"hi"}"#.to_owned(),
            r#"{"prompt":"hi there"}"#.to_owned(),
        ),
    ] {
        let (short, long) = (prefix(api, &shorter), prefix(api, &longer));
        assert!(
            !short.is_empty() && long.starts_with(&short),
            "{short} / {long}"
        );
        assert!(long.len() > short.len(), "{long}");
    }
}

#[test]
fn system_and_tools_come_first() {
    let body = r#"{"messages":[ {"role":"system","content":"s"} , {"role":"user","content":"u"}],"tools":[{"name":"f"}]}"#;
    assert_eq!(
        prefix(Api::Chat, body),
        r#"{"role":"system","content":"s"}{"name":"f"} , {"role":"user","content":"u"}"#
    );
    let body = r#"{"messages":[{"role":"user","content":"u"}],"system":"be brief","tools":[{"name":"f"}]}"#;
    assert_eq!(
        prefix(Api::Messages, body),
        r#"be brief{"name":"f"}{"role":"user","content":"u"}"#
    );
}

#[test]
fn prefixes_are_borrowed_where_they_can_be_and_never_too_long() {
    let text = read(Api::Completions, r#"{"prompt":"hello"}"#);
    let text = text.prompt().unwrap();
    assert!(matches!(text.prefix_bytes(3), Cow::Borrowed(b"hel")));
    let chat = read(
        Api::Chat,
        r#"{"messages":[{"content":"hello"}],"tools":[]}"#,
    );
    let chat = chat.prompt().unwrap();
    assert!(matches!(chat.prefix_bytes(5), Cow::Borrowed(b"{\"con")));
    let tokens = read(Api::Completions, r#"{"prompt":[1,258,3]}"#);
    let tokens = tokens.prompt().unwrap();
    assert_eq!(&*tokens.prefix_bytes(9), [1, 0, 0, 0, 2, 1, 0, 0]);
    assert_eq!(tokens.prefix_bytes(usize::MAX).len(), 12);
}

#[test]
fn a_long_list_of_tokens_is_read_once() {
    let ids: Vec<u32> = (0..100_000).collect();
    let body = json!({"model": "m", "prompt": ids}).to_string();
    let request = read(Api::Completions, &body);
    assert_eq!(request.prompt_count(), 1);
    let looked_at = work::of(|| assert_eq!(request.prompt(), Some(Prompt::Tokens(ids))));
    assert!(looked_at <= 4 * body.len(), "{looked_at}");
}

#[test]
fn of_a_body_that_is_cut_what_is_there_counts() {
    let body = r#"{"model":"m","stream":true,"max_tokens":12,"prompt":[11,12,13],"n":1}"#;
    let cut = |at: &str| {
        let end = body.find(at).unwrap() + at.len();
        Request::read(Some(Api::Completions), &body.as_bytes()[..end], false)
    };
    assert_eq!(cut("\"m").model(), None, "it may be a longer name");
    assert_eq!(cut("\"m\"").model().unwrap(), "m");
    assert_eq!(cut(":12").max_tokens(), None, "it may be a larger number");
    assert_eq!(cut(":12,").max_tokens(), Some(12));
    assert_eq!(cut("12,13").prompt(), Some(Prompt::Tokens(vec![11, 12])));
    assert_eq!(cut("13],").prompt(), Some(Prompt::Tokens(vec![11, 12, 13])));
    assert_eq!(cut("1}").one_transfer(), Err(NotOneTransfer::BodyNotWhole));
    let chat = br#"{"messages":[{"role":"user","content":"hello th"#;
    let chat = Request::read(Some(Api::Chat), chat, false)
        .prompt()
        .unwrap();
    assert_eq!(chat.chars(), 8);
    assert_eq!(
        &*chat.prefix_bytes(99),
        br#"{"role":"user","content":"hello th"#
    );
}

#[test]
fn one_transfer_serves_one_prompt_sampled_once() {
    use NotOneTransfer as Not;
    let completions = Some(Api::Completions);
    let generate = Some(Api::Generate);
    let responses = Some(Api::Responses);
    for (api, fields, want) in [
        (Some(Api::Chat), r#""messages":[]"#, Ok(())),
        (
            completions,
            r#""prompt":"a","n":1,"logprobs":3,"return_token_ids":true"#,
            Ok(()),
        ),
        (
            completions,
            r#""prompt":["a"],"truncate_prompt_tokens":100"#,
            Ok(()),
        ),
        (completions, r#""prompt":[1,2],"echo":true"#, Ok(())),
        (
            Some(Api::Chat),
            r#""messages":[],"echo":true,"logprobs":true"#,
            Ok(()),
        ),
        (Some(Api::Messages), r#""messages":[]"#, Ok(())),
        (
            responses,
            r#""input":"a","tools":[{"type":"function"}],"truncation":"disabled""#,
            Ok(()),
        ),
        (
            generate,
            r#""token_ids":[1],"sampling_params":{"n":1}"#,
            Ok(()),
        ),
        (None, r#""prompt":"a""#, Err(Not::NotGenerating)),
        (
            Some(Api::Embeddings),
            r#""input":"a""#,
            Err(Not::NotGenerating),
        ),
        (
            Some(Api::RenderChat),
            r#""messages":[]"#,
            Err(Not::NotGenerating),
        ),
        (completions, r#""prompt":"a"} {"#, Err(Not::Unreadable)),
        (completions, r#""prompt":"a","x""#, Err(Not::Unreadable)),
        (completions, r#""max_tokens":9"#, Err(Not::NoPrompt)),
        (completions, r#""prompt":[]"#, Err(Not::NoPrompt)),
        (Some(Api::Chat), r#""prompt":"a""#, Err(Not::NoPrompt)),
        (
            completions,
            r#""prompt":["one","two"],"max_tokens":9"#,
            Err(Not::ManyPrompts),
        ),
        (completions, r#""prompt":[[1],[2]]"#, Err(Not::ManyPrompts)),
        (
            completions,
            r#""prompt":"a","prompt_embeds":"AAAA""#,
            Err(Not::PromptEmbeds),
        ),
        (completions, r#""prompt":"a","n":2"#, Err(Not::ManySamples)),
        (
            completions,
            r#""prompt":"a","n":"2""#,
            Err(Not::ManySamples),
        ),
        (
            completions,
            r#""prompt":"a","n":2.0"#,
            Err(Not::ManySamples),
        ),
        (
            completions,
            r#""prompt":"a","n":1,"\u006e":3"#,
            Err(Not::ManySamples),
        ),
        (completions, r#""prompt":"a","n":2,"n":1"#, Ok(())),
        (completions, r#""prompt":"a","n":true"#, Ok(())),
        (completions, r#""prompt":"a","n":null"#, Ok(())),
        (
            completions,
            r#""prompt":"a","n":[1]"#,
            Err(Not::ManySamples),
        ),
        (
            completions,
            r#""prompt":"a","best_of":4"#,
            Err(Not::ManySamples),
        ),
        (
            Some(Api::Chat),
            r#""messages":[],"use_beam_search":"yes""#,
            Err(Not::BeamSearch),
        ),
        (
            Some(Api::Chat),
            r#""messages":[],"prompt_logprobs":0"#,
            Err(Not::PromptLogprobs),
        ),
        (
            completions,
            r#""prompt":"a","echo":"true","logprobs":0"#,
            Err(Not::Echo),
        ),
        (
            completions,
            r#""prompt":"a","echo":"maybe","logprobs":1"#,
            Err(Not::Echo),
        ),
        (
            completions,
            r#""prompt":"a","truncate_prompt_tokens":-1"#,
            Err(Not::Truncation),
        ),
        (
            generate,
            r#""token_ids":[1],"sampling_params":{"n":2}"#,
            Err(Not::ManySamples),
        ),
        (
            generate,
            r#""token_ids":[1],"sampling_params":{"prompt_logprobs":1}"#,
            Err(Not::PromptLogprobs),
        ),
        (
            generate,
            r#""token_ids":[1],"sampling_params":{"skip_reading_prefix_cache":true}"#,
            Err(Not::NoCacheRead),
        ),
        (generate, r#""token_ids":[]"#, Err(Not::NoPrompt)),
        (
            Some(Api::Chat),
            r#""messages":[],"sampling_params":{"n":2}"#,
            Ok(()),
        ),
        (
            responses,
            r#""input":"a","truncation":"auto""#,
            Err(Not::Truncation),
        ),
        (
            responses,
            r#""input":"a","truncation":null"#,
            Err(Not::Truncation),
        ),
        (
            responses,
            r#""input":"a","previous_response_id":"resp_1""#,
            Err(Not::StoredState),
        ),
        (
            responses,
            r#""input":"a","previous_response_id":null,"background":false"#,
            Ok(()),
        ),
        (
            responses,
            r#""input":"a","conversation":{"id":"c"}"#,
            Err(Not::StoredState),
        ),
        (
            responses,
            r#""input":"a","background":true"#,
            Err(Not::Background),
        ),
        (
            responses,
            r#""input":"a","tools":[{"type":"function"},{"type":"web_search"}]"#,
            Err(Not::EngineTools),
        ),
    ] {
        let body = format!("{{{fields}}}");
        let request = Request::read(api, body.as_bytes(), true);
        assert_eq!(request.one_transfer(), want, "{api:?} {fields}");
    }
}

#[test]
fn every_reason_has_a_label_of_its_own() {
    let labels: std::collections::HashSet<_> = NotOneTransfer::ALL
        .iter()
        .map(|reason| reason.label())
        .collect();
    assert_eq!(labels.len(), NotOneTransfer::ALL.len());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..80),
        text in "(\"(messages|prompt|input|tools|system|n|stream|model|sampling_params)\":[\\[{\"\\\\u0]{0,6}[\\[{}\\]\",:1a]{0,9},?){0,5}",
    ) {
        for body in [bytes.clone(), [b"{", text.as_bytes()].concat(), [b"{\"messages\":[{\"content\":\"", &*bytes].concat()] {
            read_everything(&body);
        }
    }

    #[test]
    fn a_prefix_is_a_prefix_at_every_limit(limit in 0_usize..120, cut in 0_usize..200) {
        let body = r#"{"model":"m","tools":[{"name":"f"}],"messages":[{"role":"system","content":"s"},{"role":"user","content":"hello \"there\""}]}"#;
        let body = &body.as_bytes()[..cut.min(body.len())];
        let request = Request::read(Some(Api::Chat), body, false);
        if let Some(prompt) = request.prompt() {
            let all = prompt.prefix_bytes(usize::MAX).into_owned();
            let some = prompt.prefix_bytes(limit).into_owned();
            prop_assert!(some.len() <= limit && all.starts_with(&some));
            prop_assert_eq!(some.len(), limit.min(all.len()));
        }
    }
}
