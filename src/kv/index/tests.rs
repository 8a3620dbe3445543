//! What each kind of event and guess does to what an endpoint holds.

#![allow(
    clippy::disallowed_methods,
    reason = "tests choose the moments that the index is told"
)]

mod model;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::kv::blocks;
use crate::kv::event::{Event, Medium, Removed, SpecKind, Stored};

const MODEL: &str = "m";

/// Block size 2: tokens 0..2n, named by the engine 100, 101, ...
fn run(blocks: std::ops::Range<u32>) -> Stored {
    Stored {
        hashes: blocks.clone().map(|block| u64::from(100 + block)).collect(),
        parent: blocks
            .start
            .checked_sub(1)
            .map(|block| u64::from(100 + block)),
        tokens: (2 * blocks.start..2 * blocks.end).collect(),
        block_size: 2,
        ..Stored::default()
    }
}

fn removal(hashes: &[u64]) -> Event {
    Event::Removed(Removed {
        hashes: hashes.to_vec(),
        ..Removed::default()
    })
}

fn prompt_keys(blocks: u32) -> Vec<BlockKey> {
    let tokens: Vec<u32> = (0..2 * blocks).collect();
    blocks::keys(blocks::root(MODEL, None, None), &tokens, 2)
}

/// An index with one endpoint, rank 0.
struct One {
    writer: Writer,
    reader: Reader,
    slot: EndpointSlot,
}

impl One {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let (mut writer, reader) = new(limits);
        let slot = writer.add_endpoint();
        Self {
            writer,
            reader,
            slot,
        }
    }

    fn store(&mut self, stored: Stored) -> Applied {
        self.apply(Event::Stored(stored))
    }

    fn apply(&mut self, event: Event) -> Applied {
        self.writer.apply(self.slot, 0, MODEL, &event)
    }

    fn depth(&self) -> u32 {
        self.reader.matched(&prompt_keys(8), &[self.slot])[0]
    }
}

#[test]
fn a_run_continues_from_its_parent() {
    let mut one = One::new();
    assert_eq!(one.reader.block_size(), None);
    assert_eq!(one.store(run(0..3)).stored, 3);
    assert_eq!(one.depth(), 3);
    assert_eq!(one.store(run(3..5)).stored, 2);
    assert_eq!(one.depth(), 5);
    assert_eq!(one.reader.block_size(), Some(2));
}

#[test]
fn a_missing_block_hides_those_behind_it() {
    let mut one = One::new();
    one.store(run(0..4));
    assert_eq!(one.apply(removal(&[101])).removed, 1);
    assert_eq!(one.depth(), 1);
    let mut again = run(1..2);
    again.parent = Some(100);
    one.store(again);
    assert_eq!(one.depth(), 4);
}

#[test]
fn a_block_stored_twice_must_be_removed_twice() {
    let mut one = One::new();
    one.store(run(0..1));
    assert_eq!(one.store(run(0..1)).duplicate, 1);
    one.apply(removal(&[100]));
    assert_eq!(one.depth(), 1);
    one.apply(removal(&[100]));
    assert_eq!(one.depth(), 0);
    assert_eq!(one.apply(removal(&[100])).unknown_hash, 1);
}

#[test]
fn a_run_without_its_parent_is_not_a_root_and_leaves_without_a_word() {
    let mut one = One::new();
    assert_eq!(one.store(run(2..4)).unknown_parent, 2);
    assert_eq!(one.store(run(4..5)).unknown_parent, 1);
    assert_eq!(one.writer.stats().keys, 0);
    let gone = one.apply(removal(&[102, 103, 104]));
    assert_eq!((gone.removed, gone.unknown_hash), (3, 0));
    assert_eq!(one.writer.stats().engine_blocks, 0);
}

#[test]
fn a_nameless_block_gets_its_name_when_it_is_stored_again() {
    let mut one = One::new();
    one.store(run(1..2));
    one.store(run(0..1));
    assert_eq!(one.depth(), 1);
    one.store(run(1..2));
    assert_eq!(one.depth(), 2);
    one.apply(removal(&[101]));
    assert_eq!(one.depth(), 2);
    one.apply(removal(&[101]));
    assert_eq!(one.depth(), 1);
}

