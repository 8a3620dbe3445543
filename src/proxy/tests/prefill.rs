//! Both legs when nothing goes wrong.

use futures::StreamExt as _;
use http_body_util::StreamBody;
use hyper::body::Frame;

use super::*;

/// What a prefill endpoint answers, with integers that no float holds.
const PREFILLED: &str = r#"{"id":"x", "kv_transfer_params": {"do_remote_prefill":true,  "remote_block_ids":[[18446744073709551617,2]],"remote_engine_id":"e"}, "usage":{"prompt_tokens_details":{"cached_tokens":16}}}"#;
const PARAMS: &str = r#"{"do_remote_prefill":true,  "remote_block_ids":[[18446744073709551617,2]],"remote_engine_id":"e"}"#;
const REMOTE_DECODE: &str = r#"{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}"#;

#[tokio::test]
async fn each_api_caps_the_prefill_and_leaves_the_decode_as_the_client_wrote_it() {
    let cases = [
        (
            CHAT,
            r#"{"seed":9007199254740993, "max_tokens" : 50,"stream":false,"min_tokens":2,"messages":[{"content":"x"}],"b":1,"a":2}"#,
            r#"{"seed":9007199254740993, "max_tokens" : 1,"stream":false,"messages":[{"content":"x"}],"b":1,"a":2,KV,"max_completion_tokens":1}"#,
        ),
        (
            CHAT,
            "{\"messages\":[{\"content\":\"x\"}],\"temperature\":NaN}\n",
            "{\"messages\":[{\"content\":\"x\"}],\"temperature\":NaN,KV,\"stream\":false,\"max_tokens\":1,\"max_completion_tokens\":1}\n",
        ),
        (
            CHAT,
            r#"{"messages":[{"content":"x"}],"n":1,"logprobs":true,"top_logprobs":5,"tools":[1],"stream_options":{}}"#,
            r#"{"messages":[{"content":"x"}],"n":1,"tools":[1],KV,"stream":false,"max_tokens":1,"max_completion_tokens":1}"#,
        ),
        (
            "/v1/completions",
            r#"{"prompt":"x","logit_bias":{"18446744073709551616":-1e-7},"stream":true,"stream_options":{"include_usage":true},"best_of":1,"logprobs":2}"#,
            r#"{"prompt":"x","logit_bias":{"18446744073709551616":-1e-7},"stream":false,KV,"max_tokens":1}"#,
        ),
        (
            "/v1/messages",
            r#"{"max_tokens":1024,"messages":[{"content":"x"}]}"#,
            r#"{"max_tokens":1,"messages":[{"content":"x"}],KV,"stream":false}"#,
        ),
        (
            "/v1/responses",
            r#"{"max_output_tokens":9,"input":"x","top_logprobs":3}"#,
            r#"{"max_output_tokens":1,"input":"x",KV,"stream":false}"#,
        ),
        (
            "/v1/responses",
            r#"{"input":"x"}"#,
            r#"{"input":"x",KV,"stream":false,"max_output_tokens":1}"#,
        ),
        (
            "/inference/v1/generate",
            r#"{"token_ids":[1,2],"sampling_params":{"max_tokens":9,"min_tokens":3,"seed":1,"n":1,"logprobs":1}}"#,
            r#"{"token_ids":[1,2],"sampling_params":{"max_tokens":1,"seed":1,"n":1},KV,"stream":false}"#,
        ),
        (
            "/inference/v1/generate",
            r#"{"token_ids":[1,2]}"#,
            r#"{"token_ids":[1,2],KV,"stream":false,"sampling_params":{"max_tokens":1}}"#,
        ),
    ];
    for (path, body, want) in cases {
        let (engine, prefiller) = (
            Backend::json(200, "{}").await,
            Backend::json(200, PREFILLED).await,
        );
        let sidecar = sidecar(engine.address).await;
        let named = prefiller.address.to_string();
        let headers = [
            (contract::HEADER_PREFILLER, named.as_str()),
            ("authorization", "k"),
        ];
        let answer = sidecar.post(path, &headers, body).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "{}"), "{path}");

        let kv = format!("\"kv_transfer_params\":{REMOTE_DECODE}");
        let (prefill, decode) = (prefiller.only(), engine.only());
        assert_eq!(prefill.text(), want.replace("KV", &kv), "{path}");
        let end = body.rfind('}').unwrap();
        let (inside, tail) = body.split_at(end);
        assert_eq!(
            decode.text(),
            format!("{inside},\"kv_transfer_params\":{PARAMS}{tail}"),
            "{path}"
        );
        for got in [&prefill, &decode] {
            assert_eq!(got.path, path);
            assert_eq!(got.header(contract::HEADER_PREFILLER), None);
        }
        assert_eq!(decode.header("authorization"), Some("k"));
        let id = prefill.header(contract::HEADER_REQUEST_ID).unwrap();
        assert!(uuid::Uuid::parse_str(id).is_ok(), "{id}");
        assert_eq!(decode.header(contract::HEADER_REQUEST_ID), Some(id));
        assert_eq!(prefill.header("host"), Some(named.as_str()));
        assert_eq!(sidecar.count("prefill_seconds_count"), 1);
    }
}

