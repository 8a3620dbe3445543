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
mod scheduler;
#[cfg(test)]
mod tests;
pub mod timing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub use self::chain::{Chain, Hashing, Lora};
pub use self::pool::CacheEvent;
use self::pool::Pool;
use self::scheduler::Request;
pub use self::timing::Timing;
use crate::kv::blocks::engine::EngineHash;

/// How an engine is built.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Tokens in a block.
    pub block_size: usize,
    /// Blocks of the cache; one of them is never used.
    pub num_blocks: usize,
    /// False switches the prefix cache off.
    pub prefix_caching: bool,
    /// Requests that run at once.
    pub max_num_seqs: usize,
    /// Tokens computed in one step.
    pub max_num_batched_tokens: usize,
    /// True lets a long prompt take several steps.
    pub chunked_prefill: bool,
    /// Requests that may wait.
    pub max_waiting: usize,
    /// Longest prompt and answer, in tokens.
    pub max_model_len: usize,
    /// True where KV cache can be passed between engines.
    pub connector: bool,
    /// What a failed transfer means: compute the prompt here, or fail the request.
    pub recompute_on_failure: bool,
    /// How long the blocks of a finished prompt wait to be fetched.
    pub hold_timeout: Duration,
    /// How fast the machine is.
    pub timing: Timing,
}

/// Names a request inside one engine, in the order of submission.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Id(pub u64);

/// The tokens an answer is made of: `head`, then `cycle` from `start` on, again and again.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The first tokens.
    pub head: Arc<[u32]>,
    /// The others; never empty.
    pub cycle: Arc<[u32]>,
    /// Where the cycle starts.
    pub start: usize,
}

impl Answer {
    fn token(&self, at: usize) -> u32 {
        self.head.get(at).copied().unwrap_or_else(|| {
            let at = self.start + at - self.head.len();
            self.cycle[at % self.cycle.len()]
        })
    }
}

/// A request to run.
#[derive(Clone, Debug)]
pub struct Submit {
    /// The prompt.
    pub chain: Chain,
    /// Tokens to generate, at least 1.
    pub max_tokens: usize,
    /// What is generated.
    pub answer: Answer,
    /// How it ends.
    pub finish: Finish,
    /// True keeps the prompt's blocks for another engine to fetch (`do_remote_decode`).
    pub hold: bool,
    /// The engine that has computed the prompt already (`do_remote_prefill`).
    pub remote: Option<Remote>,
}

/// Where KV cache can be fetched; vLLM's `kv_transfer_params` of a decode request.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Remote {
    /// Host of the other engine's side channel.
    pub host: String,
    /// Port of it.
    pub port: u16,
    /// The other engine's name, new with each start.
    pub engine: String,
    /// The request there.
    pub request: String,
    /// The blocks there.
    pub blocks: Vec<u64>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Finish {
    /// The model was done.
    Stop,
    /// The limit of tokens was reached.
    Length,
    /// The client left.
    Abort,
    /// The KV cache could not be fetched and must not be computed here.
    Error,
}

impl Finish {
    /// vLLM's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// There is nothing to compute.
    #[error("the prompt is empty")]
    Empty,
    /// Prompt and answer are longer than the model allows.
    #[error(
        "This model's maximum context length is {limit} tokens. However, you requested {max_tokens} output tokens and your prompt contains {prompt} input tokens, for a total of {} tokens.",
        prompt + max_tokens
    )]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens asked for.
        max_tokens: usize,
        /// Most tokens of both.
        limit: usize,
    },
    /// The whole cache is too small.
    #[error("the request needs {needed} blocks of KV cache and the engine has {blocks}")]
    NeverFits {
        /// Blocks needed.
        needed: usize,
        /// Blocks there are.
        blocks: usize,
    },
    /// Too many wait already.
    #[error("the waiting queue is full ({0} requests)")]
    QueueFull(usize),
}

/// A generated token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token {
    /// Whose.
    pub id: Id,
    /// Which.
    pub token: u32,
    /// True for the first of its request.
    pub first: bool,
    /// Time since the one before, or since arrival.
    pub after: Duration,
}

/// A request that ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Which.
    pub id: Id,
    /// How.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of those, not computed here.
    pub cached_tokens: usize,
    /// Tokens generated.
    pub generated: usize,
    /// Tokens asked for.
    pub max_tokens: usize,
    /// Blocks that wait to be fetched; empty where none do.
    pub held_blocks: Vec<u32>,
    /// When it came, first ran, gave its first token, and ended.
    pub times: Times,
}

/// The life of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    /// It came.
    pub arrived: Duration,
    /// It was first in a step.
    pub scheduled: Duration,
    /// Its first token was there.
    pub first_token: Duration,
    /// Its last token was there.
    pub finished: Duration,
}

/// KV cache to fetch: the caller asks the other engine and reports to [`Engine::fetched`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fetch {
    /// For whom.
    pub id: Id,
    /// From where.
    pub remote: Remote,
}

/// What a step brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Generated tokens.
    pub tokens: Vec<Token>,
    /// Requests that ended.
    pub finished: Vec<Finished>,
    /// One batch of cache events; empty is no batch.
    pub events: Vec<CacheEvent>,
    /// KV cache to fetch.
    pub fetches: Vec<Fetch>,
    /// Tokens computed in the step that ended.
    pub step_tokens: Option<usize>,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Prompt tokens of requests that got their first token.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Prompt tokens looked up in the cache.
    pub cache_queries: u64,
    /// Of those, found.
    pub cache_hits: u64,
    /// Prompt tokens, not found here, that another engine might have.
    pub external_queries: u64,
    /// Of those, announced by another engine.
    pub external_hits: u64,
    /// Requests that lost their blocks to others.
    pub preemptions: u64,
    /// KV cache that could not be fetched.
    pub failed_transfers: u64,
    /// Held blocks that nobody fetched, in requests.
    pub expired_holds: u64,
}

/// The state of an engine now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gauges {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait, for a seat or for KV cache.
    pub waiting: usize,
    /// Share of blocks in use, from 0 to 1.
    pub usage: f64,
    /// Adapters of those that run, each once.
    pub running_loras: Vec<String>,
    /// Adapters of those that wait, each once.
    pub waiting_loras: Vec<String>,
}

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
            pool: Pool::new(settings.num_blocks, settings.prefix_caching),
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

    /// The client left.
    pub fn abort(&mut self, id: Id, now: Duration) {
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
            let finished = request.finished(Finish::Abort, now, Vec::new());
            self.ended.push(finished);
        }
    }

    /// What became of a [`Fetch`].
    pub fn fetched(&mut self, id: Id, arrived: bool, now: Duration) {
        let Some(at) = self.loading.iter().position(|one| one.request.id == id) else {
            return;
        };
        if arrived {
            let loading = &mut self.loading[at];
            let tokens = loading.request.chain.len() - loading.local_tokens;
            let time = self.settings.timing.transfer(tokens);
            let ready = loading.asked + time.mul_f64(self.slowdown);
            loading.ready = Some(ready.max(now));
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
