//! Lists of prompts, samples, logprobs, stop strings and tools.

use serde_json::{Value, json};

use super::support::TestSim;

fn texts(answer: &Value) -> Vec<&str> {
    let choices = answer["choices"].as_array().unwrap();
    for (at, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], at);
    }
    choices
        .iter()
        .map(|choice| choice["text"].as_str().unwrap())
        .collect()
}

async fn complete(sim: &TestSim, body: Value) -> Value {
    let reply = sim.post("/v1/completions", &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

#[tokio::test]
async fn each_prompt_of_a_list_has_its_own_answers_in_order() {
    let sim = TestSim::start(&[]).await;
    let list = json!({"prompt": ["one", "two"], "n": 2, "max_tokens": 6, "seed": 7});
    let answer = complete(&sim, list.clone()).await;
    let both = texts(&answer);
    assert_eq!(both.len(), 4);
    for (prompt, pair) in [("one", &both[..2]), ("two", &both[2..])] {
        let alone = json!({"prompt": prompt, "n": 2, "max_tokens": 6, "seed": 7});
        assert_eq!(texts(&complete(&sim, alone).await), pair);
        assert_ne!(pair[0], pair[1]);
    }
    assert_ne!(both[0], both[2]);
    // A prompt counts once, whatever the number of its samples.
    assert_eq!(answer["usage"]["prompt_tokens"], 4);
    assert_eq!(answer["usage"]["completion_tokens"], 24);
    // The same as a stream.
    let mut stream = list;
    stream["stream"] = json!(true);
    let mut said = vec![String::new(); 4];
    for event in sim.post("/v1/completions", &stream).await.events() {
        let choice = &event["choices"][0];
        said[choice["index"].as_u64().unwrap() as usize] += choice["text"].as_str().unwrap();
    }
    assert_eq!(said, both);
    sim.stop().await;
}

#[tokio::test]
async fn a_seed_changes_the_answer_unless_it_is_greedy() {
    let sim = TestSim::start(&[]).await;
    let ask = async |seed: u64, temperature: f64| {
        let body =
            json!({"prompt": "a", "max_tokens": 9, "seed": seed, "temperature": temperature});
        complete(&sim, body).await["choices"][0]["text"].clone()
    };
    assert_eq!(ask(1, 1.0).await, ask(1, 0.7).await);
    assert_ne!(ask(1, 1.0).await, ask(2, 1.0).await);
    assert_eq!(ask(1, 0.0).await, ask(2, 0.0).await);
    sim.stop().await;
}

#[tokio::test]
async fn chats_have_samples_too() {
    let sim = TestSim::start(&[]).await;
    let mut body =
        json!({"messages": [{"role": "user", "content": "hi"}], "n": 2, "max_tokens": 5});
    let answer = sim.chat(body.clone()).await.json();
    let said: Vec<&str> = (0..2)
        .map(|at| {
            answer["choices"][at]["message"]["content"]
                .as_str()
                .unwrap()
        })
        .collect();
    assert_ne!(said[0], said[1]);
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true, "continuous_usage_stats": true});
    let events = sim.chat(body).await.events();
    let roles = events
        .iter()
        .filter(|event| event["choices"][0]["delta"]["role"] == "assistant");
    assert_eq!(roles.count(), 2);
    assert!(
        events
            .iter()
            .all(|event| event["usage"]["prompt_tokens"] == 11)
    );
    let usage = &events.last().unwrap()["usage"];
    assert_eq!(usage["completion_tokens"], 10);
    sim.stop().await;
}

#[tokio::test]
async fn an_echo_comes_first_with_logprobs_of_its_own() {
    let sim = TestSim::start(&[]).await;
    let body = json!({"prompt": "hello there", "echo": true, "logprobs": 2, "max_tokens": 3});
    let answer = complete(&sim, body).await;
    let choice = &answer["choices"][0];
    assert!(choice["text"].as_str().unwrap().starts_with("hello there"));
    let logprobs = &choice["logprobs"];
    let tokens = logprobs["tokens"].as_array().unwrap();
    // The beginning of a text, two words, three generated.
    assert_eq!(tokens.len(), 6);
    assert_eq!(logprobs["token_logprobs"][0], Value::Null);
    assert_eq!(logprobs["top_logprobs"][5].as_object().unwrap().len(), 2);
    let mut offset = 0;
    for (token, at) in tokens
        .iter()
        .zip(logprobs["text_offset"].as_array().unwrap())
    {
        assert_eq!(at, offset);
        offset += token.as_str().unwrap().len();
    }
    let only = json!({"prompt": "hello there", "echo": true, "max_tokens": 0});
    let only = complete(&sim, only).await;
    assert_eq!(only["choices"][0]["text"], "hello there");
    sim.stop().await;
}

