//! Changes of bindings -> the stream, in batches. IO.

use std::collections::HashMap;
use std::time::Duration;

use redis::Client;
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc::Receiver;

use super::super::binding::{Change, SessionHash};
use super::super::wire;
use super::{ANSWER, Config, Link, connect};

/// Changes of one write.
const WRITE_CHANGES: usize = 512;
/// How long a change waits for others to be written with.
const LINGER: Duration = Duration::from_millis(20);

/// Writes what requests changed.
pub(super) struct Writer<'a> {
    pub(super) client: &'a Client,
    pub(super) config: &'a Config,
    /// A stream nobody has written to for this long is of no use to anybody.
    pub(super) expire: Duration,
    pub(super) connection: Option<MultiplexedConnection>,
}

impl Writer<'_> {
    /// Writes until shutdown.
    pub(super) async fn run(mut self, mut link: Link, mut changes: Receiver<Change>) {
        let shutdown = link.shutdown.clone();
        let mut batch = Vec::with_capacity(WRITE_CHANGES);
        loop {
            batch.clear();
            let ending = tokio::select! {
                () = shutdown.requested() => true,
                received = changes.recv_many(&mut batch, WRITE_CHANGES) => {
                    if received == 0 {
                        return;
                    }
                    tokio::time::sleep(LINGER).await;
                    false
                }
            };
            while batch.len() < WRITE_CHANGES
                && let Ok(change) = changes.try_recv()
            {
                batch.push(change);
            }
            let latest = latest(&batch);
            if ending {
                // One attempt for what is left: other replicas may not have it.
                let _ = tokio::time::timeout(ANSWER, self.write(&latest)).await;
                return;
            }
            while let Err(error) = self.write(&latest).await {
                if !link.down(&error).await {
                    return;
                }
            }
            link.up();
            link.metrics.wrote(latest.len());
        }
    }

    async fn write(&mut self, changes: &HashMap<SessionHash, Change>) -> redis::RedisResult<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(self.client, ANSWER).await?,
        };
        let mut pipe = redis::pipe();
        for change in changes.values() {
            pipe.cmd("XADD").arg(&self.config.key);
            pipe.arg("MAXLEN").arg("~").arg(self.config.max_entries);
            pipe.arg("*");
            for (name, value) in wire::encode(change, &self.config.origin) {
                pipe.arg(name).arg(value);
            }
            pipe.ignore();
        }
        pipe.cmd("PEXPIRE")
            .arg(&self.config.key)
            .arg(self.expire.as_millis() as u64)
            .ignore();
        pipe.query_async::<()>(&mut connection).await?;
        // Kept only when it worked: a new one is made after any error.
        self.connection = Some(connection);
        Ok(())
    }
}

/// The last change of every session.
pub(super) fn latest(changes: &[Change]) -> HashMap<SessionHash, Change> {
    let mut latest = HashMap::<SessionHash, Change>::with_capacity(changes.len());
    for change in changes {
        latest
            .entry(change.session)
            .and_modify(|known| {
                if change.beats(known) {
                    *known = *change;
                }
            })
            .or_insert(*change);
    }
    latest
}
