//! The WebSocket.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::{DEADLINE, TestSim};

/// A masked text frame.
fn frame(kind: u8, text: &str) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut frame = vec![0x80 | kind, 0x80 | text.len() as u8];
    frame.extend(mask);
    frame.extend(
        text.bytes()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

async fn heard(socket: &mut TcpStream) -> (u8, String) {
    let kind = socket.read_u8().await.unwrap() & 0x0f;
    let length = match socket.read_u8().await.unwrap() {
        126 => usize::from(socket.read_u16().await.unwrap()),
        short => usize::from(short),
    };
    let mut text = vec![0; length];
    socket.read_exact(&mut text).await.unwrap();
    (kind, String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn a_websocket_opens_answers_and_closes() {
    let sim = TestSim::start(&[]).await;
    let address = sim.url.strip_prefix("http://").unwrap();
    let run = async {
        let mut socket = TcpStream::connect(address).await.unwrap();
        // The key and the answer of RFC 6455's own example.
        let request = "GET /v1/realtime HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        assert!(heard(&mut socket).await.1.contains("session.created"));
        let update = frame(1, r#"{"type":"session.update","model":"m"}"#);
        socket.write_all(&update).await.unwrap();
        assert!(heard(&mut socket).await.1.contains("session.updated"));
        socket.write_all(&frame(1, "{")).await.unwrap();
        assert!(heard(&mut socket).await.1.contains("invalid_json"));
        socket.write_all(&frame(9, "are you there")).await.unwrap();
        assert_eq!(heard(&mut socket).await, (10, "are you there".to_owned()));
        socket.write_all(&frame(8, "")).await.unwrap();
        assert_eq!(heard(&mut socket).await.0, 8);
    };
    tokio::time::timeout(DEADLINE, run).await.unwrap();
    assert_eq!(sim.get("/v1/realtime").await.status, 404);
    sim.stop().await;
}
