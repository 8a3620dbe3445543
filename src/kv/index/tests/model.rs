//! After any history the index says what a plain list of all that happened says.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::MODEL;
use crate::kv::blocks::{self, BlockKey};
use crate::kv::event::{Event, Medium, Removed, Stored};
use crate::kv::index::{EndpointSlot, KvIndex, Limits, Reader, Writer, new};

/// Prompts over the tokens 0 and 1, block size 1, so that they often share blocks.
type Path = Vec<u32>;

const HISTORY: usize = 3;
const DEEPEST: usize = 4;

/// The engine's name of a path's last block.
fn name(path: &[u32]) -> u64 {
    path.iter()
        .fold(1, |name, token| name << 1 | u64::from(*token))
}

fn keys(path: &[u32]) -> Vec<BlockKey> {
    blocks::keys(blocks::root(MODEL, None, None), path, 1)
}

#[derive(Clone, Copy, Debug)]
struct Place {
    rank: u32,
    group: u32,
    medium: Medium,
}

#[derive(Clone, Debug)]
enum Step {
    Add,
    RemoveEndpoint,
    Store(Place, Path, usize),
    Remove(Place, Path),
    ClearRank(u32),
    Clear,
    Speculate(Path, u64),
    Expire(u64),
    Remember(Path),
}

/// One (rank, group, path) of the model.
type Cell = (u32, u32, Path);

#[derive(Default)]
struct ModelEndpoint {
    /// Copies per cell, and whether the cell's path is known.
    copies: HashMap<Cell, (Vec<Medium>, bool)>,
    assumed: HashMap<Path, u64>,
    history: Vec<Path>,
}

impl ModelEndpoint {
    fn held(&self) -> HashSet<Path> {
        self.copies
            .iter()
            .filter(|(_, (media, named))| *named && media.contains(&Medium::Gpu))
            .map(|((_, _, path), _)| path.clone())
            .collect()
    }

    fn store(&mut self, place: Place, path: &[u32], blocks: usize) {
        let cell = |end: usize| (place.rank, place.group, path[..end].to_vec());
        let first = path.len() - blocks;
        let named = first == 0 || self.copies.get(&cell(first)).is_some_and(|cell| cell.1);
        for end in first + 1..=path.len() {
            let copies = self.copies.entry(cell(end)).or_default();
            copies.0.push(place.medium);
            copies.1 |= named;
        }
    }

    fn remove(&mut self, place: Place, path: &[u32]) {
        let cell = (place.rank, place.group, path.to_vec());
        let Some((media, _)) = self.copies.get_mut(&cell) else {
            return;
        };
        if let Some(copy) = media.iter().position(|medium| *medium == place.medium) {
            media.remove(copy);
        }
        if media.is_empty() {
            self.copies.remove(&cell);
        }
    }

    fn remember(&mut self, path: &[u32]) {
        for end in (1..=path.len().min(HISTORY)).rev() {
            self.history.retain(|known| *known != path[..end]);
            self.history.push(path[..end].to_vec());
        }
        let excess = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..excess);
    }

    fn take(&mut self, step: &Step, now: u64) {
        match step {
            Step::Store(place, path, blocks) => self.store(*place, path, *blocks),
            Step::Remove(place, path) => self.remove(*place, path),
            Step::ClearRank(rank) => {
                self.copies.retain(|cell, _| cell.0 != *rank);
                self.assumed.clear();
                self.history.clear();
            }
            Step::Clear => *self = Self::default(),
            Step::Speculate(path, seconds) => {
                for end in 1..=path.len() {
                    let until = self.assumed.entry(path[..end].to_vec()).or_default();
                    *until = (*until).max(now + seconds);
                }
            }
            Step::Remember(path) => self.remember(path),
            Step::Add | Step::RemoveEndpoint | Step::Expire(_) => {}
        }
        // What the engine holds is not assumed.
        let held = self.held();
        self.assumed.retain(|path, _| !held.contains(path));
    }

    fn depth(&self, path: &[u32]) -> u32 {
        let held = self.held();
        (1..=path.len())
            .take_while(|&end| {
                let prefix = &path[..end];
                held.contains(prefix)
                    || self.assumed.contains_key(prefix)
                    || self.history.iter().any(|known| known == prefix)
            })
            .count() as u32
    }
}

/// The index and the model side by side.
struct Pair {
    writer: Writer,
    reader: Reader,
    start: Instant,
    now: u64,
    /// In the order they were added; `None` once removed.
    endpoints: Vec<(EndpointSlot, Option<ModelEndpoint>)>,
}

