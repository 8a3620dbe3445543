//! The APIs beside chat and completions.

use base64::Engine as _;
use serde_json::{Value, json};

use super::support::{Reply, TestSim};

/// Named events, each with its data.
fn named(reply: &Reply) -> Vec<(String, Value)> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let event = |event: &str| {
        let (name, data) = event.split_once('\n').unwrap();
        let name = name.strip_prefix("event: ").unwrap().to_owned();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data["type"], name);
        (name, data)
    };
    reply.text.trim().split("\n\n").map(event).collect()
}

fn names(events: &[(String, Value)]) -> Vec<&str> {
    let mut names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    names
}

async fn post(sim: &TestSim, path: &str, body: Value) -> Value {
    let reply = sim.post(path, &body).await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text);
    reply.json()
}

fn weather(parameters: &str) -> Value {
    json!({"name": "weather", parameters: {
        "type": "object", "properties": {"city": {"type": "string"}},
    }})
}

#[tokio::test]
async fn responses_are_chats_in_another_form() {
    let sim = TestSim::start(&[]).await;
    let system = json!({"role": "system", "content": "be short"});
    let user = json!({"role": "user", "content": "hi"});
    let chat = json!({"messages": [system, user], "max_tokens": 5});
    let chat = sim.chat(chat).await.json();
    let mut body = json!({"instructions": "be short", "input": "hi", "max_output_tokens": 5});
    let response = post(&sim, "/v1/responses", body.clone()).await;
    let text = &response["output"][0]["content"][0]["text"];
    assert_eq!(*text, chat["choices"][0]["message"]["content"]);
    assert_eq!(response["status"], "incomplete");
    assert_eq!(
        response["incomplete_details"]["reason"],
        "max_output_tokens"
    );
    assert_eq!(
        response["usage"]["input_tokens"],
        chat["usage"]["prompt_tokens"]
    );
    let mut items = body.clone();
    items["input"] = json!([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}]);
    let same = post(&sim, "/v1/responses", items).await;
    assert_eq!(
        same["output"][0]["content"],
        response["output"][0]["content"]
    );
    body["stream"] = json!(true);
    let events = named(&sim.post("/v1/responses", &body).await);
    let order = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(names(&events), order);
    for (at, (_, event)) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], at);
    }
    let deltas = events
        .iter()
        .filter_map(|(_, event)| event["delta"].as_str());
    assert_eq!(*text, deltas.collect::<String>());
    let last = &events.last().unwrap().1["response"];
    assert_eq!(last["output"][0]["content"][0]["text"], *text);
    sim.stop().await;
}

#[tokio::test]
async fn responses_call_functions_and_hear_their_results() {
    let sim = TestSim::start(&[]).await;
    let mut tool = weather("parameters");
    tool["type"] = json!("function");
    let mut body = json!({"input": "hi", "tools": [tool]});
    let response = post(&sim, "/v1/responses", body.clone()).await;
    let call = response["output"][0].clone();
    assert_eq!(
        (&call["type"], &call["name"]),
        (&json!("function_call"), &json!("weather"))
    );
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments["city"].is_string());
    assert_eq!(response["status"], "completed");
    let result =
        json!({"type": "function_call_output", "call_id": call["call_id"], "output": "rain"});
    let mut next = body.clone();
    next["input"] = json!([{"role": "user", "content": "hi"}, call, result]);
    let next = post(&sim, "/v1/responses", next).await;
    assert_eq!(next["output"][0]["type"], "message");
    body["stream"] = json!(true);
    body["tool_choice"] = json!({"type": "function", "name": "weather"});
    let events = named(&sim.post("/v1/responses", &body).await);
    assert_eq!(
        names(&events)[2..],
        [
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let refused = sim
        .post(
            "/v1/responses",
            &json!({"input": "hi", "tool_choice": "required"}),
        )
        .await;
    assert_eq!(refused.status, 400);
    let missing = sim.post("/v1/responses", &json!({})).await.json();
    assert!(
        missing["error"]["message"]
            .as_str()
            .unwrap()
            .contains("'body.input'")
    );
    sim.stop().await;
}

#[tokio::test]
async fn messages_are_chats_in_anthropics_form() {
    let sim = TestSim::start(&[]).await;
    let system = json!({"role": "system", "content": "be short"});
    let user = json!({"role": "user", "content": "hi"});
    let chat = json!({"messages": [system, user], "max_tokens": 5});
    let chat = sim.chat(chat).await.json();
    let blocks = json!([
        {"type": "text", "text": "x-anthropic-billing-header: 1"},
        {"type": "text", "text": "be short"},
    ]);
    let mut body = json!({"model": "m", "system": blocks, "messages": [user], "max_tokens": "5"});
    let message = post(&sim, "/v1/messages", body.clone()).await;
    let text = &message["content"][0]["text"];
    assert_eq!(*text, chat["choices"][0]["message"]["content"]);
    assert_eq!(message["stop_reason"], "max_tokens");
    let usage = &message["usage"];
    let read = usage["cache_read_input_tokens"].as_u64().unwrap();
    let input = usage["input_tokens"].as_u64().unwrap() + read;
    assert_eq!(chat["usage"]["prompt_tokens"], input);
    let counted = post(&sim, "/v1/messages/count_tokens", body.clone()).await;
    assert_eq!(counted["input_tokens"], input);
    body["stream"] = json!(true);
    let events = named(&sim.post("/v1/messages", &body).await);
    let order = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names(&events), order);
    let deltas = events
        .iter()
        .filter_map(|(_, event)| event["delta"]["text"].as_str());
    assert_eq!(*text, deltas.collect::<String>());
    assert_eq!(events[0].1["message"]["usage"]["input_tokens"], input);
    sim.stop().await;
}

