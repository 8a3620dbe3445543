//! What holds for every run of the engine.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::kv::blocks::engine::none_hash;

const SIZE: usize = 4;

fn settings(num_blocks: usize) -> Settings {
    Settings {
        block_size: SIZE,
        num_blocks,
        prefix_caching: true,
        max_num_seqs: 4,
        max_num_batched_tokens: 16,
        chunked_prefill: true,
        max_waiting: 100,
        max_model_len: 1000,
        connector: false,
        recompute_on_failure: true,
        hold_timeout: Duration::from_secs(1),
        timing: Timing {
            time_to_first_token: Duration::ZERO,
            prefill_overhead: Duration::from_millis(5),
            prefill_per_token: Duration::from_millis(1),
            inter_token: Duration::from_millis(2),
            transfer_per_token: Duration::from_micros(10),
            factor_under_load: 1.0,
        },
    }
}

fn hashing() -> Hashing {
    Hashing {
        root: none_hash(Some("42")),
        block_size: SIZE,
        enabled: true,
    }
}

fn ask(tokens: Vec<u32>, max_tokens: usize) -> Submit {
    Submit {
        chain: Chain::new(hashing(), tokens, None, None),
        max_tokens,
        script: Script {
            heads: [[900].into()].into(),
            words: [[901, 902, 903].into()].into(),
            marks: 0,
            salt: 0,
            echo: false,
        },
        finish: Finish::Length,
        hold: false,
        remote: None,
    }
}

/// An engine with a clock of its own.
struct Run {
    engine: Engine,
    now: Duration,
    events: Vec<Vec<CacheEvent>>,
    finished: BTreeMap<Id, Finished>,
    tokens: BTreeMap<Id, Vec<u32>>,
    fetches: Vec<Fetch>,
}

impl Run {
    fn new(settings: Settings) -> Self {
        Self {
            engine: Engine::new(settings),
            now: Duration::ZERO,
            events: Vec::new(),
            finished: BTreeMap::new(),
            tokens: BTreeMap::new(),
            fetches: Vec::new(),
        }
    }

    fn step(&mut self) {
        let output = self.engine.step(self.now);
        if !output.events.is_empty() {
            self.events.push(output.events);
        }
        for token in output.tokens {
            self.tokens.entry(token.id).or_default().push(token.token);
        }
        for finished in output.finished {
            self.finished.insert(finished.id, finished);
        }
        self.fetches.extend(output.fetches);
    }

    /// Until the engine has nothing to do but wait for others, or for `steps` steps.
    fn run(&mut self, steps: usize) {
        self.step();
        for _ in 0..steps {
            let Some(due) = self.engine.next_due() else {
                return;
            };
            self.now = self.now.max(due);
            self.step();
        }
    }

    fn ask(&mut self, tokens: Vec<u32>, max_tokens: usize) -> Finished {
        let id = self
            .engine
            .submit(ask(tokens, max_tokens), self.now)
            .unwrap();
        self.run(10_000);
        self.finished[&id].clone()
    }

    /// What a reader of the events thinks is cached: hash -> blocks.
    fn replayed(&self) -> HashMap<EngineHash, usize> {
        let mut held: HashMap<EngineHash, usize> = HashMap::new();
        for event in self.events.iter().flatten() {
            match event {
                CacheEvent::Stored { hashes, .. } => {
                    for hash in hashes {
                        *held.entry(*hash).or_default() += 1;
                    }
                }
                CacheEvent::Removed(hash) => {
                    let count = held.get_mut(hash).expect("removed what was stored");
                    *count -= 1;
                    if *count == 0 {
                        held.remove(hash);
                    }
                }
                CacheEvent::Cleared => held.clear(),
            }
        }
        held
    }
}

fn count(from: u32, to: u32) -> Vec<u32> {
    (from..to).collect()
}

