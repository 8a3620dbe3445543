//! The table against a plain model, replicas that agree, and writers that run at one time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const STICKY: Duration = Duration::from_secs(80);
const T0: UnixMillis = UnixMillis(1_700_000_000_000);

fn table(max_bindings: usize) -> Table {
    Table::new(Limits {
        sticky: STICKY,
        max_bindings,
    })
}

fn at(milliseconds: u64) -> UnixMillis {
    UnixMillis(T0.0 + milliseconds)
}

fn endpoint(number: u8) -> EndpointId {
    EndpointId(SocketAddr::from(([10, 0, 0, number], 8000)))
}

fn bound(number: u8) -> Bound {
    Bound {
        endpoint: endpoint(number),
        pod_uid: u64::from(number),
    }
}

fn change(session: SessionHash, number: u8, at: UnixMillis) -> Change {
    Change {
        session,
        bound: bound(number),
        at,
    }
}

#[test]
fn a_session_stays_where_it_was_bound() {
    let table = table(10);
    assert_eq!(table.get(7, T0), None);
    let (bind, told, evicted) = table.bind(7, bound(1), T0);
    assert_eq!(
        (bind, told, evicted),
        (Bind::New, Some(change(7, 1, T0)), 0)
    );
    assert_eq!(table.get(7, at(1)), Some(bound(1)));
    assert_eq!(table.get(8, at(1)), None);
    assert_eq!(table.bind(7, bound(1), at(2)), (Bind::Kept, None, 0));
    let (bind, told, _) = table.bind(7, bound(2), at(3));
    assert_eq!((bind, told), (Bind::Moved, Some(change(7, 2, at(3)))));
    assert_eq!((table.count(endpoint(1)), table.count(endpoint(2))), (0, 1));
}

#[test]
fn a_binding_lasts_its_sticky_duration_after_its_last_use() {
    let table = table(10);
    table.bind(7, bound(1), T0);
    assert_eq!(table.get(7, at(79_999)), Some(bound(1)));
    assert_eq!(table.get(7, at(80_000)), None);
    table.touch(7, at(50_000));
    assert_eq!(table.get(7, at(129_999)), Some(bound(1)));
    assert_eq!(table.sweep(at(129_999)), Swept::default());
    assert_eq!(table.get(7, at(130_000)), None);
    assert_eq!(
        table.touch(7, at(130_000)),
        None,
        "an expired binding is not revived"
    );
    assert_eq!(table.get(7, at(130_000)), None);
    assert_eq!(table.count(endpoint(1)), 1, "until the sweep");
    assert_eq!(table.sweep(at(130_000)).expired, 1);
    assert_eq!((table.len(), table.count(endpoint(1))), (0, 0));
    assert_eq!(table.tallies.len(), 0);
}

#[test]
fn an_expired_binding_is_bound_anew_and_counted_once() {
    let table = table(10);
    table.bind(7, bound(1), T0);
    let (bind, told, _) = table.bind(7, bound(2), at(80_000));
    assert_eq!((bind, told), (Bind::New, Some(change(7, 2, at(80_000)))));
    let (bind, _, _) = table.bind(7, bound(2), at(200_000));
    assert_eq!(bind, Bind::New);
    assert_eq!((table.count(endpoint(1)), table.count(endpoint(2))), (0, 1));
}

#[test]
fn uses_are_told_every_eighth_of_the_sticky_duration() {
    let table = table(10);
    table.bind(7, bound(1), T0);
    assert_eq!(table.touch(7, at(9_999)), None);
    assert_eq!(table.touch(7, at(10_000)), Some(change(7, 1, at(10_000))));
    assert_eq!(table.touch(7, at(10_001)), None);
    let (_, told, _) = table.bind(7, bound(1), at(20_000));
    assert_eq!(told, Some(change(7, 1, at(20_000))));
    let short = Limits {
        sticky: Duration::from_secs(2),
        ..Limits::default()
    };
    assert_eq!(short.refresh(), Duration::from_secs(1));
}

