//! Properties every decision has, whatever the input.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::decision::{NoEndpoint, PrefillBecause};
use super::endpoint::{Candidate, EndpointId, EngineLoad, Labels, Role, Signals};
use super::filter::{Filter, Operator, Requirement};
use super::picker::Picker;
use super::pipeline::{Decider, Pipeline, Profile, ProfileHandler, Weight, WeightedScorer};
use super::request::{Allowed, RequestFacts};
use super::scorer::{MatchLength, Scorer, SessionAffinity};
use super::{Decision, Scratch, explain};

fn id(last: u8) -> EndpointId {
    EndpointId(SocketAddr::new(IpAddr::from([10, 0, 0, last]), 8000))
}

fn candidate(last: u8, role: Role, in_flight: u64) -> Candidate {
    signalling(
        last,
        role,
        Signals {
            in_flight,
            ..Signals::default()
        },
    )
}

fn signalling(last: u8, role: Role, signals: Signals) -> Candidate {
    Candidate {
        signals,
        ..Candidate::new(id(last), role)
    }
}

fn profile(filter: Filter, scorers: impl IntoIterator<Item = (Scorer, f64)>) -> Profile {
    let weighted = |(scorer, weight)| WeightedScorer {
        scorer,
        weight: Weight::new(weight).unwrap(),
    };
    Profile {
        name: "a".to_owned(),
        filters: vec![filter],
        scorers: scorers.into_iter().map(weighted).collect(),
        picker: Picker::MaxScore,
    }
}

fn single(scorers: impl IntoIterator<Item = (Scorer, f64)>) -> Pipeline {
    Pipeline {
        handler: ProfileHandler::Single,
        decode: profile(Filter::Decode, scorers),
    }
}

fn by_load() -> Pipeline {
    single([(Scorer::LeastLoad, 1.0)])
}

fn schedule(
    pipeline: &Pipeline,
    request: &RequestFacts,
    candidates: &[Candidate],
    turn: u64,
) -> Result<Decision, NoEndpoint> {
    super::schedule(pipeline, request, candidates, turn, &mut Scratch::default())
}

#[test]
fn the_least_loaded_ready_decode_endpoint_wins() {
    let fleet = [
        candidate(1, Role::Decode, 3),
        candidate(2, Role::Decode, 1),
        Candidate {
            ready: false,
            ..candidate(3, Role::Decode, 0)
        },
        candidate(4, Role::Prefill, 0),
        candidate(5, Role::Encode, 0),
    ];
    let decision = schedule(&by_load(), &RequestFacts::default(), &fleet, 0).unwrap();
    assert_eq!(decision.decode.to_string(), "10.0.0.2:8000");
    assert_eq!(decision.prefill, None);
}

#[test]
fn equals_take_turns() {
    let fleet: Vec<_> = (1..=3).map(|n| candidate(n, Role::Decode, 0)).collect();
    let picks: std::collections::BTreeSet<_> = (0..3)
        .map(|turn| {
            let request = RequestFacts::default();
            let decision = schedule(&by_load(), &request, &fleet, turn).unwrap();
            decision.decode
        })
        .collect();
    assert_eq!(picks.len(), 3);
}

fn disagg(decider: Decider) -> Pipeline {
    Pipeline {
        handler: ProfileHandler::Disagg {
            prefill: profile(Filter::Prefill, [(Scorer::LeastLoad, 1.0)]),
            decider,
        },
        ..by_load()
    }
}

/// What is decided about a prefill endpoint for this request, when the decode endpoint holds
/// this share of its prompt and so many prefill endpoints are idle.
fn about_prefill(
    decider: Decider,
    request: &RequestFacts,
    cached: Option<f64>,
    prefills: u8,
) -> (Option<EndpointId>, PrefillBecause) {
    let signals = Signals {
        cached,
        ..Signals::default()
    };
    let mut fleet = vec![signalling(1, Role::Decode, signals)];
    fleet.extend((2..2 + prefills).map(|last| candidate(last, Role::Prefill, 0)));
    let decision = schedule(&disagg(decider), request, &fleet, 0).unwrap();
    (decision.prefill, decision.prefill_because)
}

fn prompt(prompt_chars: usize, prompt_tokens: Option<usize>) -> RequestFacts {
    RequestFacts {
        prompt_chars,
        prompt_tokens,
        one_transfer: true,
        ..RequestFacts::default()
    }
}