#[test]
fn ranks_and_groups_hold_blocks_of_their_own() {
    let mut one = One::new();
    let event = Event::Stored(run(0..1));
    one.writer.apply(one.slot, 0, MODEL, &event);
    one.writer.apply(one.slot, 1, MODEL, &event);
    let grouped = Stored {
        group: Some(1),
        ..run(0..1)
    };
    one.store(grouped);
    one.apply(removal(&[100]));
    assert_eq!(one.depth(), 1);
    one.writer.apply(one.slot, 1, MODEL, &Event::Cleared);
    assert_eq!(one.depth(), 1);
    assert_eq!(one.apply(Event::Cleared).cleared, 1);
    assert_eq!(one.depth(), 0);
}

#[test]
fn model_adapter_and_salt_part_equal_prompts() {
    let mut one = One::new();
    let salted = Stored {
        salt: Some("s".to_owned()),
        ..run(0..2)
    };
    one.store(salted);
    assert_eq!(one.depth(), 0);
    let salted = blocks::root(MODEL, None, Some("s"));
    let keys = blocks::keys(salted, &[0, 1, 2, 3], 2);
    assert_eq!(one.reader.matched(&keys, &[one.slot]), [2]);
    one.writer
        .apply(one.slot, 1, "other", &Event::Stored(run(0..2)));
    assert_eq!(one.depth(), 0);
}

#[test]
fn groups_that_do_not_keep_prefixes_are_not_indexed() {
    let mut one = One::new();
    let windowed = Stored {
        kind: SpecKind::Other,
        group: Some(1),
        ..run(0..3)
    };
    assert_eq!(one.store(windowed).skipped_kind, 3);
    assert_eq!(one.depth(), 0);
    let gone = Event::Removed(Removed {
        hashes: vec![100],
        group: Some(1),
        ..Removed::default()
    });
    assert_eq!(one.apply(gone).skipped_kind, 1);
}

#[test]
fn runs_whose_tokens_do_not_fit_their_blocks_are_not_indexed() {
    let mut one = One::new();
    let mut odd = run(0..2);
    odd.tokens.push(9);
    let no_size = Stored {
        block_size: 0,
        ..run(0..2)
    };
    for stored in [odd, no_size] {
        assert_eq!(one.store(stored).odd_size, 2);
        assert_eq!(one.depth(), 0);
        assert_eq!(one.apply(removal(&[100, 101])).removed, 2);
    }
}

#[test]
fn blocks_that_are_more_than_tokens_are_not_indexed() {
    let mut one = One::new();
    let image = Stored {
        opaque_from: Some(1),
        ..run(0..3)
    };
    let applied = one.store(image);
    assert_eq!((applied.stored, applied.opaque), (1, 2));
    assert_eq!(one.depth(), 1);
    assert_eq!(one.store(run(3..4)).unknown_parent, 1);
}

#[test]
fn only_the_gpu_counts_as_held_but_other_media_keep_the_names() {
    let mut one = One::new();
    one.store(run(0..2));
    let offloaded = Stored {
        medium: Medium::Cpu,
        tokens: vec![],
        ..run(0..2)
    };
    assert_eq!(one.store(offloaded.clone()).stored, 2);
    one.apply(removal(&[100, 101]));
    assert_eq!(one.depth(), 0);
    let loaded = Stored {
        medium: Medium::Gpu,
        ..offloaded.clone()
    };
    assert_eq!(one.store(loaded).stored, 2);
    assert_eq!(one.depth(), 2);
    let unheard = Stored {
        hashes: vec![7],
        ..offloaded
    };
    assert_eq!(one.store(unheard).unknown_hash, 1);
}

#[test]
fn a_larger_block_of_the_host_bears_the_key_of_its_last_gpu_block() {
    let mut one = One::new();
    one.store(run(0..2));
    let coarse = Stored {
        hashes: vec![103],
        block_size: 4,
        medium: Medium::Cpu,
        ..run(2..4)
    };
    one.store(coarse);
    assert_eq!(one.depth(), 2);
    // What follows it on the GPU has the right keys: with the gap filled, it counts.
    assert_eq!(one.store(run(4..5)).stored, 1);
    one.store(run(2..4));
    assert_eq!(one.depth(), 5);
}

#[test]
fn one_hash_for_two_contents_is_counted() {
    let mut one = One::new();
    one.store(run(0..1));
    let other = Stored {
        tokens: vec![8, 9],
        ..run(0..1)
    };
    assert_eq!(one.store(other).conflicting, 1);
    one.apply(removal(&[100]));
    assert_eq!(one.depth(), 1);
}

