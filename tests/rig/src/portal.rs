//! Addresses that stay: a Unix socket per address inside the cluster's network, a listener on
//! the host's loopback per socket outside, and a listener in front of a program that may move.
//! A file's path is the same on both sides of a network namespace. IO.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;

/// The API server's socket.
pub const API: &str = "api";
/// The socket of the gateway's first listener.
pub const GATEWAY: &str = "gateway";
/// The socket of Envoy's administration page.
pub const ENVOY: &str = "envoy";

/// After a connection that could not be taken: most often there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Inside: forwards connections of the Unix socket `path` to `target`.
///
/// # Errors
/// When the socket cannot be made.
pub fn inside(path: &Path, target: SocketAddr) -> Result<()> {
    let listener = UnixListener::bind(path).with_context(|| format!("make {}", path.display()))?;
    tokio::spawn(async move {
        loop {
            let client = listener.accept().await.map(|(client, _)| client);
            forward(client, TcpStream::connect(target)).await;
        }
    });
    Ok(())
}

/// Outside: listens on a free port of 127.0.0.1 and forwards to the Unix socket `path`.
///
/// # Errors
/// When no port can be bound.
pub async fn outside(path: PathBuf) -> Result<SocketAddr> {
    let (listener, address) = listen().await?;
    tokio::spawn(async move {
        loop {
            let path = path.clone();
            let client = accept(&listener).await;
            forward(client, async move { UnixStream::connect(&path).await }).await;
        }
    });
    Ok(address)
}

/// Listens on a port of 127.0.0.1 that stays the same and forwards to where a program listens
/// now.
///
/// # Errors
/// When no port can be bound.
pub async fn front(target: watch::Receiver<SocketAddr>) -> Result<SocketAddr> {
    let (listener, address) = listen().await?;
    tokio::spawn(async move {
        loop {
            let client = accept(&listener).await;
            let now = *target.borrow();
            forward(client, TcpStream::connect(now)).await;
        }
    });
    Ok(address)
}

async fn listen() -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .context("bind a port of 127.0.0.1")?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (client, _) = listener.accept().await?;
    // Two hops must not wait for each other's acknowledgements.
    client.set_nodelay(true)?;
    Ok(client)
}

/// Starts a task that copies between a client and a server; where there is no server the
/// connection closes, as a reset would.
async fn forward<C, S>(
    client: io::Result<C>,
    server: impl Future<Output = io::Result<S>> + Send + 'static,
) where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut client = match client {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(%error, "cannot take a connection");
            tokio::time::sleep(PAUSE).await;
            return;
        }
    };
    tokio::spawn(async move {
        if let Ok(mut server) = server.await {
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
    });
}