const CHOSEN: (Option<EndpointId>, PrefillBecause) = (
    Some(EndpointId(SocketAddr::new(
        IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)),
        8000,
    ))),
    PrefillBecause::Chosen,
);
const BELOW: (Option<EndpointId>, PrefillBecause) = (None, PrefillBecause::BelowThreshold);

#[test]
fn what_the_decode_endpoint_lacks_of_a_prompt_decides_about_prefill() {
    let decide = |chars, tokens, cached, cache_aware| {
        let decider = Decider::CharThreshold {
            chars: 100,
            cache_aware,
        };
        about_prefill(decider, &prompt(chars, tokens), cached, 1)
    };
    assert_eq!(decide(99, None, None, true), BELOW);
    assert_eq!(decide(100, None, None, true), CHOSEN);
    assert_eq!(decide(1000, None, Some(0.91), true), BELOW);
    assert_eq!(decide(1000, None, Some(0.89), true), CHOSEN);
    assert_eq!(decide(1000, None, Some(0.91), false), CHOSEN);
    assert_eq!(decide(0, Some(24), None, true), BELOW, "96 characters");
    assert_eq!(decide(0, Some(25), None, true), CHOSEN, "100 characters");
    let not_seen = (None, PrefillBecause::Off);
    assert_eq!(decide(0, None, None, true), not_seen);
    assert_eq!(
        about_prefill(Decider::Always, &prompt(1, None), None, 0),
        (None, PrefillBecause::NoEndpoint)
    );
}

#[test]
fn tokens_decide_about_prefill_where_the_threshold_is_one_of_tokens() {
    let decide = |chars, tokens, cached, non_cached_tokens, prompt_tokens| {
        let decider = Decider::PrefixBased {
            non_cached_tokens,
            prompt_tokens,
        };
        about_prefill(decider, &prompt(chars, tokens), cached, 1)
    };
    assert_eq!(decide(9, Some(15), None, 16, 0), BELOW);
    assert_eq!(decide(9, Some(16), None, 16, 0), CHOSEN);
    assert_eq!(decide(63, None, None, 16, 0), BELOW, "15 tokens");
    assert_eq!(decide(64, None, None, 16, 0), CHOSEN, "16 tokens");
    assert_eq!(decide(9, Some(160), Some(0.91), 16, 0), BELOW);
    assert_eq!(decide(9, Some(160), Some(0.89), 16, 0), CHOSEN);
    assert_eq!(decide(9, Some(160), None, 16, 161), BELOW, "too short");
    assert_eq!(decide(9, Some(160), None, 0, 0), BELOW, "0 means never");
}

#[test]
fn what_one_transfer_cannot_serve_is_computed_where_it_is_decoded() {
    let request = RequestFacts {
        one_transfer: false,
        ..prompt(1000, None)
    };
    assert_eq!(
        about_prefill(Decider::Always, &request, None, 1),
        (None, PrefillBecause::SeveralTransfers)
    );
}

#[test]
fn an_endpoint_of_both_roles_computes_prompts_for_others_but_not_for_itself() {
    let request = prompt(1000, None);
    let both = [candidate(1, Role::Both, 0), candidate(2, Role::Both, 0)];
    let decision = schedule(&disagg(Decider::Always), &request, &both, 0).unwrap();
    assert_eq!((decision.decode, decision.prefill), (id(1), Some(id(2))));
    let decision = schedule(&disagg(Decider::Always), &request, &both[..1], 0).unwrap();
    assert_eq!(decision.prefill_because, PrefillBecause::NoEndpoint);
}

#[test]
fn the_longest_cached_prefix_wins_over_load_by_weight() {
    let holds = |cached, in_flight| Signals {
        cached: Some(cached),
        in_flight,
        ..Signals::default()
    };
    let fleet = [
        signalling(1, Role::Decode, holds(0.9, 5)),
        signalling(2, Role::Decode, holds(0.0, 0)),
    ];
    let pick = |kv, load| {
        let pipeline = single([
            (Scorer::PreciseCache(MatchLength::default()), kv),
            (Scorer::LeastLoad, load),
        ]);
        let decision = schedule(&pipeline, &RequestFacts::default(), &fleet, 0).unwrap();
        decision.decode
    };
    assert_eq!(pick(10.0, 1.0), id(1));
    assert_eq!(pick(1.0, 10.0), id(2));
    assert_eq!(pick(0.001, 0.000_1), id(1), "however small");
}