#[test]
fn the_newer_binding_wins_and_of_equals_the_smaller_endpoint() {
    for (known, heard, wanted, merge) in [
        ((1, 5), (2, 6), 2, Merge::Moved),
        ((1, 5), (2, 4), 1, Merge::Older),
        ((1, 5), (2, 5), 1, Merge::Older),
        ((2, 5), (1, 5), 1, Merge::Moved),
        ((1, 5), (1, 6), 1, Merge::Refreshed),
        ((1, 5), (1, 5), 1, Merge::Older),
        // As text, 10.0.0.10 is smaller than 10.0.0.9.
        ((9, 5), (10, 5), 10, Merge::Moved),
    ] {
        let table = table(10);
        table.bind(7, bound(known.0), at(known.1));
        let heard = change(7, heard.0, at(heard.1));
        assert_eq!(table.merge(&heard, at(10)).0, merge, "{known:?} {heard:?}");
        assert_eq!(
            table.get(7, at(10)),
            Some(bound(wanted)),
            "{known:?} {heard:?}"
        );
        assert_eq!(table.count(endpoint(wanted)), 1);
    }
}

#[test]
fn uses_that_nobody_was_told_of_do_not_make_a_binding_win() {
    let table = table(10);
    table.bind(7, bound(1), T0);
    table.touch(7, at(500));
    assert_eq!(table.merge(&change(7, 2, at(400)), at(501)).0, Merge::Moved);
    assert_eq!(table.get(7, at(501)), Some(bound(2)));
}

#[test]
fn a_local_decision_wins_over_a_clock_that_is_ahead() {
    let table = table(10);
    table.merge(&change(7, 1, at(60_000)), T0);
    let (bind, told, _) = table.bind(7, bound(2), at(1));
    assert_eq!((bind, told), (Bind::Moved, Some(change(7, 2, at(60_001)))));
}

#[test]
fn what_is_expired_or_from_the_future_is_not_taken() {
    let table = table(10);
    assert_eq!(table.merge(&change(7, 1, T0), at(80_000)).0, Merge::Expired);
    let ahead = T0.plus(MAX_AHEAD);
    assert_eq!(
        table.merge(&change(7, 1, UnixMillis(ahead.0 + 1)), T0).0,
        Merge::Ahead
    );
    assert_eq!(
        table.merge(&change(7, 1, UnixMillis(u64::MAX)), T0).0,
        Merge::Ahead
    );
    assert!(table.is_empty());
    assert_eq!(table.merge(&change(7, 1, ahead), T0).0, Merge::New);
}

#[test]
fn a_lost_pod_loses_its_sessions_and_a_successor_inherits_none() {
    let table = table(10);
    for session in 0..6 {
        table.bind(session, bound(1 + (session % 2) as u8), T0);
    }
    assert_eq!(table.forget_endpoint(endpoint(1)), 3);
    assert_eq!(
        (
            table.count(endpoint(1)),
            table.count(endpoint(2)),
            table.len()
        ),
        (0, 3, 3)
    );
    assert_eq!(table.get(0, T0), None);
    let successor = Bound {
        pod_uid: 99,
        ..bound(2)
    };
    table.bind(1, successor, at(1));
    assert_eq!(table.forget_predecessors(successor), 2);
    assert_eq!(table.get(1, at(1)), Some(successor));
    assert_eq!((table.get(3, at(1)), table.len()), (None, 1));
}

#[test]
fn a_full_table_evicts_what_was_used_longest_ago() {
    let table = table(160);
    for session in 0..160 {
        assert_eq!(table.bind(session, bound(1), at(session)).2, 0);
    }
    table.touch(0, at(1_000));
    let (bind, _, evicted) = table.bind(1_000, bound(2), at(1_001));
    assert_eq!((bind, evicted), (Bind::New, 10));
    assert_eq!(table.len(), 151);
    assert!(table.get(0, at(1_001)).is_some(), "used again");
    for session in 1..=10 {
        assert_eq!(table.get(session, at(1_001)), None, "{session}");
    }
    assert!(table.get(11, at(1_001)).is_some());
    assert_eq!(table.count(endpoint(1)), 150);
    // A session that is there needs no room.
    for session in 2_000..2_009 {
        table.bind(session, bound(1), at(2_000));
    }
    assert_eq!(table.len(), 160);
    assert_eq!(table.bind(0, bound(2), at(2_001)).2, 0);
}

