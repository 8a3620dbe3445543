//! What a decision depends on, gathered before it: how much of a prompt each endpoint holds,
//! its engine's load, where its session was. Reads local mirrors only; takes no shared lock.
//!
//! What is missing is a value, never an error: without tokens or events the prefixes this
//! EPP has sent stand in, without metrics the requests in flight.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::datastore::Entry;
use super::follow::pod_uid_hash;
use super::scrape::{Load, Scrapes};
use super::sessions::{self, Bound, Sessions};
use crate::kv::blocks::{self, BlockKey};
use crate::kv::index::{EndpointSlot, KvIndex as _, Reader};
use crate::kv::subscribe::{Hints, State, States};
use crate::kv::tokenize::{self, CallerThread, PromptRef, Tokenizers, Tokens};
use crate::openai::api::Api;
use crate::openai::request::{ChatForm, Prompt, Request};
use crate::scheduling::Decision;
use crate::scheduling::endpoint::{Candidate, EndpointId, EngineLoad, Signals};

/// Tokens per block where an engine does not say.
const DEFAULT_BLOCK_TOKENS: u32 = 16;
/// Bytes of prompt compared as one block where there are no tokens: about 64 tokens. Each block
/// costs a look-up and a change of the index.
const TEXT_BLOCK_BYTES: usize = 256;
/// Longest prefix compared so, in blocks: 256 KiB of prompt, more than engines hold of most.
const TEXT_BLOCKS: usize = 1024;
/// One of so many requests tells the index of all its blocks, the others of those that are new:
/// a prefix that is used stays young, and is not told again and again.
const RETELL: usize = 8;
/// How long a picked endpoint is taken to hold the prompt before its engine says so.
const SPECULATIVE: Duration = Duration::from_secs(2);

/// Everything known; shared by all requests.
pub struct Knowledge {
    /// Blocks of prompts by endpoint, from events and from what was sent.
    pub index: Reader,
    /// What the subscriptions say of each endpoint.
    pub states: States,
    /// The way to the index's one writer.
    pub hints: Hints,
    /// Tokens of prompts; `None` when no profile scores by KV cache.
    pub tokenizers: Option<Tokenizers>,
    /// Load of the engines.
    pub scrapes: Scrapes,
    /// Where sessions are.
    pub sessions: Sessions,
    /// The model that KV events speak of, where the operator said so.
    pub base_model: Option<String>,
    /// A filter looks at the labels of pods.
    pub wants_labels: bool,
    /// It matters where beginnings of prompts were sent.
    pub wants_prefixes: bool,
    /// Characters of prompts are counted: somebody compares them with a threshold, or looks
    /// at decisions.
    pub wants_chars: bool,
    /// Requests that told the index of their blocks.
    pub told: AtomicUsize,
}

/// A prompt as blocks.
#[derive(Debug, Default)]
pub struct PromptBlocks {
    /// Characters.
    pub chars: usize,
    /// Tokens, where they are known.
    pub tokens: Option<Arc<[u32]>>,
    /// How they were found, or why not.
    pub tokens_from: &'static str,
    root: Option<BlockKey>,
    text: Arc<[BlockKey]>,
    by_size: Vec<(u32, Arc<[BlockKey]>)>,
}

impl PromptBlocks {
    /// No prompt, for this reason.
    pub fn none(reason: &'static str) -> Self {
        Self {
            tokens_from: reason,
            ..Self::default()
        }
    }

    /// Keys of the prompt's full blocks at this size; computed once per size.
    fn keys(&mut self, block_tokens: u32) -> &Arc<[BlockKey]> {
        let at = self
            .by_size
            .iter()
            .position(|(size, _)| *size == block_tokens);
        let at = at.unwrap_or_else(|| {
            let keys = match (self.root, &self.tokens) {
                (Some(root), Some(tokens)) => blocks::keys(root, tokens, block_tokens as usize),
                _ => Vec::new(),
            };
            self.by_size.push((block_tokens, keys.into()));
            self.by_size.len() - 1
        });
        &self.by_size[at].1
    }
}

