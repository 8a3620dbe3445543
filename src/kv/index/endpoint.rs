//! One endpoint's events -> its engine's blocks, counted, and what they claim. PURE.
//!
//! The engine names blocks by hashes of its own, and a removal says nothing else. So this
//! keeps, per hash, which key it stands for and how many copies there are on each medium:
//! an engine may store one hash several times, and removes each copy.

use std::collections::{HashMap, HashSet};

use super::Applied;
use super::claims::Claims;
use super::hash::Seeded;
use crate::kv::blocks::{self, BlockKey};
use crate::kv::event::{Event, Medium, Removed, SpecKind, Stored};

/// Groups of an engine that are remembered as not indexed. A real one has a few.
const MAX_SKIPPED_GROUPS: usize = 1_024;

/// A block as its engine names it. Ranks and groups share hashes, but not blocks.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
struct EngineBlock {
    rank: u32,
    group: u32,
    hash: u64,
}

#[derive(Clone, Copy, Default)]
struct Known {
    /// What the hash stands for. `None` for a block that exists but cannot be named, so
    /// that its removal is no surprise.
    key: Option<BlockKey>,
    /// Copies, by [`Medium`].
    copies: [u32; 4],
}

impl Known {
    /// The key this block makes its endpoint a holder of. Only the GPU's copies count; a
    /// weight per medium would start here.
    fn claim(&self) -> Option<BlockKey> {
        self.key.filter(|_| self.copies[Medium::Gpu as usize] > 0)
    }
}

/// Why a run's blocks get no keys from the event itself.
#[derive(Clone, Copy)]
enum Nameless {
    NoTokens,
    OddSize,
    UnknownParent,
}

pub(super) struct Endpoint {
    pub(super) claims: Claims,
    blocks: HashMap<EngineBlock, Known, Seeded>,
    max_blocks: usize,
    /// Rank and group of which no block is indexed.
    skipped_groups: HashSet<(u32, u32)>,
    /// Tokens in a block of the GPU; 0 until known.
    block_size: u32,
}

impl Endpoint {
    pub(super) fn new(claims: Claims, max_blocks: usize) -> Self {
        Self {
            claims,
            blocks: HashMap::default(),
            max_blocks,
            skipped_groups: HashSet::new(),
            block_size: 0,
        }
    }

    pub(super) fn apply(&mut self, rank: u32, model: &str, event: &Event) -> Applied {
        match event {
            Event::Stored(stored) => self.store(rank, model, stored),
            Event::Removed(removed) => self.remove(rank, removed),
            Event::Cleared => self.clear_rank(rank),
        }
    }

    pub(super) fn clear(&mut self) {
        self.blocks.clear();
        self.claims.clear();
        self.skipped_groups.clear();
        self.block_size = 0;
    }

    pub(super) fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Tokens in a block of the GPU; 0 until known.
    pub(super) fn block_size(&self) -> u32 {
        self.block_size
    }

    fn store(&mut self, rank: u32, model: &str, stored: &Stored) -> Applied {
        let mut applied = Applied::default();
        let group = stored.group.unwrap_or_default();
        if stored.kind == SpecKind::Other {
            if self.skipped_groups.len() < MAX_SKIPPED_GROUPS {
                self.skipped_groups.insert((rank, group));
            }
            applied.skipped_kind = stored.hashes.len() as u64;
            return applied;
        }
        let keys = self.keys(rank, group, model, stored);
        for (place, &hash) in stored.hashes.iter().enumerate() {
            let block = EngineBlock { rank, group, hash };
            let key = keys.as_ref().ok().and_then(|keys| keys.get(place)).copied();
            let Some(mut known) = self.find_or_new(block) else {
                applied.over_limit += 1;
                continue;
            };
            let copies = &mut known.copies[stored.medium as usize];
            *copies = copies.saturating_add(1);
            let first = *copies == 1;
            known.key = known.key.or(key);
            self.put(block, known);
            *match (known.key, key, &keys) {
                (None, _, Err(Nameless::NoTokens)) => &mut applied.unknown_hash,
                (None, _, Err(Nameless::OddSize)) => &mut applied.odd_size,
                (None, _, Err(Nameless::UnknownParent)) => &mut applied.unknown_parent,
                (None, _, Ok(_)) => &mut applied.opaque,
                (Some(known), Some(key), _) if known != key => &mut applied.conflicting,
                _ if first => &mut applied.stored,
                _ => &mut applied.duplicate,
            } += 1;
        }
        applied
    }