#[test]
fn a_sweep_makes_room_before_the_table_is_full() {
    let table = table(160);
    for session in 0..149 {
        table.bind(session, bound(1), at(session));
    }
    assert!(!table.is_crowded());
    assert_eq!(table.sweep(at(149)), Swept::default());
    table.bind(149, bound(1), at(149));
    assert!(table.is_crowded());
    let evicted = 10;
    assert_eq!(
        table.sweep(at(150)),
        Swept {
            expired: 0,
            evicted
        }
    );
    assert_eq!((table.len(), table.get(9, at(150))), (140, None));
    assert!(table.get(10, at(150)).is_some());
    // What has expired makes room enough.
    for session in 200..210 {
        table.bind(session, bound(2), at(80_000));
    }
    let swept = table.sweep(at(80_100));
    assert_eq!((swept.expired, swept.evicted, table.len()), (91, 0, 59));
}

#[test]
fn the_bound_holds_when_every_use_is_of_one_moment() {
    for max in [0, 1, 3, 100] {
        let table = table(max);
        for session in 0..500 {
            table.bind(session, bound(1), T0);
            assert!(table.len() <= max.max(1), "{max}: {}", table.len());
        }
        assert_eq!(table.count(endpoint(1)), table.len() as u64);
    }
}

#[test]
fn writers_at_one_time_leave_exact_counts() {
    let table = Arc::new(table(200));
    // The table's size is a sum over parts, exact while nobody changes them: now and then all
    // writers stand still to have it looked at.
    let quiet = std::sync::Barrier::new(4);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (table, quiet) = (Arc::clone(&table), &quiet);
            scope.spawn(move || {
                for round in 0..20_000_u64 {
                    let mixed = (round * 7 + thread).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
                    let (session, number) = (mixed % 300, (mixed / 300 % 5) as u8);
                    let now = at(round);
                    match mixed % 64 {
                        0 => drop(table.forget_endpoint(endpoint(number))),
                        1 => {
                            let _ = table.sweep(now);
                        }
                        2..20 => {
                            let _ = table.merge(&change(session, number, now), now);
                        }
                        20..40 => drop(table.touch(session, now)),
                        _ => drop(table.bind(session, bound(number), now)),
                    }
                    if round % 100 == 99 {
                        quiet.wait();
                        // Four writers may each have been past the check for room.
                        let bindings = table.len();
                        quiet.wait();
                        assert!(bindings <= 204, "{bindings}");
                    }
                }
            });
        }
    });
    let bindings = table.bindings.pin();
    for number in 0..5 {
        let wanted = bindings
            .values()
            .filter(|b| b.bound == bound(number))
            .count();
        assert_eq!(table.count(endpoint(number)), wanted as u64);
    }
    table.sweep(at(10_000_000));
    assert_eq!((table.len(), table.tallies.len()), (0, 0));
}

#[derive(Clone, Debug)]
enum Step {
    Bind(u64, u8),
    Merge(u64, u8, u64),
    Touch(u64),
    Forget(u8),
    Sweep,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..6_u64, 0..4_u8).prop_map(|(session, number)| Step::Bind(session, number)),
        4 => (0..6_u64, 0..4_u8, 0..300_000_u64).prop_map(|(s, n, at)| Step::Merge(s, n, at)),
        2 => (0..6_u64).prop_map(Step::Touch),
        1 => (0..4_u8).prop_map(Step::Forget),
        1 => Just(Step::Sweep),
        3 => (0..50_000_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..60)
}

/// A binding of the model: where, last use, last told.
type Plain = BTreeMap<u64, (u8, u64, u64)>;