#[test]
fn hits_are_whole_blocks_and_never_the_whole_prompt() {
    let mut run = Run::new(settings(100));
    assert_eq!(run.ask(count(0, 10), 1).cached_tokens, 0);
    assert_eq!(run.ask(count(0, 10), 1).cached_tokens, 8);
    assert_eq!(run.ask(count(0, 7), 1).cached_tokens, 4);
    let other: Vec<u32> = count(0, 4).into_iter().chain(count(50, 60)).collect();
    assert_eq!(run.ask(other, 1).cached_tokens, 4);
    let totals = run.engine.totals();
    assert_eq!((totals.cache_queries, totals.cache_hits), (41, 16));
    assert_eq!(totals.prompt_tokens, 41);
}

#[test]
fn a_prompt_of_whole_blocks_stores_its_last_block_twice() {
    let mut run = Run::new(settings(100));
    run.ask(count(0, 8), 1);
    assert_eq!(run.ask(count(0, 8), 1).cached_tokens, 4);
    let last = Chain::new(hashing(), count(0, 8), None, None).hashes()[1];
    assert_eq!(run.replayed()[&last], 2);
    let stored = |event: &CacheEvent| match event {
        CacheEvent::Stored { hashes, parent, .. } => (hashes.len(), parent.is_some()),
        _ => panic!("only stores"),
    };
    let stored: Vec<_> = run.events.iter().flatten().map(stored).collect();
    assert_eq!(stored, [(2, false), (1, true)]);
}

#[test]
fn generated_blocks_are_cached_for_the_next_turn() {
    let mut run = Run::new(settings(100));
    let id = Id(0);
    run.ask(count(0, 6), 8);
    let answer = run.tokens[&id].clone();
    assert_eq!(answer, [900, 901, 902, 903, 901, 902, 903, 901]);
    let next: Vec<u32> = count(0, 6)
        .into_iter()
        .chain(answer)
        .chain([7, 7])
        .collect();
    // 13 tokens have their KV cache: the last one generated was never computed.
    assert_eq!(run.ask(next, 1).cached_tokens, 12);
}

#[test]
fn the_tail_of_a_chain_is_evicted_first() {
    let mut run = Run::new(settings(7));
    run.ask(count(0, 16), 1);
    // Six usable blocks: four cached, of which this needs two.
    run.ask(count(100, 115), 1);
    assert_eq!(run.ask(count(0, 13), 1).cached_tokens, 8);
}

#[test]
fn a_lone_prompt_takes_overhead_and_time_per_uncached_token() {
    let mut run = Run::new(settings(100));
    let first = run.ask(count(0, 10), 3);
    let millis = |from: Duration, to: Duration| to.saturating_sub(from).as_millis();
    assert_eq!(millis(first.times.arrived, first.times.first_token), 15);
    assert_eq!(millis(first.times.first_token, first.times.finished), 4);
    let second = run.ask(count(0, 10), 1);
    assert_eq!(millis(second.times.arrived, second.times.first_token), 7);
}

#[test]
fn long_prompts_take_several_steps_and_let_others_generate() {
    let mut run = Run::new(settings(100));
    run.engine.submit(ask(count(0, 5), 30), run.now).unwrap();
    run.run(3);
    run.engine.submit(ask(count(100, 140), 1), run.now).unwrap();
    let before = run.tokens[&Id(0)].len();
    while !run.finished.contains_key(&Id(1)) {
        run.run(1);
    }
    assert!(run.tokens[&Id(0)].len() >= before + 3);
}

#[test]
fn without_chunks_a_prompt_waits_for_a_step_of_its_own() {
    let mut run = Run::new(Settings {
        chunked_prefill: false,
        ..settings(100)
    });
    run.engine.submit(ask(count(0, 10), 1), run.now).unwrap();
    run.engine.submit(ask(count(100, 110), 1), run.now).unwrap();
    run.step();
    assert_eq!(run.engine.gauges().running, 1);
    assert_eq!(run.engine.gauges().waiting, 1);
    run.run(100);
    assert_eq!(run.finished.len(), 2);
}

