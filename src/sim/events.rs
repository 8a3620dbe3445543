//! Cache events -> vLLM's KV event messages over ZeroMQ. IO.
//!
//! ```text
//! engine task -> Publisher (numbers a batch) -> bounded queue -> task: encode -> PUB
//!                                                                      -> ring -> ROUTER (replay)
//! ```
//!
//! Follows `vllm/distributed/kv_events.py`. Numbers are given before the queue: a batch that
//! is lost here is a gap that subscribers see.

mod oddities;
mod replay;
mod ring;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::mpsc;
use zeromq::{PubSocket, Socket as _, SocketEvent, SocketSend as _, ZmqMessage};

pub use self::oddities::Oddity;
use self::ring::Ring;
use super::cli::KvEvents;
use super::engine::CacheEvent;
use crate::kv::event::{
    EncodeBatch, EncodeEvent, EncodeStored, Form, HashForm, Medium, SpecKind, encode,
};
use crate::telemetry::shutdown::Shutdown;

/// Batches that wait, whatever the configuration says.
const MAX_QUEUE: usize = 100_000;
/// Time between attempts to reach a subscriber that we dial.
const RECONNECT: Duration = Duration::from_millis(500);

/// How batches are written.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// Arrays or maps.
    pub form: Form,
    /// Numbers or bytes.
    pub hashes: HashForm,
    /// Tokens in a block.
    pub block_size: u32,
}

/// What faults do to the stream.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    drop_next: u64,
    stopped: bool,
}

/// One thing to send.
enum Job {
    Batch {
        number: u64,
        seconds: f64,
        events: Vec<CacheEvent>,
        /// False keeps it for replay only, as if the network had lost it.
        send: bool,
    },
    Odd {
        oddity: Oddity,
        number: u64,
        seconds: f64,
    },
    Forget,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    faults: Faults,
    lost: u64,
    numbered: u64,
}

/// Where the engine hands its events in. Never waits.
#[derive(Clone, Debug)]
pub struct Publisher {
    queue: mpsc::Sender<Job>,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

/// The addresses in use, with the ports that were chosen.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// Of the events.
    pub events: String,
    /// Of the replay.
    pub replay: Option<String>,
}

/// Opens the sockets and starts the tasks.
///
/// # Errors
/// When an endpoint cannot be listened on.
pub async fn start(
    config: &KvEvents,
    wire: Wire,
    bind_host: Option<IpAddr>,
    shutdown: &Shutdown,
) -> anyhow::Result<(Publisher, Addresses)> {
    let ring = Arc::new(Mutex::new(Ring::new(config.buffer_steps)));
    let mut socket = PubSocket::new();
    let mut addresses = Addresses::default();
    let dial = match listen_address(&config.endpoint, bind_host) {
        Some(address) => {
            let bound = socket.bind(&address).await;
            addresses.events = bound
                .with_context(|| format!("publish KV events on {address}"))?
                .to_string();
            None
        }
        None => Some(config.endpoint.clone()),
    };
    if let Some(endpoint) = &config.replay_endpoint {
        let address = listen_address(endpoint, bind_host).unwrap_or_else(|| endpoint.clone());
        let topic = Bytes::from(config.topic.clone());
        let bound = replay::start(&address, topic, ring.clone(), shutdown).await?;
        addresses.replay = Some(bound);
    }
    let (queue, jobs) = mpsc::channel(config.max_queue_size.clamp(1, MAX_QUEUE));
    let sender = Sender {
        socket,
        topic: config.topic.clone(),
        wire,
        ring,
        last: None,
    };
    let stop = shutdown.clone();
    shutdown.spawn("kv events", async move {
        tokio::select! {
            () = stop.requested() => {}
            () = sender.run(jobs, dial) => {}
        }
        Ok(())
    });
    let state = Arc::default();
    Ok((Publisher { queue, state }, addresses))
}

/// vLLM listens on endpoints with a wildcard and dials all others.
fn listen_address(endpoint: &str, bind_host: Option<IpAddr>) -> Option<String> {
    let any = match bind_host {
        Some(IpAddr::V6(host)) => format!("[{host}]"),
        Some(host) => host.to_string(),
        None => "0.0.0.0".to_owned(),
    };
    if endpoint.contains('*') {
        return Some(endpoint.replacen('*', &any, 1));
    }
    if endpoint.contains("[::]") && bind_host.is_some() {
        return Some(endpoint.replacen("[::]", &any, 1));
    }
    let listens = ["ipc://", "inproc://"];
    (endpoint.contains("::") || listens.iter().any(|start| endpoint.starts_with(start)))
        .then(|| endpoint.to_owned())
}

impl Publisher {
    /// Publishes one batch; without events there is none.
    pub fn publish(&self, events: Vec<CacheEvent>) {
        if events.is_empty() {
            return;
        }
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.numbered += 1;
        let send = state.faults.drop_next == 0;
        state.faults.drop_next = state.faults.drop_next.saturating_sub(1);
        let job = Job::Batch {
            number,
            seconds: now_seconds(),
            events,
            send,
        };
        // A stopped publisher loses the batch for replay, too.
        let kept = !state.faults.stopped && self.queue.try_send(job).is_ok();
        state.lost += u64::from(!kept || !send);
    }

    /// Loses the next batches; their numbers are used up.
    pub fn drop_next(&self, batches: u64) {
        self.state().faults.drop_next = batches;
    }

    /// True loses every batch from now on.
    pub fn stop(&self, stopped: bool) {
        self.state().faults.stopped = stopped;
    }

    /// Starts again with number 0 and nothing to replay, as a new process does.
    pub fn reset_sequence(&self) {
        self.state().next = 0;
        // A full queue loses the order, too, and says so by its gap.
        let _ = self.queue.try_send(Job::Forget);
    }

    /// Sends a batch that no healthy engine sends.
    pub fn publish_odd(&self, oddity: Oddity) {
        let mut state = self.state();
        let number = state.next;
        state.next += match oddity {
            Oddity::OutOfOrder => 2,
            Oddity::Duplicate => 0,
            _ => 1,
        };
        let job = Job::Odd {
            oddity,
            number,
            seconds: now_seconds(),
        };
        state.lost += u64::from(self.queue.try_send(job).is_err());
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.state().faults = Faults::default();
    }

    /// Batches numbered so far, and of those the ones that never left.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.state();
        (state.numbered, state.lost)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Owns the PUB socket.
struct Sender {
    socket: PubSocket,
    topic: String,
    wire: Wire,
    ring: Arc<Mutex<Ring>>,
    last: Option<(u64, Bytes)>,
}

impl Sender {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>, dial: Option<String>) {
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

fn now_seconds() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_listen_and_hosts_are_dialled() {
        let pod: IpAddr = "10.0.0.7".parse().unwrap();
        assert_eq!(
            listen_address("tcp://*:5557", Some(pod)).as_deref(),
            Some("tcp://10.0.0.7:5557")
        );
        assert_eq!(
            listen_address("tcp://*:5557", None).as_deref(),
            Some("tcp://0.0.0.0:5557")
        );
        assert_eq!(
            listen_address("tcp://[::]:5557", None).as_deref(),
            Some("tcp://[::]:5557")
        );
        assert_eq!(listen_address("tcp://epp:5557", None), None);
    }
}
