//! Key -> the endpoints that hold it: what readers see. PURE, shared without locks.
//!
//! A key's holders are a sorted list that is replaced, never changed, so a reader always
//! has a whole one.

use std::sync::atomic::{AtomicU32, Ordering};

use super::EndpointSlot;
use super::hash::Seeded;
use crate::kv::blocks::BlockKey;

/// Changed by one writer only: it reads and replaces lists in two steps.
#[derive(Default)]
pub(super) struct Published {
    /// Slots as bare numbers: comparing two lists of them is one comparison of memory.
    holders: papaya::HashMap<BlockKey, Box<[u32]>, Seeded>,
    /// 0 until known.
    block_size: AtomicU32,
}

impl Published {
    pub(super) fn add(&self, key: BlockKey, slot: EndpointSlot) {
        let holders = self.holders.pin();
        let now = holders.get(&key).map_or(&[][..], |now| now);
        if let Err(place) = now.binary_search(&slot.0) {
            let (before, after) = now.split_at(place);
            holders.insert(key, [before, &[slot.0], after].concat().into());
        }
    }

    pub(super) fn remove(&self, key: BlockKey, slot: EndpointSlot) {
        let holders = self.holders.pin();
        let now = holders.get(&key).map_or(&[][..], |now| now);
        match now.binary_search(&slot.0) {
            Ok(_) if now.len() == 1 => {
                holders.remove(&key);
            }
            Ok(place) => {
                let (before, after) = (&now[..place], &now[place + 1..]);
                holders.insert(key, [before, after].concat().into());
            }
            Err(_) => {}
        }
    }

    pub(super) fn len(&self) -> usize {
        self.holders.len()
    }

    pub(super) fn matched(&self, keys: &[BlockKey], slots: &[EndpointSlot]) -> Vec<u32> {
        let holders = self.holders.pin();
        let mut matched = vec![0; slots.len()];
        // Places in `slots` of those that held every key so far.
        let mut unbroken: Vec<usize> = (0..slots.len()).collect();
        let mut last: &[u32] = &[];
        let mut depth = 0;
        for key in keys {
            let Some(now) = holders.get(key) else { break };
            // Along a prompt the holders seldom change, and comparing is cheap.
            if **now != *last {
                last = now;
                unbroken.retain(|&place| {
                    let holds = last.binary_search(&slots[place].0).is_ok();
                    if !holds {
                        matched[place] = depth;
                    }
                    holds
                });
                if unbroken.is_empty() {
                    break;
                }
            }
            depth += 1;
        }
        for place in unbroken {
            matched[place] = depth;
        }
        matched
    }

    pub(super) fn block_size(&self) -> Option<u32> {
        Some(self.block_size.load(Ordering::Relaxed)).filter(|size| *size > 0)
    }

    pub(super) fn set_block_size(&self, tokens: u32) {
        self.block_size.store(tokens, Ordering::Relaxed);
    }
}
