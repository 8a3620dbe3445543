//! One TCP connection -> one ZMTP connection: handshake, then items in and bytes out. IO.
//!
//! Every future here may be dropped at any await without loss: what was read is in the
//! buffer or the decoder, what is to be sent in the queue.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::codec::{Command, Decoder, Item, SocketType, Version, WireLimits};
use super::error::SocketError;
use super::{SocketSettings, command, greeting};

/// Bytes read at a time, for as long as the connection lives.
const READ_BUFFER_BYTES: usize = 16 << 10;
/// Answers to PINGs that may wait for a peer that does not read before it is not read either.
const MAX_ANSWERS: usize = 64;

/// What a peer sends.
#[derive(Debug)]
struct Incoming {
    half: OwnedReadHalf,
    decoder: Decoder,
    buffer: Box<[u8]>,
    /// The part of the buffer that was not decoded yet.
    start: usize,
    end: usize,
    /// When an item was seen to have begun.
    begun: Option<Instant>,
    last_read: Instant,
    deadline: Duration,
}

/// What waits to be sent to a peer.
#[derive(Debug)]
struct Outgoing {
    half: OwnedWriteHalf,
    waiting: VecDeque<Bytes>,
    /// When the peer last took something, or the queue was empty.
    progress: Instant,
    stall: Duration,
}

/// A connection after its handshake.
#[derive(Debug)]
pub(super) struct Link {
    incoming: Incoming,
    outgoing: Outgoing,
    peer: Version,
    heartbeat: Duration,
    /// A PING was sent and nothing has come since.
    asked: bool,
}

impl Link {
    /// Shakes hands, in the time that the settings give for it.
    pub(super) async fn new(
        stream: TcpStream,
        own: SocketType,
        settings: &SocketSettings,
    ) -> Result<Self, SocketError> {
        let deadline = Instant::now() + settings.handshake;
        Self::until(stream, own, settings, deadline).await
    }

    /// Dials and shakes hands, both in the time that the settings give for the handshake.
    pub(super) async fn dial(
        address: &str,
        own: SocketType,
        settings: &SocketSettings,
    ) -> Result<Self, SocketError> {
        let deadline = Instant::now() + settings.handshake;
        let host_and_port = super::accept::host_and_port(address)?;
        let dialled = timeout_at(deadline, TcpStream::connect(host_and_port)).await;
        let dialled = dialled.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let stream = dialled.map_err(|source| SocketError::Connect {
            address: address.to_owned(),
            source,
        })?;
        Self::until(stream, own, settings, deadline).await
    }

    async fn until(
        stream: TcpStream,
        own: SocketType,
        settings: &SocketSettings,
        deadline: Instant,
    ) -> Result<Self, SocketError> {
        // One batch is one message: it should not wait for the next.
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        let now = Instant::now();
        let mut link = Self {
            incoming: Incoming::new(read, settings.limits, settings.message),
            outgoing: Outgoing {
                half: write,
                waiting: VecDeque::new(),
                progress: now,
                stall: settings.stall,
            },
            peer: Version { major: 3, minor: 0 },
            heartbeat: settings.heartbeat,
            asked: false,
        };
        timeout_at(deadline, link.shake_hands(own))
            .await
            .map_err(|_| SocketError::Timeout("the handshake"))??;
        Ok(link)
    }

    async fn shake_hands(&mut self, own: SocketType) -> Result<(), SocketError> {
        self.push(Bytes::copy_from_slice(&greeting::ours()));
        self.outgoing.flush().await?;
        loop {
            match self.incoming.next().await? {
                Item::Greeting(version) => {
                    self.peer = version;
                    self.push(command::ready(own));
                    self.outgoing.flush().await?;
                }
                Item::Command(Command::Ready(socket_type)) => {
                    let fits = command::check_peer(own, &socket_type);
                    if fits.is_err() {
                        self.push(command::error("Invalid socket type"));
                        self.outgoing.flush().await?;
                    }
                    return Ok(fits?);
                }
                Item::Command(Command::Error(words)) => return Err(SocketError::PeerError(words)),
                // The decoder lets nothing else through before READY.
                Item::Command(_) | Item::Message(_) => {}
            }
        }
    }

    /// The version that the peer speaks.
    pub(super) fn peer(&self) -> Version {
        self.peer
    }

    /// Queues bytes that [`Link::flush`], [`Link::receive`] or [`Link::serve`] sends.
    pub(super) fn push(&mut self, bytes: Bytes) {
        self.outgoing.push(bytes);
    }

