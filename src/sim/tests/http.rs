//! The API over loopback.

use serde_json::json;

use super::support::TestSim;

fn long_text() -> String {
    "the same words again and again, ".repeat(20)
}

#[tokio::test]
async fn a_chat_is_answered_and_the_next_one_finds_its_prefix() {
    let sim = TestSim::start(&[]).await;
    let body = json!({"model": "m", "messages": [{"role": "user", "content": long_text()}], "max_tokens": 5});
    let first = sim.chat(body.clone()).await;
    assert_eq!(first.status, 200, "{}", first.text);
    assert_eq!(first.headers["x-inference-pod"], "pod-0");
    let answer = first.json();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 5);
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let again = sim.chat(body).await.json();
    let prompt = again["usage"]["prompt_tokens"].as_u64().unwrap();
    let cached = &again["usage"]["prompt_tokens_details"]["cached_tokens"];
    assert_eq!(cached.as_u64(), Some((prompt - 1) / 16 * 16));
    assert_eq!(again["choices"], answer["choices"]);
    assert_eq!(
        sim.count("vllm:prefix_cache_queries_total").await,
        2 * prompt
    );
    assert_eq!(
        sim.count("vllm:prefix_cache_hits_total").await,
        cached.as_u64().unwrap()
    );
    assert_eq!(sim.count("vllm:e2e_request_latency_seconds_count").await, 2);
    sim.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_sent_back_is_cached_up_to_its_last_full_block() {
    let sim = TestSim::start(&[]).await;
    let user = json!({"role": "user", "content": long_text()});
    let first = sim
        .chat(json!({"model": "m", "messages": [user], "max_tokens": 60}))
        .await
        .json();
    let said = &first["choices"][0]["message"];
    let next = sim
        .chat(json!({"model": "m", "messages": [user, said, {"role": "user", "content": "go on"}]}))
        .await
        .json();
    let known = first["usage"]["total_tokens"].as_u64().unwrap() - 1;
    let cached = next["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    assert_eq!(cached, Some(known / 16 * 16));
    sim.stop().await;
}

#[tokio::test]
async fn a_stream_has_a_role_tokens_a_reason_and_usage() {
    let sim = TestSim::start(&[]).await;
    let body = json!({
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": true,
        "max_completion_tokens": 4, "stream_options": {"include_usage": true},
    });
    let whole = sim
        .chat(json!({"model": "m", "messages": body["messages"], "max_tokens": 4}))
        .await
        .json();
    let events = sim.chat(body).await.events();
    assert_eq!(events.len(), 6);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let texts = events[1..5]
        .iter()
        .map(|event| event["choices"][0]["delta"]["content"].as_str().unwrap());
    assert_eq!(
        whole["choices"][0]["message"]["content"],
        texts.collect::<String>()
    );
    assert_eq!(events[3]["choices"][0]["finish_reason"], json!(null));
    assert_eq!(events[4]["choices"][0]["finish_reason"], "length");
    assert_eq!(events[5]["usage"]["completion_tokens"], 4);
    assert_eq!(events[5]["choices"], json!([]));
    sim.stop().await;
}

#[tokio::test]
async fn completions_take_texts_and_token_ids() {
    let sim = TestSim::start(&["--served-model-name", "m", "n"]).await;
    let tokens = sim
        .post("/tokenize", &json!({"model": "m", "prompt": long_text()}))
        .await
        .json();
    assert_eq!(tokens["count"], tokens["tokens"].as_array().unwrap().len());
    let ask = async |prompt| {
        let body = json!({"model": "n", "prompt": prompt, "max_tokens": 2, "stream": false});
        sim.post("/v1/completions", &body).await.json()
    };
    let by_text = ask(json!(long_text())).await;
    let by_tokens = ask(tokens["tokens"].clone()).await;
    assert_eq!(by_text["object"], "text_completion");
    assert_eq!(by_text["choices"], by_tokens["choices"]);
    let cached = &by_tokens["usage"]["prompt_tokens_details"]["cached_tokens"];
    assert!(cached.as_u64().unwrap() > 16);
    let back = sim
        .post("/detokenize", &json!({"tokens": tokens["tokens"]}))
        .await
        .json();
    assert_eq!(back["prompt"], format!("<|begin_of_text|>{}", long_text()));
    sim.stop().await;
}

#[tokio::test]
async fn a_full_queue_is_said_at_once_and_ids_come_back() {
    let flags = [
        "--max-num-seqs",
        "1",
        "--max-waiting-queue-length",
        "1",
        "--inter-token-latency",
        "20s",
    ];
    let sim = TestSim::start(&flags).await;
    let body = json!({"model": "m", "prompt": "a", "max_tokens": 9}).to_string();
    let mut waiting: Vec<_> = (0..2)
        .map(|_| Box::pin(sim.send("POST", "/v1/completions", body.clone(), &[])))
        .collect();
    loop {
        // Both must have arrived, one of them running.
        let poll = futures::future::select_all(&mut waiting);
        let pause = tokio::time::sleep(std::time::Duration::from_millis(5));
        tokio::select! { _ = poll => panic!("too early"), () = pause => {} }
        if sim.count("vllm:num_requests_running").await == 1
            && sim.count("vllm:num_requests_waiting").await == 1
        {
            break;
        }
    }
    let headers = [("x-request-id", "abc")];
    let third = sim
        .send("POST", "/v1/completions", body.clone(), &headers)
        .await
        .unwrap();
    assert_eq!(third.status, 429, "{}", third.text);
    assert_eq!(third.headers["retry-after"], "1");
    assert_eq!(third.headers["x-request-id"], "abc");
    drop(waiting);
    let deadline = tokio::time::Instant::now() + super::support::DEADLINE;
    while sim.count("vllm:num_requests_running").await > 0 {
        // Those who left are noticed within a step, and steps are slow here.
        sim.send(
            "POST",
            "/sim/faults",
            r#"{"slow_factor":0.0001}"#.to_owned(),
            &[],
        )
        .await
        .unwrap();
        assert!(tokio::time::Instant::now() < deadline);
    }
    sim.stop().await;
}

#[tokio::test]
async fn faults_come_as_asked_and_go() {
    let sim = TestSim::start(&[]).await;
    let body = json!({"model": "m", "prompt": "a", "max_tokens": 8});
    sim.post(
        "/sim/faults",
        &json!({"fail": {"next": 1, "status": 502}, "health_status": 503}),
    )
    .await;
    assert_eq!(sim.get("/health").await.status, 503);
    assert_eq!(sim.post("/v1/completions", &body).await.status, 502);
    assert_eq!(sim.post("/v1/completions", &body).await.status, 200);
    sim.post(
        "/sim/faults",
        &json!({"disconnect": {"next": 2, "after": 3}}),
    )
    .await;
    let stream = json!({"model": "m", "prompt": "a", "max_tokens": 8, "stream": true});
    for body in [&stream, &body] {
        let broken = sim
            .send("POST", "/v1/completions", body.to_string(), &[])
            .await;
        assert!(broken.is_err());
    }
    sim.post("/sim/faults", &json!({"metrics": "empty"})).await;
    assert_eq!(sim.get("/metrics").await.text, "");
    sim.post("/sim/faults", &json!({"metrics": "huge"})).await;
    assert!(sim.get("/metrics").await.text.len() > 60 << 20);
    assert_eq!(
        sim.post("/sim/faults", &json!({"metrics": "odd"}))
            .await
            .status,
        400
    );
    assert_eq!(
        sim.post("/sim/faults", &json!({"events": {}})).await.status,
        400
    );
    let cleared = sim
        .send("DELETE", "/sim/faults", String::new(), &[])
        .await
        .unwrap();
    assert_eq!(cleared.json()["settings"]["metrics"], json!(null));
    assert_eq!(cleared.json()["spoilt_requests"], 3);
    assert!(
        sim.get("/metrics")
            .await
            .text
            .contains("vllm:num_requests_running")
    );
    assert_eq!(sim.get("/health").await.status, 200);
    sim.stop().await;
}

#[tokio::test]
async fn a_request_that_hangs_ends_with_the_program() {
    let sim = TestSim::start(&[]).await;
    sim.post("/sim/faults", &json!({"hang": {"next": 1}})).await;
    let body = json!({"model": "m", "prompt": "a"}).to_string();
    let mut hangs = Box::pin(sim.send("POST", "/v1/completions", body, &[]));
    while sim.get("/sim/faults").await.json()["spoilt_requests"] != 1 {
        let pause = tokio::time::sleep(std::time::Duration::from_millis(5));
        tokio::select! { _ = &mut hangs => panic!("it does not hang"), () = pause => {} }
    }
    sim.shutdown.begin();
    assert_eq!(hangs.await.unwrap().status, 503);
    sim.stop().await;
}

#[tokio::test]
async fn without_the_admin_switch_there_are_no_faults() {
    let sim = TestSim::start_with(&[], |config| config.environment.admin = false).await;
    assert_eq!(sim.get("/sim/faults").await.status, 404);
    let models = sim.get("/v1/models").await.json();
    assert_eq!(models["data"][0]["id"], "m");
    sim.stop().await;
}
