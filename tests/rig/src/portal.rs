//! Ways into the cluster's network from outside: a Unix socket per address inside, and a
//! listener on the host's loopback per socket outside. A file's path is the same on both
//! sides of a network namespace. IO.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Inside: forwards connections of the Unix socket `path` to `target`.
///
/// # Errors
/// When the socket cannot be made.
pub fn inside(path: &Path, target: SocketAddr) -> Result<()> {
    let listener = UnixListener::bind(path).with_context(|| format!("make {}", path.display()))?;
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(target).await {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    Ok(())
}

/// Outside: listens on a free port of 127.0.0.1 and forwards to the Unix socket `path`.
///
/// # Errors
/// When no port can be bound.
pub async fn outside(path: PathBuf) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .context("bind a port of 127.0.0.1")?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let path = path.clone();
            tokio::spawn(async move {
                if let Ok(mut server) = UnixStream::connect(&path).await {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    Ok(address)
}
