//! What the engine says for one sample -> text, up to a stop string. PURE.

use std::mem;

use serde_json::{Value, json};

use super::super::request::Ask;
use super::logprobs::Entry;
use crate::sim::engine::{Finish, Finished, Id};
use crate::sim::task::Update;
use crate::sim::tokens::Tokens;

/// What came of one sample since the step before.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::sim::server) struct Step {
    /// Which sample of the request.
    pub(in crate::sim::server) index: usize,
    /// True for the first step of the sample.
    pub(in crate::sim::server) first: bool,
    pub(in crate::sim::server) text: String,
    pub(in crate::sim::server) tokens: Vec<u32>,
    /// One for each token, where they were asked for.
    pub(in crate::sim::server) logprobs: Vec<Entry>,
    /// With the last token.
    pub(in crate::sim::server) end: Option<End>,
}

/// Why a sample ended.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::sim::server) struct End {
    /// `stop` or `length`.
    pub(in crate::sim::server) reason: &'static str,
    /// The stop string, or the token, or null.
    pub(in crate::sim::server) stop: Value,
}

impl Step {
    /// Nothing yet.
    pub(super) fn empty(index: usize) -> Self {
        Self {
            index,
            ..Self::default()
        }
    }

    /// Adds what came after.
    pub(super) fn append(&mut self, next: Self) {
        self.text.push_str(&next.text);
        self.tokens.extend(next.tokens);
        self.logprobs.extend(next.logprobs);
        self.end = self.end.take().or(next.end);
    }
}

/// One sample.
#[derive(Debug)]
pub(super) struct Voice {
    index: usize,
    id: Id,
    max_tokens: usize,
    min_tokens: usize,
    finish: Finish,
    stop: Vec<String>,
    stop_tokens: Vec<i128>,
    include_stop: bool,
    logprobs: Option<usize>,
    /// Text that may be the beginning of a stop string.
    held: String,
    last: Option<u32>,
    generated: usize,
    ended: bool,
    /// Ended by its text while the engine goes on.
    early: bool,
    finished: Option<Box<Finished>>,
}

impl Voice {
    pub(super) fn new(index: usize, id: Id, ask: &Ask) -> Self {
        let sampling = &ask.sampling;
        let prompt = &ask.prompts[index / sampling.n];
        Self {
            index,
            id,
            max_tokens: prompt.max_tokens,
            min_tokens: sampling.min_tokens,
            finish: prompt.finish,
            stop: sampling.stop.clone(),
            stop_tokens: sampling.stop_token_ids.clone(),
            include_stop: sampling.include_stop,
            logprobs: sampling.logprobs,
            held: String::new(),
            last: None,
            generated: 0,
            ended: false,
            early: false,
            finished: None,
        }
    }

    /// Tokens so far.
    pub(super) fn generated(&self) -> usize {
        self.generated
    }

    /// Prompt tokens that were in the cache, once the engine has told.
    pub(super) fn cached(&self) -> Option<usize> {
        self.finished.as_ref().map(|end| end.cached_tokens)
    }

    /// What the engine told at the end.
    pub(super) fn finished(&self) -> Option<&Finished> {
        self.finished.as_deref()
    }

    /// The engine's request, once, where its answer has ended before the engine knows.
    pub(super) fn stopped_early(&mut self) -> Option<Id> {
        mem::take(&mut self.early).then_some(self.id)
    }

    /// Takes in what the engine says.
    pub(super) fn hear(&mut self, update: Update, tokens: &Tokens) -> Option<Step> {
        match update {
            Update::Finished(finished) => {
                self.finished = Some(finished);
                None
            }
            // The engine hears of a stop string late.
            Update::Token(_) if self.ended => None,
            Update::Token(token) => Some(self.say(token, tokens)),
        }
    }

    fn say(&mut self, token: u32, tokens: &Tokens) -> Step {
        let piece = tokens.piece(self.last, token);
        self.last = Some(token);
        self.generated += 1;
        let may_stop = self.generated > self.min_tokens;
        let logprobs = self.logprobs;
        let entry = logprobs.map(|count| Entry::new(token, &piece, count, tokens));
        let stop_token = may_stop && self.stop_tokens.contains(&i128::from(token));
        let mut end = None;
        if stop_token {
            end = Some(("stop", json!(token)));
        } else {
            self.held.push_str(&piece);
            if let Some(stop) = self.stop_string().filter(|_| may_stop) {
                end = Some(("stop", json!(stop)));
            }
        }
        self.early = end.is_some() && self.generated < self.max_tokens;
        if end.is_none() && self.generated == self.max_tokens {
            end = Some((self.finish.as_str(), Value::Null));
        }
        self.ended = end.is_some();
        let keep = if self.ended { 0 } else { self.longest_stop() };
        let cut = self.held.char_indices().rev().take(keep).last();
        let cut = cut.map_or(self.held.len(), |(at, _)| at);
        let held = self.held.split_off(cut);
        Step {
            index: self.index,
            first: self.generated == 1,
            text: mem::replace(&mut self.held, held),
            tokens: vec![token],
            logprobs: entry.into_iter().collect(),
            end: end.map(|(reason, stop)| End { reason, stop }),
        }
    }

    /// Cuts the text at the first stop string in it.
    fn stop_string(&mut self) -> Option<String> {
        let found = self.stop.iter().filter_map(|stop| {
            let at = self.held.find(stop.as_str())?;
            Some((at, stop.clone()))
        });
        let (at, stop) = found.min_by_key(|(at, _)| *at)?;
        let kept = if self.include_stop { stop.len() } else { 0 };
        self.held.truncate(at + kept);
        Some(stop)
    }

    /// Characters that must wait: all but one of the longest stop string.
    fn longest_stop(&self) -> usize {
        let lengths = self.stop.iter().map(|stop| stop.chars().count());
        lengths.max().map_or(0, |most| most - 1)
    }
}