    /// A key for each block of the run up to its first opaque one.
    fn keys(
        &mut self,
        rank: u32,
        group: u32,
        model: &str,
        stored: &Stored,
    ) -> Result<Vec<BlockKey>, Nameless> {
        if stored.tokens.is_empty() {
            return Err(Nameless::NoTokens);
        }
        let size = stored.block_size as usize;
        if size == 0 || stored.tokens.len() != stored.hashes.len() * size {
            return Err(Nameless::OddSize);
        }
        if stored.medium == Medium::Gpu {
            self.block_size = stored.block_size;
        }
        let parent = match stored.parent {
            Some(hash) => self
                .blocks
                .get(&EngineBlock { rank, group, hash })
                .and_then(|parent| parent.key)
                .ok_or(Nameless::UnknownParent)?,
            None => blocks::root(model, stored.lora.as_deref(), stored.salt.as_deref()),
        };
        // A block of the host's memory may be several of the GPU's, whose keys are the ones
        // that are looked up: it bears the key of the last.
        let gpu_size = self.block_size as usize;
        let step = match size.checked_rem(gpu_size) {
            Some(0) => gpu_size,
            _ => size,
        };
        let keys = blocks::keys(parent, &stored.tokens, step).into_iter();
        let last_of_each = keys.skip(size / step - 1).step_by(size / step);
        Ok(last_of_each
            .take(stored.opaque_from.unwrap_or(usize::MAX))
            .collect())
    }

    fn remove(&mut self, rank: u32, removed: &Removed) -> Applied {
        let mut applied = Applied::default();
        let group = removed.group.unwrap_or_default();
        for &hash in &removed.hashes {
            let block = EngineBlock { rank, group, hash };
            let mut known = self.blocks.get(&block).copied().unwrap_or_default();
            let copies = &mut known.copies[removed.medium as usize];
            if *copies > 0 {
                *copies -= 1;
                self.put(block, known);
                applied.removed += 1;
            } else if self.skipped_groups.contains(&(rank, group)) {
                applied.skipped_kind += 1;
            } else {
                applied.unknown_hash += 1;
            }
        }
        applied
    }

    /// The rank has nothing left, so guesses about the endpoint are worth nothing either.
    fn clear_rank(&mut self, rank: u32) -> Applied {
        let before = self.blocks.len();
        self.blocks.retain(|block, known| {
            let stays = block.rank != rank;
            if !stays && let Some(key) = known.claim() {
                self.claims.release(key);
            }
            stays
        });
        self.claims.drop_guesses();
        Applied {
            cleared: (before - self.blocks.len()) as u64,
            ..Applied::default()
        }
    }

    /// `None` where a new block would be one too many.
    fn find_or_new(&self, block: EngineBlock) -> Option<Known> {
        let known = self.blocks.get(&block).copied();
        known.or_else(|| (self.blocks.len() < self.max_blocks).then(Known::default))
    }

    /// The one place where a block changes: keeps its claim in step.
    fn put(&mut self, block: EngineBlock, after: Known) {
        let before = if after.copies == [0; 4] {
            self.blocks.remove(&block)
        } else {
            self.blocks.insert(block, after)
        };
        let claimed = before.and_then(|before| before.claim());
        let claims = after.claim();
        if claimed == claims {
            return;
        }
        if let Some(key) = claims {
            self.claims.hold(key);
        }
        if let Some(key) = claimed {
            self.claims.release(key);
        }
    }
}
