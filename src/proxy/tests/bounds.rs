//! How much memory, time and room clients can take.

use super::*;

const PREFILLED: &str = r#"{"kv_transfer_params":{"remote_engine_id":"e"}}"#;

/// What a sidecar sends back on a connection until it closes, or until this many bytes.
async fn answer_to(stream: &mut TcpStream, least: usize) -> String {
    let mut seen = Vec::new();
    while seen.len() < least {
        let read = tokio::time::timeout(DEADLINE, stream.read_buf(&mut seen)).await;
        if read.expect("an answer in time").unwrap_or(0) == 0 {
            break;
        }
    }
    String::from_utf8(seen).unwrap()
}

async fn begin(sidecar: &Sidecar, head: &str, part: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(sidecar.address).await.unwrap();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(part).await.unwrap();
    stream
}

#[tokio::test]
async fn a_gigabyte_is_refused_before_it_is_read() {
    let engine = Backend::json(200, "{}").await;
    let sidecar = sidecar(engine.address).await;
    let mut stream = begin(
        &sidecar,
        "content-length: 1000000000\r\nexpect: 100-continue",
        b"",
    )
    .await;
    let answer = answer_to(&mut stream, usize::MAX).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(
        answer.contains("16777216 bytes (--max-body-bytes)"),
        "{answer}"
    );
    assert_eq!(sidecar.refusals("body_too_large"), 1);
    assert_eq!((sidecar.budget.used(), engine.all().len()), (0, 0));
}

#[tokio::test]
async fn a_body_at_the_limit_passes_and_a_larger_one_without_a_length_does_not() {
    let engine = Backend::json(200, "{}").await;
    let mut setup = setup(engine.address);
    setup.limits.max_body_bytes = 10;
    let sidecar = setup.start().await;
    assert_eq!(sidecar.post(CHAT, &[], &" ".repeat(10)).await.status, 200);
    assert_eq!(sidecar.post(CHAT, &[], &" ".repeat(11)).await.status, 413);
    let part = b"8\r\n12345678\r\n8\r\n12345678\r\n";
    let mut stream = begin(&sidecar, "transfer-encoding: chunked", part).await;
    assert!(answer_to(&mut stream, 12).await.starts_with("HTTP/1.1 413"));
    assert_eq!((engine.all().len(), sidecar.budget.used()), (1, 0));
}

#[tokio::test]
async fn uploads_that_never_end_hold_what_they_sent_and_are_told_so_in_time() {
    let engine = Backend::json(200, "{}").await;
    let mut setup = setup(engine.address);
    setup.limits.body_timeout = Duration::from_millis(300);
    setup.budget_bytes = 1 << 20;
    let sidecar = setup.start().await;
    // Announcing much costs nobody anything.
    let mut silent = begin(&sidecar, "content-length: 16000000", b"").await;
    let mut slow = begin(&sidecar, "content-length: 16000000", b"{\"a\":").await;
    assert_eq!(
        sidecar.post(CHAT, &[], &" ".repeat(500_000)).await.status,
        200
    );
    assert!(
        sidecar.budget.used() <= 64 << 10,
        "{}",
        sidecar.budget.used()
    );
    for stream in [&mut silent, &mut slow] {
        let answer = answer_to(stream, usize::MAX).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("300ms (--body-timeout)"), "{answer}");
    }
    assert_eq!(
        (sidecar.refusals("body_timeout"), sidecar.budget.used()),
        (2, 0)
    );
    assert_eq!(engine.all().len(), 1);
}

