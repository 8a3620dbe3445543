//! Properties every decision has, whatever the input.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;

use super::config::{ProfileConfig, ScorerKind, Settings, Weight};
use super::decision::NoEndpoint;
use super::endpoint::{Candidate, EndpointId, Role};
use super::request::{Allowed, Request};
use super::schedule;

fn candidate(last: u8, role: Role, ready: bool, in_flight: u64) -> Candidate {
    let id = EndpointId(SocketAddr::new(IpAddr::from([10, 0, 0, last]), 8000));
    Candidate {
        id,
        role,
        ready,
        in_flight,
        cached_blocks: 0,
        prefix_blocks: 0,
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
fn long_prompts_get_a_prefill_endpoint_when_asked_for() {
    let fleet = [
        candidate(1, Role::Decode, true, 0),
        candidate(2, Role::Prefill, true, 0),
    ];
    let settings = Settings {
        pd_enabled: true,
        pd_threshold: 100,
        ..by_load()
    };
    let decide = |prompt_bytes| {
        let request = Request {
            prompt_bytes,
            ..Request::default()
        };
        schedule(&settings, &request, &fleet, 0).unwrap().prefill
    };
    assert_eq!(decide(99), None);
    assert_eq!(decide(100), Some(fleet[1].id));
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
    fn fleets()(pods in prop::collection::vec((0_u8..3, any::<bool>(), 0_u64..20, 0_u32..9), 0..12)) -> Vec<Candidate> {
        pods.into_iter().enumerate().map(|(index, (role, ready, in_flight, cached_blocks))| Candidate {
            cached_blocks,
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
        let request = Request { session, prompt_blocks: 8, ..Request::default() };
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
        let request = Request { session, prompt_blocks: 8, ..Request::default() };
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
        let request = Request { session, prompt_blocks: 4, ..Request::default() };
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
