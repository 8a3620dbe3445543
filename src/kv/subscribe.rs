//! KV events of engines -> the index. IO: one task per endpoint, one task that writes.
//!
//! ```text
//! discovery -> Subscriptions.sync -> pod task: connect, check topic and sequence, decode
//!                                         | Change (bounded queue)
//! request path -> Hints (dropped when full) -> writer task -> index
//!                 States (lock-free)      <- what each pod task knows of its stream
//! ```
//!
//! An engine publishes `[topic, sequence, payload]` on a ZeroMQ PUB socket
//! (<https://github.com/vllm-project/vllm/blob/main/vllm/distributed/kv_events.py>). PUB loses what it cannot
//! send, so the sequence decides whether what the index holds for a pod can be believed. When the
//! queue is full a pod task waits, and with it the pod's socket: order and completeness matter
//! more than age. Hints of the request path are worth less than a request's time and are dropped.
//!
//! Any pod may lie: what a connection may hold is bounded by its socket, what all of them have
//! handed over and the writer has not seen by [`QUEUE`] and [`QUEUE_KIB`]. A pod that breaks a
//! rule is dropped, counted, and dialled again later and later.

mod pod;
pub mod recover;
mod rules;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

pub use self::writer::Hints;

use self::pod::Pod;
use self::recover::Recover;
use self::writer::Change;
use super::index::{EndpointSlot, Writer};
use super::metrics::Metrics;
use crate::telemetry::shutdown::Shutdown;
use crate::zmtp::WireLimits;

/// Changes that wait for the writer. A batch is one engine step; a thousand of them are more
/// than a second of a large cluster.
const QUEUE: usize = 1024;
/// KiB of payloads that are decoded or wait for the writer; a longer payload goes alone.
/// Decoded, an honest batch takes about as much again; what one made of the shortest numbers
/// takes is limited by `kv::event`.
const QUEUE_KIB: usize = 16 << 10;

/// One endpoint whose events are wanted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// Where it serves.
    pub endpoint: SocketAddr,
    /// The pod behind it: another pod at the same address holds nothing of the first.
    pub pod_uid: String,
    /// Port of its KV events; `None` follows what is sent there and listens to nothing.
    pub events_port: Option<u16>,
    /// Port that replays missed batches.
    pub replay_port: u16,
}

/// How events are taken in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The model whose events are believed; any where `None`.
    pub model: Option<String>,
    /// How long a connection may take to come up.
    pub connect_timeout: Duration,
    /// What is taken from an engine. Longer batches end the connection.
    pub limits: WireLimits,
    /// Pause after the first lost connection; doubled for each further one that brought
    /// nothing, or that the engine made unusable.
    pub first_backoff: Duration,
    /// The longest pause.
    pub max_backoff: Duration,
    /// How often assumptions of the request path are looked over for expired ones.
    pub expire_every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: None,
            connect_timeout: Duration::from_secs(2),
            limits: WireLimits::EVENTS,
            first_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            expire_every: Duration::from_millis(250),
        }
    }
}

/// What is known of one endpoint's stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct State {
    /// Its place in the index; `None` in the moment before it has one.
    pub slot: Option<EndpointSlot>,
    /// The connection is up and has brought events: the index follows this engine. A pod that
    /// is silent, or whose connection was just lost, does not report.
    pub reporting: bool,
    /// It may hold blocks that the index does not know of.
    pub cold: bool,
    /// Since its last batch; `None` where there was none.
    pub last_batch_age: Option<Duration>,
}

/// What a pod's task tells readers; each field on its own is all they need.
#[derive(Debug)]
struct Shared {
    slot: OnceLock<EndpointSlot>,
    reporting: AtomicBool,
    cold: AtomicBool,
    /// Milliseconds since `started`, plus one; 0 before the first batch.
    last_batch: AtomicU64,
    started: Instant,
}

impl Shared {
    fn new(started: Instant) -> Self {
        Self {
            slot: OnceLock::new(),
            reporting: AtomicBool::new(false),
            cold: AtomicBool::new(false),
            last_batch: AtomicU64::new(0),
            started,
        }
    }

    fn saw_batch(&self, now: Instant) {
        let since = now.saturating_duration_since(self.started).as_millis() as u64;
        self.last_batch.store(since + 1, Ordering::Relaxed);
        self.reporting.store(true, Ordering::Relaxed);
    }

    fn state(&self, now: Instant) -> State {
        let now = now.saturating_duration_since(self.started).as_millis() as u64;
        let last = self.last_batch.load(Ordering::Relaxed);
        State {
            slot: self.slot.get().copied(),
            reporting: self.reporting.load(Ordering::Relaxed),
            cold: self.cold.load(Ordering::Relaxed),
            last_batch_age: last
                .checked_sub(1)
                .map(|last| Duration::from_millis(now.saturating_sub(last))),
        }
    }
}

