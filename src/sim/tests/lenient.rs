//! What the engine accepts and refuses: pydantic's and vLLM's own rules, seen from outside.

use serde_json::{Value, json};

use super::support::{Reply, TestSim};

async fn raw(sim: &TestSim, path: &str, body: &str) -> Reply {
    sim.send("POST", path, body.to_owned(), &[]).await.unwrap()
}

#[tokio::test]
async fn what_pydantic_accepts_is_answered() {
    let sim = TestSim::start(&[]).await;
    for (fields, tokens) in [
        (r#""max_tokens":3"#, 3),
        (r#""max_tokens":3.0"#, 3),
        (r#""max_tokens":"3""#, 3),
        (r#""max_tokens":true"#, 1),
        (r#""max_tokens":2,"max_tokens":3"#, 3),
        (r#""max_tokens":3,"temperature":"0.5","top_p":1"#, 3),
        (r#""max_tokens":3,"n":"1","seed":5.0,"stop":null"#, 3),
        (
            r#""max_tokens":3,"stream":0,"user":"\ud800","unknown":[NaN]"#,
            3,
        ),
        (r#""max_tokens":3,"model":null"#, 3),
        (r#""max_tokens":3,"model":"","logit_bias":null"#, 3),
        (
            r#""max_tokens":3,"response_format":{"type":"json_object"}"#,
            3,
        ),
    ] {
        for (path, prompt) in [
            ("/v1/completions", r#""prompt":"hi""#),
            (
                "/v1/chat/completions",
                r#""messages":[{"role":"user","content":"hi"}]"#,
            ),
        ] {
            let reply = raw(&sim, path, &format!("{{{prompt},{fields}}}")).await;
            assert_eq!(reply.status, 200, "{fields}: {}", reply.text);
            assert_eq!(
                reply.json()["usage"]["completion_tokens"],
                tokens,
                "{fields}"
            );
            assert_eq!(reply.json()["model"], "m");
        }
    }
    for stream in ["\"True\"", "1", "1.0", "\"on\""] {
        let body = format!(
            "{{\"prompt\":\"hi\",\"stream\":{stream},\"stream_options\":{{\"include_usage\":1}}}}"
        );
        let events = raw(&sim, "/v1/completions", &body).await.events();
        let usage = &events.last().unwrap()["usage"];
        assert_eq!(usage["completion_tokens"], 16, "{stream}");
    }
    sim.stop().await;
}

#[tokio::test]
async fn a_prompt_has_any_of_four_forms_leniently() {
    let sim = TestSim::start(&[]).await;
    for (prompt, choices, tokens) in [
        ("\"hi\"", 1, 2),
        ("[\"hi\",\"ho\"]", 2, 4),
        ("[1,2,3]", 1, 3),
        ("[1,\"2\",3.0,true]", 1, 4),
        ("[\"1\",\"2\"]", 2, 4),
        ("[[1,2],[3]]", 2, 3),
        ("[[1,\"2\"],[3.0]]", 2, 3),
    ] {
        let body = format!("{{\"prompt\":{prompt},\"max_tokens\":1}}");
        let reply = raw(&sim, "/v1/completions", &body).await;
        assert_eq!(reply.status, 200, "{prompt}: {}", reply.text);
        let answer = reply.json();
        let got = answer["choices"].as_array().unwrap();
        assert_eq!(got.len(), choices, "{prompt}");
        assert_eq!(answer["usage"]["prompt_tokens"], tokens, "{prompt}");
    }
    sim.stop().await;
}

/// Bodies of the two APIs, and the beginning of the message that refuses them.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "c",
        r#"{"prompt":"a","max_tokens":16.5}"#,
        "1 validation error:\n  {'type': 'int_from_float', 'loc': 'body.max_tokens'",
    ),
    (
        "c",
        r#"{"prompt":"a","stream":2}"#,
        "1 validation error:\n  {'type': 'bool_parsing', 'loc': 'body.stream'",
    ),
    (
        "c",
        r#"{"prompt":"a","n":null}"#,
        "1 validation error:\n  {'type': 'int_type', 'loc': 'body.n', 'msg': 'Input should be a valid integer', 'input': 'None'}",
    ),
    (
        "c",
        r#"{"prompt":[-1]}"#,
        "4 validation errors:\n  {'type': 'greater_than_equal', 'loc': 'body.prompt.0', 'msg': 'Input should be greater than or equal to 0', 'input': '-1', 'ctx': {'ge': 0}}\n  {'type': 'list_type', 'loc': 'body.prompt.0'",
    ),
    (
        "c",
        r#"{"prompt":["a",5]}"#,
        "5 validation errors:\n  {'type': 'int_parsing', 'loc': 'body.prompt.0'",
    ),
    (
        "c",
        r#"{"prompt":"a","stop":["a","b","c","d","e"]}"#,
        "2 validation errors:\n  {'type': 'string_type', 'loc': 'body.stop', 'msg': 'Input should be a valid string', 'input': '<list of 5 items>'}\n  {'type': 'too_long', 'loc': 'body.stop', 'msg': 'List should have at most 4 items after validation, not 5', 'input': '<list of 5 items>', 'ctx': {'field_type': 'List', 'max_length': 4, 'actual_length': 5}}",
    ),
    (
        "c",
        r#"{"prompt":"a","stream":true,"stream_options":5}"#,
        "1 validation error:\n  {'type': 'model_attributes_type', 'loc': 'body.stream_options'",
    ),
    (
        "c",
        r#"{"prompt":"a","kv_transfer_params":5}"#,
        "1 validation error:\n  {'type': 'dict_type', 'loc': 'body.kv_transfer_params'",
    ),
    (
        "c",
        r#"{"prompt":"a","seed":9223372036854775808}"#,
        "1 validation error:\n  {'type': 'less_than_equal', 'loc': 'body.seed'",
    ),
    (
        "c",
        "[]",
        "1 validation error:\n  {'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be a valid dictionary or object to extract fields from', 'input': '<list of 0 items>'}",
    ),
    (
        "c",
        "null",
        "1 validation error:\n  {'type': 'model_attributes_type', 'loc': 'body'",
    ),
    (
        "c",
        "{\"prompt\"",
        "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.9', 'msg': 'JSON decode error', 'input': '<dict of 0 items>', 'ctx': {'error': \"Expecting ':' delimiter\"}}",
    ),
    (
        "c",
        "{}",
        "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)",
    ),
    (
        "c",
        r#"{"prompt":""}"#,
        "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)",
    ),
    (
        "c",
        r#"{"prompt":"a","logprobs":"2"}"#,
        "`logprobs` must be an integer. (parameter=logprobs, value=2)",
    ),
    (
        "c",
        r#"{"prompt":"a","logprobs":21}"#,
        "Requested sample logprobs of 21, which is greater than max allowed: 20",
    ),
    (
        "c",
        r#"{"prompt":"a","stream_options":{"include_usage":true}}"#,
        "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
    ),
    (
        "c",
        r#"{"prompt":"a","cache_salt":""}"#,
        "Parameter 'cache_salt' must be a non-empty string if provided. (parameter=cache_salt)",
    ),
    (
        "c",
        r#"{"prompt":"a","temperature":NaN}"#,
        "temperature must be a finite number, got nan. (parameter=temperature, value=nan)",
    ),
    (
        "c",
        r#"{"prompt":"a","temperature":3}"#,
        "temperature must be in [0, 2], got 3.0. (parameter=temperature, value=3.0)",
    ),
    (
        "c",
        r#"{"prompt":"a","top_p":0}"#,
        "top_p must be in (0, 1], got 0.0.",
    ),
    (
        "c",
        r#"{"prompt":"a","n":0}"#,
        "n must be at least 1, got 0.",
    ),
    (
        "c",
        r#"{"prompt":"a","n":2,"temperature":0}"#,
        "n must be 1 when using greedy sampling, got 2.",
    ),
    (
        "c",
        r#"{"prompt":"a","max_tokens":0}"#,
        "max_tokens must be at least 1, got 0.",
    ),
    (
        "c",
        r#"{"prompt":"a","max_tokens":101}"#,
        "max_tokens=101 cannot be greater than max_model_len=100.",
    ),
    (
        "c",
        r#"{"prompt":"a","min_tokens":30}"#,
        "min_tokens must be less than or equal to max_tokens=16, got 30.",
    ),
    (
        "c",
        r#"{"prompt":"a","stop":""}"#,
        "stop cannot contain an empty string.",
    ),
    (
        "c",
        r#"{"prompt":[99999999999]}"#,
        "Token id 99999999999 is out of vocabulary",
    ),
    (
        "h",
        "{}",
        "1 validation error:\n  {'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required', 'input': '<dict of 0 items>'}",
    ),
    (
        "h",
        r#"{"messages":[5]}"#,
        "1 validation error:\n  {'type': 'dict_type', 'loc': 'body.messages.0'",
    ),
    ("h", r#"{"messages":[]}"#, "messages must not be empty"),
    (
        "h",
        r#"{"messages":[],"top_logprobs":2}"#,
        "when using `top_logprobs`, `logprobs` must be set to true. (parameter=top_logprobs)",
    ),
    (
        "h",
        r#"{"messages":[],"tools":[]}"#,
        "`tools` must not be an empty array.",
    ),
    (
        "h",
        r#"{"messages":[],"tool_choice":"auto"}"#,
        "When using `tool_choice`, `tools` must be set. (parameter=tool_choice)",
    ),
    (
        "h",
        r#"{"messages":[],"tools":[{"type":"x","function":{}}]}"#,
        "2 validation errors:\n  {'type': 'literal_error', 'loc': 'body.tools.0.type', 'msg': \"Input should be 'function'\", 'input': 'x', 'ctx': {'expected': \"'function'\"}}\n  {'type': 'missing', 'loc': 'body.tools.0.function.name'",
    ),
    (
        "h",
        r#"{"messages":[],"tool_choice":{"type":"function","function":{"name":"g"}},"tools":[{"function":{"name":"f"}}]}"#,
        "The tool specified in `tool_choice` does not match any of the specified `tools`",
    ),
];

#[tokio::test]
async fn what_vllm_refuses_is_refused_in_its_words() {
    let sim = TestSim::start(&["--max-model-len", "100", "--num-gpu-blocks-override", "4"]).await;
    for (api, body, message) in REFUSED {
        let path = match *api {
            "c" => "/v1/completions",
            _ => "/v1/chat/completions",
        };
        let reply = raw(&sim, path, body).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text);
        let error = &reply.json()["error"];
        assert_eq!(error["code"], 400);
        let told = error["message"].as_str().unwrap();
        assert!(told.starts_with(message), "{body}: {told}");
        let kind = if told.contains("validation error") {
            "Bad Request"
        } else {
            "BadRequestError"
        };
        assert_eq!(error["type"], kind, "{body}");
    }
    let user = json!([{"role": "user", "content": "hi"}]);
    let large = json!({"model": "m", "messages": user, "max_tokens": 80});
    let error = sim.chat(large).await.json()["error"]["message"].clone();
    assert_eq!(
        error,
        "the request needs 6 blocks of KV cache and the engine has 3"
    );
    assert_eq!(
        sim.count("sim:refused_requests_total").await,
        REFUSED.len() as u64 + 1
    );
    sim.stop().await;
}

#[tokio::test]
async fn unknown_models_paths_and_types_have_answers_of_their_own() {
    let sim = TestSim::start(&["--served-model-name", "m", "n"]).await;
    let body = json!({"model": "x", "prompt": "a"});
    let reply = sim.post("/v1/completions", &body).await;
    assert_eq!(reply.status, 404);
    let error = reply.json()["error"].clone();
    assert_eq!(
        error["message"],
        "The model `x` does not exist. Valid aliases: m, n."
    );
    assert_eq!(
        (&error["type"], &error["param"]),
        (&json!("NotFoundError"), &json!("model"))
    );
    let kind = [("content-type", "text/plain")];
    let body = r#"{"prompt":"a"}"#.to_owned();
    let reply = sim
        .send("POST", "/v1/completions", body, &kind)
        .await
        .unwrap();
    assert_eq!(reply.status, 400);
    let message = reply.json()["error"]["message"].clone();
    assert!(
        message
            .as_str()
            .unwrap()
            .contains("Only 'application/json' is allowed")
    );
    assert_eq!(sim.get("/v1/completions").await.status, 405);
    let unknown = sim.get("/v1/nothing").await;
    assert_eq!(
        (unknown.status, &unknown.json()["error"]["message"]),
        (404, &json!("Not Found"))
    );
    sim.stop().await;
}

#[tokio::test]
async fn a_prompt_that_leaves_little_room_gets_a_short_answer() {
    let sim = TestSim::start(&["--max-model-len", "20"]).await;
    let prompt: Vec<u32> = (0..15).collect();
    let ask = async |body: Value| sim.post("/v1/completions", &body).await;
    let answer = ask(json!({"prompt": prompt, "max_tokens": 10}))
        .await
        .json();
    assert_eq!(answer["usage"]["completion_tokens"], 5);
    let long: Vec<u32> = (0..21).collect();
    let error = ask(json!({"prompt": long, "max_tokens": 1})).await;
    assert_eq!(error.status, 400);
    assert!(error.text.contains("maximum context length is 20 tokens"));
    sim.stop().await;
}
