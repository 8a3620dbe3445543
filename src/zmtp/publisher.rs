//! A PUB socket: each message goes to all who subscribed to its beginning. IO.
//!
//! Sending never waits. Each subscriber has a queue of bounded length and bytes; who is too
//! slow for it loses messages, which are counted.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::accept::{self, PeerTally};
use super::codec::{Command, Item, SocketType, WireLimits};
use super::error::{SocketError, Violation};
use super::link::Link;
use super::{SocketSettings, command, frame};
use crate::telemetry::shutdown::Shutdown;

/// Messages that wait for one subscriber; vLLM's own default.
const QUEUE_MESSAGES: usize = 100_000;
/// Bytes that wait for one subscriber.
const QUEUE_BYTES: usize = 32 << 20;
/// Subscriptions of one subscriber. Topics name an endpoint each; nobody needs more.
const MAX_SUBSCRIPTIONS: usize = 64;
/// Time between attempts to reach a subscriber that is dialled.
const REDIAL: Duration = Duration::from_millis(500);

/// Sends to all who subscribed. Dropping it ends all connections.
#[derive(Debug)]
pub struct PubSocket {
    shared: Arc<Shared>,
    address: String,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    settings: SocketSettings,
    peers: Mutex<Vec<Arc<Peer>>>,
    tally: PeerTally,
    dropped: AtomicU64,
}

/// One subscriber.
#[derive(Debug)]
struct Peer {
    subscriptions: Mutex<Vec<Bytes>>,
    queue: mpsc::Sender<Bytes>,
    waiting_bytes: AtomicUsize,
}

impl PubSocket {
    /// Listens for subscribers on `tcp://HOST:PORT`, where host `*` is every address and
    /// port 0 a free one. The limits of the settings do not matter: subscribers send little
    /// and are held to [`WireLimits::REQUESTS`].
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(
        address: &str,
        settings: SocketSettings,
        shutdown: &Shutdown,
    ) -> Result<Self, SocketError> {
        let (listener, bound) = accept::listen(address).await?;
        let publisher = Self::new(format!("tcp://{bound}"), settings);
        let (shared, stop) = (publisher.shared.clone(), publisher.stop.clone());
        let ended = shutdown.clone();
        shutdown.spawn("ZeroMQ publisher", async move {
            let most = shared.settings.connections;
            let serve = |stream, peer: std::net::SocketAddr| {
                let shared = Arc::clone(&shared);
                async move { shared.serve(stream, &peer.to_string()).await }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = ended.requested() => {}
                () = accept::accept(listener, most, &shared.tally, serve) => {}
            }
            Ok(())
        });
        Ok(publisher)
    }

