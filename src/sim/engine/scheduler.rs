//! One step of the engine: who runs, with how many tokens, and what that brings. PURE.
//!
//! Follows vLLM's `scheduler.py`: running requests first, then the queue in order; a prompt
//! is one more kind of tokens to compute; who finds no block waits, and a running request
//! that finds none takes those of the last one.

use std::time::Duration;

use super::pool::Pool;
use super::script::Answer;
use super::timing::Work;
use super::{
    Chain, Engine, Fetch, Finish, Finished, Hold, Id, Loading, Output, Remote, Script, Submit,
    Times, Token,
};

/// A late caller may find that the next step has begun this long ago, so that timers that
/// ring late do not slow the engine down.
const MAX_LAG: Duration = Duration::from_millis(50);

/// A request inside the engine.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: Id,
    pub(super) chain: Chain,
    pub(super) blocks: Vec<u32>,
    /// Tokens whose KV cache is there.
    computed: usize,
    /// Blocks that are in the cache.
    stored: usize,
    /// Tokens in the step in progress.
    planned: usize,
    prompt: usize,
    generated: usize,
    max_tokens: usize,
    script: Script,
    /// From the first token on.
    answer: Option<Answer>,
    finish: Finish,
    hold: bool,
    remote: Option<Remote>,
    pub(super) cached: Option<usize>,
    /// The prompt has begun: its overhead is paid.
    begun: bool,
    last_token: Option<Duration>,
    times: Times,
}

impl Request {
    pub(super) fn new(id: Id, submit: Submit, now: Duration) -> Self {
        Self {
            id,
            prompt: submit.chain.len(),
            chain: submit.chain,
            blocks: Vec::new(),
            computed: 0,
            stored: 0,
            planned: 0,
            generated: 0,
            max_tokens: submit.max_tokens.max(1),
            script: submit.script,
            answer: None,
            finish: submit.finish,
            hold: submit.hold,
            remote: submit.remote,
            cached: None,
            begun: false,
            last_token: None,
            times: Times {
                arrived: now,
                ..Times::default()
            },
        }
    }

    pub(super) fn finished(
        &self,
        finish: Finish,
        now: Duration,
        held_blocks: Vec<u32>,
    ) -> Finished {
        Finished {
            id: self.id,
            finish,
            prompt_tokens: self.prompt,
            cached_tokens: self.cached.unwrap_or_default(),
            generated: self.generated,
            max_tokens: self.max_tokens,
            held_blocks,
            times: Times {
                finished: now,
                ..self.times
            },
        }
    }
}

impl Engine {
    /// Ends the step in progress when its time has come, and starts the next one.
    pub fn step(&mut self, now: Duration) -> Output {
        let mut out = Output {
            finished: std::mem::take(&mut self.ended),
            ..Output::default()
        };
        self.expire_holds(now);
        let mut start = now;
        match self.ends {
            Some(ends) if now < ends => {
                return out;
            }
            Some(ends) => {
                self.ends = None;
                self.end_step(ends, &mut out);
                out.events = self.pool.events();
                start = ends.max(now.saturating_sub(MAX_LAG));
            }
            None => {}
        }
        self.end_loading(now);
        self.start_step(start, &mut out);
        if self.ends.is_none() {
            // Nothing runs that would publish later.
            out.events.extend(self.pool.events());
        }
        out
    }

    fn expire_holds(&mut self, now: Duration) {
        let expired: Vec<Id> = self
            .holds
            .iter()
            .filter(|(_, hold)| hold.until <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            self.release(id);
            self.totals.expired_holds += 1;
        }
    }

    // === the start of a step ===

    fn start_step(&mut self, now: Duration, out: &mut Output) {
        let mut budget = self.settings.max_num_batched_tokens.max(1);
        let mut work = Work::default();
        let preempted = self.plan_running(&mut budget, &mut work);
        // Who lost its blocks must not take them back from those that run.
        if !preempted || work.requests == 0 {
            self.plan_waiting(now, &mut budget, &mut work, out);
        }
        if work.requests > 0 {
            let time = self.settings.timing.step(work, self.settings.max_num_seqs);
            self.ends = Some(now + time.mul_f64(self.slowdown));
        }
    }

