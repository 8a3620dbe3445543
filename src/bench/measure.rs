//! Counters and answers -> the figures of a run. PURE.
#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};

use super::outcome::{
    Ceiling, HealthRow, Latency, PodRow, RequestRow, Run, SCHEMA, SessionRow, Spread, Stickiness,
    Target, Totals, Verdict,
};
use super::plan::Workload;
use super::tally::Tally;

/// The most sessions that get a row.
const SESSION_ROWS: usize = 50;

/// Everything a run saw.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What the caller calls the run.
    pub label: String,
    /// RFC 3339.
    pub started_at: String,
    /// Its id.
    pub run_id: String,
    /// What was tested.
    pub target: Target,
    /// What was sent.
    pub workload: Workload,
    /// The counters.
    pub tally: Tally,
    /// The health check.
    pub health: HealthRow,
    /// The measured requests.
    pub requests: Vec<RequestRow>,
    /// The most that was possible.
    pub ceiling: Option<Ceiling>,
    /// The least hit rate that the caller accepts, in percent.
    pub min_hit_rate_percent: Option<f64>,
    /// What the run has to say so far.
    pub notes: Vec<String>,
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64 * 100.0)
}

/// Computes the outcome.
pub fn outcome(facts: Facts) -> Run {
    let totals = totals(&facts);
    let stickiness = stickiness(&facts, &totals);
    let verdict = verdict(&totals, facts.min_hit_rate_percent, &facts.requests);
    let mut notes = facts.notes.clone();
    notes.extend(remarks(&facts, &totals));
    Run {
        schema: SCHEMA.to_owned(),
        pods: pods(&facts, &totals),
        latency: latency(&facts.requests, facts.workload.stream),
        label: facts.label,
        started_at: facts.started_at,
        run_id: facts.run_id,
        target: facts.target,
        workload: facts.workload,
        totals,
        stickiness,
        ceiling: facts.ceiling,
        health_check: facts.health,
        requests: facts.requests,
        verdict,
        notes,
    }
}

fn answered(row: &RequestRow) -> bool {
    row.status == Some(200) && row.error.is_none()
}

fn totals(facts: &Facts) -> Totals {
    let sums = facts.tally.totals();
    let good = || facts.requests.iter().filter(|row| answered(row));
    let answered = good().count() as u64;
    let reported = good()
        .map(|row| (row.prompt_tokens, row.cached_tokens))
        .chain([(facts.health.prompt_tokens, facts.health.cached_tokens)]);
    let mut cached = None;
    let mut prompt = 0;
    for (tokens, found) in reported {
        prompt += tokens.unwrap_or(0);
        if let Some(found) = found {
            *cached.get_or_insert(0) += found;
        }
    }
    Totals {
        query_tokens: sums.query_tokens,
        hit_tokens: sums.hit_tokens,
        hit_rate_percent: sums.percent(),
        reported_prompt_tokens: prompt,
        reported_cached_tokens: cached,
        answered,
        failed: facts.requests.len() as u64 - answered,
    }
}

fn pods(facts: &Facts, totals: &Totals) -> Vec<PodRow> {
    facts
        .tally
        .pods()
        .iter()
        .map(|(name, pod)| PodRow {
            name: name.clone(),
            query_tokens: pod.since.query_tokens,
            hit_tokens: pod.since.hit_tokens,
            hit_rate_percent: pod.since.percent(),
            query_share_percent: share(pod.since.query_tokens, totals.query_tokens),
            requests: facts
                .requests
                .iter()
                .filter(|row| row.pod.as_ref() == Some(name))
                .count() as u64,
            restarts: pod.restarts,
            appeared: pod.appeared,
            lost: pod.lost,
        })
        .collect()
}