#[tokio::test]
async fn messages_use_tools_stop_and_refuse() {
    let sim = TestSim::start(&[]).await;
    let user = json!({"role": "user", "content": [{"type": "text", "text": "hi"}]});
    let tools = json!([weather("input_schema")]);
    let body = json!({"model": "m", "messages": [user], "max_tokens": 50, "tools": tools});
    let message = post(&sim, "/v1/messages", body.clone()).await;
    let block = message["content"][0].clone();
    assert_eq!(
        (&block["type"], &block["name"]),
        (&json!("tool_use"), &json!("weather"))
    );
    assert!(block["input"]["city"].is_string());
    assert_eq!(message["stop_reason"], "tool_use");
    let result = json!({"type": "tool_result", "tool_use_id": block["id"], "content": "rain"});
    let mut next = body.clone();
    next["messages"] = json!([
        user,
        {"role": "assistant", "content": [block]},
        {"role": "user", "content": [result]},
    ]);
    let next = post(&sim, "/v1/messages", next).await;
    assert_eq!(next["content"][0]["type"], "text");
    let text = next["content"][0]["text"].as_str().unwrap();
    assert_eq!(next["usage"]["output_tokens"], 50);
    let mut stop = body.clone();
    stop["tools"] = Value::Null;
    stop["stop_sequences"] = json!([" "]);
    let stopped = post(&sim, "/v1/messages", stop).await;
    assert_eq!(stopped["stop_reason"], "stop_sequence");
    assert_eq!(stopped["stop_sequence"], " ");
    assert!(!text.is_empty());
    for (change, status, message) in [
        (json!({"model": "x"}), 404, "The model `x` does not exist."),
        (
            json!({"temperature": 3}),
            400,
            "temperature must be in [0, 2]",
        ),
    ] {
        let mut wrong = body.clone();
        wrong
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let reply = sim.post("/v1/messages", &wrong).await;
        assert_eq!(reply.status, status, "{}", reply.text);
        let error = reply.json();
        assert_eq!(error["type"], "error");
        assert!(
            error["error"]["message"]
                .as_str()
                .unwrap()
                .starts_with(message)
        );
    }
    // What pydantic refuses keeps OpenAI's form, also here.
    let wrong = json!({"model": "", "messages": [{"role": "x", "content": 5}], "max_tokens": 0});
    let reply = sim.post("/v1/messages", &wrong).await.json();
    let message = reply["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("5 validation errors:"), "{message}");
    assert!(message.contains("'ctx': {'error': ValueError('max_tokens must be positive')}"));
    sim.stop().await;
}

#[tokio::test]
async fn tokens_go_in_and_come_out() {
    let sim = TestSim::start(&[]).await;
    let tokens: Vec<u32> = (0..20).collect();
    let sampling = json!({"max_tokens": 4.0, "logprobs": 1});
    let body = json!({"token_ids": tokens, "sampling_params": sampling});
    let answer = post(&sim, "/inference/v1/generate", body.clone()).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["token_ids"].as_array().unwrap().len(), 4);
    assert_eq!(
        choice["logprobs"]["content"][0]["token_id"],
        choice["token_ids"][0]
    );
    let mut stream = body;
    stream["stream"] = json!(true);
    let events = sim.post("/inference/v1/generate", &stream).await.events();
    let streamed: Vec<&Value> = events
        .iter()
        .flat_map(|event| event["choices"][0]["token_ids"].as_array().unwrap())
        .collect();
    assert_eq!(json!(streamed), choice["token_ids"]);
    for (body, message) in [
        (json!({"sampling_params": {}}), "'body.token_ids'"),
        (
            json!({"token_ids": [], "sampling_params": {}}),
            "'too_short'",
        ),
        (
            json!({"token_ids": [-1], "sampling_params": {}}),
            "must not contain negative values",
        ),
        (json!({"token_ids": [1]}), "'body.sampling_params'"),
    ] {
        let reply = sim.post("/inference/v1/generate", &body).await;
        assert_eq!(reply.status, 400);
        assert!(reply.text.contains(message), "{}", reply.text);
    }
    // What a chat is rendered to is what it would have been.
    let chat = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4});
    let rendered = post(&sim, "/v1/chat/completions/render", chat.clone()).await;
    let generated = post(&sim, "/inference/v1/generate", rendered).await;
    let mut chat = chat;
    chat["return_token_ids"] = json!(true);
    let said = sim.chat(chat).await.json();
    assert_eq!(
        said["choices"][0]["token_ids"],
        generated["choices"][0]["token_ids"]
    );
    let both = json!({"prompt": ["a", "b"]});
    let rendered = post(&sim, "/v1/completions/render", both).await;
    assert_eq!(rendered.as_array().unwrap().len(), 2);
    sim.stop().await;
}