#[test]
fn too_long_too_large_and_too_many_are_refused() {
    let mut engine = Engine::new(Settings {
        max_num_seqs: 1,
        max_waiting: 1,
        ..settings(5)
    });
    let now = Duration::ZERO;
    assert_eq!(engine.submit(ask(vec![], 1), now), Err(Refused::Empty));
    let long = engine.submit(ask(count(0, 999), 2), now).unwrap_err();
    assert!(long.to_string().contains("for a total of 1001 tokens"));
    let large = engine.submit(ask(count(0, 15), 3), now);
    assert_eq!(
        large,
        Err(Refused::NeverFits {
            needed: 5,
            blocks: 4
        })
    );
    engine.submit(ask(count(0, 15), 2), now).unwrap();
    engine.step(now);
    engine.submit(ask(count(0, 1), 1), now).unwrap();
    let full = engine.submit(ask(count(0, 1), 1), now);
    assert_eq!(full, Err(Refused::QueueFull(1)));
}

#[test]
fn who_runs_out_of_blocks_is_preempted_and_still_answers() {
    let mut run = Run::new(settings(9));
    for at in 0..3 {
        let prompt = count(at * 100, at * 100 + 8);
        run.engine.submit(ask(prompt, 12), run.now).unwrap();
    }
    run.run(10_000);
    assert_eq!(run.finished.len(), 3);
    assert!(run.engine.totals().preemptions > 0);
    assert!(run.tokens.values().all(|tokens| tokens.len() == 12));
    assert_eq!(run.engine.gauges(), Gauges::default());
}

#[test]
fn without_a_prefix_cache_nothing_is_found_or_published() {
    let mut run = Run::new(Settings {
        prefix_caching: false,
        ..settings(100)
    });
    run.ask(count(0, 10), 1);
    assert_eq!(run.ask(count(0, 10), 1).cached_tokens, 0);
    assert!(run.events.is_empty());
    assert_eq!(run.engine.totals().cache_queries, 0);
}

#[test]
fn the_cache_is_cleared_only_when_no_block_is_in_use() {
    let mut run = Run::new(settings(100));
    run.engine.submit(ask(count(0, 10), 2), run.now).unwrap();
    run.step();
    assert!(!run.engine.reset_prefix_cache());
    run.run(100);
    assert!(run.engine.reset_prefix_cache());
    run.step();
    assert_eq!(run.events.last().unwrap(), &[CacheEvent::Cleared]);
    assert_eq!(run.ask(count(0, 10), 1).cached_tokens, 0);
}

#[test]
fn a_client_that_leaves_frees_its_blocks() {
    let mut run = Run::new(settings(100));
    let id = run.engine.submit(ask(count(0, 10), 50), run.now).unwrap();
    run.run(5);
    run.engine.end(id, Finish::Abort, run.now);
    run.run(5);
    assert_eq!(run.finished[&id].finish, Finish::Abort);
    assert_eq!(run.engine.gauges(), Gauges::default());
}

// === between engines ===

fn connected(num_blocks: usize) -> Settings {
    Settings {
        connector: true,
        ..settings(num_blocks)
    }
}

#[test]
fn a_finished_prompt_holds_its_blocks_until_they_are_fetched_or_time_is_up() {
    let mut run = Run::new(connected(100));
    for _ in 0..2 {
        let submit = Submit {
            hold: true,
            ..ask(count(0, 10), 1)
        };
        run.engine.submit(submit, run.now).unwrap();
    }
    while run.finished.len() < 2 {
        run.run(1);
    }
    assert_eq!(run.finished[&Id(0)].held_blocks.len(), 3);
    assert!(run.engine.gauges().usage > 0.0);
    assert_eq!(run.engine.release(Id(0)), Some(3));
    assert_eq!(run.engine.release(Id(0)), None);
    run.run(100);
    assert_eq!(run.engine.totals().expired_holds, 1);
    assert_eq!(run.engine.gauges(), Gauges::default());
}

fn fetching(run: &mut Run) -> Id {
    let submit = Submit {
        remote: Some(Remote::default()),
        ..ask(count(0, 10), 2)
    };
    let id = run.engine.submit(submit, run.now).unwrap();
    run.step();
    assert_eq!(run.fetches.pop().unwrap().id, id);
    assert_eq!(run.engine.gauges().waiting, 1);
    id
}