fn plain_step(model: &mut Plain, step: &Step, now: &mut u64) {
    let sticky = STICKY.as_millis() as u64;
    let alive = |used: u64, now: u64| used + sticky > now;
    match *step {
        Step::Bind(session, number) => match model.get(&session).copied() {
            Some((there, used, told)) if alive(used, *now) && there == number => {
                let told = if *now >= told + sticky / 8 {
                    *now
                } else {
                    told
                };
                model.insert(session, (there, used.max(*now), told));
            }
            Some((_, used, told)) if alive(used, *now) => {
                let at = (*now).max(told + 1);
                model.insert(session, (number, at, at));
            }
            _ => drop(model.insert(session, (number, *now, *now))),
        },
        Step::Merge(session, number, time) => {
            if !alive(time, *now) || time > *now + MAX_AHEAD.as_millis() as u64 {
                return;
            }
            match model.get(&session).copied() {
                Some((there, used, told)) if there == number => {
                    if time > told {
                        model.insert(session, (there, used.max(time), time));
                    }
                }
                Some((there, _, told)) if time < told || time == told && number > there => {}
                _ => drop(model.insert(session, (number, time, time))),
            }
        }
        Step::Touch(session) => {
            if let Some((_, used, told)) = model.get_mut(&session)
                && alive(*used, *now)
            {
                *used = (*used).max(*now);
                if *now >= *told + sticky / 8 {
                    *told = *now;
                }
            }
        }
        Step::Forget(number) => model.retain(|_, (there, ..)| *there != number),
        Step::Sweep => model.retain(|_, (_, used, _)| alive(*used, *now)),
        Step::Wait(time) => *now += time,
    }
}

fn step(table: &Table, step: &Step, now: u64) {
    match *step {
        Step::Bind(session, number) => drop(table.bind(session, bound(number), at(now))),
        Step::Merge(session, number, time) => {
            let _ = table.merge(&change(session, number, at(time)), at(now));
        }
        Step::Touch(session) => drop(table.touch(session, at(now))),
        Step::Forget(number) => drop(table.forget_endpoint(endpoint(number))),
        Step::Sweep => {
            let _ = table.sweep(at(now));
        }
        Step::Wait(_) => {}
    }
}

fn told(table: &Table) -> Vec<Change> {
    let bindings = table.bindings.pin();
    let mut all: Vec<Change> = bindings
        .iter()
        .map(|(session, b)| b.told(*session))
        .collect();
    all.sort_by_key(|change| change.session);
    all
}

proptest! {
    #[test]
    fn the_table_does_what_the_model_does(steps in steps()) {
        let table = table(1_000);
        let mut model = Plain::new();
        let mut now = 0;
        for one in &steps {
            plain_step(&mut model, one, &mut now);
            step(&table, one, now);
            prop_assert_eq!(table.len(), model.len(), "{:?}", one);
            for session in 0..6 {
                let wanted = model
                    .get(&session)
                    .filter(|(_, used, _)| used + STICKY.as_millis() as u64 > now)
                    .map(|(number, ..)| bound(*number));
                prop_assert_eq!(table.get(session, at(now)), wanted, "{:?}", one);
            }
            for number in 0..4 {
                let wanted = model.values().filter(|(there, ..)| *there == number).count() as u64;
                prop_assert_eq!(table.count(endpoint(number)), wanted, "{:?}", one);
            }
        }
    }

    #[test]
    fn replicas_agree_in_whatever_order_they_hear(
        (changes, shuffled) in prop::collection::vec((0..4_u64, 0..12_u8, 0..40_u64), 0..30)
            .prop_flat_map(|changes| {
                let twice = [changes.clone(), changes.clone()].concat();
                (Just(changes), Just(twice).prop_shuffle())
            })
    ) {
        let (one, other) = (table(1_000), table(1_000));
        for (table, heard) in [(&one, &changes), (&other, &shuffled)] {
            for (session, number, time) in heard {
                table.merge(&change(*session, *number, at(*time)), at(40));
            }
        }
        prop_assert_eq!(told(&one), told(&other));
    }

    #[test]
    fn replicas_that_bind_at_will_agree_once_they_have_heard_of_each_other(
        steps in prop::collection::vec((any::<bool>(), 0..3_u64, 0..4_u8, 0..15_000_u64, any::<bool>()), 0..40)
    ) {
        let replicas = [table(1_000), table(1_000)];
        let mut on_the_way: [Vec<Change>; 2] = Default::default();
        let mut now = 0;
        for (second, session, number, wait, delivered) in steps {
            now += wait / 10;
            let me = usize::from(second);
            let (_, told, _) = replicas[me].bind(session, bound(number), at(now));
            on_the_way[1 - me].extend(told);
            if delivered {
                for heard in on_the_way[me].drain(..) {
                    replicas[me].merge(&heard, at(now));
                }
            }
        }
        for me in 0..2 {
            for heard in on_the_way[me].drain(..) {
                replicas[me].merge(&heard, at(now));
            }
        }
        prop_assert_eq!(told(&replicas[0]), told(&replicas[1]));
    }
}