    /// Sends what waits.
    pub(super) async fn flush(&mut self) -> Result<(), SocketError> {
        self.outgoing.flush().await
    }

    /// The next message, for a socket that mostly listens. Asks a silent peer whether it is
    /// still there.
    pub(super) async fn receive(&mut self) -> Result<Vec<Bytes>, SocketError> {
        loop {
            self.outgoing.flush().await?;
            let Ok(item) = timeout(self.heartbeat, self.incoming.next()).await else {
                self.was_silent()?;
                continue;
            };
            self.asked = false;
            match item? {
                Item::Message(frames) => return Ok(frames),
                Item::Command(command) => self.answer(command)?,
                Item::Greeting(_) => {}
            }
        }
    }

    fn was_silent(&mut self) -> Result<(), SocketError> {
        if self.incoming.last_read.elapsed() < self.heartbeat || !self.peer.has_commands() {
            return Ok(());
        }
        if self.asked {
            return Err(SocketError::Timeout("the answer to a PING"));
        }
        self.asked = true;
        self.push(command::ping());
        Ok(())
    }

    /// Does what any socket does about a command.
    fn answer(&mut self, command: Command) -> Result<(), SocketError> {
        match command {
            Command::Ping(context) => self.push(command::pong(&context)),
            Command::Error(words) => return Err(SocketError::PeerError(words)),
            _ => {}
        }
        Ok(())
    }

    /// Sends what is queued and hands in what comes, until the connection or the queue ends.
    pub(super) async fn serve(
        &mut self,
        queue: &mut mpsc::Receiver<Bytes>,
        mut sent: impl FnMut(usize),
        mut take: impl FnMut(Item) -> Result<(), SocketError>,
    ) -> Result<(), SocketError> {
        loop {
            let waiting = self.outgoing.waiting.len();
            tokio::select! {
                item = self.incoming.next(), if waiting < MAX_ANSWERS => match item? {
                    Item::Command(command @ (Command::Ping(_) | Command::Error(_))) => {
                        self.answer(command)?;
                    }
                    item => take(item)?,
                },
                bytes = queue.recv(), if waiting == 0 => match bytes {
                    Some(bytes) => {
                        sent(bytes.len());
                        self.push(bytes);
                    }
                    None => return Ok(()),
                },
                written = self.outgoing.write(), if waiting > 0 => written?,
            }
        }
    }
}

impl Incoming {
    fn new(half: OwnedReadHalf, limits: WireLimits, deadline: Duration) -> Self {
        Self {
            half,
            decoder: Decoder::new(limits),
            buffer: vec![0; READ_BUFFER_BYTES].into(),
            start: 0,
            end: 0,
            begun: None,
            last_read: Instant::now(),
            deadline,
        }
    }

    async fn next(&mut self) -> Result<Item, SocketError> {
        loop {
            let mut input = &self.buffer[self.start..self.end];
            let item = self.decoder.decode(&mut input)?;
            self.start = self.end - input.len();
            if let Some(item) = item {
                // A command between the frames of a message does not give it more time.
                if !self.decoder.is_inside_message() {
                    self.begun = None;
                }
                return Ok(item);
            }
            let read = self.half.read(&mut self.buffer);
            let count = if self.decoder.is_inside() {
                let begun = *self.begun.get_or_insert_with(Instant::now);
                timeout_at(begun + self.deadline, read)
                    .await
                    .map_err(|_| SocketError::Timeout("a message that had begun"))?
            } else {
                read.await
            }?;
            if count == 0 {
                return Err(SocketError::Closed);
            }
            (self.start, self.end) = (0, count);
            self.last_read = Instant::now();
        }
    }
}

impl Outgoing {
    fn push(&mut self, bytes: Bytes) {
        if self.waiting.is_empty() {
            self.progress = Instant::now();
        }
        self.waiting.push_back(bytes);
    }

    async fn flush(&mut self) -> Result<(), SocketError> {
        while !self.waiting.is_empty() {
            self.write().await?;
        }
        Ok(())
    }

    /// Sends a part of the first that waits.
    async fn write(&mut self) -> Result<(), SocketError> {
        let Some(first) = self.waiting.front_mut() else {
            return Ok(());
        };
        let count = timeout_at(self.progress + self.stall, self.half.write(first))
            .await
            .map_err(|_| SocketError::Timeout("to take what was sent"))??;
        self.progress = Instant::now();
        first.advance(count);
        if first.is_empty() {
            self.waiting.pop_front();
        }
        Ok(())
    }
}
