//! Figures of runs whose result is known by hand, the published one first.

use super::*;
use crate::bench::ceiling::Method;
use crate::bench::exposition::Counters;
use crate::bench::plan::tests::workload;

fn counters(query_tokens: u64, hit_tokens: u64) -> Counters {
    Counters {
        query_tokens,
        hit_tokens,
    }
}

/// The published run: 30 prompts of 158 tokens and a health check of 36, one cold request.
pub(crate) fn published() -> Facts {
    let mut tally = Tally::new([
        ("b26rq".to_owned(), counters(10_000, 5_000)),
        ("other".to_owned(), counters(700, 70)),
    ]);
    tally.read(&BTreeMap::from([
        ("b26rq".to_owned(), Some(counters(14_772, 9_176))),
        ("other".to_owned(), Some(counters(704, 70))),
    ]));
    let requests = (1..=30)
        .map(|number| RequestRow {
            number,
            session: 1,
            turn: number,
            status: Some(200),
            pod: Some("b26rq".to_owned()),
            pod_from: Some("x-inference-pod".to_owned()),
            prompt_tokens: Some(158),
            cached_tokens: Some(if number == 1 { 0 } else { 144 }),
            first_milliseconds: Some(if number == 1 {
                900.0
            } else {
                90.0 + number as f64
            }),
            total_milliseconds: Some(if number == 1 { 1100.0 } else { 290.0 }),
            window_query_tokens: Some(36 + 158 * number as u64),
            window_hit_tokens: Some(144 * (number as u64 - 1)),
            window_requests: Some(number as u64),
            ..RequestRow::default()
        })
        .collect();
    Facts {
        label: "published".to_owned(),
        started_at: "2025-09-01T00:00:00Z".to_owned(),
        run_id: "r1".to_owned(),
        target: Target {
            url: "http://gateway".to_owned(),
            host: None,
            namespace: Some("llm-d".to_owned()),
            selector: Some("llm-d.ai/role=decode".to_owned()),
            counters_from: "api-proxy".to_owned(),
        },
        workload: workload(),
        tally,
        health: HealthRow {
            models_status: Some(200),
            models_tries: 1,
            chat_status: Some(200),
            chat_tries: 1,
            prompt_tokens: Some(36),
            cached_tokens: Some(0),
            pod: Some("other".to_owned()),
        },
        requests,
        ceiling: Some(Ceiling {
            percent: 4320.0 / 4776.0 * 100.0,
            hit_tokens: 4320,
            query_tokens: 4776,
            method: Method::EqualPrompts,
            block_size: 16,
            block_size_from: "engine".to_owned(),
        }),
        min_hit_rate_percent: None,
        notes: Vec::new(),
    }
}

#[test]
fn the_published_counters_give_the_published_figures() {
    let run = outcome(published());
    assert_eq!(run.totals.query_tokens, 4776);
    assert_eq!(run.totals.hit_tokens, 4176);
    let near = |value: Option<f64>, expected: f64| (value.unwrap() - expected).abs() < 0.005;
    assert!(near(run.totals.hit_rate_percent, 87.44));
    assert!(near(run.stickiness.token_percent, 99.92));
    assert!(near(run.pods[0].hit_rate_percent, 87.51));
    assert_eq!(run.stickiness.token_pod.as_deref(), Some("b26rq"));
    assert_eq!(run.totals.reported_prompt_tokens, 4776);
    assert_eq!(run.verdict.grade, "excellent");
    assert!(run.verdict.ok && run.notes.is_empty(), "{:?}", run.notes);
}

#[test]
fn a_hit_rate_below_the_wish_is_no_success() {
    let mut facts = published();
    facts.min_hit_rate_percent = Some(88.0);
    let run = outcome(facts);
    assert!(!run.verdict.ok);
    assert_eq!(run.verdict.reasons, ["hit rate 87.44 % is below 88.00 %"]);
}

#[test]
fn one_request_that_fails_is_no_success() {
    let mut facts = published();
    facts.requests[4].status = Some(503);
    facts.requests[4].error = Some("no pod is ready".to_owned());
    let run = outcome(facts);
    assert!(!run.verdict.ok);
    assert!(run.verdict.reasons[0].contains("1 of 30"));
    assert!(run.verdict.reasons[0].contains("request 5, 503, no pod is ready"));
}

#[test]
fn pods_that_counted_nothing_are_no_success() {
    let mut facts = published();
    facts.tally = Tally::new([("a".to_owned(), counters(5, 5))]);
    let run = outcome(facts);
    assert_eq!(run.totals.hit_rate_percent, None);
    assert_eq!(run.stickiness.token_percent, None);
    assert_eq!(run.verdict.grade, "none");
    assert!(!run.verdict.ok);
}