#[test]
fn fetched_tokens_count_as_external_and_cost_only_their_way() {
    let mut run = Run::new(connected(100));
    run.ask(count(0, 5), 1);
    let start = run.now;
    let id = fetching(&mut run);
    run.engine.fetched(id, Some(&[]), run.now);
    run.run(100);
    let finished = &run.finished[&id];
    assert_eq!(finished.cached_tokens, 10);
    let totals = run.engine.totals();
    assert_eq!((totals.cache_queries, totals.cache_hits), (15, 4));
    assert_eq!((totals.external_queries, totals.external_hits), (5 + 6, 6));
    let taken = finished.times.first_token.saturating_sub(start);
    assert!(taken < Duration::from_millis(4), "{taken:?}");
    assert_eq!(run.ask(count(0, 10), 1).cached_tokens, 8);
}

/// What a prompt is answered with when it is decoded on the blocks of `from`, and then when it
/// is asked again without any transfer.
fn said_on_blocks_of(from: &[u32], own: &[u32]) -> [Vec<u32>; 2] {
    let speaking = |submit: Submit| Submit {
        script: Script {
            heads: (0..100).map(|word| [word].into()).collect(),
            ..submit.script
        },
        ..submit
    };
    let mut prefiller = Run::new(connected(100));
    let prompt = Submit {
        hold: true,
        ..ask(from.to_vec(), 1)
    };
    prefiller.engine.submit(prompt, prefiller.now).unwrap();
    prefiller.run(100);
    let blocks: Vec<u64> = prefiller.finished[&Id(0)]
        .held_blocks
        .iter()
        .map(|block| u64::from(*block))
        .collect();
    let mut run = Run::new(connected(100));
    let submit = speaking(Submit {
        remote: Some(Remote::default()),
        ..ask(own.to_vec(), 1)
    });
    let id = run.engine.submit(submit, run.now).unwrap();
    run.step();
    let content = prefiller.engine.peek(&blocks);
    run.engine.fetched(id, Some(&content), run.now);
    run.run(100);
    let again = speaking(ask(own.to_vec(), 1));
    let again = run.engine.submit(again, run.now).unwrap();
    run.run(100);
    [run.tokens[&id].clone(), run.tokens[&again].clone()]
}

#[test]
fn an_answer_comes_from_the_kv_cache_and_not_from_the_prompt() {
    let (one, other) = (count(0, 12), count(40, 52));
    let mut alone = Run::new(connected(100));
    let mut submit = ask(one.clone(), 1);
    submit.script.heads = (0..100).map(|word| [word].into()).collect();
    alone.engine.submit(submit, alone.now).unwrap();
    alone.run(100);
    let right = &alone.tokens[&Id(0)];
    assert_eq!(
        said_on_blocks_of(&one, &one),
        [right.clone(), right.clone()]
    );
    // What is wrong is cached, too, all but the last block: that is computed again.
    let [wrong, again] = said_on_blocks_of(&other, &one);
    assert_ne!(*right, wrong);
    assert_ne!(*right, again);
}

#[test]
fn what_cannot_be_fetched_is_computed_here() {
    let mut run = Run::new(connected(100));
    let id = fetching(&mut run);
    run.engine.fetched(id, None, run.now);
    run.run(100);
    assert_eq!(run.finished[&id].cached_tokens, 0);
    assert_eq!(run.finished[&id].finish, Finish::Length);
    assert_eq!(run.engine.totals().failed_transfers, 1);
}

#[test]
fn or_the_request_fails_where_it_shall() {
    let mut run = Run::new(Settings {
        recompute_on_failure: false,
        ..connected(100)
    });
    let id = fetching(&mut run);
    run.engine.fetched(id, None, run.now);
    run.run(100);
    assert_eq!(run.finished[&id].finish, Finish::Error);
    assert_eq!(run.engine.gauges(), Gauges::default());
}

// === properties ===

