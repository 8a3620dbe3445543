//! The blocks of a KV cache: which are in use, which are cached, which goes next. PURE.
//!
//! Follows vLLM's `block_pool.py`: equal content may be in several blocks, a freed block
//! stays cached until it is needed, and the free queue is in order of use.

use std::collections::HashMap;

use super::chain::Chain;
use crate::kv::blocks::engine::EngineHash;

/// One change of the cache, as the engine publishes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CacheEvent {
    /// Consecutive blocks of one request are cached from now on.
    Stored {
        /// Their hashes.
        hashes: Vec<EngineHash>,
        /// The block before them.
        parent: Option<EngineHash>,
        /// What they hold.
        tokens: Vec<u32>,
        /// The adapter's number and name.
        lora: Option<(u32, String)>,
        /// The request's salt, where the run starts a prompt.
        salt: Option<String>,
    },
    /// One block was overwritten.
    Removed(EngineHash),
    /// Nothing is cached any more.
    Cleared,
}

/// Block 0 is never handed out, as in vLLM; here it also holds both ends of the free list.
const NULL: u32 = 0;

#[derive(Clone, Copy, Debug)]
struct Block {
    /// Requests that use it.
    users: u32,
    hash: Option<EngineHash>,
    previous: u32,
    next: u32,
}

/// All blocks of one engine.
#[derive(Debug)]
pub(super) struct Pool {
    blocks: Vec<Block>,
    free: usize,
    /// Hash -> blocks that hold it, the oldest first.
    cached: HashMap<EngineHash, Vec<u32>>,
    caching: bool,
    events: Vec<CacheEvent>,
    /// Tokens in a block.
    size: usize,
    /// Which token's keys and values each place of each block holds.
    content: Vec<u32>,
}

impl Pool {
    /// `count` blocks of `size` tokens, of which all but one can be used.
    pub(super) fn new(count: usize, size: usize, caching: bool) -> Self {
        let count = count.max(2) as u32;
        let content = vec![0; count as usize * size];
        let blocks = (0..count)
            .map(|at| Block {
                users: 0,
                hash: None,
                previous: (at + count - 1) % count,
                next: (at + 1) % count,
            })
            .collect();
        Self {
            blocks,
            free: count as usize - 1,
            cached: HashMap::new(),
            caching,
            events: Vec::new(),
            size,
            content,
        }
    }

    /// Blocks that requests can use.
    pub(super) fn usable(&self) -> usize {
        self.blocks.len() - 1
    }

    /// Blocks that no request uses, cached or not.
    pub(super) fn free(&self) -> usize {
        self.free
    }

    /// The cached blocks with these hashes, from the first on and without a gap.
    pub(super) fn hit(&self, hashes: &[EngineHash]) -> Vec<u32> {
        hashes
            .iter()
            .map_while(|hash| self.cached.get(hash)?.first().copied())
            .collect()
    }

    /// How many of these blocks are in the free queue: using them takes them out of it.
    pub(super) fn idle(&self, blocks: &[u32]) -> usize {
        let idle = |at: &&u32| self.blocks[**at as usize].users == 0;
        blocks.iter().filter(idle).count()
    }

    /// One more request uses these blocks.
    pub(super) fn share(&mut self, blocks: &[u32]) {
        for &at in blocks {
            if self.blocks[at as usize].users == 0 {
                self.unlink(at);
            }
            self.blocks[at as usize].users += 1;
        }
    }

    // === what blocks hold ===

    /// The tokens of a request from place `from` on are computed.
    pub(super) fn write(&mut self, blocks: &[u32], from: usize, tokens: &[u32]) {
        for (at, token) in tokens.iter().enumerate() {
            let place = self.place(blocks, from + at);
            self.content[place] = *token;
        }
    }

    /// What the first `count` places of a request's blocks hold.
    pub(super) fn read(&self, blocks: &[u32], count: usize) -> Vec<u32> {
        (0..count)
            .map(|at| self.content[self.place(blocks, at)])
            .collect()
    }

    fn place(&self, blocks: &[u32], at: usize) -> usize {
        blocks[at / self.size] as usize * self.size + at % self.size
    }