#[test]
fn stickiness_by_requests_counts_each_sessions_own_pod() {
    let mut facts = published();
    for (index, row) in facts.requests.iter_mut().enumerate() {
        row.session = 1 + index % 2;
        row.pod = Some(if index % 2 == 0 { "b26rq" } else { "other" }.to_owned());
    }
    facts.requests[0].pod = Some("other".to_owned());
    facts.requests[2].pod = None;
    let run = outcome(facts);
    // 13 of 14 known in session 1, 15 of 15 in session 2.
    assert_eq!(run.stickiness.requests_known, 29);
    assert!((run.stickiness.request_percent.unwrap() - 28.0 / 29.0 * 100.0).abs() < 1e-9);
    assert_eq!(run.stickiness.sessions[0].pods, 2);
    assert_eq!(run.stickiness.sessions[1].pod, "other");
}

#[test]
fn strange_traffic_in_the_window_is_noticed() {
    let mut facts = published();
    facts.requests.pop();
    let run = outcome(facts);
    assert!(run.notes[0].contains("4776") && run.notes[0].contains("other requests"));
}

#[test]
fn a_rate_above_the_ceiling_is_explained() {
    let mut facts = published();
    facts.ceiling.as_mut().unwrap().percent = 80.0;
    let run = outcome(facts);
    assert!(run.notes[0].contains("above the ceiling"));
}

#[test]
fn percentiles_are_by_nearest_rank() {
    let all = spread((1..=20).map(f64::from).collect()).unwrap();
    assert!((all.p50_milliseconds - 10.0).abs() < f64::EPSILON);
    assert!((all.p95_milliseconds - 19.0).abs() < f64::EPSILON);
    assert!((all.mean_milliseconds - 10.5).abs() < f64::EPSILON);
    let one = spread(vec![7.0]).unwrap();
    assert!((one.p95_milliseconds - 7.0).abs() < f64::EPSILON);
    assert_eq!(spread(Vec::new()), None);
}

#[test]
fn the_first_request_of_a_session_is_cold_and_the_others_are_warm() {
    let latency = outcome(published()).latency;
    assert_eq!(latency.first_cold.unwrap().count, 1);
    let warm = latency.first_warm.unwrap();
    assert_eq!(warm.count, 29);
    assert!((warm.p50_milliseconds - 106.0).abs() < f64::EPSILON);
}

#[test]
fn the_series_ends_at_the_total_and_its_window_forgets_the_cold_start() {
    let run = outcome(published());
    let (points, from) = series(&run);
    assert_eq!((points.len(), from), (30, "counters"));
    let last = points[29];
    assert!((last.cumulative - 4176.0 / 4776.0 * 100.0).abs() < 1e-9);
    assert!((last.windowed.unwrap() - 144.0 / 158.0 * 100.0).abs() < 1e-9);
    assert_eq!(points[4].windowed, None);
}

#[test]
fn readings_that_skip_requests_keep_their_places() {
    let mut run = outcome(published());
    for row in &mut run.requests {
        if row.number % 4 != 0 {
            row.window_requests = None;
        }
    }
    let (points, _) = series(&run);
    assert_eq!(
        points
            .iter()
            .map(|point| point.done)
            .take(3)
            .collect::<Vec<_>>(),
        [4, 8, 12]
    );
    // From 4 to 12: eight warm requests.
    assert!((points[2].windowed.unwrap() - 144.0 / 158.0 * 100.0).abs() < 1e-9);
    assert_eq!(points[1].windowed, None);
}

#[test]
fn without_counters_after_each_request_the_series_comes_from_the_answers() {
    let mut run = outcome(published());
    for row in &mut run.requests {
        row.window_query_tokens = None;
    }
    let (points, from) = series(&run);
    assert_eq!((points.len(), from), (30, "answers"));
    assert!(points[0].cumulative.abs() < f64::EPSILON);
}

#[test]
fn the_outcome_reads_back_as_it_was_written() {
    let run = outcome(published());
    let text = serde_json::to_string(&run).unwrap();
    let read = crate::bench::outcome::read(&text).unwrap();
    assert_eq!(read.requests, run.requests);
    assert_eq!(read.workload, run.workload);
    assert_eq!(read.verdict, run.verdict);
    // The last digit of a fraction is not kept.
    let apart = read.totals.hit_rate_percent.unwrap() - run.totals.hit_rate_percent.unwrap();
    assert!(apart.abs() < 1e-9);
}
