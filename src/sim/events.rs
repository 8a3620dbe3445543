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
mod sender;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::mpsc;

pub use self::oddities::Oddity;
use self::ring::Ring;
use self::sender::Sender;
use super::cli::KvEvents;
use super::engine::CacheEvent;
use crate::kv::event::{Form, HashForm};
use crate::telemetry::shutdown::Shutdown;
use crate::zmtp::{PeerTally, PubSocket, SocketSettings};

/// Batches that wait, whatever the configuration says.
const MAX_QUEUE: usize = 100_000;

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
    socket: Arc<PubSocket>,
    replay_peers: Option<Arc<PeerTally>>,
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
    let settings = SocketSettings::default();
    let mut addresses = Addresses::default();
    let socket = match listen_address(&config.endpoint, bind_host) {
        Some(address) => {
            let bound = PubSocket::bind(&address, settings, shutdown).await;
            let bound = bound.context("publish KV events")?;
            bound.address().clone_into(&mut addresses.events);
            bound
        }
        None => {
            PubSocket::dial(&config.endpoint, settings, shutdown).context("publish KV events")?
        }
    };
    let socket = Arc::new(socket);
    let mut replay_peers = None;
    if let Some(endpoint) = &config.replay_endpoint {
        let address = listen_address(endpoint, bind_host).unwrap_or_else(|| endpoint.clone());
        let topic = Bytes::from(config.topic.clone());
        let (bound, tally) = replay::start(&address, topic, ring.clone(), shutdown).await?;
        addresses.replay = Some(bound);
        replay_peers = Some(tally);
    }
    let (queue, jobs) = mpsc::channel(config.max_queue_size.clamp(1, MAX_QUEUE));
    let sender = Sender::new(socket.clone(), config.topic.clone(), wire, ring);
    let stop = shutdown.clone();
    shutdown.spawn("kv events", async move {
        tokio::select! {
            () = stop.requested() => {}
            () = sender.run(jobs) => {}
        }
        Ok(())
    });
    let state = Arc::default();
    let publisher = Publisher {
        queue,
        state,
        socket,
        replay_peers,
    };
    Ok((publisher, addresses))
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

    /// Messages that subscribers were too slow for, and peers that were dropped because they
    /// broke a rule or a limit of the protocol.
    pub fn dropped(&self) -> (u64, u64) {
        let replay = self.replay_peers.as_ref().map_or(0, |peers| peers.total());
        (self.socket.dropped(), self.socket.tally().total() + replay)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
