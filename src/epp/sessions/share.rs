//! Changes of bindings -> a Redis Stream, and what other replicas wrote there -> the table.
//! IO, and never on a request's way: while Redis is away, everybody serves on.
//!
//! Two tasks, each with a connection of its own. The writer sends changes in batches. The reader
//! begins at the start of the stream, which makes a new replica warm, then waits for more. It
//! begins there again after every lost connection: a stream that was lost or restored meanwhile
//! need not continue where it was, and what is known already is merged without effect.

mod read;
mod write;

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo as _};

use self::read::Reader;
use self::write::Writer;
use super::metrics::Metrics;
use super::{Changes, Sessions};
use crate::telemetry::shutdown::Shutdown;

const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(2);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Where bindings are shared.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server.
    pub server: ConnectionInfo,
    /// Key of the stream; see [`stream_key`].
    pub key: String,
    /// Who this replica is. Must be another one after a restart, or it would not read what it
    /// wrote before.
    pub origin: String,
    /// Entries the stream keeps, about.
    pub max_entries: usize,
}

/// An address that is none.
#[derive(Debug, thiserror::Error)]
#[error("the Redis address is not host:port or a redis:// or rediss:// URL that can be used: {0}")]
pub struct AddressError(String);

/// The stream of one pool. The braces make clustered servers keep all keys of a pool together.
pub fn stream_key(namespace: &str, pool: &str) -> String {
    format!("llm-d:{{{namespace}/{pool}}}:sessions")
}

/// Reads `host:port` or a URL. The password given wins over one in the URL.
///
/// # Errors
/// When it is neither, or asks for TLS of a build without.
pub fn server(address: &str, password: Option<&str>) -> Result<ConnectionInfo, AddressError> {
    let url = if address.contains("://") {
        address.to_owned()
    } else {
        format!("redis://{address}")
    };
    let error = |error: redis::RedisError| AddressError(error.to_string());
    let server = url.as_str().into_connection_info().map_err(error)?;
    // Answers are read in the form of the second protocol version.
    let mut settings = server
        .redis_settings()
        .clone()
        .set_protocol(redis::ProtocolVersion::RESP2);
    if let Some(password) = password.filter(|password| !password.is_empty()) {
        settings = settings.set_password(password);
    }
    let server = server.set_redis_settings(settings);
    if !server.addr().is_supported() {
        return Err(AddressError("this build has no TLS for Redis".to_owned()));
    }
    Ok(server)
}

/// Shares the bindings until shutdown.
///
/// # Errors
/// When no client can be made for the server; never because the server is away.
pub async fn run(
    config: Config,
    sessions: Sessions,
    changes: Changes,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let client = Client::open(config.server.clone())?;
    let server = config.server.addr().to_string();
    tracing::info!(server, key = config.key, "sharing session bindings");
    let link = |name| Link {
        name,
        server: server.clone(),
        metrics: sessions.metrics.clone(),
        shutdown: shutdown.clone(),
        retry: FIRST_RETRY,
        works: None,
    };
    let reader = Reader {
        client: &client,
        config: &config,
        sessions: &sessions,
    };
    let writer = Writer {
        client: &client,
        config: &config,
        expire: sessions.table.limits().sticky * 2 + Duration::from_mins(1),
        connection: None,
    };
    tokio::join!(
        reader.run(link("read")),
        writer.run(link("write"), changes.0)
    );
    Ok(())
}

/// State of one of the connections, said once per change.
struct Link {
    name: &'static str,
    server: String,
    metrics: Metrics,
    shutdown: Shutdown,
    retry: Duration,
    works: Option<bool>,
}

impl Link {
    fn up(&mut self) {
        self.retry = FIRST_RETRY;
        self.metrics.up(self.name, true);
        if self.works == Some(false) {
            tracing::info!(
                server = self.server,
                link = self.name,
                "Redis answers again"
            );
        }
        self.works = Some(true);
    }

    /// Waits before the next attempt; false at shutdown.
    async fn down(&mut self, error: &redis::RedisError) -> bool {
        self.metrics.up(self.name, false);
        if self.works != Some(false) {
            tracing::warn!(server = self.server, link = self.name, %error,
                "Redis does not answer; session bindings are not shared until it does");
        }
        self.works = Some(false);
        let wait = self.retry;
        self.retry = (wait * 2).min(LAST_RETRY);
        tokio::select! {
            () = self.shutdown.requested() => false,
            () = tokio::time::sleep(wait) => true,
        }
    }
}

async fn connect(client: &Client, answer: Duration) -> redis::RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(answer));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

#[cfg(test)]
mod tests;
