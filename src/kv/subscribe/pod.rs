//! One endpoint's stream, from connect to removal. IO.
//!
//! Each connection is a socket of its own. One that ends because of what the engine did counts
//! as a failure, whatever it had brought before: an engine that breaks the rules is dialled
//! less and less often, and stays unable to cost more than its share.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::recover::{Recover, Recovered};
use super::rules::{self, Refused, Seen, Sequence};
use super::writer::Change;
use super::{QUEUE_KIB, Settings, Shared, Wanted};
use crate::kv::event::{self, Event};
use crate::kv::metrics::{Metrics, StreamEvent};
use crate::telemetry::shutdown::Shutdown;
use crate::zmtp::{Reason, SocketError, SocketSettings, SubSocket};

/// What every topic of the convention starts with.
const SUBSCRIPTION: &[u8] = b"kv@";

/// The writer is gone: the program ends.
struct Closed;

pub(super) struct Pod {
    wanted: Wanted,
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    changes: mpsc::Sender<Change>,
    /// KiB of payloads that may be on their way to the writer, for all pods together.
    room: Arc<Semaphore>,
    recover: Arc<dyn Recover>,
    metrics: Metrics,
    sequence: Sequence,
    /// The last topic's model; the same in every message.
    model: Arc<str>,
    /// What the last connection that came up ended with, so that the log is told of a change.
    told: Option<Reason>,
}

impl Pod {
    pub(super) fn new(
        wanted: Wanted,
        settings: Arc<Settings>,
        shared: Arc<Shared>,
        changes: mpsc::Sender<Change>,
        room: Arc<Semaphore>,
        recover: Arc<dyn Recover>,
        metrics: Metrics,
    ) -> Self {
        Self {
            wanted,
            settings,
            shared,
            changes,
            room,
            recover,
            metrics,
            sequence: Sequence::default(),
            model: Arc::from(""),
            told: None,
        }
    }

