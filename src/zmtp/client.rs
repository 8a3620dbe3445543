//! SUB and DEALER sockets that dial one peer. IO. A lost connection is the end of the
//! socket: whoever owns it decides when to dial again.

use bytes::Bytes;

use super::SocketSettings;
use super::codec::SocketType;
use super::error::SocketError;
use super::link::Link;
use super::{command, frame};

/// Hears what one publisher sends.
#[derive(Debug)]
pub struct SubSocket {
    link: Link,
}

impl SubSocket {
    /// Dials `tcp://HOST:PORT` and subscribes to what begins with this.
    ///
    /// # Errors
    /// When the publisher cannot be reached, is too slow, or breaks the protocol.
    pub async fn connect(
        address: &str,
        prefix: &[u8],
        settings: &SocketSettings,
    ) -> Result<Self, SocketError> {
        let mut link = Link::dial(address, SocketType::Sub, settings).await?;
        link.push(command::subscribe(prefix, link.peer()));
        link.flush().await?;
        Ok(Self { link })
    }

    /// One that was dialled by its publisher, which the programs never are.
    #[cfg(test)]
    pub(crate) async fn accepted(
        stream: tokio::net::TcpStream,
        prefix: &[u8],
        settings: &SocketSettings,
    ) -> Result<Self, SocketError> {
        let mut link = Link::new(stream, SocketType::Sub, settings).await?;
        link.push(command::subscribe(prefix, link.peer()));
        link.flush().await?;
        Ok(Self { link })
    }

    /// The frames of the next message. Nothing is lost when this future is dropped.
    ///
    /// # Errors
    /// How the connection ended; there is nothing more to receive.
    pub async fn receive(&mut self) -> Result<Vec<Bytes>, SocketError> {
        self.link.receive().await
    }
}

/// Asks one ROUTER or REP.
#[derive(Debug)]
pub struct DealerSocket {
    link: Link,
}

impl DealerSocket {
    /// Dials `tcp://HOST:PORT`.
    ///
    /// # Errors
    /// When the peer cannot be reached, is too slow, or breaks the protocol.
    pub async fn connect(address: &str, settings: &SocketSettings) -> Result<Self, SocketError> {
        let link = Link::dial(address, SocketType::Dealer, settings).await?;
        Ok(Self { link })
    }

    /// Sends one message; waits while the peer takes nothing.
    ///
    /// # Errors
    /// How the connection ended.
    pub async fn send(&mut self, frames: &[Bytes]) -> Result<(), SocketError> {
        self.link.push(frame::message(frames));
        self.link.flush().await
    }

    /// The frames of the next message. Nothing is lost when this future is dropped.
    ///
    /// # Errors
    /// How the connection ended; there is nothing more to receive.
    pub async fn receive(&mut self) -> Result<Vec<Bytes>, SocketError> {
        self.link.receive().await
    }
}