#[test]
fn a_guess_ends_with_its_time_or_with_the_engines_word() {
    let mut one = One::new();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    one.writer.speculate(one.slot, &prompt_keys(3), at(2));
    assert_eq!(one.depth(), 3);
    one.store(run(0..1));
    one.writer.expire(at(1));
    assert_eq!(one.depth(), 3);
    // The first block is no guess any more: it goes when the engine says so.
    one.apply(removal(&[100]));
    assert_eq!(one.depth(), 0);
    one.store(run(0..1));
    one.writer.expire(at(2));
    assert_eq!(one.depth(), 1);
    assert_eq!(one.writer.stats().speculative, 0);
}

#[test]
fn the_history_forgets_the_end_of_the_oldest_prompt_first() {
    let mut one = One::with(Limits {
        history_per_endpoint: 4,
        ..Limits::default()
    });
    one.writer.remember(one.slot, &prompt_keys(8));
    assert_eq!(one.depth(), 4);
    let other = blocks::keys(blocks::root("other", None, None), &[1, 2], 2);
    one.writer.remember(one.slot, &other);
    assert_eq!(one.depth(), 3);
    assert_eq!(one.writer.stats().history, 4);
}

#[test]
fn nothing_grows_beyond_its_limit() {
    let mut one = One::with(Limits {
        max_endpoints: 1,
        max_blocks_per_endpoint: 3,
        history_per_endpoint: 0,
    });
    let applied = one.store(run(0..5));
    assert_eq!((applied.stored, applied.over_limit), (3, 2));
    assert_eq!(one.store(run(0..1)).duplicate, 1);
    let later = Instant::now();
    one.writer.speculate(one.slot, &prompt_keys(8), later);
    one.writer.remember(one.slot, &prompt_keys(8));
    let stats = one.writer.stats();
    assert_eq!((stats.engine_blocks, stats.speculative), (3, 3));
    assert_eq!((stats.history, stats.blocks_over_limit), (0, 4));

    let refused = one.writer.add_endpoint();
    let event = Event::Stored(run(0..1));
    assert_eq!(one.writer.apply(refused, 0, MODEL, &event).over_limit, 1);
    assert_eq!(one.reader.matched(&prompt_keys(1), &[refused]), [0]);
    assert_eq!(one.writer.stats().endpoints_over_limit, 1);
}

#[test]
fn a_cleared_or_removed_endpoint_holds_nothing() {
    let mut one = One::new();
    let until = Instant::now();
    let fill = |one: &mut One| {
        one.store(run(0..2));
        one.writer.speculate(one.slot, &prompt_keys(4), until);
        one.writer.remember(one.slot, &prompt_keys(8));
    };
    fill(&mut one);
    assert_eq!(one.depth(), 8);
    one.apply(Event::Cleared);
    assert_eq!(one.depth(), 0);
    fill(&mut one);
    one.writer.clear(one.slot);
    assert_eq!(one.depth(), 0);
    fill(&mut one);
    one.writer.remove_endpoint(one.slot);
    assert_eq!(one.depth(), 0);
    fill(&mut one);
    assert_eq!(one.depth(), 0);
    let stats = one.writer.stats();
    assert_eq!((stats.keys, stats.engine_blocks), (0, 0));
}

// === readers while the writer works ===

#[test]
fn readers_only_see_what_was_true_at_some_time() {
    const ROUNDS: u32 = 2_000;
    let mut one = One::new();
    let steady = one.slot;
    let never = one.writer.add_endpoint();
    one.store(run(0..4));
    let removed = Mutex::new(Vec::new());
    let done = AtomicBool::new(false);
    let (reader, keys) = (one.reader.clone(), prompt_keys(8));

    std::thread::scope(|scope| {
        let watch = || {
            let mut looks = 0_u32;
            while looks < 100 || !done.load(Ordering::Acquire) {
                let mut slots = vec![steady, never];
                slots.extend(removed.lock().unwrap().iter().rev().take(5));
                let matched = reader.matched(&keys, &slots);
                // The first half stays, the second comes and goes from its end.
                assert!((4..=8).contains(&matched[0]), "{matched:?}");
                assert!(matched[1..].iter().all(|held| *held == 0), "{matched:?}");
                looks += 1;
            }
        };
        let watchers = [scope.spawn(watch), scope.spawn(watch)];
        for _ in 0..ROUNDS {
            one.store(run(4..8));
            let guest = one.writer.add_endpoint();
            one.writer.apply(guest, 0, MODEL, &Event::Stored(run(0..8)));
            one.apply(removal(&[107, 106, 105, 104]));
            one.writer.remove_endpoint(guest);
            removed.lock().unwrap().push(guest);
        }
        done.store(true, Ordering::Release);
        for watcher in watchers {
            watcher.join().expect("a reader saw only what was true");
        }
    });
    assert_eq!(one.depth(), 4);
}
