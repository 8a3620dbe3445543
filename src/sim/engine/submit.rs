//! What the engine is told: how it is built, and what to run. PURE data.

use std::time::Duration;

use super::chain::Chain;
use super::script::Script;
use super::timing::Timing;

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

/// A request to run.
#[derive(Clone, Debug)]
pub struct Submit {
    /// The prompt.
    pub chain: Chain,
    /// Tokens to generate, at least 1.
    pub max_tokens: usize,
    /// What is generated.
    pub script: Script,
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