#[tokio::test]
async fn what_one_transfer_cannot_serve_goes_to_the_decode_engine_alone() {
    let (engine, prefiller) = (
        Backend::json(200, "{}").await,
        Backend::json(200, PREFILLED).await,
    );
    let sidecar = sidecar(engine.address).await;
    let named = prefiller.address.to_string();
    let cases = [
        ("/v1/completions", r#"{"prompt":["a","b"]}"#, "many-prompts"),
        ("/v1/completions", r#"{"prompt":[[1],[2]]}"#, "many-prompts"),
        ("/v1/completions", r#"{"prompt":"a","n":2}"#, "many-samples"),
        (
            "/v1/completions",
            r#"{"prompt":"a","echo":true,"logprobs":1}"#,
            "echo",
        ),
        (
            CHAT,
            r#"{"messages":[{"content":"x"}],"n":"3"}"#,
            "many-samples",
        ),
        (
            CHAT,
            r#"{"messages":[{"content":"x"}],"prompt_logprobs":0}"#,
            "prompt-logprobs",
        ),
        (CHAT, "{}", "no-prompt"),
        (CHAT, "[1]", "unreadable"),
        (CHAT, "{\"messages\":[{}]", "unreadable"),
        (
            "/inference/v1/generate",
            r#"{"token_ids":[1],"sampling_params":{"n":2}}"#,
            "many-samples",
        ),
    ];
    for (path, body, reason) in cases {
        let count = format!("prefill_ineligible_total{{reason=\"{reason}\"}}");
        let before = sidecar.count(&count);
        let headers = [(contract::HEADER_PREFILLER, named.as_str())];
        assert_eq!(
            sidecar.post(path, &headers, body).await.status,
            200,
            "{body}"
        );
        let got = engine.all().pop().unwrap();
        assert_eq!((got.text(), got.path.as_str()), (body, path));
        assert_eq!(sidecar.count(&count), before + 1, "{body}");
    }
    // No tokens are made there, so there is nothing to prefill for.
    let headers = [(contract::HEADER_PREFILLER, named.as_str())];
    sidecar
        .post("/v1/embeddings", &headers, r#"{"input":"x"}"#)
        .await;
    assert_eq!(engine.all().len(), cases.len() + 1);
    assert_eq!(prefiller.all().len(), 0);
}

#[tokio::test]
async fn a_prefill_leg_carries_the_operator_s_key_and_nothing_of_the_client() {
    let (engine, prefiller) = (
        Backend::json(200, "{}").await,
        Backend::json(200, PREFILLED).await,
    );
    let named = prefiller.address.to_string();
    let headers = [
        (contract::HEADER_PREFILLER, named.as_str()),
        ("authorization", "Bearer client"),
        ("cookie", "c=1"),
        ("x-api-key", "k"),
        ("traceparent", "00-1-2-3"),
        ("tracestate", "a=b"),
        ("accept", "text/event-stream"),
        ("x-request-id", "r"),
    ];
    let keyless = sidecar(engine.address).await;
    let keyed = Setup {
        key: Key::fixed("operator").unwrap(),
        ..setup(engine.address)
    };
    let keyed = keyed.start().await;
    for (sidecar, key) in [(keyless, None), (keyed, Some("Bearer operator"))] {
        assert_eq!(sidecar.post(CHAT, &headers, BODY).await.status, 200);
        let got = prefiller.all().pop().unwrap();
        assert_eq!(got.header("authorization"), key);
        assert_eq!(got.header("traceparent"), Some("00-1-2-3"));
        assert_eq!(got.header("accept"), Some("application/json"));
        let known = [
            "accept",
            "authorization",
            "content-length",
            "content-type",
            "host",
            "traceparent",
            "tracestate",
            "x-request-id",
        ];
        for name in got.headers.keys() {
            assert!(known.contains(&name.as_str()), "{name}");
        }
        // The engine in this pod is the client's: it gets all of it.
        let decode = engine.all().pop().unwrap();
        assert_eq!(decode.header("authorization"), Some("Bearer client"));
        assert_eq!(
            (decode.header("cookie"), decode.header("x-api-key")),
            (Some("c=1"), Some("k"))
        );
    }
}

#[tokio::test]
async fn a_large_body_is_edited_byte_for_byte() {
    let (engine, prefiller) = (
        Backend::json(200, "{}").await,
        Backend::json(200, PREFILLED).await,
    );
    let sidecar = sidecar(engine.address).await;
    let text = "né\\n ".repeat(200_000);
    let body = format!(
        "{{\"messages\":[{{\"content\":\"{text}\"}}],\"kv_transfer_params\":7, \"seed\":1}}"
    );
    assert_eq!(
        sidecar
            .chat(&prefiller.address.to_string(), &body)
            .await
            .status,
        200
    );
    assert!(engine.only().text() == body.replace(":7,", &format!(":{PARAMS},")));
    assert!(prefiller.only().text().starts_with(&body[..text.len()]));
    assert_eq!(sidecar.budget.used(), 0);
}

#[tokio::test]
async fn the_clients_request_id_is_kept_on_both_legs() {
    let (engine, prefiller) = (
        Backend::json(200, "{}").await,
        Backend::json(200, PREFILLED).await,
    );
    let sidecar = sidecar(engine.address).await;
    let url = format!("http://{}", prefiller.address);
    let headers = [
        (contract::HEADER_PREFILLER_URL, url.as_str()),
        (contract::HEADER_REQUEST_ID, "mine"),
    ];
    assert_eq!(sidecar.post(CHAT, &headers, BODY).await.status, 200);
    for got in [prefiller.only(), engine.only()] {
        assert_eq!(got.header(contract::HEADER_REQUEST_ID), Some("mine"));
        assert_eq!(got.header(contract::HEADER_PREFILLER_URL), None);
    }
}

#[tokio::test]
async fn cached_tokens_are_those_of_the_prefill() {
    let engine = Backend::json(
        200,
        r#"{"usage": {"prompt_tokens":20,"prompt_tokens_details":{"cached_tokens":19}}, "seed":9007199254740993}"#,
    );
    let (engine, prefiller) = (engine.await, Backend::json(200, PREFILLED).await);
    let sidecar = sidecar(engine.address).await;
    let answer = sidecar.chat(&prefiller.address.to_string(), BODY).await;
    assert_eq!(
        answer.body,
        r#"{"usage": {"prompt_tokens":20,"prompt_tokens_details":{"cached_tokens":16}}, "seed":9007199254740993}"#
    );
    // Without a prefill the engine's own count is the truth.
    let plain = sidecar.post(CHAT, &[], "{}").await;
    assert!(
        plain.body.contains("\"cached_tokens\":19"),
        "{}",
        plain.body
    );
    assert!(plain.headers.contains_key("content-length"));
}

#[tokio::test]
async fn an_answer_is_untouched_where_the_prefill_counted_nothing_or_it_is_compressed() {
    const ANSWER: &str = r#"{"usage":{"prompt_tokens_details":{"cached_tokens":19}}}"#;
    let engine = Backend::new(|got| {
        let mut response = json(200, ANSWER);
        if got.text().contains("squeeze") {
            let gzip = http::HeaderValue::from_static("gzip");
            response.headers_mut().insert("content-encoding", gzip);
        }
        response
    });
    let engine = engine.await;
    let counts = Backend::json(200, PREFILLED).await;
    let silent = Backend::json(200, r#"{"kv_transfer_params":{}}"#).await;
    let sidecar = sidecar(engine.address).await;
    let answer = sidecar.chat(&silent.address.to_string(), BODY).await;
    assert_eq!(answer.body, ANSWER);
    assert!(answer.headers.contains_key("content-length"));
    let counts = counts.address.to_string();
    let answer = sidecar.chat(&counts, &BODY.replace("hi", "squeeze")).await;
    assert_eq!(answer.body, ANSWER);
}

#[tokio::test]
async fn a_stream_flows_line_by_line_and_its_usage_is_corrected() {
    let (chunks, receiver) = futures::channel::mpsc::unbounded::<&'static str>();
    let receiver = Mutex::new(Some(receiver));
    let engine = Backend::new(move |_| {
        let chunks = receiver.lock().unwrap().take().unwrap();
        let frames = chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(Bytes::from(chunk))));
        let body = StreamBody::new(frames)
            .map_err(|never| match never {})
            .boxed();
        Response::builder()
            .header("content-type", "text/event-stream; charset=utf-8")
            .body(body)
            .unwrap()
    });
    let (engine, prefiller) = (engine.await, Backend::json(200, PREFILLED).await);
    let sidecar = sidecar(engine.address).await;
    let named = prefiller.address.to_string();
    let headers = [(contract::HEADER_PREFILLER, named.as_str())];
    let request = post(sidecar.address, CHAT, &headers, BODY);

    chunks
        .unbounded_send("data: {\"n\":1}\n\ndata: {\"us")
        .unwrap();
    let mut body = client().request(request).await.unwrap().into_body();
    let next = tokio::time::timeout(DEADLINE, body.frame());
    let first = next.await.unwrap().unwrap().unwrap().into_data().unwrap();
    assert_eq!(
        first, "data: {\"n\":1}\n\n",
        "before the engine has finished"
    );
    for chunk in ["age\":{\"prompt_tok", "ens\":3}}\n\n", "data: [DO", "NE]"] {
        chunks.unbounded_send(chunk).unwrap();
    }
    drop(chunks);
    let rest = body.collect().await.unwrap().to_bytes();
    assert_eq!(
        rest,
        "data: {\"usage\":{\"prompt_tokens\":3,\"prompt_tokens_details\":{\"cached_tokens\":16}}}\n\ndata: [DONE]"
    );
    assert_eq!(
        engine.only().text(),
        BODY.replace("}]}", &format!("}}],\"kv_transfer_params\":{PARAMS}}}"))
    );
}

#[tokio::test]
async fn many_endpoints_are_begun_with_in_turn_when_sampling() {
    let (one, two) = (
        Backend::json(200, PREFILLED).await,
        Backend::json(200, PREFILLED).await,
    );
    let engine = Backend::json(200, "{}").await;
    let setup = Setup {
        behaviour: Behaviour {
            sampling: true,
            ..setup(engine.address).behaviour
        },
        ..setup(engine.address)
    };
    let sidecar = setup.start().await;
    let named = format!("{},{}", one.address, two.address);
    let mut requests = 0;
    while one.all().is_empty() || two.all().is_empty() {
        sidecar.chat(&named, BODY).await;
        requests += 1;
        assert!(
            requests < 100,
            "all {requests} requests went to one endpoint"
        );
    }
}

/// Reads until the other side closes.
async fn until_closed(mut stream: TcpStream, told: Arc<tokio::sync::Notify>) {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    told.notify_one();
}

async fn leaving_client(sidecar: &Sidecar, prefiller: SocketAddr, tail: &str) -> TcpStream {
    let mut stream = TcpStream::connect(sidecar.address).await.unwrap();
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nx-prefiller-host-port: {prefiller}\r\ncontent-length: {}\r\n\r\n{BODY}{tail}",
        BODY.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_prefill() {
    leaves_and_ends_the_prefill("").await;
}

/// Bytes that nobody reads before the answer must not hide that the client has gone.
#[tokio::test]
async fn a_client_that_leaves_something_unread_is_missed_as_well() {
    leaves_and_ends_the_prefill("\r\n").await;
    let next = format!("POST {CHAT} HTTP/1.1\r\ncontent-length: 999999\r\n\r\n");
    leaves_and_ends_the_prefill(&format!("{next}{}", "x".repeat(100_000))).await;
}

async fn leaves_and_ends_the_prefill(tail: &str) {
    let engine = Backend::json(200, "{}").await;
    let (arrived, closed): (Arc<tokio::sync::Notify>, Arc<tokio::sync::Notify>) =
        Default::default();
    let told = (arrived.clone(), closed.clone());
    let prefiller = raw(move |stream| {
        told.0.notify_one();
        until_closed(stream, told.1.clone())
    });
    let prefiller = prefiller.await;
    let sidecar = sidecar(engine.address).await;
    let client = leaving_client(&sidecar, prefiller, tail).await;
    let wait = |told: Arc<tokio::sync::Notify>| async move {
        tokio::time::timeout(DEADLINE, told.notified())
            .await
            .unwrap();
    };
    wait(arrived).await;
    drop(client);
    wait(closed).await;
    assert_eq!(engine.all().len(), 0);
    assert_eq!(
        sidecar.count("requests_total{leg=\"prefill\",outcome=\"cancelled\"}"),
        1
    );
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_decode() {
    let closed: Arc<tokio::sync::Notify> = Arc::default();
    let told = closed.clone();
    let engine = raw(move |mut stream| {
        let told = told.clone();
        async move {
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n6\r\ndata:\n\r\n";
            stream.write_all(head).await.unwrap();
            until_closed(stream, told).await;
        }
    });
    let engine = engine.await;
    let prefiller = Backend::json(200, PREFILLED).await;
    let sidecar = sidecar(engine).await;
    let mut client = leaving_client(&sidecar, prefiller.address, "").await;
    let mut seen = Vec::new();
    while !seen.ends_with(b"data:\n\r\n") {
        let read = tokio::time::timeout(DEADLINE, client.read_buf(&mut seen)).await;
        assert_ne!(read.unwrap().unwrap(), 0);
    }
    drop(client);
    let waited = tokio::time::timeout(DEADLINE, closed.notified()).await;
    assert!(waited.is_ok(), "the engine's connection stays open");
}