    /// Dials a subscriber at `tcp://HOST:PORT`, again and again.
    ///
    /// # Errors
    /// When that is not an address.
    pub fn dial(
        address: &str,
        settings: SocketSettings,
        shutdown: &Shutdown,
    ) -> Result<Self, SocketError> {
        accept::host_and_port(address)?;
        let publisher = Self::new(address.to_owned(), settings);
        let (shared, stop) = (publisher.shared.clone(), publisher.stop.clone());
        let (ended, address) = (shutdown.clone(), address.to_owned());
        shutdown.spawn("ZeroMQ publisher", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = ended.requested() => {}
                () = shared.keep_dialling(&address) => {}
            }
            Ok(())
        });
        Ok(publisher)
    }

    fn new(address: String, mut settings: SocketSettings) -> Self {
        settings.limits = WireLimits::REQUESTS;
        let shared = Shared {
            settings,
            peers: Mutex::default(),
            tally: PeerTally::default(),
            dropped: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
            address,
            stop: CancellationToken::new(),
        }
    }

    /// `tcp://HOST:PORT`, with the port that was chosen.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Hands a message to everybody who wants it and has room for it.
    pub fn send(&self, frames: &[Bytes]) {
        let topic = frames.first().map_or(&[][..], |topic| topic);
        let mut message = None;
        for peer in self.shared.peers().iter().filter(|peer| peer.wants(topic)) {
            // Written once for all; the queues share it.
            let message = message.get_or_insert_with(|| frame::message(frames));
            if !peer.offer(message) {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Subscribers that are connected.
    pub fn subscribers(&self) -> usize {
        self.shared.peers().len()
    }

    /// Messages that subscribers lost because they were too slow; each counts for each.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Peers that were dropped.
    pub fn tally(&self) -> &PeerTally {
        &self.shared.tally
    }
}

impl Drop for PubSocket {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    fn peers(&self) -> MutexGuard<'_, Vec<Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One connection that was accepted.
    async fn serve(&self, stream: TcpStream, peer: &str) {
        let ended = match Link::new(stream, SocketType::Pub, &self.settings).await {
            Ok(link) => self.follow(link).await,
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            self.tally.ended(peer, &error);
        }
    }

    async fn keep_dialling(&self, address: &str) {
        let mut told = false;
        loop {
            match Link::dial(address, SocketType::Pub, &self.settings).await {
                Ok(link) => {
                    tracing::info!(address, "connected to a ZeroMQ subscriber");
                    told = false;
                    if let Err(error) = self.follow(link).await {
                        self.tally.ended(address, &error);
                    }
                }
                Err(error) => {
                    self.tally.ended(address, &error);
                    if !told {
                        tracing::warn!(address, %error, "cannot reach a ZeroMQ subscriber");
                    }
                    told = true;
                }
            }
            tokio::time::sleep(REDIAL).await;
        }
    }

    /// Sends to one subscriber until it goes.
    async fn follow(&self, mut link: Link) -> Result<(), SocketError> {
        let (sender, mut queue) = mpsc::channel(QUEUE_MESSAGES);
        let peer = Arc::new(Peer {
            subscriptions: Mutex::default(),
            queue: sender,
            waiting_bytes: AtomicUsize::new(0),
        });
        self.peers().push(Arc::clone(&peer));
        let _registered = Registered {
            of: self,
            peer: &peer,
        };
        let sent = |bytes| {
            peer.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        };
        link.serve(&mut queue, sent, |item| peer.take(item)).await
    }
}

/// Takes a subscriber off the list when its connection ends, however it ends.
struct Registered<'a> {
    of: &'a Shared,
    peer: &'a Arc<Peer>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.of.peers().retain(|peer| !Arc::ptr_eq(peer, self.peer));
    }
}

impl Peer {
    fn subscriptions(&self) -> MutexGuard<'_, Vec<Bytes>> {
        let locked = self.subscriptions.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    fn wants(&self, topic: &[u8]) -> bool {
        let subscriptions = self.subscriptions();
        subscriptions.iter().any(|prefix| topic.starts_with(prefix))
    }

    /// False where there is no room. A message larger than the whole queue has room while
    /// nothing else waits.
    fn offer(&self, message: &Bytes) -> bool {
        let before = self
            .waiting_bytes
            .fetch_add(message.len(), Ordering::Relaxed);
        let fits = before == 0 || before + message.len() <= QUEUE_BYTES;
        let taken = fits && self.queue.try_send(message.clone()).is_ok();
        if !taken {
            self.waiting_bytes
                .fetch_sub(message.len(), Ordering::Relaxed);
        }
        taken
    }

    /// Subscriptions count: who subscribes twice has to cancel twice.
    fn take(&self, item: Item) -> Result<(), SocketError> {
        let command = match item {
            Item::Command(command) => Some(command),
            Item::Message(frames) => command::in_message(&frames),
            Item::Greeting(_) => None,
        };
        let mut subscriptions = self.subscriptions();
        match command {
            Some(Command::Subscribe(_)) if subscriptions.len() >= MAX_SUBSCRIPTIONS => {
                let limit = MAX_SUBSCRIPTIONS;
                return Err(Violation::TooManySubscriptions { limit }.into());
            }
            Some(Command::Subscribe(prefix)) => subscriptions.push(prefix),
            Some(Command::Cancel(prefix)) => {
                if let Some(place) = subscriptions.iter().position(|own| *own == prefix) {
                    subscriptions.swap_remove(place);
                }
            }
            // A subscriber has nothing else to say.
            _ => {}
        }
        Ok(())
    }
}
