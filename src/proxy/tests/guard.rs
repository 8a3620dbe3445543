//! What a client must not be able to do.

use super::*;

const PREFILLED: &str = r#"{"kv_transfer_params":{"remote_engine_id":"e"}}"#;

#[tokio::test]
async fn a_target_that_is_not_allowed_is_a_403() {
    let engine = Backend::json(200, "{}").await;
    let prefiller = Backend::json(200, PREFILLED).await;
    let mut strict = setup(engine.address);
    strict.allowlist.loopback = false;
    let strict = strict.start().await;
    let mut listed = setup(engine.address);
    listed.allowlist.rules = vec!["127.0.0.1:1".parse().unwrap()];
    let listed = listed.start().await;
    let here = prefiller.address.to_string();
    let metadata = format!("{here},169.254.169.254:80");
    for (sidecar, named) in [(&strict, &here), (&listed, &here), (&listed, &metadata)] {
        let answer = sidecar.chat(named, "{}").await;
        assert_eq!(answer.status, 403);
        let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(
            body["error"]["message"],
            "Forbidden: prefill target not allowed by SSRF protection"
        );
    }
    assert_eq!(strict.refusals("target_not_allowed"), 1);
    assert_eq!((engine.all().len(), prefiller.all().len()), (0, 0));
}

#[tokio::test]
async fn a_name_that_leads_to_a_refused_address_is_a_403() {
    let engine = Backend::json(200, "{}").await;
    let prefiller = Backend::json(200, PREFILLED).await;
    let mut setup = setup(engine.address);
    setup.allowlist.loopback = false;
    let sidecar = setup.start().await;
    let named = format!("localhost:{}", prefiller.address.port());
    assert_eq!(sidecar.chat(&named, "{}").await.status, 403);
    assert_eq!((engine.all().len(), prefiller.all().len()), (0, 0));
}

#[tokio::test]
async fn a_listed_target_is_reached() {
    let engine = Backend::json(200, "{}").await;
    let prefiller = Backend::json(200, PREFILLED).await;
    let mut setup = setup(engine.address);
    let rule = format!("127.0.0.0/8:{}", prefiller.address.port());
    setup.allowlist.rules = vec![rule.parse().unwrap()];
    let sidecar = setup.start().await;
    let answer = sidecar.chat(&prefiller.address.to_string(), "{}").await;
    assert_eq!((answer.status, prefiller.all().len()), (200, 1));
}

#[tokio::test]
async fn kv_transfer_params_of_a_client_reach_no_engine() {
    let engine = Backend::json(200, "{}").await;
    let prefiller = Backend::json(200, PREFILLED).await;
    let sidecar = sidecar(engine.address).await;
    let evil = r#"{"a":12345678901234567890,"kv_transfer_params":{"remote_host":"evil"}, "vllm_xargs":{"kv_transfer_params":"evil"}}"#;
    for path in [CHAT, "/v1/%63ompletions", "/invocations", "/v1/messages"] {
        assert_eq!(sidecar.post(path, &[], evil).await.status, 200);
        let got = engine.all().pop().unwrap();
        assert_eq!(got.path, path);
        assert_eq!(got.text(), r#"{"a":12345678901234567890, "vllm_xargs":{}}"#);
    }
    let escaped = r#"{"kv\u005ftransfer_params":{"remote_host":"evil"},"b":1}"#;
    sidecar.post(CHAT, &[], escaped).await;
    assert_eq!(engine.all().pop().unwrap().text(), r#"{"b":1}"#);
    assert_eq!(sidecar.count("kv_transfer_params_stripped_total"), 5);

    let named = prefiller.address.to_string();
    assert_eq!(sidecar.chat(&named, evil).await.status, 200);
    let (prefill, decode) = (prefiller.only(), engine.all().pop().unwrap());
    assert!(!prefill.text().contains("evil"), "{}", prefill.text());
    assert_eq!(
        decode.text(),
        r#"{"a":12345678901234567890,"kv_transfer_params":{"remote_engine_id":"e"}, "vllm_xargs":{}}"#
    );
    // The same when the prefill fails.
    sidecar.chat(&nobody().await.to_string(), evil).await;
    let decode = engine.all().pop().unwrap();
    assert!(!decode.text().contains("evil"), "{}", decode.text());
    assert_eq!(sidecar.count("kv_transfer_params_stripped_total"), 7);
}

#[tokio::test]
async fn a_body_without_them_goes_on_byte_for_byte() {
    let engine = Backend::json(200, "{}").await;
    let sidecar = sidecar(engine.address).await;
    for body in [
        "{ \"b\":1e400 ,\"a\":[NaN]}",
        "not json",
        "",
        "{\"x\":\"\\u00e9\"}",
    ] {
        assert_eq!(sidecar.post(CHAT, &[], body).await.status, 200);
        assert_eq!(engine.all().pop().unwrap().text(), body);
    }
}

#[tokio::test]
async fn a_body_that_cannot_be_looked_into_is_refused() {
    let engine = Backend::json(200, "{}").await;
    let setup = Setup {
        limits: Limits {
            max_body_bytes: 100,
            ..Limits::default()
        },
        ..setup(engine.address)
    };
    let sidecar = setup.start().await;
    let refused = sidecar.post(CHAT, &[], r#"{"kv_transfer_params":"#).await;
    assert_eq!(refused.status, 400);
    assert!(
        refused.body.contains("invalid JSON at line 1"),
        "{}",
        refused.body
    );
    let refused = sidecar.chat("127.0.0.1:1", "[]").await;
    assert_eq!(refused.status, 400);
    assert!(
        refused.body.contains("not a JSON object"),
        "{}",
        refused.body
    );
    let gzip = [("content-encoding", "gzip")];
    assert_eq!(sidecar.post(CHAT, &gzip, "{}").await.status, 415);
    assert_eq!(sidecar.post(CHAT, &[], &"x".repeat(101)).await.status, 413);
    assert_eq!(sidecar.post(CHAT, &[], &" ".repeat(100)).await.status, 200);
    assert_eq!(engine.all().len(), 1);
    assert_eq!(
        (
            sidecar.refusals("not_json"),
            sidecar.refusals("body_too_large")
        ),
        (2, 1)
    );
}

#[tokio::test]
async fn a_body_without_a_declared_length_is_bounded_too() {
    let engine = Backend::json(200, "{}").await;
    let setup = Setup {
        limits: Limits {
            max_body_bytes: 10,
            ..Limits::default()
        },
        ..setup(engine.address)
    };
    let sidecar = setup.start().await;
    let mut stream = TcpStream::connect(sidecar.address).await.unwrap();
    let request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n8\r\n12345678\r\n8\r\n12345678\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"}") {
        let read = tokio::time::timeout(DEADLINE, stream.read_buf(&mut seen)).await;
        assert_ne!(read.unwrap().unwrap(), 0);
    }
    assert!(seen.starts_with(b"HTTP/1.1 413"));
    assert_eq!(engine.all().len(), 0);
}
