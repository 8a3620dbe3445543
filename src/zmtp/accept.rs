//! Listening sockets: who is let in, who is counted. IO.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::error::{Reason, SocketError};

/// After an accept that failed, as it does when the process has no file descriptor left.
const PAUSE: Duration = Duration::from_millis(50);

/// How many peers were dropped, by reason.
#[derive(Debug, Default)]
pub struct PeerTally {
    counts: [AtomicU64; Reason::ALL.len()],
    /// One more than the place of the last reason that was logged.
    told: AtomicU8,
}

impl PeerTally {
    /// Peers dropped for this reason.
    pub fn count(&self, reason: Reason) -> u64 {
        self.counts[reason as usize].load(Ordering::Relaxed)
    }

    /// Peers dropped for any reason.
    pub fn total(&self) -> u64 {
        Reason::ALL.iter().map(|reason| self.count(*reason)).sum()
    }

    /// Counts one, and logs it where the last one had another reason: a peer that comes
    /// again and again does not fill the log.
    pub(super) fn drop(&self, reason: Reason, peer: &str, error: &dyn std::fmt::Display) {
        self.counts[reason as usize].fetch_add(1, Ordering::Relaxed);
        let now = reason as u8 + 1;
        if self.told.swap(now, Ordering::Relaxed) == now {
            tracing::debug!(peer, reason = reason.as_str(), %error, "dropped a ZeroMQ peer");
        } else {
            tracing::warn!(peer, reason = reason.as_str(), %error, "dropped a ZeroMQ peer");
        }
    }

    /// Counts one that ended like this, if that is held against it.
    pub(super) fn ended(&self, peer: &str, error: &SocketError) {
        if let Some(reason) = error.reason() {
            self.drop(reason, peer, error);
        }
    }
}

/// The part of `tcp://HOST:PORT` that the resolver takes.
pub(super) fn host_and_port(address: &str) -> Result<&str, SocketError> {
    let rest = address.strip_prefix("tcp://");
    let is_port = |rest: &&str| {
        let port = rest.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        matches!(port, Some(Ok(_)))
    };
    rest.filter(is_port)
        .ok_or_else(|| SocketError::Address(address.to_owned()))
}

/// Listens on `tcp://HOST:PORT`; host `*` is every address of IPv4, port 0 a free one.
pub(super) async fn listen(address: &str) -> Result<(TcpListener, SocketAddr), SocketError> {
    let host_and_port = host_and_port(address)?.replacen('*', "0.0.0.0", 1);
    let bind = |source| SocketError::Bind {
        address: address.to_owned(),
        source,
    };
    let listener = TcpListener::bind(host_and_port).await.map_err(bind)?;
    let bound = listener.local_addr().map_err(bind)?;
    Ok((listener, bound))
}

/// Serves whoever comes, so many at once, until this future is dropped, and everybody's
/// connection with it.
pub(super) async fn accept<F>(
    listener: TcpListener,
    most: usize,
    tally: &PeerTally,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((_, peer)) if connections.len() >= most => {
                let words = format_args!("there are {most} connections already");
                tally.drop(Reason::TooManyConnections, &peer.to_string(), &words);
            }
            Ok((stream, peer)) => {
                connections.spawn(serve(stream, peer));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
