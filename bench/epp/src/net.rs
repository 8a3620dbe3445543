//! Addresses of one run: a part of the loopback range that nobody else has, so that runs can
//! stand beside each other and beside a cluster of the rig. IO: holds one port as a lock.
//!
//! Every port lies below the range from which the system takes ports for clients.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::net::TcpStream;

/// Port that a run holds on its host address.
const LOCK: u16 = 9999;
/// What engines listen on.
pub const ENGINE: u16 = 8000;
/// What engines publish KV events on.
pub const KV_EVENTS: u16 = 15_556;
/// Endpoints per third byte of an address.
const PER_BLOCK: usize = 250;

/// One run's addresses, `127.<block>.0.0/16`.
pub struct Net {
    block: u8,
    /// Held until the run ends.
    _lock: TcpListener,
}

impl Net {
    /// Takes the first block that is free.
    ///
    /// # Errors
    /// When all are taken.
    pub fn take() -> Result<Self> {
        for block in 64..=126 {
            if let Ok(lock) = TcpListener::bind((Ipv4Addr::new(127, block, 0, 1), LOCK)) {
                return Ok(Self { block, _lock: lock });
            }
        }
        bail!("port {LOCK} is taken on 127.64.0.1, 127.65.0.1, … 127.126.0.1");
    }

    /// The block's number.
    pub fn block(&self) -> u8 {
        self.block
    }

    /// Where everything but the engines listens.
    pub fn host(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, self.block, 0, 1)
    }

    /// A port on the host address.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.host(), port).into()
    }

    /// The endpoints, `127.<block>.1.1:8000` and on.
    pub fn engines(&self, count: usize) -> Vec<SocketAddr> {
        engines(self.block, count)
    }
}

/// The first `count` endpoints of a block.
pub fn engines(block: u8, count: usize) -> Vec<SocketAddr> {
    (0..count)
        .map(|index| {
            let third = 1 + index / PER_BLOCK;
            let fourth = 1 + index % PER_BLOCK;
            (Ipv4Addr::new(127, block, third as u8, fourth as u8), ENGINE).into()
        })
        .collect()
}

/// Waits until something listens there.
///
/// # Errors
/// After `limit`.
pub async fn listening(address: SocketAddr, limit: Duration) -> Result<()> {
    let started = Instant::now();
    loop {
        match TcpStream::connect(address).await {
            Ok(_) => return Ok(()),
            Err(error) if started.elapsed() > limit => {
                return Err(error).with_context(|| format!("nothing listens on {address}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
