//! The codec against any bytes, the sockets against peers that mean harm, and both against
//! libzmq.

mod codec;
mod hostile;
mod interop;
mod sockets;

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::codec::{Decoder, Item, SocketType, WireLimits};
use super::{SocketSettings, command, frame, greeting};

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// A frame's header that announces 2^40 bytes.
const HUGE: [u8; 9] = [2, 0, 0, 1, 0, 0, 0, 0, 0];

fn frames(texts: &[&str]) -> Vec<Bytes> {
    let texts = texts.iter();
    texts.map(|text| Bytes::from((*text).to_owned())).collect()
}

/// Settings whose deadlines are the test's, where it waits for one.
fn short(change: impl FnOnce(&mut SocketSettings)) -> SocketSettings {
    let mut settings = SocketSettings {
        handshake: DEADLINE,
        message: DEADLINE,
        stall: DEADLINE,
        heartbeat: DEADLINE,
        ..SocketSettings::default()
    };
    change(&mut settings);
    settings
}

async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    let done = tokio::time::timeout(DEADLINE, future).await;
    done.unwrap_or_else(|_| panic!("still not: {what}"))
}

async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A peer that says exactly what a test tells it to.
struct Raw {
    stream: TcpStream,
    decoder: Decoder,
    unread: Vec<u8>,
}

impl Raw {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            decoder: Decoder::new(WireLimits::EVENTS),
            unread: Vec::new(),
        }
    }

    async fn connect(address: &str) -> Self {
        let address = address.strip_prefix("tcp://").unwrap();
        Self::new(TcpStream::connect(address).await.unwrap())
    }

    async fn accept(listener: &TcpListener) -> Self {
        let accepted = in_time("dialled", listener.accept()).await;
        Self::new(accepted.unwrap().0)
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Greets as a peer of ZMTP 3.`minor` and plays this socket.
    async fn shake_hands(&mut self, minor: u8, own: SocketType) {
        let mut greeting = greeting::ours();
        greeting[11] = minor;
        self.send(&greeting).await;
        self.send(&command::ready(own)).await;
        assert!(matches!(self.item().await, Some(Item::Greeting(_))));
        assert!(matches!(self.item().await, Some(Item::Command(_))));
    }

    /// The next item that the other side sends; `None` once it has closed.
    async fn item(&mut self) -> Option<Item> {
        loop {
            let mut input = &self.unread[..];
            let item = self.decoder.decode(&mut input).unwrap();
            self.unread.drain(..self.unread.len() - input.len());
            if item.is_some() {
                return item;
            }
            let read = self.stream.read_buf(&mut self.unread);
            match in_time("an answer", read).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Whether the other side has closed; what it had sent before is passed over.
    async fn is_closed(&mut self) -> bool {
        while self.item().await.is_some() {}
        true
    }
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    (listener, address)
}

/// A message's bytes on the wire.
fn message(texts: &[&str]) -> Bytes {
    frame::message(&frames(texts))
}
