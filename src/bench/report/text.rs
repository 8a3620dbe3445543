//! An outcome -> a table for a terminal. PURE.
#![deny(clippy::disallowed_methods)]

use super::{DEFINITIONS, ceiling_share, grouped, milliseconds, percent};
use crate::bench::outcome::{Run, Spread};

const LABEL_WIDTH: usize = 26;
const TEXT_WIDTH: usize = 96;

/// Renders the whole table.
pub fn render(run: &Run) -> String {
    let mut out = String::new();
    for block in [head(run), figures(run), latency(run)] {
        for (label, value) in block {
            out.push_str(&format!("{label:<LABEL_WIDTH$}{value}\n"));
        }
        out.push('\n');
    }
    out.push_str(&pods(run));
    out.push_str("\nWhat the figures mean\n");
    for (term, meaning) in DEFINITIONS {
        out.push_str(&wrapped(&format!("{term}: {meaning}")));
    }
    if !run.notes.is_empty() {
        out.push_str("\nNotes\n");
        for note in &run.notes {
            out.push_str(&wrapped(&printable(note)));
        }
    }
    out.push('\n');
    if run.verdict.ok {
        out.push_str(&format!("verdict: ok, hit rate {}\n", run.verdict.grade));
    } else {
        out.push_str("verdict: not ok\n");
        for reason in &run.verdict.reasons {
            out.push_str(&wrapped(&printable(reason)));
        }
    }
    out
}

type Lines = Vec<(String, String)>;

fn line(label: &str, value: impl Into<String>) -> (String, String) {
    (label.to_owned(), value.into())
}

fn head(run: &Run) -> Lines {
    vec![
        line("gateway", printable(&run.target.url)),
        line("model", printable(&run.workload.model)),
        line("load", load(run)),
        line("counters from", run.target.counters_from.clone()),
    ]
}

fn figures(run: &Run) -> Lines {
    let totals = &run.totals;
    let mut lines = vec![
        line("query tokens", grouped(totals.query_tokens)),
        line("hit tokens", grouped(totals.hit_tokens)),
        line(
            "HIT RATE",
            format!(
                "{}  ({})",
                percent(totals.hit_rate_percent),
                run.verdict.grade
            ),
        ),
    ];
    lines.extend(ceiling(run));
    let stickiness = &run.stickiness;
    let pod = stickiness.token_pod.as_deref();
    lines.push(line(
        "STICKINESS by tokens",
        format!(
            "{}  (on {})",
            percent(stickiness.token_percent),
            pod.map_or("–".to_owned(), printable),
        ),
    ));
    let from = match stickiness.pods_known_from.as_str() {
        "" => String::new(),
        from => format!(", from {from}"),
    };
    lines.push(line(
        "stickiness by requests",
        format!(
            "{}  ({} of {} requests have a known pod{from})",
            percent(stickiness.request_percent),
            stickiness.requests_known,
            run.requests.len(),
        ),
    ));
    lines.push(line(
        "requests",
        format!("{} answered, {} failed", totals.answered, totals.failed),
    ));
    lines.push(line("health check", health(run)));
    lines
}

fn ceiling(run: &Run) -> Lines {
    let Some(ceiling) = &run.ceiling else {
        return vec![line("ceiling", "not known")];
    };
    vec![
        line(
            "ceiling",
            format!(
                "{}  ({} of {} tokens; block size {}, {})",
                percent(Some(ceiling.percent)),
                grouped(ceiling.hit_tokens),
                grouped(ceiling.query_tokens),
                ceiling.block_size,
                ceiling.block_size_from,
            ),
        ),
        line("", ceiling.method.explained()),
        line("share of the ceiling", percent(ceiling_share(run))),
    ]
}

fn latency(run: &Run) -> Lines {
    let latency = &run.latency;
    let first = latency.first_is.replace('-', " ");
    vec![
        line(
            &format!("{first}, cold"),
            spread(latency.first_cold.as_ref()),
        ),
        line(
            &format!("{first}, warm"),
            spread(latency.first_warm.as_ref()),
        ),
        line("whole answer, cold", spread(latency.total_cold.as_ref())),
        line("whole answer, warm", spread(latency.total_warm.as_ref())),
        line(
            "first three, last three",
            format!(
                "{}, {} (mean {first})",
                milliseconds(latency.mean_of_first_three_milliseconds),
                milliseconds(latency.mean_of_last_three_milliseconds),
            ),
        ),
    ]
}

