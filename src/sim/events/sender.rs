//! Numbered batches -> ZeroMQ messages. IO: owns the PUB socket.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use zeromq::{PubSocket, Socket as _, SocketEvent, SocketSend as _, ZmqMessage};

use super::ring::Ring;
use super::{Job, Oddity, Wire};
use crate::kv::event::{EncodeBatch, EncodeEvent, EncodeStored, Form, Medium, SpecKind, encode};
use crate::sim::engine::CacheEvent;

/// Time between attempts to reach a subscriber that we dial.
const RECONNECT: Duration = Duration::from_millis(500);

/// Owns the PUB socket.
pub(super) struct Sender {
    socket: PubSocket,
    topic: String,
    wire: Wire,
    ring: Arc<Mutex<Ring>>,
    last: Option<(u64, Bytes)>,
}

impl Sender {
    pub(super) fn new(
        socket: PubSocket,
        topic: String,
        wire: Wire,
        ring: Arc<Mutex<Ring>>,
    ) -> Self {
        Self {
            socket,
            topic,
            wire,
            ring,
            last: None,
        }
    }

    /// Sends until there is nobody left who could hand something in.
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>, dial: Option<String>) {
        let mut monitor = self.socket.monitor();
        if let Some(endpoint) = &dial {
            self.connect(endpoint).await;
        }
        loop {
            tokio::select! {
                job = jobs.recv() => match job {
                    Some(job) => self.handle(job).await,
                    None => return,
                },
                event = monitor.next() => {
                    if let (Some(SocketEvent::Disconnected(_)), Some(endpoint)) = (event, &dial) {
                        self.connect(endpoint).await;
                    }
                }
            }
        }
    }

    async fn connect(&mut self, endpoint: &str) {
        let mut told = false;
        while let Err(error) = self.socket.connect(endpoint).await {
            if !told {
                tracing::warn!(endpoint, %error, "cannot reach the subscriber of KV events");
                told = true;
            }
            tokio::time::sleep(RECONNECT).await;
        }
        tracing::info!(endpoint, "connected to the subscriber of KV events");
    }

    async fn handle(&mut self, job: Job) {
        match job {
            Job::Batch {
                number,
                seconds,
                events,
                send,
            } => {
                let payload = Bytes::from(payload(&events, self.wire, seconds));
                self.ring().push(number, payload.clone());
                self.last = Some((number, payload.clone()));
                if send {
                    self.send(self.topic.clone(), number, payload).await;
                }
            }
            Job::Odd {
                oddity,
                number,
                seconds,
            } => self.odd(oddity, number, seconds).await,
            Job::Forget => {
                self.ring().clear();
                self.last = None;
            }
        }
    }

    async fn odd(&mut self, oddity: Oddity, number: u64, seconds: f64) {
        let payload = Bytes::from(oddity.payload(self.wire, seconds));
        match oddity {
            Oddity::Duplicate => {
                if let Some((number, payload)) = self.last.clone() {
                    self.send(self.topic.clone(), number, payload).await;
                }
            }
            Oddity::OutOfOrder => {
                for number in [number + 1, number] {
                    self.send(self.topic.clone(), number, payload.clone()).await;
                }
            }
            Oddity::OtherModel => {
                self.send(format!("{}-other", self.topic), number, payload)
                    .await;
            }
            Oddity::Garbage | Oddity::UnknownType | Oddity::UnknownParent => {
                self.send(self.topic.clone(), number, payload).await;
            }
        }
    }

    async fn send(&mut self, topic: String, number: u64, payload: Bytes) {
        let mut message = ZmqMessage::from(topic.into_bytes());
        message.push_back(number.to_be_bytes().to_vec().into());
        message.push_back(payload);
        // Only hands over to the socket's own queues, which drop what is too slow to read.
        if let Err(error) = self.socket.send(message).await {
            tracing::debug!(%error, "KV events not sent");
        }
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn payload(events: &[CacheEvent], wire: Wire, timestamp_seconds: f64) -> Vec<u8> {
    let events: Vec<EncodeEvent<'_>> = events
        .iter()
        .map(|event| match event {
            CacheEvent::Stored {
                hashes,
                parent,
                tokens,
                lora,
                salt,
            } => EncodeEvent::Stored(EncodeStored {
                hashes,
                parent: *parent,
                tokens,
                block_size: wire.block_size,
                lora_id: lora.as_ref().map(|lora| lora.0),
                lora: lora.as_ref().map(|lora| lora.1.as_str()),
                salt: salt.as_deref(),
                medium: Medium::Gpu,
                group: Some(0),
                // The array form is of a release that did not say.
                kind: (wire.form == Form::Map).then_some(SpecKind::FullAttention),
            }),
            CacheEvent::Removed(hash) => EncodeEvent::Removed {
                hashes: std::slice::from_ref(hash),
                medium: Medium::Gpu,
                group: Some(0),
            },
            CacheEvent::Cleared => EncodeEvent::Cleared,
        })
        .collect();
    let batch = EncodeBatch {
        timestamp_seconds,
        rank: Some(0),
        events: &events,
    };
    encode(&batch, wire.form, wire.hashes)
}