#[test]
fn an_engine_that_reports_nothing_is_judged_by_what_it_was_sent() {
    let hit = |cached, prefix| {
        let signals = Signals {
            cached,
            prefix,
            ..Signals::default()
        };
        signals.hit()
    };
    assert!((hit(None, 0.5) - 0.5).abs() < f64::EPSILON);
    assert!(hit(Some(0.0), 0.5).abs() < f64::EPSILON);
}

/// The scores of these endpoints, as one scorer gives them.
fn scores(scorer: Scorer, request: &RequestFacts, signals: &[Signals]) -> Vec<f64> {
    let fleet: Vec<_> = (1..)
        .zip(signals)
        .map(|(last, signals)| signalling(last, Role::Decode, *signals))
        .collect();
    let (_, why) = explain(&single([(scorer, 1.0)]), request, &fleet, 0).unwrap();
    why.decode
        .iter()
        .map(|row| (row.scores[0].1 * 1e6).round() / 1e6)
        .collect()
}

#[test]
fn scorers_follow_upstreams_formulas() {
    let engine = |running, waiting, kv_usage| Signals {
        engine: Some(EngineLoad {
            running,
            waiting,
            kv_usage,
        }),
        ..Signals::default()
    };
    let busy = [engine(1, 0, 0.1), engine(5, 32, 0.5), engine(9, 128, 1.0)];
    let of = |scorer| scores(scorer, &RequestFacts::default(), &busy);
    assert_eq!(of(Scorer::Queue), [1.0, 0.75, 0.0]);
    assert_eq!(of(Scorer::RunningRequests), [1.0, 0.5, 0.0]);
    assert_eq!(of(Scorer::KvUtilization), [0.9, 0.5, 0.0]);
    let load_aware = Scorer::LoadAware {
        queue_threshold: 128,
    };
    assert_eq!(of(load_aware), [0.5, 0.375, 0.0]);
    let equal = [engine(4, 2, 0.0); 2];
    let of = |scorer| scores(scorer, &RequestFacts::default(), &equal);
    assert_eq!(of(Scorer::Queue), [1.0, 1.0]);

    let sent = |in_flight| Signals {
        in_flight,
        ..Signals::default()
    };
    let active = |idle_threshold, max_busy_score| {
        let scorer = Scorer::ActiveRequests {
            idle_threshold,
            max_busy_score,
        };
        let signals = [sent(0), sent(1), sent(4)];
        scores(scorer, &RequestFacts::default(), &signals)
    };
    assert_eq!(active(0, 1.0), [1.0, 0.75, 0.0]);
    assert_eq!(active(1, 0.5), [1.0, 1.0, 0.0]);
    assert_eq!(active(0, 0.5), [1.0, 0.375, 0.0]);
}

#[test]
fn the_length_of_a_match_can_count_beside_its_share() {
    let holds = Signals {
        prefix: 0.5,
        ..Signals::default()
    };
    let of = |weight, tokens| {
        let length = MatchLength {
            weight,
            scale_tokens: 8192,
        };
        let request = prompt(1, Some(tokens));
        scores(Scorer::PrefixCache(length), &request, &[holds])[0]
    };
    assert_eq!(of(0.0, 8192).to_bits(), 0.5_f64.to_bits());
    // Half of 8192 is half the scale, squared a quarter.
    assert_eq!(of(1.0, 8192).to_bits(), 0.25_f64.to_bits());
    assert_eq!(of(0.5, 8192).to_bits(), 0.375_f64.to_bits());
    assert_eq!(of(1.0, 1 << 20).to_bits(), 1.0_f64.to_bits());
}

#[test]
fn labels_are_filtered_as_selectors_of_kubernetes_do() {
    let labelled = |last, pairs: &[(&str, &str)]| {
        let labels: Labels = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        Candidate {
            labels: Some(Arc::new(labels)),
            ..candidate(last, Role::Decode, 0)
        }
    };
    let fleet = [
        labelled(1, &[("gpu", "a"), ("zone", "x")]),
        labelled(2, &[("gpu", "b")]),
        labelled(3, &[]),
    ];
    let kept = |filter: Filter| -> Vec<usize> {
        let kept = fleet.iter().map(|candidate| filter.keeps(candidate));
        kept.zip(1..)
            .filter(|(kept, _)| *kept)
            .map(|(_, n)| n)
            .collect()
    };
    let by_label = |allows_no_label| Filter::ByLabel {
        label: "gpu".to_owned(),
        values: vec!["b".to_owned()],
        allows_no_label,
    };
    assert_eq!(kept(by_label(false)), [2]);
    assert_eq!(kept(by_label(true)), [2, 3]);
    let select = |operator| {
        let requirement = Requirement {
            key: "gpu".to_owned(),
            operator,
            values: vec!["a".to_owned()],
        };
        Filter::LabelSelector(vec![requirement])
    };
    assert_eq!(kept(select(Operator::In)), [1]);
    assert_eq!(kept(select(Operator::NotIn)), [2, 3]);
    assert_eq!(kept(select(Operator::Exists)), [1, 2]);
    assert_eq!(kept(select(Operator::DoesNotExist)), [3]);
    assert_eq!(kept(Filter::LabelSelector(Vec::new())), [1, 2, 3]);
}