    /// True where a request lost its blocks: then nobody new may start.
    fn plan_running(&mut self, budget: &mut usize, work: &mut Work) -> bool {
        let mut preempted = false;
        let mut at = 0;
        while at < self.running.len() {
            let request = &self.running[at];
            let tokens = (request.chain.len() - request.computed).min(*budget);
            while !self.grow(at, tokens) {
                self.preempt_last();
                preempted = true;
                if at == self.running.len() {
                    return true;
                }
            }
            let request = &mut self.running[at];
            request.planned = tokens;
            *budget -= tokens;
            count(request, work);
            at += 1;
        }
        preempted
    }

    fn plan_waiting(
        &mut self,
        now: Duration,
        budget: &mut usize,
        work: &mut Work,
        out: &mut Output,
    ) {
        while self.running.len() < self.settings.max_num_seqs && *budget > 0 {
            let Some(request) = self.waiting.front() else {
                return;
            };
            let size = self.settings.block_size;
            let hit = if request.computed == 0 && request.blocks.is_empty() {
                // At least one token must be computed: the answer comes from it.
                let whole = (request.chain.len() - 1) / size;
                let known = request.chain.hashes();
                self.pool.hit(&known[..whole.min(known.len())])
            } else {
                Vec::new()
            };
            let computed = request.computed + hit.len() * size;
            let missing = request.chain.len() - computed;
            let external = self.settings.connector && request.remote.is_some();
            let tokens = if external {
                missing
            } else if missing > *budget && !self.settings.chunked_prefill {
                return;
            } else {
                missing.min(*budget)
            };
            let have = request.blocks.len() + hit.len();
            let take = (computed + tokens).div_ceil(size).saturating_sub(have);
            if take + self.pool.idle(&hit) > self.pool.free() {
                return;
            }
            let mut request = self.waiting.pop_front().expect("there is a first");
            self.pool.share(&hit);
            request.stored += hit.len();
            request.computed = computed;
            request.blocks.extend(hit);
            let taken = self.pool.take(take).expect("counted above");
            request.blocks.extend(taken);
            self.count_lookup(&mut request, computed, if external { missing } else { 0 });
            if external {
                self.load(request, now, out);
                continue;
            }
            if request.times.scheduled.is_zero() {
                request.times.scheduled = now.max(request.times.arrived);
            }
            request.planned = tokens;
            *budget -= tokens;
            count(&mut request, work);
            store(&mut self.pool, &mut request, computed + tokens, size);
            self.running.push(request);
        }
    }

    /// A request is counted once, however often it starts.
    fn count_lookup(&mut self, request: &mut Request, local: usize, external: usize) {
        if request.cached.is_some() {
            return;
        }
        request.cached = Some(local + external.min(request.prompt - local));
        if self.settings.prefix_caching {
            self.totals.cache_queries += request.prompt as u64;
            self.totals.cache_hits += local as u64;
        }
        if self.settings.connector {
            self.totals.external_queries += (request.prompt - local) as u64;
            self.totals.external_hits += external as u64;
        }
    }

    /// Sends a request to wait for the KV cache that another engine has.
    fn load(&mut self, mut request: Request, now: Duration, out: &mut Output) {
        let remote = request.remote.take().unwrap_or_default();
        out.fetches.push(Fetch {
            id: request.id,
            remote,
        });
        self.loading.push(Loading {
            local_tokens: request.computed,
            request,
            asked: now,
            ready: None,
        });
    }

    /// KV cache that has arrived is there as if computed here, but for the last token.
    fn end_loading(&mut self, now: Duration) {
        let (ready, loading): (Vec<_>, Vec<_>) = std::mem::take(&mut self.loading)
            .into_iter()
            .partition(|loading| loading.ready.is_some_and(|ready| ready <= now));
        self.loading = loading;
        for Loading { mut request, .. } in ready.into_iter().rev() {
            let tokens = request.chain.len();
            store(
                &mut self.pool,
                &mut request,
                tokens,
                self.settings.block_size,
            );
            request.computed = tokens - 1;
            request.begun = true;
            self.waiting.push_front(request);
        }
    }

