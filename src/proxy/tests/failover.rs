//! Prefill endpoints that fail, in every way: the request is answered all the same.

use super::*;

const PREFILLED: &str = r#"{"kv_transfer_params":{"remote_engine_id":"e"}}"#;
const DECODED: &str = r#"{"messages":[{"role":"user","content":"hi"}],"kv_transfer_params":{"remote_engine_id":"e"}}"#;

/// With only this prefill endpoint, the decode engine gets the client's bytes as they are.
async fn falls_back(prefiller: SocketAddr, reason: &str, limits: Limits) {
    let engine = Backend::json(200, "done").await;
    let setup = Setup {
        limits,
        ..setup(engine.address)
    };
    let sidecar = setup.start().await;
    let answer = sidecar.chat(&prefiller.to_string(), BODY).await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "done"),
        "{reason}"
    );
    assert_eq!(engine.only().text(), BODY, "{reason}");
    assert_eq!(sidecar.fallbacks(reason), 1, "{reason}");
}

#[tokio::test]
async fn a_prefill_endpoint_that_fails_leaves_the_prompt_to_the_decode_engine() {
    let limits = Limits::default;
    falls_back(nobody().await, "unreachable", limits()).await;
    for text in ["garbage", "[1]", "", "{\"kv_transfer_params\":{}"] {
        let garbage = Backend::json(200, text).await;
        falls_back(garbage.address, "broken_answer", limits()).await;
    }
    for text in [
        "{}",
        r#"{"kv_transfer_params":null}"#,
        r#"{"kv_transfer_params":"x"}"#,
        r#"{"kv_transfer_params":{"a":NaN}}"#,
    ] {
        let silent = Backend::json(200, text).await;
        falls_back(silent.address, "no_params", limits()).await;
    }
}

