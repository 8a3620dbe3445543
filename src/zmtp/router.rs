//! A ROUTER socket that answers requests. IO.
//!
//! A request carries the way back to whoever asked, so no names of peers are needed; those
//! that peers give themselves are not looked at.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::accept::{self, PeerTally};
use super::codec::{Item, SocketType, WireLimits};
use super::error::SocketError;
use super::link::Link;
use super::{SocketSettings, frame};
use crate::telemetry::shutdown::Shutdown;

/// Requests of all peers that wait; more are dropped, as a ROUTER may.
const REQUESTS: usize = 64;
/// Messages that wait for one peer; whoever answers waits when there are more.
const REPLIES: usize = 4;

/// Takes requests. Dropping it ends all connections.
#[derive(Debug)]
pub struct RouterSocket {
    requests: mpsc::Receiver<Request>,
    tally: Arc<PeerTally>,
    address: String,
    stop: CancellationToken,
}

/// One message of one peer, and the way back to it.
#[derive(Debug)]
pub struct Request {
    /// The frames, without a peer's name before them.
    pub frames: Vec<Bytes>,
    replies: mpsc::Sender<Bytes>,
}

impl Request {
    /// Sends one message to the peer that asked; waits while it takes nothing.
    ///
    /// # Errors
    /// When the peer is gone.
    pub async fn reply(&self, frames: &[Bytes]) -> Result<(), SocketError> {
        let sent = self.replies.send(frame::message(frames)).await;
        sent.map_err(|_| SocketError::Closed)
    }
}

impl RouterSocket {
    /// Listens on `tcp://HOST:PORT`, where host `*` is every address and port 0 a free one.
    /// The limits of the settings do not matter: requests are held to
    /// [`WireLimits::REQUESTS`].
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(
        address: &str,
        mut settings: SocketSettings,
        shutdown: &Shutdown,
    ) -> Result<Self, SocketError> {
        settings.limits = WireLimits::REQUESTS;
        let (listener, bound) = accept::listen(address).await?;
        let (sender, requests) = mpsc::channel(REQUESTS);
        let router = Self {
            requests,
            tally: Arc::default(),
            address: format!("tcp://{bound}"),
            stop: CancellationToken::new(),
        };
        let (tally, stop) = (router.tally.clone(), router.stop.clone());
        let ended = shutdown.clone();
        shutdown.spawn("ZeroMQ router", async move {
            let serve = |stream, peer: SocketAddr| {
                let (sender, tally) = (sender.clone(), tally.clone());
                async move {
                    if let Err(error) = follow(stream, &settings, sender).await {
                        tally.ended(&peer.to_string(), &error);
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = ended.requested() => {}
                () = accept::accept(listener, settings.connections, &tally, serve) => {}
            }
            Ok(())
        });
        Ok(router)
    }

    /// `tcp://HOST:PORT`, with the port that was chosen.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The next request; `None` once the program ends.
    pub async fn receive(&mut self) -> Option<Request> {
        self.requests.recv().await
    }

    /// Peers that were dropped.
    pub fn tally(&self) -> Arc<PeerTally> {
        self.tally.clone()
    }
}

impl Drop for RouterSocket {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn follow(
    stream: TcpStream,
    settings: &SocketSettings,
    requests: mpsc::Sender<Request>,
) -> Result<(), SocketError> {
    let mut link = Link::new(stream, SocketType::Router, settings).await?;
    let (replies, mut queue) = mpsc::channel(REPLIES);
    let take = |item| {
        if let Item::Message(frames) = item {
            let replies = replies.clone();
            // Dropped where too many wait.
            let _ = requests.try_send(Request { frames, replies });
        }
        Ok(())
    };
    link.serve(&mut queue, |_| {}, take).await
}