type Directory = HashMap<SocketAddr, Arc<Shared>>;

/// Reads what is known of endpoints' streams, without locks; cheap to clone.
#[derive(Clone, Debug)]
pub struct States {
    directory: Arc<ArcSwap<Directory>>,
}

impl States {
    /// One endpoint's; `None` where its events are not wanted.
    pub fn state(&self, endpoint: SocketAddr, now: Instant) -> Option<State> {
        let directory = self.directory.load();
        directory.get(&endpoint).map(|shared| shared.state(now))
    }

    /// Endpoints: all, those that report, those that are cold.
    pub fn counts(&self, now: Instant) -> (usize, usize, usize) {
        let directory = self.directory.load();
        let states = directory.values().map(|shared| shared.state(now));
        states.fold((0, 0, 0), |(all, reporting, cold), state| {
            (
                all + 1,
                reporting + usize::from(state.reporting),
                cold + usize::from(state.cold),
            )
        })
    }
}

struct Running {
    wanted: Wanted,
    stop: CancellationToken,
    shared: Arc<Shared>,
}

/// Starts and stops the tasks; whoever discovers endpoints owns it.
pub struct Subscriptions {
    settings: Arc<Settings>,
    running: HashMap<SocketAddr, Running>,
    directory: Arc<ArcSwap<Directory>>,
    changes: mpsc::Sender<Change>,
    room: Arc<Semaphore>,
    recover: Arc<dyn Recover>,
    metrics: Metrics,
    shutdown: Shutdown,
    started: Instant,
}

/// Starts the task that writes the index. Nothing is subscribed to before
/// [`Subscriptions::sync`]. All tasks belong to `shutdown`.
pub fn start(
    settings: Settings,
    index: Writer,
    recover: Arc<dyn Recover>,
    metrics: Metrics,
    shutdown: &Shutdown,
) -> (Subscriptions, States, Hints) {
    let (changes, queue) = mpsc::channel(QUEUE);
    let directory = Arc::new(ArcSwap::from_pointee(Directory::new()));
    let states = States {
        directory: Arc::clone(&directory),
    };
    let hints = Hints::new(changes.clone(), metrics.clone());
    shutdown.spawn_thread(
        "kv index",
        writer::run_index(
            index,
            queue,
            settings.expire_every,
            states.clone(),
            metrics.clone(),
            shutdown.clone(),
        ),
    );
    let subscriptions = Subscriptions {
        settings: Arc::new(settings),
        running: HashMap::new(),
        directory,
        changes,
        room: Arc::new(Semaphore::new(QUEUE_KIB)),
        recover,
        metrics,
        shutdown: shutdown.clone(),
        started: Instant::now(),
    };
    (subscriptions, states, hints)
}

impl Subscriptions {
    /// Makes the tasks match what is wanted. An endpoint that stays as it is keeps its
    /// connection; one whose pod is another starts anew, with nothing held.
    pub fn sync(&mut self, wanted: Vec<Wanted>) {
        let wanted: HashMap<SocketAddr, Wanted> = wanted
            .into_iter()
            .map(|wanted| (wanted.endpoint, wanted))
            .collect();
        let before = self.running.len();
        self.running.retain(|endpoint, running| {
            let stays = wanted.get(endpoint) == Some(&running.wanted);
            if !stays {
                running.stop.cancel();
            }
            stays
        });
        let mut changed = self.running.len() != before;
        for (endpoint, wanted) in wanted {
            if !self.running.contains_key(&endpoint) {
                let running = self.begin(wanted);
                self.running.insert(endpoint, running);
                changed = true;
            }
        }
        if changed {
            let directory = self
                .running
                .iter()
                .map(|(endpoint, running)| (*endpoint, Arc::clone(&running.shared)))
                .collect();
            self.directory.store(Arc::new(directory));
        }
    }

    fn begin(&self, wanted: Wanted) -> Running {
        let shared = Arc::new(Shared::new(self.started));
        let stop = CancellationToken::new();
        let pod = Pod::new(
            wanted.clone(),
            Arc::clone(&self.settings),
            Arc::clone(&shared),
            self.changes.clone(),
            Arc::clone(&self.room),
            Arc::clone(&self.recover),
            self.metrics.clone(),
        );
        self.shutdown
            .spawn_for_peer("kv events", pod.run(stop.clone(), self.shutdown.clone()));
        Running {
            wanted,
            stop,
            shared,
        }
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.stop.cancel();
        }
    }
}