    /// Fills these blocks with the last of what came from elsewhere.
    pub(super) fn fill(&mut self, blocks: &[u32], content: &[u32]) {
        for (block, tokens) in blocks.iter().rev().zip(content.rchunks(self.size)) {
            let start = *block as usize * self.size;
            self.content[start..start + tokens.len()].copy_from_slice(tokens);
        }
    }

    /// What blocks hold, whoever they belong to.
    pub(super) fn peek(&self, blocks: &[u64]) -> Vec<u32> {
        let known = blocks
            .iter()
            .filter(|block| **block < self.blocks.len() as u64);
        known
            .flat_map(|block| {
                let start = *block as usize * self.size;
                self.content[start..start + self.size].iter().copied()
            })
            .collect()
    }

    /// Hands out blocks, the longest unused first; what they cached is gone.
    /// Nothing changes where there are fewer.
    pub(super) fn take(&mut self, count: usize) -> Option<Vec<u32>> {
        if count > self.free {
            return None;
        }
        let take_one = |_| {
            let at = self.blocks[NULL as usize].next;
            self.unlink(at);
            self.evict(at);
            self.blocks[at as usize].users = 1;
            at
        };
        Some((0..count).map(take_one).collect())
    }

    /// One request less uses these blocks. The last goes first when blocks are needed, so
    /// that a chain is evicted from its tail.
    pub(super) fn release(&mut self, blocks: &[u32]) {
        for &at in blocks.iter().rev() {
            let block = &mut self.blocks[at as usize];
            block.users -= 1;
            if block.users == 0 {
                self.link(at);
            }
        }
    }

    /// Caches the blocks `from..to` of a request.
    pub(super) fn store(
        &mut self,
        chain: &Chain,
        blocks: &[u32],
        from: usize,
        to: usize,
        size: usize,
    ) {
        if !self.caching || from >= to {
            return;
        }
        let hashes = chain.hashes()[from..to].to_vec();
        for (hash, &at) in hashes.iter().zip(&blocks[from..to]) {
            self.blocks[at as usize].hash = Some(*hash);
            self.cached.entry(*hash).or_default().push(at);
        }
        self.events.push(CacheEvent::Stored {
            hashes,
            parent: from.checked_sub(1).map(|before| chain.hashes()[before]),
            tokens: chain.tokens()[from * size..to * size].to_vec(),
            lora: chain.lora().map(|lora| (lora.id, lora.name.clone())),
            salt: chain.salt().filter(|_| from == 0).map(str::to_owned),
        });
    }

    /// Forgets all cached blocks; false, and nothing done, while any is in use.
    pub(super) fn clear(&mut self) -> bool {
        if self.free != self.usable() {
            return false;
        }
        self.cached.clear();
        for block in &mut self.blocks {
            block.hash = None;
        }
        self.events.push(CacheEvent::Cleared);
        true
    }

    /// What happened since the last call.
    pub(super) fn events(&mut self) -> Vec<CacheEvent> {
        std::mem::take(&mut self.events)
    }

    /// How many blocks hold each hash.
    pub(super) fn holdings(&self) -> impl Iterator<Item = (EngineHash, usize)> + '_ {
        self.cached
            .iter()
            .map(|(hash, blocks)| (*hash, blocks.len()))
    }

    fn evict(&mut self, at: u32) {
        let Some(hash) = self.blocks[at as usize].hash.take() else {
            return;
        };
        if let Some(holders) = self.cached.get_mut(&hash) {
            holders.retain(|holder| *holder != at);
            if holders.is_empty() {
                self.cached.remove(&hash);
            }
        }
        self.events.push(CacheEvent::Removed(hash));
    }

    fn unlink(&mut self, at: u32) {
        let Block { previous, next, .. } = self.blocks[at as usize];
        self.blocks[previous as usize].next = next;
        self.blocks[next as usize].previous = previous;
        self.free -= 1;
    }

    /// To the end of the free queue.
    fn link(&mut self, at: u32) {
        let last = self.blocks[NULL as usize].previous;
        self.blocks[at as usize].previous = last;
        self.blocks[at as usize].next = NULL;
        self.blocks[last as usize].next = at;
        self.blocks[NULL as usize].previous = at;
        self.free += 1;
    }
}