#[tokio::test]
async fn no_status_of_a_prefill_endpoint_blames_the_request() {
    for (status, reason) in [
        (307, "unexpected_status"),
        (400, "client_error"),
        (401, "unauthorized"),
        (403, "unauthorized"),
        (404, "not_found"),
        (408, "timeout"),
        (413, "client_error"),
        (415, "client_error"),
        (422, "client_error"),
        (429, "busy"),
        (499, "client_error"),
        (500, "server_error"),
        (503, "server_error"),
        (599, "server_error"),
    ] {
        let error = Backend::json(status, r#"{"error":{"message":"prefill says no"}}"#).await;
        falls_back(error.address, reason, Limits::default()).await;
        assert_eq!(error.all().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn blame_is_the_decode_engine_s_to_give() {
    let engine = Backend::new(|_| {
        let mut response = json(400, r#"{"error":{"message":"decode says no"}}"#);
        let value = http::HeaderValue::from_static("decode");
        response.headers_mut().insert("x-why", value);
        response
    });
    let (engine, one) = (engine.await, Backend::json(400, r#"{"secret":1}"#).await);
    let two = Backend::json(429, r#"{"secret":2}"#).await;
    let sidecar = sidecar(engine.address).await;
    let answer = sidecar
        .chat(&format!("{},{}", one.address, two.address), BODY)
        .await;
    assert_eq!((answer.status, answer.header("x-why")), (400, "decode"));
    assert_eq!(answer.body, r#"{"error":{"message":"decode says no"}}"#);
    // Each was asked once, the decode engine too.
    assert_eq!(
        (one.all().len(), two.all().len(), engine.all().len()),
        (1, 1, 1)
    );
}

#[tokio::test]
async fn a_prefill_that_hangs_or_breaks_off_is_given_up() {
    let limits = Limits {
        prefill_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let hangs = raw(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    falls_back(hangs, "timeout", limits.clone()).await;
    let stalls = raw(|mut stream| async move {
        let part = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"kv";
        stream.write_all(part).await.unwrap();
        std::future::pending::<()>().await;
    });
    falls_back(stalls.await, "timeout", limits).await;
    let breaks = raw(|mut stream| async move {
        let part = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"kv";
        stream.write_all(part).await.unwrap();
    });
    falls_back(breaks.await, "broken_answer", Limits::default()).await;
    let closes = raw(|_stream| async {}).await;
    falls_back(closes, "broken_answer", Limits::default()).await;
}

#[tokio::test]
async fn a_prefill_answer_larger_than_the_bound_is_not_read() {
    let large = Backend::new(|_| json(200, &format!("{{\"a\":\"{}\"}}", "x".repeat(2000)))).await;
    let limits = Limits {
        max_body_bytes: 1000,
        ..Limits::default()
    };
    falls_back(large.address, "answer_too_large", limits).await;
}

#[tokio::test]
async fn the_next_endpoint_is_asked_when_one_fails() {
    let engine = Backend::json(200, "done").await;
    let error = Backend::json(503, "{}").await;
    let good = Backend::json(200, PREFILLED).await;
    let nobody = nobody().await;
    let sidecar = sidecar(engine.address).await;
    let named = format!("{nobody}, {},{}", error.address, good.address);
    let answer = sidecar.chat(&named, BODY).await;
    assert_eq!(answer.status, 200);
    assert_eq!(engine.only().text(), DECODED);
    assert_eq!((error.all().len(), good.all().len()), (1, 1));
    for outcome in ["unreachable", "server_error", "ok"] {
        let name = format!("requests_total{{leg=\"prefill\",outcome=\"{outcome}\"}}");
        assert_eq!(sidecar.count(&name), 1, "{outcome}");
    }
}

#[tokio::test]
async fn only_so_many_endpoints_are_tried() {
    let engine = Backend::json(200, "done").await;
    let mut named = Vec::new();
    for _ in 0..4 {
        named.push(Backend::json(500, "{}").await);
    }
    let sidecar = sidecar(engine.address).await;
    let list: Vec<String> = named
        .iter()
        .map(|named| named.address.to_string())
        .collect();
    assert_eq!(sidecar.chat(&list.join(","), BODY).await.status, 200);
    let asked: Vec<usize> = named.iter().map(|named| named.all().len()).collect();
    assert_eq!(asked, [1, 1, 1, 0]);
}

#[tokio::test]
async fn an_endpoint_that_may_work_later_is_asked_again_when_told_so() {
    for (status, asked) in [(502, 3), (503, 3), (504, 3), (500, 1)] {
        let engine = Backend::json(200, "done").await;
        let error = Backend::json(status, "{}").await;
        let mut setup = setup(engine.address);
        setup.limits.prefill_max_retries = 2;
        let sidecar = setup.start().await;
        sidecar.chat(&error.address.to_string(), BODY).await;
        assert_eq!(error.all().len(), asked, "{status}");
    }
}

#[tokio::test]
async fn the_decode_engine_is_asked_once() {
    let asked: Arc<Mutex<u32>> = Arc::default();
    let counted = asked.clone();
    let engine = raw(move |_closed| {
        *counted.lock().unwrap() += 1;
        async {}
    });
    let good = Backend::json(200, PREFILLED).await;
    let sidecar = sidecar(engine.await).await;
    let answer = sidecar.chat(&good.address.to_string(), BODY).await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.message(), "the model server broke the connection");
    assert_eq!((*asked.lock().unwrap(), good.all().len()), (1, 1));
}

#[tokio::test]
async fn an_empty_or_unreadable_header_means_decode_only() {
    let engine = Backend::json(200, "done").await;
    let sidecar = sidecar(engine.address).await;
    for named in ["", " , ", "no port", "https://10.0.0.1:8000"] {
        assert_eq!(sidecar.chat(named, BODY).await.status, 200, "{named}");
    }
    assert_eq!(sidecar.fallbacks("bad_target"), 2);
    assert!(engine.all().iter().all(|got| got.text() == BODY));
    // Nothing was changed, so nothing is added either.
    assert_eq!(engine.all()[0].header(contract::HEADER_REQUEST_ID), None);
}

#[tokio::test]
async fn a_connector_that_is_not_built_in_leaves_prompts_to_the_decode_engine() {
    let engine = Backend::json(200, "done").await;
    let prefiller = Backend::json(200, PREFILLED).await;
    let setup = Setup {
        behaviour: Behaviour {
            connector: Connector::Sglang,
            ..setup(engine.address).behaviour
        },
        ..setup(engine.address)
    };
    let sidecar = setup.start().await;
    sidecar.chat(&prefiller.address.to_string(), BODY).await;
    assert_eq!((engine.only().text(), prefiller.all().len()), (BODY, 0));
    assert_eq!(sidecar.fallbacks("connector"), 1);
}
