//! The one task that changes the index, and how the request path reaches it. IO: tasks and time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::MissedTickBehavior;

use super::{Shared, States};
use crate::kv::blocks::BlockKey;
use crate::kv::event::Event;
use crate::kv::index::{Applied, EndpointSlot, Writer};
use crate::kv::metrics::{BlockOutcome, Hint, Metrics};
use crate::telemetry::shutdown::Shutdown;

/// Changes taken from the queue at a time.
const BURST: usize = 64;
/// How often sizes are told to the metrics.
const TELL: Duration = Duration::from_secs(1);

/// One change of the index.
pub(super) enum Change {
    /// A new endpoint, which is told its slot.
    Add(Arc<Shared>),
    /// An endpoint is gone.
    Remove(Arc<Shared>),
    /// All that an endpoint holds is to be forgotten.
    Clear(Arc<Shared>),
    /// What an engine did.
    Batch {
        of: Arc<Shared>,
        model: Arc<str>,
        rank: u32,
        events: Vec<Event>,
        /// Given back once the batch is applied.
        room: OwnedSemaphorePermit,
    },
    /// An endpoint will hold these blocks.
    Speculate {
        slot: EndpointSlot,
        keys: Arc<[BlockKey]>,
        until: Instant,
    },
    /// An endpoint was sent these blocks.
    Remember {
        slot: EndpointSlot,
        keys: Arc<[BlockKey]>,
    },
}

/// How the request path tells the index what it did; cheap to clone. Never waits.
#[derive(Clone)]
pub struct Hints {
    changes: mpsc::Sender<Change>,
    metrics: Metrics,
}

impl Hints {
    pub(super) fn new(changes: mpsc::Sender<Change>, metrics: Metrics) -> Self {
        Self { changes, metrics }
    }

    /// The endpoint will hold these blocks: count them as held until its engine says so, or
    /// until this time. Returns false when the writer was busy and the hint was dropped.
    pub fn speculate(&self, slot: EndpointSlot, keys: Arc<[BlockKey]>, until: Instant) -> bool {
        self.send(Change::Speculate { slot, keys, until }, Hint::Speculation)
    }

    /// The endpoint was sent these blocks, which matters where no events tell what it holds.
    /// Returns false when the writer was busy and the hint was dropped.
    pub fn remember(&self, slot: EndpointSlot, keys: Arc<[BlockKey]>) -> bool {
        self.send(Change::Remember { slot, keys }, Hint::History)
    }

    fn send(&self, change: Change, hint: Hint) -> bool {
        let sent = self.changes.try_send(change).is_ok();
        if !sent {
            self.metrics.dropped(hint);
        }
        sent
    }
}

/// Applies changes in the order of the queue until the program ends.
pub(super) async fn run_index(
    mut index: Writer,
    mut queue: mpsc::Receiver<Change>,
    expire_every: Duration,
    states: States,
    metrics: Metrics,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut expire = tokio::time::interval(expire_every);
    let mut tell = tokio::time::interval(TELL);
    expire.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut burst = Vec::with_capacity(BURST);
    loop {
        tokio::select! {
            () = shutdown.requested() => return Ok(()),
            _ = expire.tick() => index.expire(Instant::now()),
            _ = tell.tick() => {
                metrics.held(index.stats().keys);
                let (all, reporting, cold) = states.counts(Instant::now());
                metrics.endpoints(all, reporting, cold);
            }
            count = queue.recv_many(&mut burst, BURST) => {
                if count == 0 {
                    return Ok(());
                }
                for change in burst.drain(..) {
                    apply(&mut index, change, &metrics);
                }
                // Bursts of many events are work without a wait in it.
                tokio::task::yield_now().await;
            }
        }
    }
}

fn apply(index: &mut Writer, change: Change, metrics: &Metrics) {
    match change {
        Change::Add(endpoint) => {
            let slot = index.add_endpoint();
            endpoint.slot.set(slot).expect("an endpoint is added once");
        }
        Change::Remove(endpoint) => {
            if let Some(slot) = endpoint.slot.get() {
                index.remove_endpoint(*slot);
            }
        }
        Change::Clear(endpoint) => {
            if let Some(slot) = endpoint.slot.get() {
                index.clear(*slot);
            }
        }
        Change::Batch {
            of,
            model,
            rank,
            events,
            room,
        } => {
            if let Some(slot) = of.slot.get() {
                batch(index, *slot, rank, &model, &events, metrics);
            }
            drop(events);
            drop(room);
        }
        Change::Speculate { slot, keys, until } => index.speculate(slot, &keys, until),
        Change::Remember { slot, keys } => index.remember(slot, &keys),
    }
}

fn batch(
    index: &mut Writer,
    slot: EndpointSlot,
    rank: u32,
    model: &str,
    events: &[Event],
    metrics: &Metrics,
) {
    let (mut stored, mut removed, mut cleared) = (0, 0, 0);
    let mut sum = Applied::default();
    for event in events {
        match event {
            Event::Stored(_) => stored += 1,
            Event::Removed(_) => removed += 1,
            Event::Cleared => cleared += 1,
        }
        let applied = index.apply(slot, rank, model, event);
        sum.stored += applied.stored;
        sum.duplicate += applied.duplicate;
        sum.removed += applied.removed;
        sum.cleared += applied.cleared;
        sum.unknown_parent += applied.unknown_parent;
        sum.unknown_hash += applied.unknown_hash;
        sum.skipped_kind += applied.skipped_kind;
        sum.odd_size += applied.odd_size;
        sum.opaque += applied.opaque;
        sum.conflicting += applied.conflicting;
        sum.over_limit += applied.over_limit;
    }
    metrics.batch(stored, removed, cleared);
    for (outcome, count) in [
        (BlockOutcome::Stored, sum.stored),
        (BlockOutcome::Duplicate, sum.duplicate),
        (BlockOutcome::Removed, sum.removed),
        (BlockOutcome::Cleared, sum.cleared),
        (BlockOutcome::UnknownParent, sum.unknown_parent),
        (BlockOutcome::UnknownHash, sum.unknown_hash),
        (BlockOutcome::SkippedKind, sum.skipped_kind),
        (BlockOutcome::OddSize, sum.odd_size),
        (BlockOutcome::Opaque, sum.opaque),
        (BlockOutcome::Conflicting, sum.conflicting),
        (BlockOutcome::OverLimit, sum.over_limit),
    ] {
        metrics.blocks(outcome, count);
    }
}