impl Pair {
    fn new() -> Self {
        let (writer, reader) = new(Limits {
            history_per_endpoint: HISTORY,
            ..Limits::default()
        });
        Self {
            writer,
            reader,
            start: Instant::now(),
            now: 0,
            endpoints: Vec::new(),
        }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn add(&mut self) {
        let slot = self.writer.add_endpoint();
        self.endpoints.push((slot, Some(ModelEndpoint::default())));
    }

    fn take(&mut self, step: &Step, pick: prop::sample::Index) {
        if let Step::Add = step {
            self.add();
        }
        if let Step::Expire(seconds) = step {
            self.now += seconds;
            self.writer.expire(self.at(self.now));
            for model in self
                .endpoints
                .iter_mut()
                .filter_map(|(_, model)| model.as_mut())
            {
                model.assumed.retain(|_, until| *until > self.now);
            }
        }
        let picked = pick.index(self.endpoints.len());
        let slot = self.endpoints[picked].0;
        self.write(slot, step);
        let model = &mut self.endpoints[picked].1;
        if let Step::RemoveEndpoint = step {
            *model = None;
        } else if let Some(model) = model {
            model.take(step, self.now);
        }
    }

    fn write(&mut self, slot: EndpointSlot, step: &Step) {
        let event = match step {
            Step::Add | Step::Expire(_) => return,
            Step::RemoveEndpoint => return self.writer.remove_endpoint(slot),
            Step::Clear => return self.writer.clear(slot),
            Step::Speculate(path, seconds) => {
                let until = self.at(self.now + seconds);
                return self.writer.speculate(slot, &keys(path), until);
            }
            Step::Remember(path) => return self.writer.remember(slot, &keys(path)),
            Step::ClearRank(rank) => (*rank, Event::Cleared),
            Step::Remove(place, path) => {
                let removed = Removed {
                    hashes: vec![name(path)],
                    medium: place.medium,
                    group: Some(place.group),
                };
                (place.rank, Event::Removed(removed))
            }
            Step::Store(place, path, blocks) => {
                let first = path.len() - blocks;
                let stored = Stored {
                    hashes: (first + 1..=path.len())
                        .map(|end| name(&path[..end]))
                        .collect(),
                    parent: (first > 0).then(|| name(&path[..first])),
                    tokens: path[first..].to_vec(),
                    block_size: 1,
                    medium: place.medium,
                    group: Some(place.group),
                    ..Stored::default()
                };
                (place.rank, Event::Stored(stored))
            }
        };
        self.writer.apply(slot, event.0, MODEL, &event.1);
    }

    /// Every prompt, for every slot there ever was, in both orders.
    fn check(&self) -> Result<(), TestCaseError> {
        let mut slots: Vec<_> = self.endpoints.iter().map(|(slot, _)| *slot).collect();
        for number in 0..1 << DEEPEST {
            let path: Path = (0..DEEPEST).map(|bit| number >> bit & 1).collect();
            let mut expected: Vec<_> = self
                .endpoints
                .iter()
                .map(|(_, model)| model.as_ref().map_or(0, |model| model.depth(&path)))
                .collect();
            prop_assert_eq!(&self.reader.matched(&keys(&path), &slots), &expected);
            slots.reverse();
            expected.reverse();
            prop_assert_eq!(&self.reader.matched(&keys(&path), &slots), &expected);
            slots.reverse();
        }
        let live = || {
            self.endpoints
                .iter()
                .filter_map(|(_, model)| model.as_ref())
        };
        let stats = self.writer.stats();
        prop_assert_eq!(stats.endpoints, live().count());
        let blocks: usize = live().map(|model| model.copies.len()).sum();
        prop_assert_eq!(stats.engine_blocks, blocks);
        let assumed: usize = live().map(|model| model.assumed.len()).sum();
        prop_assert_eq!(stats.speculative, assumed);
        let history: usize = live().map(|model| model.history.len()).sum();
        prop_assert_eq!(stats.history, history);
        Ok(())
    }
}

fn path() -> impl Strategy<Value = Path> {
    prop::collection::vec(0_u32..2, 1..=DEEPEST)
}

fn place() -> impl Strategy<Value = Place> {
    let medium = prop_oneof![3 => Just(Medium::Gpu), 1 => Just(Medium::Cpu)];
    (0_u32..2, 0_u32..2, medium).prop_map(|(rank, group, medium)| Place {
        rank,
        group,
        medium,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let store = (place(), path(), any::<prop::sample::Index>()).prop_map(|(place, path, run)| {
        let blocks = 1 + run.index(path.len());
        Step::Store(place, path, blocks)
    });
    prop_oneof![
        1 => Just(Step::Add),
        1 => Just(Step::RemoveEndpoint),
        12 => store,
        10 => (place(), path()).prop_map(|(place, path)| Step::Remove(place, path)),
        1 => (0_u32..2).prop_map(Step::ClearRank),
        1 => Just(Step::Clear),
        4 => (path(), 0_u64..5).prop_map(|(path, seconds)| Step::Speculate(path, seconds)),
        3 => (0_u64..4).prop_map(Step::Expire),
        3 => path().prop_map(Step::Remember),
    ]
}

proptest! {
    #[test]
    fn the_index_equals_a_plain_list_of_everything(
        steps in prop::collection::vec((step(), any::<prop::sample::Index>()), 0..60),
    ) {
        let mut pair = Pair::new();
        pair.add();
        for (step, pick) in &steps {
            pair.take(step, *pick);
            pair.check()?;
        }
    }
}
