//! What a client must not be able to do, and what must not be taken for that.

use std::net::IpAddr;

use super::*;

const PREFILLED: &str = r#"{"kv_transfer_params":{"remote_engine_id":"e"}}"#;

#[tokio::test]
async fn a_target_that_is_not_allowed_is_a_403_that_says_why() {
    let engine = Backend::json(200, "{}").await;
    let prefiller = Backend::json(200, PREFILLED).await;
    let here = prefiller.address.to_string();
    let with = |rules: &[String]| {
        let mut setup = setup(engine.address);
        setup.allowlist.rules = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        setup.start()
    };
    let none = with(&[]).await;
    let other = with(&["127.0.0.1:1".to_owned()]).await;
    let network = with(&[format!("127.0.0.0/8:{}", prefiller.address.port())]).await;
    let listed = with(std::slice::from_ref(&here)).await;
    let metadata = format!("{here},169.254.169.254:80");
    let name = format!("localhost:{}", prefiller.address.port());
    for (sidecar, named, why) in [
        (
            &none,
            "10.0.0.1:8000",
            "no list is set: --allowed-prefillers or --prefill-service",
        ),
        (&none, &here, "this address is never"),
        (
            &other,
            "10.0.0.1:8000",
            "neither --allowed-prefillers nor --prefill-service has it",
        ),
        (&other, &here, "this address is never"),
        (&other, &name, "neither --allowed-prefillers nor"),
        (&network, &here, "this address is never"),
        (&listed, &metadata, "this address is never"),
        (&listed, "0x7f.1:80", "this address is never"),
    ] {
        let answer = sidecar.chat(named, BODY).await;
        assert_eq!(answer.status, 403, "{named}");
        let message = answer.message();
        let told = "Forbidden: prefill target not allowed by SSRF protection: ";
        assert!(
            message.starts_with(told) && message.contains(why),
            "{message}"
        );
    }
    assert_eq!(none.refusals("target_not_allowed"), 2);
    assert_eq!((engine.all().len(), prefiller.all().len()), (0, 0));
    assert_eq!(listed.chat(&here, BODY).await.status, 200);
    assert_eq!(prefiller.all().len(), 1);
}

#[tokio::test]
async fn a_listed_name_that_leads_to_a_refused_address_is_a_403() {
    let engine = Backend::json(200, "{}").await;
    let prefiller = Backend::json(200, PREFILLED).await;
    let mut setup = setup(engine.address);
    let named = format!("localhost:{}", prefiller.address.port());
    setup.allowlist.rules = vec![named.parse().unwrap()];
    let sidecar = setup.start().await;
    assert_eq!(sidecar.chat(&named, BODY).await.status, 403);
    assert_eq!((engine.all().len(), prefiller.all().len()), (0, 0));
}

/// A sidecar whose Service has these addresses, on this port.
async fn with_service(engine: &Backend, port: u16, addresses: &[IpAddr]) -> Sidecar {
    let mut setup = setup(engine.address);
    setup.allowlist = Allowlist {
        service_port: Some(port),
        loopback: true,
        ..Allowlist::default()
    };
    let addresses = addresses.to_vec();
    setup.look_up = Some(Arc::new(move |_, _| {
        let found = addresses.clone();
        Box::pin(async move { Ok(found) })
    }));
    setup.start().await
}

#[tokio::test]
async fn what_the_prefill_service_has_is_allowed_and_nothing_else() {
    let engine = Backend::json(200, "done").await;
    let prefiller = Backend::json(200, PREFILLED).await;
    let port = prefiller.address.port();
    let sidecar = with_service(&engine, port, &[prefiller.address.ip()]).await;
    let here = prefiller.address.to_string();
    assert_eq!(sidecar.chat(&here, BODY).await.status, 200);
    assert_eq!(prefiller.all().len(), 1);
    // Another port, and what no DNS may say.
    for named in ["127.0.0.1:1".to_owned(), format!("169.254.169.254:{port}")] {
        assert_eq!(sidecar.chat(&named, BODY).await.status, 403, "{named}");
    }
    // A pod that DNS does not have yet: the request is none the worse.
    let ahead = with_service(&engine, port, &[[127, 0, 0, 77].into()]).await;
    let answer = ahead.chat(&here, BODY).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "done"));
    assert_eq!(
        (ahead.fallbacks("not_listed"), prefiller.all().len()),
        (1, 1)
    );
}