#[tokio::test]
async fn a_spent_budget_is_a_503_and_is_whole_again_when_bodies_go() {
    let engine = Backend::json(200, "{}").await;
    let mut setup = setup(engine.address);
    setup.budget_bytes = 300_000;
    let sidecar = setup.start().await;
    let holder = begin(&sidecar, "content-length: 250000", &vec![b' '; 249_999]).await;
    while sidecar.budget.used() < 249_999 {
        tokio::task::yield_now().await;
    }
    let refused = sidecar.post(CHAT, &[], &" ".repeat(100_000)).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
    assert!(
        refused.message().contains("--body-budget-bytes"),
        "{}",
        refused.body
    );
    assert_eq!(
        sidecar.post(CHAT, &[], "{}").await.status,
        200,
        "small ones find room"
    );
    assert_eq!(sidecar.refusals("body_budget"), 1);
    drop(holder);
    while sidecar.budget.used() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        sidecar.post(CHAT, &[], &" ".repeat(100_000)).await.status,
        200
    );
    assert_eq!(sidecar.budget.used(), 0);
}

#[tokio::test]
async fn a_prefill_answer_that_finds_no_room_leaves_the_prompt_to_the_decode_engine() {
    let engine = Backend::json(200, "{}").await;
    let large = Backend::new(|_| json(200, &format!("{{\"a\":\"{}\"}}", "x".repeat(50_000)))).await;
    let mut setup = setup(engine.address);
    setup.budget_bytes = 20_000;
    let sidecar = setup.start().await;
    assert_eq!(
        sidecar.chat(&large.address.to_string(), BODY).await.status,
        200
    );
    assert_eq!(
        (sidecar.fallbacks("body_budget"), sidecar.budget.used()),
        (1, 0)
    );
    assert_eq!(engine.only().text(), BODY);
}

#[tokio::test]
async fn a_body_in_many_small_pieces_holds_little_more_than_its_bytes() {
    let engine = Backend::json(200, "{}").await;
    let mut setup = setup(engine.address);
    setup.budget_bytes = 64 << 10;
    let sidecar = setup.start().await;
    let pieces = b"1\r\nx\r\n".repeat(20_000);
    let mut stream = begin(&sidecar, "transfer-encoding: chunked", &pieces).await;
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    assert!(answer_to(&mut stream, 12).await.starts_with("HTTP/1.1 200"));
    assert_eq!(engine.only().body.len(), 20_000);
}

#[tokio::test]
async fn more_requests_than_allowed_are_told_to_come_back() {
    let (go_on, wait) = tokio::sync::watch::channel(false);
    let engine = raw(move |mut stream| {
        let mut wait = wait.clone();
        async move {
            let _ = wait.wait_for(|go_on| *go_on).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await;
        }
    });
    let mut setup = setup(engine.await);
    setup.behaviour.max_requests = 2;
    let sidecar = setup.start().await;
    let open =
        async { futures::join!(sidecar.post(CHAT, &[], "{}"), sidecar.post(CHAT, &[], "{}")) };
    let others = async {
        sidecar.until("requests_open", 2).await;
        let refused = sidecar.post(CHAT, &[], "{}").await;
        assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
        assert!(
            refused.message().contains("--max-requests"),
            "{}",
            refused.body
        );
        // Who asks for health is no client.
        let health = Request::get(format!("http://{}/health", sidecar.address));
        let health = client().request(health.body(Full::default()).unwrap());
        assert_eq!(health.await.unwrap().status(), 200);
        go_on.send(true).unwrap();
    };
    let ((one, two), ()) = futures::join!(open, others);
    assert_eq!((one.status, two.status), (200, 200));
    assert_eq!(sidecar.refusals("too_many_requests"), 1);
    sidecar.until("requests_open", 0).await;
    assert_eq!(sidecar.post(CHAT, &[], "{}").await.status, 200);
}

#[tokio::test]
async fn more_connections_than_allowed_are_closed() {
    let engine = Backend::json(200, "{}").await;
    let mut setup = setup(engine.address);
    setup.behaviour.max_connections = 1;
    let sidecar = setup.start().await;
    let first = TcpStream::connect(sidecar.address).await.unwrap();
    sidecar.until("connections", 1).await;
    let mut second = TcpStream::connect(sidecar.address).await.unwrap();
    assert_eq!(answer_to(&mut second, 1).await, "");
    assert_eq!(sidecar.count("connections_refused_total"), 1);
    drop(first);
    sidecar.until("connections", 0).await;
    assert_eq!(sidecar.post(CHAT, &[], "{}").await.status, 200);
}

