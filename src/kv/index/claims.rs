//! Why one endpoint counts as a holder of a key: its engine says so, a request was just
//! sent there, or one was sent there some time ago. PURE.
//!
//! An endpoint is published as a holder while it has any of the three reasons.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::EndpointSlot;
use super::hash::Seeded;
use super::published::Published;
use crate::kv::blocks::BlockKey;

/// The reasons for one key. Without any, there is no claim.
#[derive(Clone, Copy, Default, PartialEq)]
struct Claim {
    /// Blocks of the engine with this content: one per rank and group.
    blocks: u32,
    /// Assumed until then. Only while `blocks` is 0: what the engine says counts.
    assumed_until: Option<Instant>,
    /// Place in the history; the larger, the later it was used.
    used: Option<u64>,
}

/// All claims of one endpoint.
pub(super) struct Claims {
    slot: EndpointSlot,
    published: Arc<Published>,
    by_key: HashMap<BlockKey, Claim, Seeded>,
    /// Every `assumed_until`, the first to expire first.
    assumed: BTreeSet<(Instant, BlockKey)>,
    /// Every `used`, the longest unused first.
    history: BTreeMap<u64, BlockKey>,
    uses: u64,
}

impl Claims {
    pub(super) fn new(slot: EndpointSlot, published: Arc<Published>) -> Self {
        Self {
            slot,
            published,
            by_key: HashMap::default(),
            assumed: BTreeSet::new(),
            history: BTreeMap::new(),
            uses: 0,
        }
    }

    /// The engine holds one more block with this key.
    pub(super) fn hold(&mut self, key: BlockKey) {
        self.change(key, |claim| {
            claim.blocks += 1;
            claim.assumed_until = None;
        });
    }

    /// The engine holds one block less.
    pub(super) fn release(&mut self, key: BlockKey) {
        self.change(key, |claim| claim.blocks = claim.blocks.saturating_sub(1));
    }

    /// Assumes the keys until then, at most `limit` at a time; returns how many were beyond.
    pub(super) fn assume(&mut self, keys: &[BlockKey], until: Instant, limit: usize) -> u64 {
        let mut over_limit = 0;
        for &key in keys {
            let claim = self.by_key.get(&key).copied().unwrap_or_default();
            if claim.blocks > 0 {
                continue;
            }
            if claim.assumed_until.is_none() && self.assumed.len() >= limit {
                over_limit += 1;
                continue;
            }
            self.change(key, |claim| {
                claim.assumed_until = claim.assumed_until.max(Some(until));
            });
        }
        over_limit
    }

    /// Drops the assumptions whose time has come.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(&(until, key)) = self.assumed.first()
            && until <= now
        {
            self.change(key, |claim| claim.assumed_until = None);
        }
    }

    /// Puts the keys into the history, which keeps the `limit` last used.
    pub(super) fn remember(&mut self, keys: &[BlockKey], limit: usize) {
        // A prompt's last block goes first, as in an engine: a prefix without its end is of
        // use, an end without its prefix is not.
        for &key in keys.iter().take(limit).rev() {
            self.uses += 1;
            let used = Some(self.uses);
            self.change(key, |claim| claim.used = used);
        }
        while self.history.len() > limit
            && let Some((_, &key)) = self.history.first_key_value()
        {
            self.change(key, |claim| claim.used = None);
        }
    }

    /// Drops everything that no engine said.
    pub(super) fn drop_guesses(&mut self) {
        let assumed = std::mem::take(&mut self.assumed);
        let history = std::mem::take(&mut self.history);
        for key in assumed
            .into_iter()
            .map(|(_, key)| key)
            .chain(history.into_values())
        {
            self.change(key, |claim| {
                claim.assumed_until = None;
                claim.used = None;
            });
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.assumed.clear();
        self.history.clear();
        for (key, _) in self.by_key.drain() {
            self.published.remove(key, self.slot);
        }
    }

    pub(super) fn assumed(&self) -> usize {
        self.assumed.len()
    }

    pub(super) fn history(&self) -> usize {
        self.history.len()
    }

    /// The one place where claims change: keeps both orders and what is published in step.
    fn change(&mut self, key: BlockKey, edit: impl FnOnce(&mut Claim)) {
        let before = self.by_key.get(&key).copied().unwrap_or_default();
        let mut after = before;
        edit(&mut after);
        if before.assumed_until != after.assumed_until {
            before
                .assumed_until
                .map(|until| self.assumed.remove(&(until, key)));
            after
                .assumed_until
                .map(|until| self.assumed.insert((until, key)));
        }
        if before.used != after.used {
            before.used.map(|used| self.history.remove(&used));
            after.used.map(|used| self.history.insert(used, key));
        }
        let none = Claim::default();
        if after != none {
            self.by_key.insert(key, after);
        } else if before != none {
            self.by_key.remove(&key);
        }
        match (before == none, after == none) {
            (true, false) => self.published.add(key, self.slot),
            (false, true) => self.published.remove(key, self.slot),
            _ => {}
        }
    }
}