#[tokio::test]
async fn chat_logprobs_tell_the_token_and_the_likeliest_others() {
    let sim = TestSim::start(&[]).await;
    let messages = json!([{"role": "user", "content": "hi"}]);
    let body = json!({"messages": messages, "max_tokens": 3, "logprobs": true, "top_logprobs": 2});
    let answer = sim.chat(body).await.json();
    let choice = &answer["choices"][0];
    let entries = choice["logprobs"]["content"].as_array().unwrap();
    assert_eq!(entries.len(), 3);
    let said: String = entries
        .iter()
        .map(|entry| entry["token"].as_str().unwrap())
        .collect();
    assert_eq!(choice["message"]["content"], said);
    let top = entries[0]["top_logprobs"].as_array().unwrap();
    assert_eq!(top.len(), 2);
    assert_eq!(top[0]["logprob"], entries[0]["logprob"]);
    assert!(top[1]["logprob"].as_f64() < top[0]["logprob"].as_f64());
    sim.stop().await;
}

#[tokio::test]
async fn an_answer_ends_at_a_stop_string_and_the_engine_is_free() {
    let sim = TestSim::start(&["--inter-token-latency", "1ms"]).await;
    let whole = complete(&sim, json!({"prompt": "a", "max_tokens": 40})).await;
    let whole = texts(&whole)[0].to_owned();
    let words: Vec<&str> = whole.split(' ').collect();
    // Two words, so that the string spans tokens.
    let stop = format!("{} {}", words[4], words[5]);
    let before = &whole[..whole.find(&stop).unwrap()];
    for stream in [false, true] {
        let body =
            json!({"prompt": "a", "max_tokens": 4000, "stop": [stop, "never"], "stream": stream});
        let reply = sim.post("/v1/completions", &body).await;
        let (text, last) = if stream {
            let events = reply.events();
            let text = events
                .iter()
                .map(|event| event["choices"][0]["text"].as_str().unwrap());
            (
                text.collect::<String>(),
                events.last().unwrap()["choices"][0].clone(),
            )
        } else {
            let choice = reply.json()["choices"][0].clone();
            (choice["text"].as_str().unwrap().to_owned(), choice)
        };
        assert_eq!(text, before);
        assert_eq!(
            (&last["finish_reason"], &last["stop_reason"]),
            (&json!("stop"), &json!(stop))
        );
    }
    assert_eq!(sim.count("vllm:num_requests_running").await, 0);
    let body = json!({"prompt": "a", "max_tokens": 40, "min_tokens": 40, "stop": [stop]});
    let answer = complete(&sim, body).await;
    assert_eq!(answer["usage"]["completion_tokens"], 40);
    sim.stop().await;
}

fn weather() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object", "required": ["city"],
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    }}}])
}

#[tokio::test]
async fn a_tool_is_called_in_one_piece_and_in_deltas() {
    let sim = TestSim::start(&[]).await;
    let user = json!({"role": "user", "content": "hi"});
    let named = json!({"type": "function", "function": {"name": "weather"}});
    for (choice, reason) in [
        (json!("auto"), "tool_calls"),
        (json!("required"), "tool_calls"),
        (named, "stop"),
    ] {
        let mut body = json!({"messages": [user], "tools": weather(), "tool_choice": choice});
        let answer = sim.chat(body.clone()).await.json();
        let call = &answer["choices"][0]["message"]["tool_calls"][0];
        assert_eq!(answer["choices"][0]["finish_reason"], reason);
        assert_eq!(call["function"]["name"], "weather");
        let whole = call["function"]["arguments"].as_str().unwrap().to_owned();
        let arguments: Value = serde_json::from_str(&whole).unwrap();
        assert_eq!(arguments["days"], 1);
        assert!(!arguments["city"].as_str().unwrap().is_empty());
        body["stream"] = json!(true);
        let mut streamed = String::new();
        let events = sim.chat(body).await.events();
        for event in &events[1..] {
            let part = &event["choices"][0]["delta"]["tool_calls"][0];
            streamed += part["function"]["arguments"].as_str().unwrap();
        }
        assert_eq!(streamed, whole);
        assert_eq!(
            events.last().unwrap()["choices"][0]["finish_reason"],
            reason
        );
    }
    // Once told the result, it answers.
    let body = json!({"messages": [user, {"role": "tool", "content": "rain", "tool_call_id": "x"}], "tools": weather()});
    let answer = sim.chat(body).await.json();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert!(answer["choices"][0]["message"]["tool_calls"].is_null());
    sim.stop().await;
}
