//! What the engine tells: tokens, ends, counts. PURE data.

use std::time::Duration;

use super::pool::CacheEvent;
use super::submit::{Finish, Id, Remote};

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
    /// Finished prompts whose blocks wait to be fetched.
    pub held: usize,
    /// Share of blocks in use, from 0 to 1.
    pub usage: f64,
    /// Adapters of those that run, each once.
    pub running_loras: Vec<String>,
    /// Adapters of those that wait, each once.
    pub waiting_loras: Vec<String>,
}
