//! KV events of an engine that stores nothing: a ZMTP 3 publisher that greets and is silent, so
//! that subscribers are content and stay. IO.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const GREETING_BYTES: usize = 64;

/// Greets everyone who comes.
pub(super) async fn serve(listener: TcpListener) {
    while let Ok((connection, _)) = listener.accept().await {
        // Whoever leaves may.
        tokio::spawn(async move { greet(connection).await });
    }
}

async fn greet(mut connection: TcpStream) -> std::io::Result<()> {
    let mut greeting = [0; GREETING_BYTES];
    (greeting[0], greeting[9], greeting[10]) = (0xFF, 0x7F, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    connection.write_all(&greeting).await?;
    connection.read_exact(&mut greeting).await?;
    let mut body = b"\x05READY\x0BSocket-Type".to_vec();
    body.extend(3u32.to_be_bytes());
    body.extend(b"PUB");
    let mut frame = vec![4, body.len() as u8];
    frame.extend(body);
    connection.write_all(&frame).await?;
    let mut ignored = [0; 1024];
    while connection.read(&mut ignored).await? > 0 {}
    Ok(())
}
