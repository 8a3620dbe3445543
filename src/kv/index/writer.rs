//! The side of the index that changes it. PURE: one owner, times as arguments.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::claims::Claims;
use super::endpoint::Endpoint;
use super::published::Published;
use super::{Applied, EndpointSlot, Limits, Stats};
use crate::kv::blocks::BlockKey;
use crate::kv::event::Event;

/// Changes the index; there is one. Readers see each change as it is made.
///
/// A slot that was removed, or that was one too many, is accepted everywhere and never
/// holds anything.
pub struct Writer {
    limits: Limits,
    published: Arc<Published>,
    endpoints: HashMap<EndpointSlot, Endpoint>,
    next_slot: u32,
    endpoints_over_limit: u64,
    blocks_over_limit: u64,
}

impl Writer {
    pub(super) fn new(limits: Limits, published: Arc<Published>) -> Self {
        Self {
            limits,
            published,
            endpoints: HashMap::new(),
            next_slot: 0,
            endpoints_over_limit: 0,
            blocks_over_limit: 0,
        }
    }

    /// A place for one endpoint. Beyond [`Limits::max_endpoints`] it is a place that stays
    /// empty, and counted.
    pub fn add_endpoint(&mut self) -> EndpointSlot {
        let slot = EndpointSlot(self.next_slot);
        self.next_slot = self
            .next_slot
            .checked_add(1)
            .expect("a process sees fewer than four billion endpoints");
        if self.endpoints.len() < self.limits.max_endpoints {
            let claims = Claims::new(slot, Arc::clone(&self.published));
            let endpoint = Endpoint::new(claims, self.limits.max_blocks_per_endpoint);
            self.endpoints.insert(slot, endpoint);
        } else {
            self.endpoints_over_limit += 1;
        }
        slot
    }

    /// Forgets the endpoint and all it holds.
    pub fn remove_endpoint(&mut self, slot: EndpointSlot) {
        if let Some(mut endpoint) = self.endpoints.remove(&slot) {
            endpoint.clear();
        }
    }

    /// Takes in what an engine said. `model` is the one it serves: the event does not say,
    /// and two models may give their blocks the same hashes.
    pub fn apply(&mut self, slot: EndpointSlot, rank: u32, model: &str, event: &Event) -> Applied {
        let applied = if let Some(endpoint) = self.endpoints.get_mut(&slot) {
            let applied = endpoint.apply(rank, model, event);
            if endpoint.block_size() > 0 {
                self.published.set_block_size(endpoint.block_size());
            }
            applied
        } else {
            Applied {
                over_limit: match event {
                    Event::Stored(stored) => stored.hashes.len() as u64,
                    Event::Removed(_) | Event::Cleared => 0,
                },
                ..Applied::default()
            }
        };
        self.blocks_over_limit += applied.over_limit;
        applied
    }

    /// Forgets all that the endpoint holds, of every rank, guesses too: for when events were
    /// missed for good or its engine began anew.
    pub fn clear(&mut self, slot: EndpointSlot) {
        if let Some(endpoint) = self.endpoints.get_mut(&slot) {
            endpoint.clear();
        }
    }

    /// A request with these keys was just sent there, so the endpoint will hold them: counts
    /// them as held until its engine says something about them, or until that time.
    pub fn speculate(&mut self, slot: EndpointSlot, keys: &[BlockKey], until: Instant) {
        let limit = self.limits.max_blocks_per_endpoint;
        self.blocks_over_limit += match self.endpoints.get_mut(&slot) {
            Some(endpoint) => endpoint.claims.assume(keys, until, limit),
            None => keys.len() as u64,
        };
    }

    /// Ends what [`Writer::speculate`] assumed until `now` or earlier.
    pub fn expire(&mut self, now: Instant) {
        for endpoint in self.endpoints.values_mut() {
            endpoint.claims.expire(now);
        }
    }

    /// A request with these keys went there: counts them as held while they are among the
    /// last [`Limits::history_per_endpoint`] keys sent there. For engines that say nothing
    /// and for keys over text, which no engine knows.
    pub fn remember(&mut self, slot: EndpointSlot, keys: &[BlockKey]) {
        if let Some(endpoint) = self.endpoints.get_mut(&slot) {
            endpoint
                .claims
                .remember(keys, self.limits.history_per_endpoint);
        }
    }

    /// Sizes and refusals, for metrics. Costs a step per endpoint.
    pub fn stats(&self) -> Stats {
        let sum = |size: fn(&Endpoint) -> usize| self.endpoints.values().map(size).sum();
        Stats {
            endpoints: self.endpoints.len(),
            keys: self.published.len(),
            engine_blocks: sum(Endpoint::blocks),
            speculative: sum(|endpoint| endpoint.claims.assumed()),
            history: sum(|endpoint| endpoint.claims.history()),
            endpoints_over_limit: self.endpoints_over_limit,
            blocks_over_limit: self.blocks_over_limit,
        }
    }
}
