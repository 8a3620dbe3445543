//! Properties every decision has, whatever the input.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::config::{ProfileConfig, ScorerKind, Settings, Weight};
use super::decision::{NoEndpoint, PrefillBecause};
use super::endpoint::{Candidate, EndpointId, EngineLoad, Role};
use super::request::{Allowed, Request};
use super::schedule;

fn id(last: u8) -> EndpointId {
    EndpointId(SocketAddr::new(IpAddr::from([10, 0, 0, last]), 8000))
}

fn candidate(last: u8, role: Role, ready: bool, in_flight: u64) -> Candidate {
    Candidate {
        ready,
        in_flight,
        ..Candidate::new(id(last), role)
    }
}

fn by_load() -> Settings {
    let decode = ProfileConfig {
        scorers: vec![(ScorerKind::Load, Weight(1))],
    };
    Settings {
        decode: decode.clone(),
        prefill: decode,
        ..Settings::default()
    }
}

#[test]
fn the_least_loaded_ready_decode_endpoint_wins() {
    let fleet = [
        candidate(1, Role::Decode, true, 3),
        candidate(2, Role::Decode, true, 1),
        candidate(3, Role::Decode, false, 0),
        candidate(4, Role::Prefill, true, 0),
    ];
    let decision = schedule(&by_load(), &Request::default(), &fleet, 0).unwrap();
    assert_eq!(decision.decode.to_string(), "10.0.0.2:8000");
    assert_eq!(decision.prefill, None);
}

#[test]
fn equals_take_turns() {
    let fleet: Vec<_> = (1..=3)
        .map(|n| candidate(n, Role::Decode, true, 0))
        .collect();
    let picks: std::collections::BTreeSet<_> = (0..3)
        .map(|turn| {
            schedule(&by_load(), &Request::default(), &fleet, turn)
                .unwrap()
                .decode
        })
        .collect();
    assert_eq!(picks.len(), 3);
}

#[test]
fn what_the_decode_endpoint_lacks_of_a_prompt_decides_about_prefill() {
    let settings = Settings {
        pd_enabled: true,
        pd_threshold: 100,
        ..by_load()
    };
    let decide = |prompt_chars, cached, aware, prefills: &[Candidate]| {
        let mut fleet = vec![Candidate {
            cached,
            ..candidate(1, Role::Decode, true, 0)
        }];
        fleet.extend_from_slice(prefills);
        let request = Request {
            prompt_chars,
            ..Request::default()
        };
        let settings = Settings {
            pd_cache_aware: aware,
            ..settings.clone()
        };
        let decision = schedule(&settings, &request, &fleet, 0).unwrap();
        (decision.prefill, decision.prefill_because)
    };
    let prefill = [candidate(2, Role::Prefill, true, 0)];
    let chosen = (Some(id(2)), PrefillBecause::Chosen);
    let below = (None, PrefillBecause::BelowThreshold);
    assert_eq!(decide(99, None, true, &prefill), below);
    assert_eq!(decide(100, None, true, &prefill), chosen);
    assert_eq!(decide(1000, Some(0.91), true, &prefill), below);
    assert_eq!(decide(1000, Some(0.89), true, &prefill), chosen);
    assert_eq!(decide(1000, Some(0.91), false, &prefill), chosen);
    assert_eq!(
        decide(1000, None, true, &[]),
        (None, PrefillBecause::NoEndpoint)
    );
    assert_eq!(
        decide(0, None, true, &prefill),
        (None, PrefillBecause::Off),
        "a prompt that was not seen is computed where it is decoded"
    );
}

#[test]
fn the_longest_cached_prefix_wins_over_load_by_weight() {
    let fleet = [
        Candidate {
            cached: Some(0.9),
            ..candidate(1, Role::Decode, true, 5)
        },
        Candidate {
            cached: Some(0.0),
            ..candidate(2, Role::Decode, true, 0)
        },
    ];
    let pick = |kv, load| {
        let scorers = vec![
            (ScorerKind::KvCache, Weight(kv)),
            (ScorerKind::Load, Weight(load)),
        ];
        let settings = Settings {
            decode: ProfileConfig { scorers },
            ..by_load()
        };
        schedule(&settings, &Request::default(), &fleet, 0)
            .unwrap()
            .decode
    };
    assert_eq!(pick(10, 1), id(1));
    assert_eq!(pick(1, 10), id(2));
}

#[test]
fn an_engine_that_reports_nothing_is_judged_by_what_it_was_sent() {
    let known = |cached, prefix| Candidate {
        cached,
        prefix,
        ..candidate(1, Role::Decode, true, 0)
    };
    assert!((known(None, 0.5).hit() - 0.5).abs() < f64::EPSILON);
    assert!(known(Some(0.0), 0.5).hit().abs() < f64::EPSILON);
}

fn by_session() -> Settings {
    Settings {
        decode: ProfileConfig {
            scorers: vec![(ScorerKind::Session, Weight(1))],
        },
        ..by_load()
    }
}

fn in_session(session: u64) -> Request {
    Request {
        session: Some(session),
        ..Request::default()
    }
}