    /// Follows the endpoint until it is stopped, then has the index forget it.
    pub(super) async fn run(mut self, stop: CancellationToken, shutdown: Shutdown) {
        let added = Change::Add(Arc::clone(&self.shared));
        if self.changes.send(added).await.is_err() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = shutdown.requested() => {}
            ended = AssertUnwindSafe(self.follow()).catch_unwind() => {
                if ended.is_err() {
                    tracing::error!(endpoint = %self.wanted.endpoint, "reading its KV events panicked: what it holds is forgotten");
                }
            }
        }
        self.shared.reporting.store(false, Ordering::Relaxed);
        let removed = Change::Remove(Arc::clone(&self.shared));
        tokio::select! {
            _ = self.changes.send(removed) => {}
            () = shutdown.requested() => {}
        }
    }

    /// Connects again and again.
    async fn follow(&mut self) -> Closed {
        let Some(port) = self.wanted.events_port else {
            return std::future::pending().await;
        };
        let jitter = RandomState::new();
        let mut failures = 0_u32;
        loop {
            let batches_before = self.shared.last_batch.load(Ordering::Relaxed);
            let ended = match self.connection(port).await {
                Ok(ended) => ended,
                Err(closed) => return closed,
            };
            let broke_a_rule = self.judge(&ended);
            self.shared.reporting.store(false, Ordering::Relaxed);
            self.metrics.stream(StreamEvent::Reconnect);
            let brought_something =
                self.shared.last_batch.load(Ordering::Relaxed) != batches_before;
            if brought_something && !broke_a_rule {
                failures = 0;
                self.told = None;
            } else {
                failures = failures.saturating_add(1);
            }
            let longest = self
                .settings
                .first_backoff
                .saturating_mul(1 << failures.min(16))
                .min(self.settings.max_backoff);
            // Between half and all of it: subscribers that lost one engine do not come back
            // to it at one moment.
            let part = jitter.hash_one(failures) % 1000;
            let pause = longest / 2 + longest.mul_f64(part as f64 / 2000.0);
            tracing::debug!(
                endpoint = %self.wanted.endpoint,
                pause_ms = pause.as_millis() as u64,
                error = %ended,
                "no connection to the endpoint's KV events"
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// One connection, from its start to its end.
    async fn connection(&mut self, port: u16) -> Result<SocketError, Closed> {
        let settings = SocketSettings {
            limits: self.settings.limits,
            handshake: self.settings.connect_timeout,
            ..SocketSettings::default()
        };
        let mut address = self.wanted.endpoint;
        address.set_port(port);
        let address = format!("tcp://{address}");
        let mut socket = match SubSocket::connect(&address, SUBSCRIPTION, &settings).await {
            Ok(socket) => socket,
            Err(error) => return Ok(error),
        };
        tracing::debug!(endpoint = %self.wanted.endpoint, "connected to the endpoint's KV events");
        loop {
            match socket.receive().await {
                Ok(message) => self.take(&message).await?,
                Err(error) => return Ok(error),
            }
        }
    }

    /// Counts a connection that ended because of what the engine did, and says so in the log
    /// where it is news. Returns whether it was one.
    fn judge(&mut self, ended: &SocketError) -> bool {
        let reason = ended.reason();
        if let Some(reason) = reason {
            self.metrics.peer_dropped(reason.as_str());
            if self.told != Some(reason) {
                tracing::warn!(
                    endpoint = %self.wanted.endpoint,
                    reason = reason.as_str(),
                    error = %ended,
                    "dropped the endpoint's KV events; they are tried again later"
                );
            }
            self.told = Some(reason);
        }
        reason.is_some()
    }

    /// Takes in one message.
    async fn take(&mut self, message: &[Bytes]) -> Result<(), Closed> {
        let frames: Vec<&[u8]> = message.iter().map(|frame| &frame[..]).collect();
        let expected = self.settings.model.as_deref();
        let message = match rules::read(&frames, self.wanted.endpoint, expected) {
            Ok(message) => message,
            Err(refused) => {
                self.metrics.stream(match refused {
                    Refused::BadFrames => StreamEvent::BadFrames,
                    Refused::Foreign => StreamEvent::Foreign,
                    Refused::OtherModel => StreamEvent::OtherModel,
                });
                return Ok(());
            }
        };
        if *self.model != *message.model {
            self.model = Arc::from(message.model);
        }
        match self.sequence.see(message.sequence) {
            Seen::Next => {}
            Seen::JoinedLate => {
                self.metrics.stream(StreamEvent::JoinedLate);
                self.missed(0..message.sequence).await?;
            }
            Seen::Gap(first) => {
                self.metrics.stream(StreamEvent::Gap);
                self.missed(first..message.sequence).await?;
            }
            Seen::Restart => {
                self.metrics.stream(StreamEvent::Restart);
                self.shared.cold.store(false, Ordering::Relaxed);
                self.send(Change::Clear(Arc::clone(&self.shared))).await?;
                if message.sequence > 0 {
                    self.missed(0..message.sequence).await?;
                }
            }
        }
        self.apply(message.payload).await
    }

    /// Batches are missing: gets them elsewhere, or gives up what depends on them.
    async fn missed(&mut self, missed: Range<u64>) -> Result<(), Closed> {
        let count = missed.end - missed.start;
        let from_start = missed.start == 0;
        match self.recover.recover(&self.wanted, missed).await {
            Recovered::Payloads(payloads) if payloads.len() as u64 == count => {
                for payload in payloads {
                    self.apply(&payload).await?;
                }
            }
            Recovered::Payloads(_) | Recovered::Lost => {
                self.shared.cold.store(true, Ordering::Relaxed);
                // Of an engine whose beginning was missed nothing is held yet. After a gap,
                // blocks may be held here that the engine has removed.
                if !from_start {
                    self.send(Change::Clear(Arc::clone(&self.shared))).await?;
                }
            }
        }
        Ok(())
    }

    /// Hands one batch to the writer.
    async fn apply(&mut self, payload: &[u8]) -> Result<(), Closed> {
        let room = self.room(payload.len()).await?;
        let Ok(batch) = event::decode(payload) else {
            self.metrics.stream(StreamEvent::BadPayload);
            self.shared.cold.store(true, Ordering::Relaxed);
            return Ok(());
        };
        for rejected in &batch.rejected {
            self.metrics.rejected(rejected.reason.label());
        }
        if batch.events.contains(&Event::Cleared) {
            // An empty cache holds nothing that is not known here.
            self.shared.cold.store(false, Ordering::Relaxed);
        }
        self.shared.saw_batch(Instant::now());
        self.send(Change::Batch {
            of: Arc::clone(&self.shared),
            model: Arc::clone(&self.model),
            rank: batch.rank.unwrap_or(0),
            events: batch.events,
            room,
        })
        .await
    }

    /// Waits until a payload of so many bytes may be decoded.
    async fn room(&self, payload_bytes: usize) -> Result<OwnedSemaphorePermit, Closed> {
        let kib = payload_bytes.div_ceil(1024).clamp(1, QUEUE_KIB) as u32;
        if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(kib) {
            return Ok(room);
        }
        self.metrics.stream(StreamEvent::QueueFull);
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await;
        room.map_err(|_| Closed)
    }

    async fn send(&self, change: Change) -> Result<(), Closed> {
        match self.changes.try_send(change) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Closed),
            Err(mpsc::error::TrySendError::Full(change)) => {
                self.metrics.stream(StreamEvent::QueueFull);
                self.changes.send(change).await.map_err(|_| Closed)
            }
        }
    }
}
