//! The tables of the page. PURE.
#![deny(clippy::disallowed_methods)]

use super::super::text::{health, load};
use super::super::{ceiling_share, grouped, milliseconds, percent};
use super::escape;
use crate::bench::outcome::{Run, Spread};

/// Rows of requests that the page shows of each run; the JSON has them all.
const REQUEST_ROWS: usize = 500;

/// A row of the table of figures: its name, and the value of a run.
type Figure = (&'static str, fn(&Run) -> String);

const FIGURES: &[Figure] = &[
    ("Hit rate", |run| percent(run.totals.hit_rate_percent)),
    ("Ceiling", |run| {
        percent(run.ceiling.as_ref().map(|ceiling| ceiling.percent))
    }),
    ("Share of the ceiling", |run| percent(ceiling_share(run))),
    ("Stickiness by tokens", |run| {
        percent(run.stickiness.token_percent)
    }),
    ("Stickiness by requests", |run| {
        percent(run.stickiness.request_percent)
    }),
    ("Query tokens", |run| grouped(run.totals.query_tokens)),
    ("Hit tokens", |run| grouped(run.totals.hit_tokens)),
    ("Requests answered, failed", |run| {
        format!("{}, {}", run.totals.answered, run.totals.failed)
    }),
    ("Time to first, cold p50, p95", |run| {
        both(run.latency.first_cold.as_ref())
    }),
    ("Time to first, warm p50, p95", |run| {
        both(run.latency.first_warm.as_ref())
    }),
    ("Whole answer, cold p50, p95", |run| {
        both(run.latency.total_cold.as_ref())
    }),
    ("Whole answer, warm p50, p95", |run| {
        both(run.latency.total_warm.as_ref())
    }),
];

/// Longer values, which are texts.
const SETTINGS: &[Figure] = &[
    ("Load", load),
    ("Host header", |run| {
        run.target.host.clone().unwrap_or("–".to_owned())
    }),
    ("Decode pods", |run| {
        format!(
            "{} in {}",
            run.pods.len(),
            run.target.namespace.as_deref().unwrap_or("a given list")
        )
    }),
    ("Counters from", |run| run.target.counters_from.clone()),
    ("Pod of a request from", |run| {
        match run.stickiness.pods_known_from.as_str() {
            "" => "not known".to_owned(),
            from => from.to_owned(),
        }
    }),
    ("Ceiling found", |run| {
        run.ceiling
            .as_ref()
            .map_or("not known".to_owned(), |ceiling| {
                format!(
                    "{}; block size {} ({})",
                    ceiling.method.explained(),
                    ceiling.block_size,
                    ceiling.block_size_from
                )
            })
    }),
    ("First is", |run| run.latency.first_is.replace('-', " ")),
    ("Health check", health),
    ("Run", |run| run.run_id.clone()),
];

fn both(spread: Option<&Spread>) -> String {
    format!(
        "{}, {}",
        milliseconds(spread.map(|spread| spread.p50_milliseconds)),
        milliseconds(spread.map(|spread| spread.p95_milliseconds)),
    )
}

/// One column a run.
pub(super) fn figures(runs: &[Run]) -> String {
    let mut out = "<section>\n<h2>Figures</h2>\n<div class=\"scroll\"><table class=\"compare\">\n\
        <thead><tr><th scope=\"col\">Figure</th>"
        .to_owned();
    for run in runs {
        out.push_str(&format!(
            "<th scope=\"col\" class=\"n\">{}</th>",
            escape(&run.label)
        ));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    rows(&mut out, runs, FIGURES, " class=\"n\"");
    out.push_str("</tbody></table></div>\n");
    for run in runs.iter().filter(|run| !run.notes.is_empty()) {
        out.push_str(&format!("<h3>Notes on {}</h3>\n<ul>\n", escape(&run.label)));
        for note in &run.notes {
            out.push_str(&format!("<li>{}</li>\n", escape(note)));
        }
        out.push_str("</ul>\n");
    }
    out.push_str("</section>\n");
    out
}

fn rows(out: &mut String, runs: &[Run], figures: &[Figure], class: &str) {
    for (name, value) in figures {
        out.push_str(&format!("<tr><th scope=\"row\">{name}</th>"));
        for run in runs {
            out.push_str(&format!("<td{class}>{}</td>", escape(&value(run))));
        }
        out.push_str("</tr>\n");
    }
}

/// Settings and pods of every run.
pub(super) fn pods(runs: &[Run]) -> String {
    let mut out = "<section>\n<h2>Decode pods</h2>\n".to_owned();
    for run in runs {
        out.push_str(&format!(
            "<h3>{}</h3>\n<div class=\"scroll\"><table>\n<thead><tr>\
             <th scope=\"col\">Pod</th><th scope=\"col\" class=\"n\">Query tokens</th>\
             <th scope=\"col\" class=\"n\">Hit tokens</th><th scope=\"col\" class=\"n\">Hit rate</th>\
             <th scope=\"col\" class=\"n\">Share of queries</th>\
             <th scope=\"col\" class=\"n\">Requests</th></tr></thead>\n<tbody>\n",
            escape(&run.label)
        ));
        for pod in &run.pods {
            out.push_str(&format!(
                "<tr><th scope=\"row\"><code>{}</code></th><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td></tr>\n",
                escape(&pod.name),
                grouped(pod.query_tokens),
                grouped(pod.hit_tokens),
                percent(pod.hit_rate_percent),
                percent(pod.query_share_percent),
                pod.requests,
            ));
        }
        out.push_str("</tbody></table></div>\n");
    }
    out.push_str("</section>\n<section>\n<h2>How it was measured</h2>\n<div class=\"scroll\"><table class=\"compare\">\n<thead><tr><th scope=\"col\">Setting</th>");
    for run in runs {
        out.push_str(&format!("<th scope=\"col\">{}</th>", escape(&run.label)));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    rows(&mut out, runs, SETTINGS, "");
    out.push_str("</tbody></table></div>\n</section>\n");
    out
}

/// Every request, folded away.
pub(super) fn requests(runs: &[Run]) -> String {
    let mut out = "<section>\n<h2>Requests</h2>\n".to_owned();
    for run in runs {
        out.push_str(&format!(
            "<details>\n<summary>{}: {} requests</summary>\n<div class=\"scroll\"><table>\n\
             <thead><tr><th scope=\"col\" class=\"n\">No.</th><th scope=\"col\" class=\"n\">Session</th>\
             <th scope=\"col\" class=\"n\">Turn</th><th scope=\"col\">Status</th>\
             <th scope=\"col\">Pod</th><th scope=\"col\" class=\"n\">Prompt tokens</th>\
             <th scope=\"col\" class=\"n\">Cached</th><th scope=\"col\" class=\"n\">First</th>\
             <th scope=\"col\" class=\"n\">Whole</th></tr></thead>\n<tbody>\n",
            escape(&run.label),
            run.requests.len(),
        ));
        let number = |value: Option<u64>| value.map_or("–".to_owned(), grouped);
        for row in run.requests.iter().take(REQUEST_ROWS) {
            let status = row
                .status
                .map_or("none".to_owned(), |status| status.to_string());
            let error = row
                .error
                .as_ref()
                .map_or(String::new(), |error| format!(" {error}"));
            out.push_str(&format!(
                "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                 <td>{}</td><td><code>{}</code></td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
                 <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
                row.number,
                row.session,
                row.turn,
                escape(&format!("{status}{error}")),
                escape(row.pod.as_deref().unwrap_or("–")),
                number(row.prompt_tokens),
                number(row.cached_tokens),
                milliseconds(row.first_milliseconds),
                milliseconds(row.total_milliseconds),
            ));
        }
        out.push_str("</tbody></table></div>\n");
        if run.requests.len() > REQUEST_ROWS {
            out.push_str(&format!(
                "<p class=\"faint\">The first {REQUEST_ROWS}; the JSON outcome has them all.</p>\n"
            ));
        }
        out.push_str("</details>\n");
    }
    out.push_str("</section>\n");
    out
}