#[tokio::test]
async fn texts_have_vectors_classes_and_scores() {
    let sim = TestSim::start(&[]).await;
    let list = json!({"input": ["a", "b"]});
    let list = post(&sim, "/v1/embeddings", list).await;
    assert_eq!(list["data"][1]["index"], 1);
    let vector = list["data"][1]["embedding"].as_array().unwrap();
    assert_eq!(vector.len(), 64);
    assert_ne!(list["data"][0]["embedding"], list["data"][1]["embedding"]);
    let coded = json!({"input": "b", "encoding_format": "base64"});
    let coded = post(&sim, "/v1/embeddings", coded).await;
    let coded = coded["data"][0]["embedding"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(coded)
        .unwrap();
    let first = f32::from_le_bytes(bytes[..4].try_into().unwrap());
    assert_eq!(vector[0].as_f64(), Some(f64::from(first)));
    let pooled = post(&sim, "/pooling", json!({"input": [1, 2]})).await;
    assert_eq!(pooled["data"][0]["object"], "pooling");
    let class = post(&sim, "/classify", json!({"input": "a"})).await;
    assert_eq!(class["data"][0]["num_classes"], 2);
    let pairs = json!({"text_1": "a", "text_2": ["b", "c"]});
    for path in ["/score", "/v1/score"] {
        let scores = post(&sim, path, pairs.clone()).await;
        assert_eq!(scores["data"].as_array().unwrap().len(), 2);
    }
    let ranking = json!({"query": "a", "documents": ["b", "c", "d"], "top_n": 2});
    for path in ["/rerank", "/v1/rerank", "/v2/rerank"] {
        let ranked = post(&sim, path, ranking.clone()).await;
        let results = ranked["results"].as_array().unwrap();
        assert_eq!(results.len(), 2);
        let score = |at: usize| results[at]["relevance_score"].as_f64();
        assert!(score(0) >= score(1));
    }
    for (path, body) in [
        ("/v1/embeddings", json!({"input": 5})),
        (
            "/v1/embeddings",
            json!({"input": "a", "encoding_format": "x"}),
        ),
        ("/v1/embeddings", json!({"input": []})),
        (
            "/score",
            json!({"text_1": ["a", "b"], "text_2": ["c", "d", "e"]}),
        ),
        ("/rerank", json!({"query": "a"})),
    ] {
        assert_eq!(sim.post(path, &body).await.status, 400, "{path} {body}");
    }
    sim.stop().await;
}

#[tokio::test]
async fn an_operator_reaches_what_a_client_must_not() {
    let sim = TestSim::start(&[]).await;
    assert_eq!(sim.get("/is_sleeping").await.json()["is_sleeping"], false);
    let sleep = sim.post("/sleep?level=2", &json!({})).await.json();
    assert_eq!(sleep, json!({"status": "sleeping", "level": 2}));
    assert_eq!(sim.get("/is_sleeping").await.json()["is_sleeping"], true);
    assert_eq!(
        sim.post("/wake_up", &json!({})).await.json()["status"],
        "awake"
    );
    assert_eq!(sim.get("/is_sleeping").await.json()["is_sleeping"], false);
    assert_eq!(sim.post("/collective_rpc", &json!({})).await.status, 400);
    let called = sim.post("/collective_rpc", &json!({"method": "x"})).await;
    assert_eq!(called.json(), json!({"results": [null]}));
    let adapter = json!({"lora_name": "a", "lora_path": "/a"});
    let loaded = sim.post("/v1/load_lora_adapter", &adapter).await;
    assert!(loaded.text.starts_with("Success"));
    for path in ["/reset_mm_cache", "/reset_encoder_cache", "/start_profile"] {
        assert_eq!(sim.post(path, &json!({})).await.status, 200);
    }
    assert_eq!(sim.get("/server_info").await.status, 200);
    sim.stop().await;
}