impl Knowledge {
    /// Turns a request's prompt into blocks. `engine` is asked for tokens when there is no
    /// tokenizer in this process. `body` is the whole request.
    pub async fn prompt(
        &self,
        request: &Request<'_>,
        body: &[u8],
        model: &str,
        engine: Option<SocketAddr>,
        caller: CallerThread,
    ) -> PromptBlocks {
        let Some(prompt) = request.prompt() else {
            return PromptBlocks::none("no-prompt");
        };
        // Without a model the engine takes its own.
        let model = match &self.base_model {
            Some(base) if model.is_empty() => base,
            _ => model,
        };
        let lora = self
            .base_model
            .as_deref()
            .is_some_and(|base| base != model)
            .then_some(model);
        let base = self.base_model.as_deref().unwrap_or(model);
        let root = blocks::root(base, lora, request.cache_salt().as_deref());
        let most = if self.wants_prefixes {
            TEXT_BLOCK_BYTES * TEXT_BLOCKS
        } else {
            0
        };
        let text = prompt.prefix_bytes(most);
        let mut found = PromptBlocks {
            chars: if self.wants_chars { prompt.chars() } else { 0 },
            tokens_from: "off",
            root: Some(root),
            text: blocks::text_keys(root, &text, TEXT_BLOCK_BYTES, TEXT_BLOCKS).into(),
            ..PromptBlocks::default()
        };
        if let Some(tokenizers) = &self.tokenizers {
            let given = matches!(prompt, Prompt::Tokens(_));
            let Some(prompt) = tokenizable(request, &prompt, body) else {
                found.tokens_from = "other-form";
                return found;
            };
            let wanted = PromptRef { model, prompt };
            let now = Instant::now();
            match tokenizers.tokens(wanted, engine, now, caller).await {
                Tokens::Exact(tokens) => {
                    found.tokens = Some(tokens);
                    found.tokens_from = match (given, tokenizers.is_local()) {
                        (true, _) => "request",
                        (false, true) => "local",
                        (false, false) => "engine",
                    };
                }
                Tokens::Unavailable(reason) => found.tokens_from = reason.as_str(),
            }
        }
        found
    }

    /// The candidates of a decision that begins now.
    pub fn candidates(
        &self,
        endpoints: &[Entry],
        prompt: &mut PromptBlocks,
        session: Option<u64>,
        now: Instant,
    ) -> Vec<Candidate> {
        let bound =
            session.and_then(|session| self.sessions.binding(session, sessions::unix_now()));
        let known: Vec<_> = endpoints
            .iter()
            .map(|entry| {
                let id = entry.endpoint.id;
                (self.scrapes.load(id, now), self.states.state(id.0, now))
            })
            .collect();
        let slots: Vec<Option<EndpointSlot>> = known
            .iter()
            .map(|(_, state)| state.and_then(|state| state.slot))
            .collect();
        let prefixes = self.shares(&prompt.text, &slots);
        let mut cached = vec![0.0; endpoints.len()];
        let sizes: Vec<u32> = known
            .iter()
            .map(|(load, _)| self.block_tokens(load.as_ref()))
            .collect();
        // Engines of one pool nearly always have one block size: one walk over the index.
        let different: BTreeSet<u32> = sizes.iter().copied().collect();
        for size in different {
            let of_size: Vec<_> = slots
                .iter()
                .zip(&sizes)
                .map(|(slot, own)| slot.filter(|_| *own == size))
                .collect();
            let shares = self.shares(prompt.keys(size), &of_size);
            for (index, share) in shares.into_iter().enumerate() {
                if sizes[index] == size {
                    cached[index] = share;
                }
            }
        }
        endpoints
            .iter()
            .zip(known)
            .enumerate()
            .map(|(index, (entry, (load, state)))| {
                let id = entry.endpoint.id;
                let labels = self
                    .wants_labels
                    .then(|| Arc::clone(&entry.endpoint.labels));
                Candidate {
                    id,
                    role: entry.endpoint.role,
                    ready: entry.endpoint.ready,
                    labels,
                    signals: Signals {
                        in_flight: entry.in_flight(),
                        engine: load.map(|load| EngineLoad {
                            running: load.running,
                            waiting: load.waiting,
                            kv_usage: load.kv_usage,
                        }),
                        cached: held(
                            state,
                            prompt.tokens.is_some(),
                            cached[index],
                            prefixes[index],
                        ),
                        prefix: prefixes[index],
                        sessions: self.sessions.count(id),
                        bound: bound == Some(bound_to(entry)),
                    },
                }
            })
            .collect()
    }