#[tokio::test]
async fn a_client_that_does_not_say_what_it_wants_is_left() {
    let engine = Backend::json(200, "{}").await;
    let mut setup = setup(engine.address);
    setup.behaviour.head_timeout = Duration::from_millis(50);
    let sidecar = setup.start().await;
    // Nothing, the beginning of HTTP/2, and half a head.
    for begun in ["", "PRI * HT", "POST / HTTP/1.1\r\nhost:"] {
        let mut stream = TcpStream::connect(sidecar.address).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let answer = answer_to(&mut stream, usize::MAX).await;
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    sidecar.until("connections", 0).await;
}

#[tokio::test]
async fn shutdown_does_not_wait_for_connections_that_say_nothing() {
    let engine = Backend::json(200, "{}").await;
    let mut setup = setup(engine.address);
    setup.behaviour.drain = Duration::from_hours(1);
    let sidecar = setup.start().await;
    let _silent = TcpStream::connect(sidecar.address).await.unwrap();
    sidecar.until("connections", 1).await;
    sidecar.shutdown.begin();
    let ended = tokio::time::timeout(DEADLINE, sidecar.shutdown.finished()).await;
    assert!(ended.is_ok(), "the sidecar still waits");
}

#[tokio::test]
async fn what_is_held_of_an_answer_counts_and_without_room_it_passes_as_it_is() {
    const ANSWER: &str = r#"{"usage":{"prompt_tokens_details":{"cached_tokens":19}},"x":"#;
    let engine =
        Backend::new(|_| json(200, &format!("{ANSWER}\"{}\"}}", "x".repeat(50_000)))).await;
    let prefiller = Backend::json(
        200,
        r#"{"kv_transfer_params":{},"usage":{"prompt_tokens_details":{"cached_tokens":3}}}"#,
    );
    let prefiller = prefiller.await.address.to_string();
    let mut tight = setup(engine.address);
    tight.budget_bytes = 20_000;
    for (setup, cached) in [(tight, 19), (setup(engine.address), 3)] {
        let sidecar = setup.start().await;
        let answer = sidecar.chat(&prefiller, BODY).await;
        let counted = format!("{{\"cached_tokens\":{cached}}}");
        assert!(answer.body.contains(&counted), "{}", &answer.body[..80]);
        assert!(answer.body.len() >= 50_000);
        let skipped = sidecar.count("usage_rewrites_skipped_total");
        assert_eq!((skipped == 1, sidecar.budget.used()), (cached == 19, 0));
    }
}

#[tokio::test]
async fn the_lease_of_a_body_lasts_as_long_as_its_bytes_are_held() {
    let (arrived, told) = (
        Arc::new(tokio::sync::Notify::new()),
        Arc::new(tokio::sync::Notify::new()),
    );
    let (here, go_on) = (arrived.clone(), told.clone());
    let prefiller = raw(move |mut stream| {
        let (here, go_on) = (here.clone(), go_on.clone());
        async move {
            here.notify_one();
            go_on.notified().await;
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{PREFILLED}",
                PREFILLED.len()
            );
            stream.write_all(head.as_bytes()).await.unwrap();
        }
    });
    let (engine, prefiller) = (Backend::json(200, "{}").await, prefiller.await.to_string());
    let sidecar = sidecar(engine.address).await;
    let body = BODY.replace("hi", &"h".repeat(100_000));
    let asked = sidecar.chat(&prefiller, &body);
    let watched = async {
        arrived.notified().await;
        let used = sidecar.budget.used();
        assert!((100_000..250_000).contains(&used), "{used}");
        told.notify_one();
    };
    let (answer, ()) = futures::join!(asked, watched);
    assert_eq!((answer.status, sidecar.budget.used()), (200, 0));
    assert!(engine.only().text().contains("remote_engine_id"));
}
