//! A deterministic vLLM without a model: continuous batching over a block cache. PURE: the
//! clock is an argument, and equal calls give equal results.
//!
//! ```text
//! submit -> waiting -> (loading: KV cache from another engine) -> running -> finished -> (held)
//!                      step(now): end the running step, start the next
//! ```
//!
//! Times are durations since the engine started. Nothing here waits: [`Engine::next_due`]
//! says when [`Engine::step`] has something to do.
#![deny(clippy::disallowed_methods)]

pub mod chain;
mod pool;
pub mod report;
mod scheduler;
pub mod script;
pub mod submit;
#[cfg(test)]
mod tests;
pub mod timing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub use self::chain::{Chain, Hashing, Lora};
pub use self::pool::CacheEvent;
use self::pool::Pool;
pub use self::report::{Fetch, Finished, Gauges, Output, Times, Token, Totals};
use self::scheduler::Request;
pub use self::script::Script;
pub use self::submit::{Finish, Id, Refused, Remote, Settings, Submit};
pub use self::timing::Timing;
use crate::kv::blocks::engine::EngineHash;

/// Blocks that wait to be fetched.
#[derive(Debug)]
struct Hold {
    blocks: Vec<u32>,
    until: Duration,
}

/// A request whose KV cache is on its way.
#[derive(Debug)]
struct Loading {
    request: Request,
    local_tokens: usize,
    asked: Duration,
    ready: Option<Duration>,
}

/// The simulated engine.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    pool: Pool,
    waiting: VecDeque<Request>,
    loading: Vec<Loading>,
    running: Vec<Request>,
    holds: BTreeMap<Id, Hold>,
    /// End of the step in progress.
    ends: Option<Duration>,
    next_id: u64,
    slowdown: f64,
    totals: Totals,
    ended: Vec<Finished>,
}

impl Engine {
    /// An idle engine with an empty cache.
    pub fn new(settings: Settings) -> Self {
        Self {
            pool: Pool::new(
                settings.num_blocks,
                settings.block_size,
                settings.prefix_caching,
            ),
            settings,
            waiting: VecDeque::new(),
            loading: Vec::new(),
            running: Vec::new(),
            holds: BTreeMap::new(),
            ends: None,
            next_id: 0,
            slowdown: 1.0,
            totals: Totals::default(),
            ended: Vec::new(),
        }
    }

    /// Takes a request into the queue.
    ///
    /// # Errors
    /// When it can never run, or the queue is full.
    pub fn submit(&mut self, submit: Submit, now: Duration) -> Result<Id, Refused> {
        let prompt = submit.chain.len();
        let max_tokens = submit.max_tokens.max(1);
        if prompt == 0 {
            return Err(Refused::Empty);
        }
        if prompt.saturating_add(max_tokens) > self.settings.max_model_len {
            return Err(Refused::TooLong {
                prompt,
                max_tokens,
                limit: self.settings.max_model_len,
            });
        }
        // The last token is never computed.
        let needed = (prompt + max_tokens - 1).div_ceil(self.settings.block_size);
        if needed > self.pool.usable() {
            return Err(Refused::NeverFits {
                needed,
                blocks: self.pool.usable(),
            });
        }
        // Those for whom there is a seat do not wait.
        let seats = self.settings.max_num_seqs - self.running.len();
        if self.waiting.len() >= self.settings.max_waiting.saturating_add(seats) {
            return Err(Refused::QueueFull(self.waiting.len()));
        }
        let id = Id(self.next_id);
        self.next_id += 1;
        self.waiting.push_back(Request::new(id, submit, now));
        Ok(id)
    }