    /// Share of the blocks that each endpoint holds from the start.
    fn shares(&self, keys: &[BlockKey], slots: &[Option<EndpointSlot>]) -> Vec<f64> {
        let asked: Vec<EndpointSlot> = slots.iter().copied().flatten().collect();
        if keys.is_empty() || asked.is_empty() {
            return vec![0.0; slots.len()];
        }
        let mut matched = self.index.matched(keys, &asked).into_iter();
        slots
            .iter()
            .map(|slot| {
                let blocks = slot.and_then(|_| matched.next()).unwrap_or(0);
                f64::from(blocks) / keys.len() as f64
            })
            .collect()
    }

    /// Remembers what follows from a decision: the endpoints will hold the prompt, and the
    /// session has its place. Never waits: what finds no room in the queue is dropped and
    /// counted.
    pub fn chosen(
        &self,
        decision: &Decision,
        endpoints: &[Entry],
        prompt: &mut PromptBlocks,
        session: Option<u64>,
        now: Instant,
    ) {
        for id in decision.endpoints() {
            self.scrapes.nudge(id);
            if let Some(slot) = self.states.state(id.0, now).and_then(|state| state.slot) {
                self.remember(slot, id, prompt, now);
            }
        }
        let entry = endpoints
            .iter()
            .find(|entry| entry.endpoint.id == decision.decode);
        if let (Some(session), Some(entry)) = (session, entry) {
            let Bound { endpoint, pod_uid } = bound_to(entry);
            self.sessions
                .bind(session, endpoint, pod_uid, sessions::unix_now());
        }
    }

    fn remember(
        &self,
        slot: EndpointSlot,
        id: EndpointId,
        prompt: &mut PromptBlocks,
        now: Instant,
    ) {
        let all = self
            .told
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(RETELL);
        if let Some(keys) = self.untold(slot, &prompt.text, all) {
            self.hints.remember(slot, keys);
        }
        let size = self.block_tokens(self.scrapes.load(id, now).as_ref());
        if let Some(keys) = self.untold(slot, prompt.keys(size), all) {
            self.hints.speculate(slot, keys, now + SPECULATIVE);
        }
    }

    /// The keys that the index is to be told of: those it does not have of that endpoint, or
    /// all. `None` where there are none.
    fn untold(
        &self,
        slot: EndpointSlot,
        keys: &Arc<[BlockKey]>,
        all: bool,
    ) -> Option<Arc<[BlockKey]>> {
        if all || keys.is_empty() {
            return (!keys.is_empty()).then(|| Arc::clone(keys));
        }
        let held = self.index.matched(keys, &[slot]).first().copied();
        match held.unwrap_or(0) as usize {
            0 => Some(Arc::clone(keys)),
            held => keys
                .get(held..)
                .filter(|new| !new.is_empty())
                .map(Arc::from),
        }
    }

    /// Tokens of an engine's block: as its metrics say, else as the events of its pool do.
    fn block_tokens(&self, load: Option<&Load>) -> u32 {
        load.and_then(|load| load.block_size)
            .or_else(|| self.index.block_size())
            .unwrap_or(DEFAULT_BLOCK_TOKENS)
    }
}

/// The prompt in a form from which tokens are made here as the engine makes them.
fn tokenizable<'a>(
    request: &Request<'_>,
    prompt: &'a Prompt<'_>,
    body: &'a [u8],
) -> Option<tokenize::Prompt<'a>> {
    match prompt {
        Prompt::Tokens(tokens) => Some(tokenize::Prompt::Tokens(tokens.clone())),
        // The engine puts pairs of texts together.
        Prompt::Text(_) if matches!(request.api(), Some(Api::Score | Api::Rerank)) => None,
        Prompt::Text(text) => Some(tokenize::Prompt::Text(text)),
        Prompt::Chat {
            form: ChatForm::OpenAi,
            messages,
            ..
        } => {
            let messages = serde_json::from_slice(messages).ok()?;
            Some(tokenize::Prompt::Chat { messages, body })
        }
        Prompt::Chat { .. } => None,
    }
}

/// How bindings name an endpoint.
fn bound_to(entry: &Entry) -> Bound {
    Bound {
        endpoint: entry.endpoint.id,
        pod_uid: pod_uid_hash(&entry.endpoint.pod_uid),
    }
}

/// What is known of an engine's cache. An index that missed events knows less than there
/// is, so what was sent counts as well.
fn held(state: Option<State>, has_tokens: bool, cached: f64, prefix: f64) -> Option<f64> {
    let state = state.filter(|state| state.reporting && has_tokens)?;
    Some(if state.cold {
        cached.max(prefix)
    } else {
        cached
    })
}