fn stickiness(facts: &Facts, totals: &Totals) -> Stickiness {
    let top = facts
        .tally
        .pods()
        .iter()
        .max_by_key(|(_, pod)| pod.since.query_tokens)
        .filter(|_| totals.query_tokens > 0);
    let mut by_session: BTreeMap<usize, BTreeMap<&str, u64>> = BTreeMap::new();
    let mut sources = BTreeSet::new();
    for row in &facts.requests {
        if let Some(pod) = &row.pod {
            *by_session
                .entry(row.session)
                .or_default()
                .entry(pod)
                .or_insert(0) += 1;
            sources.extend(row.pod_from.as_deref());
        }
    }
    let sessions: Vec<SessionRow> = by_session
        .iter()
        .filter_map(|(session, pods)| {
            let (pod, most) = pods.iter().max_by_key(|(_, count)| **count)?;
            let requests = pods.values().sum();
            Some(SessionRow {
                session: *session,
                requests,
                pod: (*pod).to_owned(),
                percent: share(*most, requests)?,
                pods: pods.len(),
            })
        })
        .collect();
    let known: u64 = sessions.iter().map(|row| row.requests).sum();
    let on_top: u64 = by_session
        .values()
        .filter_map(|pods| pods.values().max())
        .sum();
    Stickiness {
        token_percent: top.and_then(|(_, pod)| share(pod.since.query_tokens, totals.query_tokens)),
        token_pod: top.map(|(name, _)| name.clone()),
        request_percent: share(on_top, known),
        pods_known_from: sources.into_iter().collect::<Vec<_>>().join(", "),
        requests_known: known,
        sessions: sessions.into_iter().take(SESSION_ROWS).collect(),
    }
}

fn verdict(totals: &Totals, least: Option<f64>, requests: &[RequestRow]) -> Verdict {
    let mut reasons = Vec::new();
    if totals.failed > 0 {
        let first = requests
            .iter()
            .find(|row| !answered(row))
            .map(|row| {
                let status = row
                    .status
                    .map_or("no status".to_owned(), |status| status.to_string());
                let error = row.error.as_deref().unwrap_or("no reason");
                format!("; the first: request {}, {status}, {error}", row.number)
            })
            .unwrap_or_default();
        reasons.push(format!(
            "{} of {} requests were not answered with 200{first}",
            totals.failed,
            requests.len()
        ));
    }
    match (totals.hit_rate_percent, least) {
        (None, _) => {
            reasons.push("the decode pods counted no query tokens in the window".to_owned());
        }
        (Some(rate), Some(least)) if rate < least => {
            reasons.push(format!("hit rate {rate:.2} % is below {least:.2} %"));
        }
        _ => {}
    }
    let grade = match totals.hit_rate_percent {
        None => "none",
        Some(rate) if rate >= 80.0 => "excellent",
        Some(rate) if rate >= 60.0 => "good",
        Some(rate) if rate >= 40.0 => "fair",
        Some(_) => "poor",
    };
    Verdict {
        ok: reasons.is_empty(),
        grade: grade.to_owned(),
        reasons,
        min_hit_rate_percent: least,
    }
}

/// What does not fit together in the figures, for the reader to judge.
fn remarks(facts: &Facts, totals: &Totals) -> Vec<String> {
    let mut notes = Vec::new();
    let reported = totals.reported_prompt_tokens;
    if reported > 0 && reported != totals.query_tokens {
        notes.push(format!(
            "The pods counted {} query tokens, the answers in the window add up to {reported}: {}.",
            totals.query_tokens,
            if totals.query_tokens > reported {
                "other requests reached the pods, or an engine counts a prompt more than once"
            } else {
                "counters were lost with a pod, or are read late"
            }
        ));
    }
    if let (Some(rate), Some(ceiling)) = (totals.hit_rate_percent, &facts.ceiling)
        && rate > ceiling.percent + 0.005
    {
        notes.push(
            "The hit rate is above the ceiling: the caches knew more than this run sent, from an \
             earlier run or from what the chat template puts in front of every prompt."
                .to_owned(),
        );
    }
    for (name, pod) in facts.tally.pods() {
        if pod.restarts > 0 {
            notes.push(format!(
                "The counters of {name} began anew {} time(s) in the window.",
                pod.restarts
            ));
        }
        if pod.appeared {
            notes.push(format!("{name} came up after the baseline."));
        }
        if pod.lost {
            notes.push(format!(
                "{name} could not be read at the end; its figures end before."
            ));
        }
    }
    notes
}

