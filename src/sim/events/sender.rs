//! Numbered batches -> ZeroMQ messages. IO: sends on the PUB socket.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::ring::Ring;
use super::{Job, Oddity, Wire};
use crate::kv::event::{EncodeBatch, EncodeEvent, EncodeStored, Form, Medium, SpecKind, encode};
use crate::sim::engine::CacheEvent;
use crate::zmtp::PubSocket;

/// Writes batches and hands them to the socket.
pub(super) struct Sender {
    socket: Arc<PubSocket>,
    topic: String,
    wire: Wire,
    ring: Arc<Mutex<Ring>>,
    last: Option<(u64, Bytes)>,
}

impl Sender {
    pub(super) fn new(
        socket: Arc<PubSocket>,
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
    pub(super) async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.recv().await {
            self.handle(job);
        }
    }

    fn handle(&mut self, job: Job) {
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
                    self.send(self.topic.clone(), number, payload);
                }
            }
            Job::Odd {
                oddity,
                number,
                seconds,
            } => self.odd(oddity, number, seconds),
            Job::Forget => {
                self.ring().clear();
                self.last = None;
            }
        }
    }

    fn odd(&self, oddity: Oddity, number: u64, seconds: f64) {
        let payload = Bytes::from(oddity.payload(self.wire, seconds));
        match oddity {
            Oddity::Duplicate => {
                if let Some((number, payload)) = self.last.clone() {
                    self.send(self.topic.clone(), number, payload);
                }
            }
            Oddity::OutOfOrder => {
                for number in [number + 1, number] {
                    self.send(self.topic.clone(), number, payload.clone());
                }
            }
            Oddity::OtherModel => {
                self.send(format!("{}-other", self.topic), number, payload);
            }
            Oddity::Garbage | Oddity::UnknownType | Oddity::UnknownParent => {
                self.send(self.topic.clone(), number, payload);
            }
        }
    }

    fn send(&self, topic: String, number: u64, payload: Bytes) {
        let number = Bytes::copy_from_slice(&number.to_be_bytes());
        self.socket.send(&[topic.into(), number, payload]);
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