#[tokio::test]
async fn kv_transfer_params_of_a_client_reach_no_engine() {
    let engine = Backend::json(200, "{}").await;
    let prefiller = Backend::json(200, PREFILLED).await;
    let nobody = nobody().await;
    let sidecar = sidecar(engine.address).await;
    let evil = r#"{"messages":[{}],"a":12345678901234567890,"kv_transfer_params":{"remote_host":"evil"}, "vllm_xargs":{"kv_transfer_params":"evil"}}"#;
    let safe = r#"{"messages":[{}],"a":12345678901234567890, "vllm_xargs":{}}"#;
    for path in [CHAT, "/v1/%63ompletions", "/invocations", "/v1/messages"] {
        assert_eq!(sidecar.post(path, &[], evil).await.status, 200);
        let got = engine.all().pop().unwrap();
        assert_eq!((got.path.as_str(), got.text()), (path, safe));
    }
    let escaped = r#"{"kv\u005ftransfer_params":{"remote_host":"evil"},"b":NaN}"#;
    sidecar.post(CHAT, &[], escaped).await;
    assert_eq!(engine.all().pop().unwrap().text(), r#"{"b":NaN}"#);
    assert_eq!(sidecar.count("kv_transfer_params_stripped_total"), 5);

    let named = prefiller.address.to_string();
    assert_eq!(sidecar.chat(&named, evil).await.status, 200);
    let (prefill, decode) = (prefiller.only(), engine.all().pop().unwrap());
    assert!(!prefill.text().contains("evil"), "{}", prefill.text());
    assert_eq!(
        decode.text(),
        r#"{"messages":[{}],"a":12345678901234567890,"kv_transfer_params":{"remote_engine_id":"e"}, "vllm_xargs":{}}"#
    );
    // The same when the prefill fails.
    sidecar.chat(&nobody.to_string(), evil).await;
    assert_eq!(engine.all().pop().unwrap().text(), safe);
    assert_eq!(sidecar.count("kv_transfer_params_stripped_total"), 7);
}

#[tokio::test]
async fn whatever_does_not_name_them_goes_on_byte_for_byte() {
    let engine = Backend::json(200, "{}").await;
    let prefiller = Backend::json(200, PREFILLED).await;
    let sidecar = sidecar(engine.address).await;
    let named = prefiller.address.to_string();
    for body in [
        "{ \"b\":1e400 ,\"a\":[NaN]}",
        "not json",
        "",
        "{\"x\":\"\\u00e9\"",
        "[{\"prompt\":\"\\u00e9\"}]",
        "{\"stream\":\"True\",\"max_tokens\":16.0,\"max_tokens\":\"x\"}",
        "null",
    ] {
        for headers in [&[][..], &[(contract::HEADER_PREFILLER, named.as_str())]] {
            assert_eq!(
                sidecar.post(CHAT, headers, body).await.status,
                200,
                "{body}"
            );
            assert_eq!(engine.all().pop().unwrap().text(), body);
        }
    }
}

#[tokio::test]
async fn a_body_that_names_them_and_cannot_be_rid_of_them_is_refused() {
    let engine = Backend::json(200, "{}").await;
    let sidecar = sidecar(engine.address).await;
    for (body, why) in [
        (r#"{"kv_transfer_params":"#, "invalid JSON at line 1"),
        (r#"[{"kv_transfer_params":1}]"#, "not a JSON object"),
        (r#"{"kv\u005ftransfer_params":1}}"#, "invalid JSON"),
    ] {
        for path in [CHAT, "/anything"] {
            let refused = sidecar.post(path, &[], body).await;
            assert_eq!(refused.status, 400, "{body}");
            let message = refused.message();
            assert!(
                message.contains("kv_transfer_params, which clients must not set"),
                "{message}"
            );
            assert!(message.contains(why), "{message}");
        }
    }
    assert_eq!(sidecar.refusals("kv_transfer_params"), 6);
    assert_eq!(engine.all().len(), 0);
}

#[tokio::test]
async fn a_compressed_body_is_refused_where_it_must_be_read_and_passes_elsewhere() {
    let engine = Backend::json(200, "{}").await;
    let sidecar = sidecar(engine.address).await;
    let json = [("content-encoding", "gzip")];
    for path in [CHAT, "/v1/messages", "/anything"] {
        let refused = sidecar.post(path, &json, "\u{1f}").await;
        assert_eq!(
            (refused.status, refused.header("accept-encoding")),
            (415, "identity"),
            "{path}"
        );
    }
    assert_eq!(
        (sidecar.refusals("body_encoded"), engine.all().len()),
        (3, 0)
    );
    let other = [("content-encoding", "gzip"), ("content-type", "audio/wav")];
    assert_eq!(
        sidecar
            .post("/v1/audio/translations", &other, "x")
            .await
            .status,
        200
    );
    let identity = [("content-encoding", "identity")];
    assert_eq!(sidecar.post(CHAT, &identity, "{}").await.status, 200);
}

#[tokio::test]
async fn administrative_paths_are_shut_unless_they_are_opened() {
    let engine = Backend::json(200, "{}").await;
    let shut = sidecar(engine.address).await;
    for path in [
        "/sleep",
        "/v1/load_lora_adapter",
        "//reset_prefix_cache",
        "/x/..%2f%73leep/",
    ] {
        let refused = shut.post(path, &[], "{}").await;
        assert_eq!(refused.status, 403, "{path}");
        assert!(
            refused.message().contains("--allow-admin-paths"),
            "{}",
            refused.body
        );
    }
    let get = |path: &str| {
        let request = Request::get(format!("http://{}{path}", shut.address));
        client().request(request.body(Full::default()).unwrap())
    };
    assert_eq!(get("/is_sleeping").await.unwrap().status(), 403);
    assert_eq!((shut.refusals("admin_path"), engine.all().len()), (5, 0));
    for path in ["/metrics", "/version", "/v1/models"] {
        assert_eq!(get(path).await.unwrap().status(), 200, "{path}");
    }
    let mut opened = setup(engine.address);
    opened.behaviour.admin_paths = "/sleep".parse().unwrap();
    let opened = opened.start().await;
    assert_eq!(opened.post("/sleep", &[], "{}").await.status, 200);
    assert_eq!(opened.post("/wake_up", &[], "{}").await.status, 403);
}

#[tokio::test]
async fn each_api_is_told_in_its_own_form() {
    let engine = Backend::json(200, "{}").await;
    let sidecar = sidecar(engine.address).await;
    let headers = [(contract::HEADER_PREFILLER, "169.254.169.254:80")];
    let refused = sidecar.post("/v1/messages", &headers, BODY).await;
    let body: serde_json::Value = serde_json::from_str(&refused.body).unwrap();
    assert_eq!(
        (&body["type"], &body["error"]["type"]),
        (&"error".into(), &"permission_error".into())
    );
    let refused = sidecar.post(CHAT, &headers, BODY).await;
    assert!(
        refused.message().starts_with("Forbidden"),
        "{}",
        refused.body
    );
}
