//! Ready endpoints -> what their engines say about their load, each scraped at its own pace.
//!
//! ```text
//! sync(endpoints) -> one task each: pace -> fetch(IO) -> scan -> publish    load(endpoint) <- readers
//! ```
//!
//! IO. Readers take no lock and never wait. A load that is too old is not told: no number is
//! better than a wrong one, and the EPP's own counts are always there.

pub mod fetch;
pub mod metrics;
pub mod pace;
pub mod scan;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

pub use self::fetch::Failure;
pub use self::metrics::Metrics;
pub use self::pace::Limits;
pub use self::scan::{Page, ScanError, Scanner};

use self::fetch::Client;
use self::pace::{Pace, jitter};
use crate::scheduling::endpoint::EndpointId;
use crate::telemetry::shutdown::Shutdown;

/// What an engine says about its load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Requests that wait for the scheduler.
    pub waiting: u64,
    /// Requests in the running batch.
    pub running: u64,
    /// Share of the KV cache in use, from 0 to 1.
    pub kv_usage: f64,
    /// Tokens in a block of the KV cache.
    pub block_size: Option<u32>,
    /// Blocks of the KV cache.
    pub num_gpu_blocks: Option<u64>,
    /// When it was read.
    pub at: Instant,
}

impl Load {
    fn new(page: Page, at: Instant) -> Self {
        Self {
            waiting: page.waiting,
            running: page.running,
            kv_usage: page.kv_usage,
            block_size: page.block_size,
            num_gpu_blocks: page.num_gpu_blocks,
            at,
        }
    }
}

/// What a task and its readers share.
#[derive(Debug, Default)]
struct Slot {
    latest: ArcSwapOption<Load>,
    nudge: Notify,
}

/// One scraped endpoint.
#[derive(Clone, Debug)]
struct Entry {
    slot: Arc<Slot>,
    stop: CancellationToken,
}

/// Loads of all scraped endpoints; cheap to clone.
#[derive(Clone, Debug)]
pub struct Scrapes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    entries: ArcSwap<HashMap<EndpointId, Entry>>,
    /// Held while endpoints are replaced; readers do without.
    writer: Mutex<()>,
    client: Client,
    permits: Semaphore,
    limits: Limits,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl Scrapes {
    /// Scrapes nothing until [`Scrapes::sync`].
    pub fn new(limits: Limits, metrics: Metrics, shutdown: Shutdown) -> Self {
        Self(Arc::new(Shared {
            entries: ArcSwap::default(),
            writer: Mutex::new(()),
            client: Client::new(limits, metrics.clone()),
            permits: Semaphore::new(limits.concurrent.max(1)),
            limits,
            metrics,
            shutdown,
        }))
    }

    /// Scrapes exactly these endpoints from now on: starts what is new, stops what is gone,
    /// lets the rest be. Must be called inside the runtime.
    pub fn sync(&self, endpoints: impl IntoIterator<Item = EndpointId>) {
        let _one = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.0.entries.load_full();
        let mut after = HashMap::with_capacity(before.len());
        for endpoint in endpoints {
            after.entry(endpoint).or_insert_with(|| {
                before
                    .get(&endpoint)
                    .cloned()
                    .unwrap_or_else(|| self.start(endpoint))
            });
        }
        for (endpoint, entry) in before.iter() {
            if !after.contains_key(endpoint) {
                entry.stop.cancel();
            }
        }
        self.0.metrics.endpoints(after.len());
        self.0.entries.store(Arc::new(after));
    }

    /// The endpoint's load; `None` when it is not scraped, has not answered or answered too
    /// long ago ([`Limits::stale`]).
    pub fn load(&self, endpoint: EndpointId, now: Instant) -> Option<Load> {
        let entries = self.0.entries.load();
        let latest = entries.get(&endpoint)?.slot.latest.load();
        let load = **latest.as_ref()?;
        (now.saturating_duration_since(load.at) <= self.0.limits.stale()).then_some(load)
    }

    /// Says that the endpoint is being given a request: an endpoint that was idle is looked
    /// at soon and not at the end of its long wait.
    pub fn nudge(&self, endpoint: EndpointId) {
        if let Some(entry) = self.0.entries.load().get(&endpoint) {
            entry.slot.nudge.notify_one();
        }
    }

    fn start(&self, endpoint: EndpointId) -> Entry {
        let entry = Entry {
            slot: Arc::default(),
            stop: CancellationToken::new(),
        };
        let (shared, kept) = (Arc::clone(&self.0), entry.clone());
        self.0.shutdown.spawn_for_peer("scrape", async move {
            tokio::select! {
                () = kept.stop.cancelled() => {}
                () = shared.shutdown.requested() => {}
                () = shared.follow(endpoint, &kept.slot) => {}
            }
        });
        entry
    }
}

impl Shared {
    /// Scrapes one endpoint for ever.
    async fn follow(&self, endpoint: EndpointId, slot: &Slot) {
        let limits = &self.limits;
        // A keyed hash of a counter: random enough, and no generator to carry along.
        let random = RandomState::new();
        let mut round = 0_u64;
        let mut pace = Pace::new(limits);
        let mut before = None;
        loop {
            let result = self.scrape(endpoint).await;
            let wait = match result {
                Ok(page) => {
                    if pace.is_failing() {
                        tracing::info!(%endpoint, "the metrics of the endpoint can be read again");
                    }
                    slot.latest
                        .store(Some(Arc::new(Load::new(page, Instant::now()))));
                    let changed = before.replace(page) != Some(page);
                    pace.succeeded(limits, changed || page.waiting > 0 || page.running > 0)
                }
                Err(failure) => {
                    // Once per bad spell: a broken engine must not fill the log.
                    if !pace.is_failing() {
                        tracing::warn!(%endpoint, %failure, "metrics of the endpoint cannot be read");
                    }
                    pace.failed(limits)
                }
            };
            round += 1;
            let wait = jitter(wait, random.hash_one(round));
            self.pause(slot, &mut pace, wait).await;
        }
    }

    async fn scrape(&self, endpoint: EndpointId) -> Result<Page, Failure> {
        let permit = if let Ok(permit) = self.permits.try_acquire() {
            permit
        } else {
            self.metrics.waited();
            let permit = self.permits.acquire().await;
            permit.expect("the semaphore is never closed")
        };
        let started = Instant::now();
        let result = self.client.scrape(endpoint).await;
        drop(permit);
        self.metrics
            .scraped(started.elapsed(), result.as_ref().err());
        result
    }

    /// Waits; a nudge ends a long wait, but not the wait of an endpoint that fails.
    async fn pause(&self, slot: &Slot, pace: &mut Pace, wait: Duration) {
        let least = wait.min(self.limits.fast);
        tokio::time::sleep(least).await;
        let rest = wait.saturating_sub(least);
        if rest.is_zero() {
            return;
        }
        if pace.is_failing() {
            tokio::time::sleep(rest).await;
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = slot.nudge.notified() => pace.nudged(&self.limits),
        }
    }
}

#[cfg(test)]
mod tests;