/// What was sent, in words.
pub(super) fn load(run: &Run) -> String {
    let load = &run.workload;
    let plural =
        |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let prompts = if load.prefix_groups > 0 {
        format!(
            "{} of {} words",
            plural(load.prefix_groups, "shared system prompt"),
            load.prefix_words
        )
    } else {
        "one prompt".to_owned()
    };
    format!(
        "{} x {}, {prompts}, {} in flight, {} s apart, {} before the window{}{}",
        plural(load.sessions, "session"),
        plural(load.requests, "request"),
        load.concurrency,
        load.sleep_seconds,
        plural(load.warmup, "warm-up"),
        if load.stream { ", streamed" } else { "" },
        if load.session_headers {
            ""
        } else {
            ", no session headers"
        },
    )
}

/// The health check, in words.
pub(super) fn health(run: &Run) -> String {
    let check = &run.health_check;
    let status = |status: Option<u16>| status.map_or("–".to_owned(), |status| status.to_string());
    format!(
        "/v1/models {} (tries: {}), chat {} (tries: {}), {} prompt tokens in the window",
        status(check.models_status),
        check.models_tries,
        status(check.chat_status),
        check.chat_tries,
        check.prompt_tokens.map_or("–".to_owned(), grouped),
    )
}

fn spread(spread: Option<&Spread>) -> String {
    spread.map_or("–".to_owned(), |spread| {
        format!(
            "p50 {}, p95 {}, mean {}, {} request{}",
            milliseconds(Some(spread.p50_milliseconds)),
            milliseconds(Some(spread.p95_milliseconds)),
            milliseconds(Some(spread.mean_milliseconds)),
            spread.count,
            if spread.count == 1 { "" } else { "s" },
        )
    })
}

fn pods(run: &Run) -> String {
    let width = run
        .pods
        .iter()
        .map(|pod| pod.name.chars().count())
        .max()
        .unwrap_or(0)
        .max(10)
        + 2;
    let mut out = format!(
        "{:<width$}{:>14}{:>14}{:>12}{:>12}{:>10}\n",
        "decode pod", "query tokens", "hit tokens", "hit rate", "share", "requests"
    );
    for pod in &run.pods {
        out.push_str(&format!(
            "{:<width$}{:>14}{:>14}{:>12}{:>12}{:>10}\n",
            printable(&pod.name),
            grouped(pod.query_tokens),
            grouped(pod.hit_tokens),
            percent(pod.hit_rate_percent),
            percent(pod.query_share_percent),
            pod.requests,
        ));
    }
    out
}

/// Breaks a text into indented lines.
fn wrapped(text: &str) -> String {
    let (mut out, mut width) = (String::from(" "), 1);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if width + 1 + length > TEXT_WIDTH && width > 3 {
            out.push_str("\n   ");
            width = 3;
        }
        out.push(' ');
        out.push_str(word);
        width += 1 + length;
    }
    out.push('\n');
    out
}

/// What comes from outside cannot move a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character.is_control() {
                '?'
            } else {
                character
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::{outcome, tests::published};

    #[test]
    fn the_table_shows_the_published_figures() {
        let text = render(&outcome(published()));
        for part in [
            "query tokens              4,776",
            "HIT RATE                  87.44 %  (excellent)",
            "ceiling                   90.45 %",
            "share of the ceiling      96.67 %",
            "STICKINESS by tokens      99.92 %  (on b26rq)",
            "stickiness by requests    100.00 %",
            "first byte, cold          p50 900 ms",
            "36 prompt tokens in the window",
            "verdict: ok, hit rate excellent",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn control_characters_from_outside_do_not_reach_the_terminal() {
        let mut facts = published();
        facts.target.url = "http://g\u{1b}[2J".to_owned();
        facts.notes.push("a\u{7}b".to_owned());
        let text = render(&outcome(facts));
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'));
    }
}