#[test]
fn random_pickers_draw_in_proportion() {
    let holds = |prefix| Signals {
        prefix,
        ..Signals::default()
    };
    let fleet = [
        signalling(1, Role::Decode, holds(0.75)),
        signalling(2, Role::Decode, holds(0.25)),
        signalling(3, Role::Decode, holds(0.0)),
    ];
    let count = |picker, fleet: &[Candidate]| {
        let mut pipeline = single([(Scorer::PrefixCache(MatchLength::default()), 4.0)]);
        pipeline.decode.picker = picker;
        let mut counts = [0_u32; 3];
        for turn in 0..3000 {
            let request = RequestFacts::default();
            let decode = schedule(&pipeline, &request, fleet, turn).unwrap().decode;
            counts[fleet.iter().position(|c| c.id == decode).unwrap()] += 1;
        }
        counts
    };
    let about = |counts: [u32; 3], wanted: [u32; 3]| {
        for (count, wanted) in counts.into_iter().zip(wanted) {
            assert!(count.abs_diff(wanted) < 150, "{counts:?}");
        }
    };
    about(count(Picker::Random, &fleet), [1000; 3]);
    let weighted = count(Picker::WeightedRandom, &fleet);
    about(weighted, [2250, 750, 0]);
    assert_eq!(weighted[2], 0, "a score of 0 is never drawn beside others");
    let cold: Vec<_> = (1..=3).map(|n| candidate(n, Role::Decode, 0)).collect();
    about(count(Picker::WeightedRandom, &cold), [1000; 3]);
}

fn by_session() -> Pipeline {
    single([(session_affinity(), 1.0)])
}

fn session_affinity() -> Scorer {
    Scorer::SessionAffinity(SessionAffinity {
        headers: vec!["x-session-id".to_owned()],
        sticky: Duration::from_mins(1),
        queue_threshold: 128,
    })
}

fn in_session(session: u64) -> RequestFacts {
    RequestFacts {
        session: Some(session),
        ..RequestFacts::default()
    }
}

#[test]
fn a_bound_session_stays_until_its_endpoint_is_saturated() {
    let mut fleet: Vec<_> = (1..=3).map(|n| candidate(n, Role::Decode, 0)).collect();
    let decide = |fleet: &[Candidate]| {
        schedule(&by_session(), &in_session(7), fleet, 0)
            .unwrap()
            .decode
    };
    let home = decide(&fleet);
    let elsewhere = fleet.iter().position(|c| c.id != home).unwrap();
    fleet[elsewhere].signals.bound = true;
    assert_eq!(
        decide(&fleet),
        fleet[elsewhere].id,
        "bound, whatever the hash"
    );
    let waiting = |waiting| {
        Some(EngineLoad {
            running: 1,
            waiting,
            kv_usage: 0.0,
        })
    };
    fleet[elsewhere].signals.engine = waiting(127);
    assert_eq!(decide(&fleet), fleet[elsewhere].id);
    fleet[elsewhere].signals.engine = waiting(128);
    assert_ne!(decide(&fleet), fleet[elsewhere].id);
}