/// The figures of several times in milliseconds; `None` of none.
pub fn spread(mut times: Vec<f64>) -> Option<Spread> {
    times.sort_by(f64::total_cmp);
    let max = *times.last()?;
    let rank = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
    Some(Spread {
        count: times.len(),
        mean_milliseconds: mean(&times)?,
        p50_milliseconds: rank(50),
        p95_milliseconds: rank(95),
        max_milliseconds: max,
    })
}

fn mean(times: &[f64]) -> Option<f64> {
    (!times.is_empty()).then(|| times.iter().sum::<f64>() / times.len() as f64)
}

fn latency(requests: &[RequestRow], stream: bool) -> Latency {
    let good: Vec<_> = requests.iter().filter(|row| answered(row)).collect();
    let of = |cold: bool, time: fn(&RequestRow) -> Option<f64>| {
        let times = good
            .iter()
            .filter(|row| (row.turn == 1) == cold)
            .filter_map(|row| time(row))
            .collect();
        spread(times)
    };
    let first: Vec<f64> = good
        .iter()
        .filter_map(|row| row.first_milliseconds)
        .collect();
    Latency {
        first_is: if stream { "first-token" } else { "first-byte" }.to_owned(),
        first_cold: of(true, |row| row.first_milliseconds),
        first_warm: of(false, |row| row.first_milliseconds),
        total_cold: of(true, |row| row.total_milliseconds),
        total_warm: of(false, |row| row.total_milliseconds),
        mean_of_first_three_milliseconds: mean(&first[..first.len().min(3)]),
        mean_of_last_three_milliseconds: mean(&first[first.len().saturating_sub(3)..]),
    }
}

/// One point of the hit rate over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Requests done, from 1.
    pub done: u64,
    /// Hit rate since the baseline, in percent.
    pub cumulative: f64,
    /// Hit rate of the last [`WINDOW`] requests, or a few more where counters were not read
    /// after each one, in percent; absent before there are as many.
    pub windowed: Option<f64>,
}

/// Requests of the moving window.
pub const WINDOW: u64 = 5;

/// The hit rate over a run, from the counters read after each request; where there are
/// none, from what the answers reported. The second value says which.
pub fn series(run: &Run) -> (Vec<Point>, &'static str) {
    let mut counted: Vec<Reading> = run
        .requests
        .iter()
        .filter_map(|row| {
            Some((
                row.window_requests?,
                row.window_query_tokens?,
                row.window_hit_tokens?,
            ))
        })
        .collect();
    // Requests in flight together finish in another order than they were planned.
    counted.sort_unstable();
    if !counted.is_empty() {
        return (points(&counted), "counters");
    }
    let mut reported = Vec::new();
    let mut sum = (0, 0, 0);
    for row in run.requests.iter().filter(|row| answered(row)) {
        if let (Some(tokens), Some(cached)) = (row.prompt_tokens, row.cached_tokens) {
            sum = (sum.0 + 1, sum.1 + tokens, sum.2 + cached);
            reported.push(sum);
        }
    }
    (points(&reported), "answers")
}

/// Requests done, query tokens and hit tokens since the baseline.
type Reading = (u64, u64, u64);

fn points(readings: &[Reading]) -> Vec<Point> {
    let mut earlier = readings.iter().peekable();
    let mut before: Option<&Reading> = None;
    readings
        .iter()
        .filter_map(|(done, queries, hits)| {
            while let Some(next) = earlier.next_if(|next| next.0 + WINDOW <= *done) {
                before = Some(next);
            }
            let windowed = before.and_then(|(_, then_queries, then_hits)| {
                share(
                    hits.checked_sub(*then_hits)?,
                    queries.checked_sub(*then_queries)?,
                )
            });
            Some(Point {
                done: *done,
                cumulative: share(*hits, *queries)?,
                windowed,
            })
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests;
