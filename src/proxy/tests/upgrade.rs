//! WebSockets through the sidecar.

use super::*;

const HANDSHAKE: &str = "GET /v1/realtime?model=m HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: a2V5\r\nsec-websocket-version: 13\r\nx-prefiller-host-port: 10.0.0.1:1\r\n\r\n";

/// A connection to the sidecar on which this was sent.
async fn connect(sidecar: &Sidecar, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(sidecar.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Reads until what was read ends so; with nothing, until the other side closes.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut seen = Vec::new();
    while end.is_empty() || !seen.ends_with(end.as_bytes()) {
        let read = tokio::time::timeout(DEADLINE, stream.read_buf(&mut seen)).await;
        if read.expect("bytes in time").unwrap_or(0) == 0 {
            assert_eq!(end, "", "closed after {:?}", String::from_utf8_lossy(&seen));
            break;
        }
    }
    String::from_utf8(seen).unwrap()
}

/// An engine that agrees, sends back what it gets in capitals, and ends after `bye`.
async fn shouting() -> (SocketAddr, Arc<Mutex<String>>) {
    let handshake: Arc<Mutex<String>> = Arc::default();
    let kept = handshake.clone();
    let listener = listener().await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let kept = kept.clone();
            tokio::spawn(async move {
                let request = read_request(&mut stream).await;
                *kept.lock().unwrap() = request;
                let agreed = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: ok\r\n\r\nhello ";
                stream.write_all(agreed).await.unwrap();
                let mut buffer = [0; 100];
                loop {
                    let bytes = stream.read(&mut buffer).await.unwrap_or(0);
                    let said = buffer[..bytes].to_ascii_uppercase();
                    if bytes == 0
                        || stream.write_all(&said).await.is_err()
                        || said.ends_with(b"BYE")
                    {
                        return;
                    }
                }
            });
        }
    });
    (address, handshake)
}

#[tokio::test]
async fn bytes_flow_both_ways_until_a_side_ends() {
    let (engine, handshake) = shouting().await;
    let sidecar = sidecar(engine).await;
    let mut stream = connect(&sidecar, HANDSHAKE).await;
    // The engine speaks first, before the client has sent a byte.
    let answer = read_until(&mut stream, "\r\n\r\nhello ")
        .await
        .to_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    for header in [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-accept: ok",
    ] {
        assert!(answer.contains(header), "{answer}");
    }
    let asked = handshake.lock().unwrap().clone();
    for header in [
        "get /v1/realtime?model=m",
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-key: a2v5",
    ] {
        assert!(asked.contains(header), "{asked}");
    }
    assert!(!asked.contains("x-prefiller"), "{asked}");
    stream.write_all(b"one").await.unwrap();
    assert_eq!(read_until(&mut stream, "ONE").await, "ONE");
    assert_eq!(
        (
            sidecar.count("upgrades_open"),
            sidecar.count("requests_open")
        ),
        (1, 1)
    );
    stream.write_all(b"bye").await.unwrap();
    assert_eq!(read_until(&mut stream, "").await, "BYE");
    sidecar.until("upgrades_open", 0).await;
    sidecar.until("requests_open", 0).await;
    assert_eq!(
        sidecar.count("requests_total{leg=\"upgrade\",outcome=\"ok\"}"),
        1
    );
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_engine_s_side() {
    let (engine, _) = shouting().await;
    let sidecar = sidecar(engine).await;
    let mut stream = connect(&sidecar, HANDSHAKE).await;
    read_until(&mut stream, "hello ").await;
    drop(stream);
    sidecar.until("upgrades_open", 0).await;
}

#[tokio::test]
async fn a_silent_websocket_is_closed_after_its_idle_time() {
    let (engine, _) = shouting().await;
    let mut setup = setup(engine);
    setup.behaviour.upgrade_idle = Duration::from_millis(50);
    let sidecar = setup.start().await;
    let mut stream = connect(&sidecar, HANDSHAKE).await;
    assert!(read_until(&mut stream, "").await.ends_with("hello "));
    sidecar.until("upgrades_open", 0).await;
}

#[tokio::test]
async fn shutdown_cuts_websockets_at_the_end_of_the_drain_time() {
    let (engine, _) = shouting().await;
    let mut setup = setup(engine);
    setup.behaviour.drain = Duration::from_millis(50);
    let sidecar = setup.start().await;
    let mut stream = connect(&sidecar, HANDSHAKE).await;
    read_until(&mut stream, "hello ").await;
    sidecar.shutdown.begin();
    let ended = tokio::time::timeout(DEADLINE, sidecar.shutdown.finished()).await;
    assert!(ended.is_ok(), "a WebSocket outlives the sidecar");
    assert_eq!(read_until(&mut stream, "").await, "");
}

#[tokio::test]
async fn an_engine_that_does_not_agree_is_heard() {
    let engine = Backend::json(404, "no such path").await;
    let sidecar = sidecar(engine.address).await;
    let mut stream = connect(&sidecar, HANDSHAKE).await;
    let answer = read_until(&mut stream, "no such path").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert_eq!(sidecar.count("upgrades_open"), 0);
    let away = self::sidecar(nobody().await).await;
    let mut stream = connect(&away, HANDSHAKE).await;
    assert!(
        read_until(&mut stream, "}")
            .await
            .starts_with("HTTP/1.1 503")
    );
}

#[tokio::test]
async fn nothing_but_a_handshake_becomes_a_tunnel() {
    let (engine, asked) = shouting().await;
    let sidecar = sidecar(engine).await;
    let with_body = HANDSHAKE.replace("host: x\r\n", "host: x\r\ncontent-length: 9\r\n");
    for (request, status) in [
        (
            "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.1 502",
        ),
        (&format!("{with_body}a request"), "HTTP/1.1 502"),
        (
            "CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\n\r\n",
            "HTTP/1.1 405",
        ),
    ] {
        asked.lock().unwrap().clear();
        let mut stream = connect(&sidecar, request).await;
        let answer = read_until(&mut stream, "}").await;
        assert!(answer.starts_with(status), "{request}: {answer}");
        assert!(!asked.lock().unwrap().contains("upgrade"), "{request}");
        assert_eq!(sidecar.count("upgrades_open"), 0);
    }
    assert_eq!(sidecar.count("refusals_total{reason=\"method\"}"), 1);
}

#[tokio::test]
async fn other_upgrades_and_administrative_paths_are_no_way_around() {
    let engine = Backend::json(200, "answered").await;
    let sidecar = sidecar(engine.address).await;
    let h2c = "GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n";
    let mut stream = connect(&sidecar, h2c).await;
    let answer = read_until(&mut stream, "answered").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let got = engine.only();
    assert_eq!(
        (got.header("upgrade"), got.header("http2-settings")),
        (None, None)
    );
    let sleep = HANDSHAKE.replace("/v1/realtime", "/sleep");
    let mut stream = connect(&sidecar, &sleep).await;
    assert!(
        read_until(&mut stream, "}}")
            .await
            .starts_with("HTTP/1.1 403")
    );
    assert_eq!(engine.all().len(), 1);
}