#[derive(Clone, Debug)]
enum Action {
    Ask {
        shared: u32,
        own: u32,
        max_tokens: usize,
        hold: bool,
        fetch: bool,
    },
    Steps(usize),
    Abort(u64),
    Release(u64),
    Fetched(u64, bool),
    Reset,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0..24_u32, 0..14_u32, 1..12_usize, any::<bool>(), any::<bool>()).prop_map(
            |(shared, own, max_tokens, hold, fetch)| Action::Ask { shared, own, max_tokens, hold, fetch }
        ),
        4 => (1..12_usize).prop_map(Action::Steps),
        1 => (0..20_u64).prop_map(Action::Abort),
        1 => (0..20_u64).prop_map(Action::Release),
        2 => (0..20_u64, any::<bool>()).prop_map(|(id, ok)| Action::Fetched(id, ok)),
        1 => Just(Action::Reset),
    ]
}

fn play(actions: &[Action], num_blocks: usize) -> Run {
    let mut run = Run::new(connected(num_blocks));
    for action in actions {
        match *action {
            Action::Ask {
                shared,
                own,
                max_tokens,
                hold,
                fetch,
            } => {
                let tokens: Vec<u32> = count(0, shared)
                    .into_iter()
                    .chain(count(500, 500 + own))
                    .collect();
                let submit = Submit {
                    hold,
                    remote: fetch.then(Remote::default),
                    ..ask(tokens, max_tokens)
                };
                // Some are refused.
                let _ = run.engine.submit(submit, run.now);
            }
            Action::Steps(steps) => run.run(steps),
            Action::Abort(id) => run.engine.end(Id(id), Finish::Abort, run.now),
            Action::Release(id) => drop(run.engine.release(Id(id))),
            Action::Fetched(id, arrived) => {
                let content = arrived.then_some(&[][..]);
                run.engine.fetched(Id(id), content, run.now);
            }
            Action::Reset => drop(run.engine.reset_prefix_cache()),
        }
        let gauges = run.engine.gauges();
        assert!((0.0..=1.0).contains(&gauges.usage));
        assert!(gauges.running <= 4);
        let cached: usize = run.engine.holdings().map(|(_, blocks)| blocks).sum();
        assert!(cached < num_blocks);
    }
    run
}

proptest! {
    #[test]
    fn events_tell_exactly_what_is_cached(actions in prop::collection::vec(action(), 0..60), num_blocks in 2..30_usize) {
        let mut run = play(&actions, num_blocks);
        // Everything ends: what is on its way arrives, what is held expires.
        for id in 0..60 {
            let content = (id % 2 == 0).then_some(&[][..]);
            run.engine.fetched(Id(id), content, run.now);
        }
        for _ in 0..60 {
            run.run(200);
            for fetch in std::mem::take(&mut run.fetches) {
                run.engine.fetched(fetch.id, Some(&[]), run.now);
            }
        }
        prop_assert_eq!(run.engine.next_due(), None);
        prop_assert_eq!(run.engine.gauges(), Gauges::default());
        let held: HashMap<EngineHash, usize> = run.engine.holdings().collect();
        prop_assert_eq!(run.replayed(), held);
        for finished in run.finished.values() {
            if finished.finish == Finish::Length {
                prop_assert_eq!(run.tokens[&finished.id].len(), finished.max_tokens);
            }
            prop_assert!(finished.cached_tokens <= finished.prompt_tokens);
        }
        let totals = run.engine.totals();
        prop_assert!(totals.cache_hits <= totals.cache_queries);
    }

    #[test]
    fn equal_runs_give_equal_events(actions in prop::collection::vec(action(), 0..40), num_blocks in 2..20_usize) {
        let (one, two) = (play(&actions, num_blocks), play(&actions, num_blocks));
        prop_assert_eq!(one.events, two.events);
        prop_assert_eq!(one.finished, two.finished);
    }

    #[test]
    fn local_hits_are_whole_blocks_below_the_prompt(prompts in prop::collection::vec((0..30_u32, 0..10_u32), 1..20), num_blocks in 11..60_usize) {
        let mut run = Run::new(settings(num_blocks));
        for (shared, own) in prompts {
            let tokens: Vec<u32> = count(0, shared).into_iter().chain(count(500, 501 + own)).collect();
            if tokens.len().div_ceil(SIZE) < num_blocks {
                let finished = run.ask(tokens, 1);
                prop_assert!(finished.cached_tokens < finished.prompt_tokens);
                prop_assert_eq!(finished.cached_tokens % SIZE, 0);
            }
        }
    }
}