    /// Room for `tokens` more tokens of a running request.
    fn grow(&mut self, at: usize, tokens: usize) -> bool {
        let size = self.settings.block_size;
        let request = &mut self.running[at];
        let until = request.computed + tokens;
        let missing = until.div_ceil(size).saturating_sub(request.blocks.len());
        let Some(taken) = self.pool.take(missing) else {
            return false;
        };
        request.blocks.extend(taken);
        store(&mut self.pool, request, until, size);
        true
    }

    fn preempt_last(&mut self) {
        let mut request = self.running.pop().expect("one was asked for");
        self.pool.release(&request.blocks);
        request.blocks.clear();
        request.computed = 0;
        request.stored = 0;
        request.planned = 0;
        self.totals.preemptions += 1;
        // Behind those that wait with blocks in their hands: they must get on, or nobody can.
        let holding = |request: &&Request| !request.blocks.is_empty();
        let place = self.waiting.iter().take_while(holding).count();
        self.waiting.insert(place, request);
    }

    // === the end of a step ===

    fn end_step(&mut self, now: Duration, out: &mut Output) {
        let mut step_tokens = 0;
        // First all of what was computed: prompts that start together share blocks.
        for request in &self.running {
            let computed = request.computed..request.computed + request.planned;
            let tokens = &request.chain.tokens()[computed];
            self.pool.write(&request.blocks, request.computed, tokens);
        }
        let mut kept = Vec::with_capacity(self.running.len());
        for mut request in std::mem::take(&mut self.running) {
            step_tokens += request.planned;
            request.computed += request.planned;
            let generates = request.planned > 0 && request.computed == request.chain.len();
            request.planned = 0;
            if generates {
                self.generate(&mut request, now, out);
            }
            if request.generated < request.max_tokens {
                kept.push(request);
            } else {
                out.finished.push(self.finish(request, now));
            }
        }
        self.running = kept;
        out.step_tokens = Some(step_tokens);
    }

    fn generate(&mut self, request: &mut Request, now: Duration, out: &mut Output) {
        let kv = &self.pool;
        let answer = request.answer.get_or_insert_with(|| {
            request
                .script
                .answer(&kv.read(&request.blocks, request.prompt))
        });
        let token = answer.next();
        request.chain.push(token);
        request.generated += 1;
        let first = request.last_token.is_none();
        let since = request.last_token.unwrap_or(request.times.arrived);
        out.tokens.push(Token {
            id: request.id,
            token,
            first,
            after: now.saturating_sub(since),
        });
        if first {
            request.times.first_token = now;
            self.totals.prompt_tokens += request.prompt as u64;
        }
        request.last_token = Some(now);
        self.totals.generated_tokens += 1;
    }

    fn finish(&mut self, request: Request, now: Duration) -> Finished {
        let hold = request.hold && self.settings.connector;
        if !hold {
            self.pool.release(&request.blocks);
            return request.finished(request.finish, now, Vec::new());
        }
        let finished = request.finished(request.finish, now, request.blocks.clone());
        let until = now + self.settings.hold_timeout;
        let hold = Hold {
            blocks: request.blocks,
            until,
        };
        self.holds.insert(request.id, hold);
        finished
    }
}

/// Caches the blocks that `tokens` tokens of a request fill.
fn store(pool: &mut Pool, request: &mut Request, tokens: usize, size: usize) {
    let full = tokens / size;
    pool.store(&request.chain, &request.blocks, request.stored, full, size);
    request.stored = request.stored.max(full);
}

/// Adds a planned request to the work of the step.
fn count(request: &mut Request, work: &mut Work) {
    if request.planned == 0 {
        return;
    }
    work.requests += 1;
    // The last token of a transferred prompt, and every generated one.
    if request.begun && request.planned == 1 && request.computed + 1 == request.chain.len() {
        work.decodes = true;
        return;
    }
    work.starts |= !request.begun;
    request.begun = true;
    work.prefill_tokens += request.planned;
    work.prompt_shares += request.planned as f64 / request.prompt.max(1) as f64;
}