#[test]
fn a_bound_session_stays_until_its_endpoint_is_saturated() {
    let mut fleet: Vec<_> = (1..=3)
        .map(|n| candidate(n, Role::Decode, true, 0))
        .collect();
    let decide = |fleet: &[Candidate]| {
        schedule(&by_session(), &in_session(7), fleet, 0)
            .unwrap()
            .decode
    };
    let home = decide(&fleet);
    let elsewhere = fleet.iter().position(|c| c.id != home).unwrap();
    fleet[elsewhere].bound = true;
    assert_eq!(
        decide(&fleet),
        fleet[elsewhere].id,
        "bound, whatever the hash"
    );
    let waiting = |waiting| {
        Some(EngineLoad {
            running: 1,
            waiting,
        })
    };
    fleet[elsewhere].engine = waiting(127);
    assert_eq!(decide(&fleet), fleet[elsewhere].id);
    fleet[elsewhere].engine = waiting(128);
    assert_ne!(decide(&fleet), fleet[elsewhere].id);
}

#[test]
fn new_sessions_spread_evenly_though_few() {
    let mut fleet: Vec<_> = (1..=3)
        .map(|n| candidate(n, Role::Decode, true, 0))
        .collect();
    for session in 0..20_u64 {
        let request = in_session(session.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let home = schedule(&by_session(), &request, &fleet, 0).unwrap().decode;
        fleet.iter_mut().find(|c| c.id == home).unwrap().sessions += 1;
    }
    let most = fleet.iter().map(|c| c.sessions).max().unwrap();
    assert!(most <= 9, "{fleet:?}");
}

#[test]
fn a_subset_that_matches_nothing_is_refused() {
    let fleet = [candidate(1, Role::Decode, true, 0)];
    let request = Request {
        subset: Some(Vec::new()),
        ..Request::default()
    };
    assert_eq!(
        schedule(&by_load(), &request, &fleet, 0),
        Err(NoEndpoint::Filtered("subset"))
    );
    let request = Request {
        subset: Allowed::parse("10.0.0.1").map(|a| vec![a]),
        ..request
    };
    assert!(schedule(&by_load(), &request, &fleet, 0).is_ok());
}

prop_compose! {
    fn fleets()(pods in prop::collection::vec((0_u8..3, any::<bool>(), 0_u64..20, prop::option::of(0.0..=1.0), 0.0..=1.0), 0..12)) -> Vec<Candidate> {
        pods.into_iter().enumerate().map(|(index, (role, ready, in_flight, cached, prefix))| Candidate {
            cached, prefix,
            ..candidate(index as u8 + 1, [Role::Decode, Role::Prefill, Role::Both][usize::from(role)], ready, in_flight)
        }).collect()
    }
}

fn all_scorers(weights: &[u32; 4]) -> Settings {
    let scorers = ScorerKind::ALL
        .into_iter()
        .zip(weights)
        .map(|(kind, weight)| (kind, Weight(*weight)))
        .collect();
    Settings {
        decode: ProfileConfig { scorers },
        ..by_load()
    }
}

proptest! {
    #[test]
    fn what_was_filtered_out_never_wins(fleet in fleets(), weights: [u8; 4], session: Option<u64>, turn: usize) {
        let request = Request { session, ..Request::default() };
        let settings = all_scorers(&weights.map(u32::from));
        if let Ok(decision) = schedule(&settings, &request, &fleet, turn) {
            let winner = fleet.iter().find(|candidate| candidate.id == decision.decode).unwrap();
            prop_assert!(winner.ready && winner.role != Role::Prefill);
        } else {
            prop_assert!(!fleet.iter().any(|candidate| candidate.ready && candidate.role != Role::Prefill));
        }
    }

    #[test]
    fn the_order_of_endpoints_does_not_change_scores(fleet in fleets(), weights: [u8; 4], session: Option<u64>) {
        let request = Request { session, ..Request::default() };
        let settings = all_scorers(&weights.map(u32::from));
        let table = |fleet: &[Candidate]| schedule(&settings, &request, fleet, 0).map(|decision| {
            let mut rows = decision.explain;
            rows.sort_by_key(|row| row.endpoint);
            rows
        });
        let mut reversed = fleet.clone();
        reversed.reverse();
        prop_assert_eq!(table(&fleet), table(&reversed));
    }

    #[test]
    fn every_score_is_from_0_to_1(fleet in fleets(), session: Option<u64>) {
        let request = Request { session, ..Request::default() };
        if let Ok(decision) = schedule(&all_scorers(&[1; 4]), &request, &fleet, 0) {
            prop_assert!(decision.explain.iter().flat_map(|row| &row.scores).all(|(_, score, _)| (0.0..=1.0).contains(score)));
        }
    }

    #[test]
    fn a_session_stays_when_other_endpoints_go(fleet in fleets(), session: u64) {
        let request = Request { session: Some(session), ..Request::default() };
        let settings = all_scorers(&[0, 1, 0, 0]);
        if let Ok(before) = schedule(&settings, &request, &fleet, 0) {
            let survivors: Vec<_> = fleet.iter().enumerate()
                .filter(|(index, candidate)| candidate.id == before.decode || index % 2 == 0)
                .map(|(_, candidate)| candidate.clone()).collect();
            prop_assert_eq!(schedule(&settings, &request, &survivors, 0).unwrap().decode, before.decode);
        }
    }
}