    /// Ends a request before its time: the client left, or has heard a stop string.
    pub fn end(&mut self, id: Id, finish: Finish, now: Duration) {
        let position = self.waiting.iter().position(|request| request.id == id);
        let request = if let Some(at) = position {
            self.waiting.remove(at)
        } else if let Some(at) = self.running.iter().position(|request| request.id == id) {
            Some(self.running.remove(at))
        } else {
            let at = self
                .loading
                .iter()
                .position(|loading| loading.request.id == id);
            at.map(|at| self.loading.remove(at).request)
        };
        if let Some(request) = request {
            self.pool.release(&request.blocks);
            let finished = request.finished(finish, now, Vec::new());
            self.ended.push(finished);
        }
    }

    /// What became of a [`Fetch`]: what the blocks hold, in their order, or `None` where they
    /// could not be had.
    pub fn fetched(&mut self, id: Id, content: Option<&[u32]>, now: Duration) {
        let Some(at) = self.loading.iter().position(|one| one.request.id == id) else {
            return;
        };
        if let Some(content) = content {
            let loading = &mut self.loading[at];
            let tokens = loading.request.chain.len() - loading.local_tokens;
            let time = self.settings.timing.transfer(tokens);
            let ready = loading.asked + time.mul_f64(self.slowdown);
            loading.ready = Some(ready.max(now));
            // The connector asks no token what prompt it is of: it fills the blocks that are
            // missing here with as many of the last ones there.
            let have = loading.local_tokens / self.settings.block_size;
            self.pool.fill(&loading.request.blocks[have..], content);
            return;
        }
        let loading = self.loading.remove(at);
        let mut request = loading.request;
        request.cached = Some(loading.local_tokens);
        self.totals.failed_transfers += 1;
        if self.settings.recompute_on_failure {
            // It keeps its place and its blocks; what was cached here counts as before.
            self.waiting.push_front(request);
        } else {
            self.pool.release(&request.blocks);
            request.blocks.clear();
            let finished = request.finished(Finish::Error, now, Vec::new());
            self.ended.push(finished);
        }
    }

    /// Another engine has fetched the blocks of this request: how many there were.
    pub fn release(&mut self, id: Id) -> Option<usize> {
        let hold = self.holds.remove(&id)?;
        self.pool.release(&hold.blocks);
        Some(hold.blocks.len())
    }

    /// What blocks hold now, whoever they belong to: remote reads go past the scheduler.
    /// Numbers of blocks that do not exist are left out.
    pub fn peek(&self, blocks: &[u64]) -> Vec<u32> {
        self.pool.peek(blocks)
    }

    /// Empties the prefix cache; false, and nothing done, while blocks are in use.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.pool.clear()
    }

    /// Makes every step this many times as long.
    pub fn slow_down(&mut self, factor: f64) {
        self.slowdown = factor.clamp(0.0, 1e6);
    }

    /// When [`Engine::step`] has something to do, unless a call changes that; `None` is idle.
    pub fn next_due(&self) -> Option<Duration> {
        let loading = self.loading.iter().filter_map(|loading| loading.ready);
        let holds = self.holds.values().map(|hold| hold.until);
        // During a step nothing can start, so nothing else is worth a call.
        self.ends.or_else(|| loading.chain(holds).min())
    }

    /// Counts since the start.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The state now.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            running: self.running.len(),
            held: self.holds.len(),
            waiting: self.waiting.len() + self.loading.len(),
            usage: 1.0 - self.pool.free() as f64 / self.pool.usable() as f64,
            running_loras: loras(&mut self.running.iter()),
            waiting_loras: loras(&mut self.waiting.iter()),
        }
    }

    /// How many blocks hold each hash that is cached, in no order.
    pub fn holdings(&self) -> impl Iterator<Item = (EngineHash, usize)> + '_ {
        self.pool.holdings()
    }
}

/// The names of the requests' adapters, each once.
fn loras(requests: &mut dyn Iterator<Item = &Request>) -> Vec<String> {
    let lora = |request: &Request| request.chain.lora().map(|lora| lora.name.clone());
    let names: BTreeSet<String> = requests.filter_map(lora).collect();
    names.into_iter().collect()
}
