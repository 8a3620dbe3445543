//! Uploads as a hostile client makes them, over a bare connection: a body that drips, that
//! stops, or that is larger than anything. IO.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What is sent.
#[derive(Clone, Debug)]
pub(super) struct Upload {
    /// Bytes that the head announces; chunked where unset.
    pub(super) announced: Option<u64>,
    /// Bytes that are sent; then nothing, with the connection open.
    pub(super) sent: u64,
    /// Bytes at once.
    pub(super) piece: usize,
    /// Between two pieces.
    pub(super) pause: Duration,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct End {
    /// The answer's status; none where none came.
    pub(super) status: Option<u16>,
    /// Bytes that the gateway had taken by then.
    pub(super) taken: u64,
    /// How long it took.
    pub(super) after: Duration,
}

impl Upload {
    /// Sends it, and waits for an answer for at most `patience`. The body is a completion
    /// request whose prompt never ends, or one that is whole when all announced is sent.
    pub(super) async fn run(&self, to: SocketAddr, patience: Duration) -> End {
        let started = Instant::now();
        let mut taken = 0;
        let status = match TcpStream::connect(to).await {
            Ok(connection) => {
                let (mut reader, mut writer) = connection.into_split();
                let write = async {
                    // A broken connection shows at the reader.
                    let _ = self.write(&mut writer, to, &mut taken).await;
                    std::future::pending::<()>().await;
                };
                let read = tokio::time::timeout(patience, status(&mut reader));
                tokio::select! {
                    status = read => status.ok().flatten(),
                    () = write => None,
                }
            }
            Err(_) => None,
        };
        End {
            status,
            taken,
            after: started.elapsed(),
        }
    }

    async fn write(
        &self,
        writer: &mut (impl AsyncWrite + Unpin),
        to: SocketAddr,
        taken: &mut u64,
    ) -> std::io::Result<()> {
        let framing = match self.announced {
            Some(bytes) => format!("content-length: {bytes}"),
            None => "transfer-encoding: chunked".to_owned(),
        };
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/json\r\n\
             {framing}\r\n\r\n"
        );
        writer.write_all(head.as_bytes()).await?;
        while *taken < self.sent {
            let bytes = self.piece.min((self.sent - *taken) as usize);
            let piece: Vec<u8> = (0..bytes as u64).map(|at| self.byte(*taken + at)).collect();
            if self.announced.is_none() {
                writer
                    .write_all(format!("{bytes:x}\r\n").as_bytes())
                    .await?;
            }
            writer.write_all(&piece).await?;
            if self.announced.is_none() {
                writer.write_all(b"\r\n").await?;
            }
            *taken += bytes as u64;
            if !self.pause.is_zero() {
                tokio::time::sleep(self.pause).await;
            }
        }
        Ok(())
    }

    /// `{"model":"m","prompt":"aaaa…"}`
    fn byte(&self, at: u64) -> u8 {
        const START: &[u8] = b"{\"model\":\"m\",\"prompt\":\"";
        let end = self.announced.unwrap_or(u64::MAX);
        match START.get(at as usize) {
            Some(byte) => *byte,
            None if at == end - 2 => b'"',
            None if at == end - 1 => b'}',
            None => b'a',
        }
    }
}

/// The status of the answer; none where the connection ends before.
async fn status(reader: &mut (impl AsyncRead + Unpin)) -> Option<u16> {
    let mut head = Vec::new();
    while !head.windows(4).any(|part| part == b"\r\n\r\n") {
        if reader.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let line = String::from_utf8_lossy(&head);
    line.split(' ').nth(1)?.parse().ok()
}
