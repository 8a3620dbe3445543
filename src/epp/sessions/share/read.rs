//! The stream -> the table. IO.

use std::time::Duration;

use redis::{Client, Value};

use super::super::{Sessions, unix_now, wire};
use super::{ANSWER, Config, Link, connect};

/// How long the server holds a read that has nothing to say.
const BLOCK: Duration = Duration::from_secs(2);
/// Entries of one read.
const READ_ENTRIES: usize = 512;

/// Merges what other replicas wrote.
pub(super) struct Reader<'a> {
    pub(super) client: &'a Client,
    pub(super) config: &'a Config,
    pub(super) sessions: &'a Sessions,
}

impl Reader<'_> {
    /// Reads until shutdown.
    pub(super) async fn run(self, mut link: Link) {
        let shutdown = link.shutdown.clone();
        loop {
            let error = tokio::select! {
                () = shutdown.requested() => return,
                error = self.read(&mut link) => error,
            };
            if !link.down(&error).await {
                return;
            }
        }
    }

    /// Reads until the connection breaks.
    async fn read(&self, link: &mut Link) -> redis::RedisError {
        let mut connection = match connect(self.client, BLOCK + ANSWER).await {
            Ok(connection) => connection,
            Err(error) => return error,
        };
        let mut last = b"0-0".to_vec();
        let mut warm = false;
        loop {
            let mut command = redis::cmd("XREAD");
            command.arg("COUNT").arg(READ_ENTRIES);
            command.arg("BLOCK").arg(BLOCK.as_millis() as u64);
            command.arg("STREAMS").arg(&self.config.key).arg(&last);
            let reply = match command.query_async::<Value>(&mut connection).await {
                Ok(reply) => reply,
                Err(error) => return error,
            };
            let Some(entries) = entries(&reply) else {
                return (
                    redis::ErrorKind::UnexpectedReturnType,
                    "not entries of a stream",
                )
                    .into();
            };
            link.up();
            for (_, fields) in &entries {
                self.merge(fields, warm);
            }
            if let Some((id, _)) = entries.last() {
                last = id.to_vec();
            }
            if !warm && entries.len() < READ_ENTRIES {
                warm = true;
                tracing::info!(bindings = self.sessions.len(), "session bindings are warm");
            }
        }
    }

    fn merge(&self, fields: &[Value], warm: bool) {
        let metrics = &self.sessions.metrics;
        let pairs = fields
            .chunks_exact(2)
            .filter_map(|pair| Some((bytes(&pair[0])?, bytes(&pair[1])?)));
        let Ok((change, origin)) = wire::decode(pairs) else {
            metrics.entry("malformed");
            return;
        };
        if origin == self.config.origin {
            metrics.entry("own");
            return;
        }
        let now = unix_now();
        // What lay there when this replica came says nothing about how fast sharing is.
        if warm {
            metrics.lag(now.0.saturating_sub(change.at.0));
        }
        self.sessions.merge(&change, now);
    }
}

/// The entries of one stream: id, and names and values in turn. Nil has none. `None` for an
/// answer of any other form.
pub(super) fn entries(reply: &Value) -> Option<Vec<(&[u8], &[Value])>> {
    let streams = match reply {
        Value::Nil => return Some(Vec::new()),
        Value::Array(streams) => streams,
        _ => return None,
    };
    let [Value::Array(stream)] = streams.as_slice() else {
        return None;
    };
    let [_, Value::Array(entries)] = stream.as_slice() else {
        return None;
    };
    entries
        .iter()
        .map(|entry| match entry {
            Value::Array(entry) => match entry.as_slice() {
                [id, Value::Array(fields)] => Some((bytes(id)?, fields.as_slice())),
                // Deleted meanwhile.
                [id, _] => Some((bytes(id)?, &[][..])),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.as_bytes()),
        _ => None,
    }
}