#[test]
fn new_sessions_spread_evenly_though_few() {
    let mut fleet: Vec<_> = (1..=3).map(|n| candidate(n, Role::Decode, 0)).collect();
    for session in 0..20_u64 {
        let request = in_session(session.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let home = schedule(&by_session(), &request, &fleet, 0).unwrap().decode;
        let home = fleet.iter_mut().find(|c| c.id == home).unwrap();
        home.signals.sessions += 1;
    }
    let most = fleet.iter().map(|c| c.signals.sessions).max().unwrap();
    assert!(most <= 9, "{fleet:?}");
}

#[test]
fn a_subset_that_matches_nothing_is_refused() {
    let fleet = [candidate(1, Role::Decode, 0)];
    let request = RequestFacts {
        subset: Some(Vec::new()),
        ..RequestFacts::default()
    };
    assert_eq!(
        schedule(&by_load(), &request, &fleet, 0),
        Err(NoEndpoint::Filtered("subset"))
    );
    let request = RequestFacts {
        subset: Allowed::parse("10.0.0.1").map(|a| vec![a]),
        ..request
    };
    assert!(schedule(&by_load(), &request, &fleet, 0).is_ok());
}

#[test]
fn a_score_table_shows_scores_weights_and_who_was_dropped() {
    let fleet = [
        candidate(1, Role::Decode, 3),
        candidate(2, Role::Decode, 0),
        candidate(3, Role::Prefill, 0),
    ];
    let pipeline = single([(Scorer::LeastLoad, 2.5), (Scorer::Queue, 0.0)]);
    let request = RequestFacts::default();
    let (decision, why) = explain(&pipeline, &request, &fleet, 0).unwrap();
    assert_eq!(decision, schedule(&pipeline, &request, &fleet, 0).unwrap());
    insta::assert_snapshot!(why.table(&decision), @r"
    decode: 10.0.0.2:8000
    * 10.0.0.2:8000            2.500 = 2.5 x 1.000 least-load-scorer
      10.0.0.1:8000            0.000 = 2.5 x 0.000 least-load-scorer
      10.0.0.3:8000         dropped by the filter decode-filter
    prefill: none, off
    ");
}

prop_compose! {
    fn any_signals()(in_flight in 0_u64..20, engine in prop::option::of((0_u64..20, 0_u64..300, 0.0..=1.0)),
        cached in prop::option::of(0.0..=1.0), prefix in 0.0..=1.0, sessions in 0_u64..4, bound: bool) -> Signals {
        let engine = engine.map(|(running, waiting, kv_usage)| EngineLoad { running, waiting, kv_usage });
        Signals { in_flight, engine, cached, prefix, sessions, bound }
    }
}

prop_compose! {
    fn fleets()(pods in prop::collection::vec((0_usize..5, any::<bool>(), any_signals()), 0..12)) -> Vec<Candidate> {
        const ROLES: [Role; 5] = [Role::Decode, Role::Prefill, Role::Both, Role::Unlabelled, Role::Encode];
        (1..).zip(pods).map(|(last, (role, ready, signals))| Candidate {
            ready,
            ..signalling(last, ROLES[role], signals)
        }).collect()
    }
}

prop_compose! {
    fn requests()(prompt_chars in 0_usize..10_000, prompt_tokens in prop::option::of(0_usize..3000), one_transfer: bool, session: Option<u64>) -> RequestFacts {
        RequestFacts { prompt_chars, prompt_tokens, one_transfer, session, subset: None }
    }
}

fn scorers() -> impl Strategy<Value = Scorer> {
    let length = (0.0..=1.0, 1_u32..10_000).prop_map(|(weight, scale_tokens)| MatchLength {
        weight,
        scale_tokens,
    });
    prop_oneof![
        Just(Scorer::LeastLoad),
        Just(Scorer::Queue),
        Just(Scorer::RunningRequests),
        Just(Scorer::KvUtilization),
        (1_u64..200).prop_map(|queue_threshold| Scorer::LoadAware { queue_threshold }),
        (0_u64..5, 0.0..=1.0).prop_map(|(idle_threshold, max_busy_score)| {
            Scorer::ActiveRequests {
                idle_threshold,
                max_busy_score,
            }
        }),
        length.clone().prop_map(Scorer::PrefixCache),
        length.prop_map(Scorer::PreciseCache),
        Just(session_affinity()),
    ]
}

prop_compose! {
    fn profiles(filter: Filter)(scorers in prop::collection::vec((scorers(), 0.0..50.0), 0..6), picker in 0_usize..3) -> Profile {
        Profile { picker: Picker::ALL[picker], ..profile(filter.clone(), scorers) }
    }
}

prop_compose! {
    fn pipelines()(decode in profiles(Filter::Decode), prefill in prop::option::of(profiles(Filter::Prefill)), tokens in prop::option::of(0_usize..2000)) -> Pipeline {
        let decider = tokens.map_or(Decider::Always, |non_cached_tokens| Decider::PrefixBased { non_cached_tokens, prompt_tokens: 0 });
        let handler = prefill.map_or(ProfileHandler::Single, |prefill| ProfileHandler::Disagg { prefill, decider });
        Pipeline { handler, decode }
    }
}

proptest! {
    #[test]
    fn what_was_filtered_out_never_wins(pipeline in pipelines(), fleet in fleets(), request in requests(), turn: u64) {
        let may = |candidate: &&Candidate| candidate.ready && candidate.role.serves(Role::Decode);
        if let Ok(decision) = schedule(&pipeline, &request, &fleet, turn) {
            let of = |id| fleet.iter().find(|candidate| candidate.id == id).unwrap();
            prop_assert!(may(&of(decision.decode)));
            prop_assert_eq!(decision.prefill.is_some(), decision.prefill_because == PrefillBecause::Chosen);
            if let Some(prefill) = decision.prefill {
                prop_assert!(prefill != decision.decode && request.one_transfer && request.has_prompt());
                prop_assert!(of(prefill).ready && of(prefill).role.serves(Role::Prefill));
            }
        } else {
            prop_assert!(!fleet.iter().any(|candidate| may(&candidate)));
        }
    }

    #[test]
    fn the_order_of_endpoints_does_not_change_the_decision(
        (fleet, shuffled) in fleets().prop_flat_map(|fleet| (Just(fleet.clone()), Just(fleet).prop_shuffle())),
        pipeline in pipelines(), request in requests(), turn: u64,
    ) {
        prop_assert_eq!(schedule(&pipeline, &request, &fleet, turn), schedule(&pipeline, &request, &shuffled, turn));
    }

    #[test]
    fn a_weight_of_0_is_the_same_as_no_scorer(pipeline in pipelines(), scorer in scorers(), at: prop::sample::Index, fleet in fleets(), request in requests(), turn: u64) {
        let mut with = pipeline.clone();
        let at = at.index(with.decode.scorers.len() + 1);
        with.decode.scorers.insert(at, WeightedScorer { scorer, weight: Weight::new(0.0).unwrap() });
        prop_assert_eq!(explain(&with, &request, &fleet, turn), explain(&pipeline, &request, &fleet, turn));
    }

    #[test]
    fn every_score_is_from_0_to_1(pipeline in pipelines(), fleet in fleets(), request in requests()) {
        if let Ok((_, why)) = explain(&pipeline, &request, &fleet, 0) {
            let mut scores = why.decode.iter().chain(&why.prefill).flat_map(|row| &row.scores);
            prop_assert!(scores.all(|(_, score, _)| (0.0..=1.0).contains(score)));
        }
    }

    #[test]
    fn explaining_does_not_change_the_decision(pipeline in pipelines(), fleet in fleets(), request in requests(), turn: u64) {
        let explained = explain(&pipeline, &request, &fleet, turn).map(|(decision, _)| decision);
        prop_assert_eq!(schedule(&pipeline, &request, &fleet, turn), explained);
    }

    #[test]
    fn a_longer_match_never_lowers_the_score_of_a_prefix(weight in 0.0..=1.0, scale_tokens in 1_u32..100_000, tokens in 0_usize..200_000, blocks in 1_u32..1000, more in any::<prop::sample::Index>(), fewer in any::<prop::sample::Index>()) {
        let length = MatchLength { weight, scale_tokens };
        let more = more.index(blocks as usize + 1);
        let fewer = fewer.index(more + 1);
        let held = |matched: usize| {
            let share = matched as f64 / f64::from(blocks);
            Signals { prefix: share, cached: Some(share), ..Signals::default() }
        };
        for scorer in [Scorer::PrefixCache(length), Scorer::PreciseCache(length)] {
            let scores = scores(scorer, &prompt(0, Some(tokens)), &[held(fewer), held(more)]);
            prop_assert!(scores[0] <= scores[1]);
        }
    }

    #[test]
    fn a_session_stays_when_other_endpoints_go(fleet in fleets(), session: u64) {
        let request = in_session(session);
        if let Ok(before) = schedule(&by_session(), &request, &fleet, 0) {
            let mut fleet = fleet;
            for candidate in &mut fleet {
                candidate.signals.bound = candidate.id == before.decode;
                candidate.signals.engine = None;
                candidate.signals.sessions = 0;
            }
            let survivors: Vec<_> = fleet.iter().enumerate()
                .filter(|(index, candidate)| candidate.id == before.decode || index % 2 == 0)
                .map(|(_, candidate)| candidate.clone()).collect();
            prop_assert_eq!(schedule(&by_session(), &request, &survivors, 0).unwrap().decode, before.decode);
        }
    }
}
