//! Outcomes -> one HTML page without anything from outside. PURE. Every text that comes
//! from a run is escaped.
#![deny(clippy::disallowed_methods)]

mod charts;
mod tables;

use super::chart;
use super::style::CSS;
use super::{DEFINITIONS, ceiling_share, percent};
use crate::bench::outcome::Run;

/// The report of one run, or of several side by side; the last one is the newest.
///
/// # Errors
/// When a chart cannot be drawn.
pub fn render(runs: &[Run]) -> Result<String, chart::Error> {
    let mut page = String::new();
    page.push_str(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Cache-hit test</title>\n<style>",
    );
    page.push_str(CSS);
    page.push_str("</style>\n</head>\n<body>\n<main>\n");
    page.push_str(&head(runs));
    if let [run] = runs {
        page.push_str(&cards(run));
    }
    page.push_str(&tables::figures(runs));
    page.push_str(&charts::all(runs)?);
    page.push_str(&tables::pods(runs));
    page.push_str(&definitions());
    page.push_str(&tables::requests(runs));
    page.push_str("</main>\n</body>\n</html>\n");
    Ok(page)
}

fn head(runs: &[Run]) -> String {
    let mut out = "<header>\n<h1>Cache-hit test</h1>\n".to_owned();
    for run in runs {
        let (class, word) = if run.verdict.ok {
            ("ok", "ok")
        } else {
            ("bad", "not ok")
        };
        out.push_str(&format!(
            "<p><span class=\"verdict {class}\">{}: {word}, hit rate {}</span> \
             <span class=\"faint\">{}, <code>{}</code> at <code>{}</code></span></p>\n",
            escape(&run.label),
            escape(&run.verdict.grade),
            escape(&run.started_at),
            escape(&run.workload.model),
            escape(&run.target.url),
        ));
        for reason in &run.verdict.reasons {
            out.push_str(&format!("<p class=\"bad\">{}</p>\n", escape(reason)));
        }
    }
    out.push_str("</header>\n");
    out
}

fn cards(run: &Run) -> String {
    let card = |name: &str, value: String, note: String| {
        format!(
            "<div class=\"card\">{name}<b>{}</b><span class=\"faint\">{}</span></div>\n",
            escape(&value),
            escape(&note)
        )
    };
    let ceiling = run.ceiling.as_ref().map(|ceiling| ceiling.percent);
    format!(
        "<section class=\"cards\" aria-label=\"Results\">\n{}{}{}{}</section>\n",
        card(
            "Hit rate",
            percent(run.totals.hit_rate_percent),
            format!(
                "{} of {} tokens",
                super::grouped(run.totals.hit_tokens),
                super::grouped(run.totals.query_tokens)
            ),
        ),
        card(
            "Ceiling",
            percent(ceiling),
            format!("reached: {}", percent(ceiling_share(run))),
        ),
        card(
            "Stickiness by tokens",
            percent(run.stickiness.token_percent),
            "share of the busiest pod".to_owned(),
        ),
        card(
            "Stickiness by requests",
            percent(run.stickiness.request_percent),
            "requests on their session's pod".to_owned(),
        ),
    )
}

fn definitions() -> String {
    let mut out = "<section>\n<h2>What the figures mean</h2>\n<div class=\"scroll\"><table>\n\
        <thead><tr><th scope=\"col\">Term</th><th scope=\"col\">Meaning</th></tr></thead>\n<tbody>\n"
        .to_owned();
    for (term, meaning) in DEFINITIONS {
        out.push_str(&format!(
            "<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n",
            escape(term),
            escape(meaning)
        ));
    }
    out.push_str("</tbody></table></div>\n</section>\n");
    out
}

/// A text inside an element or a quoted attribute. Control characters, which HTML does not
/// allow, become question marks.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(' '),
            character if character.is_control() => out.push('?'),
            character => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measure::{outcome, tests::published};

    fn hostile() -> Run {
        let evil = "<script>alert(1)</script>'\"&";
        let mut facts = published();
        facts.label = evil.to_owned();
        facts.target.url = evil.to_owned();
        facts.target.host = Some(evil.to_owned());
        facts.target.namespace = Some(evil.to_owned());
        facts.target.counters_from = evil.to_owned();
        facts.workload.model = evil.to_owned();
        facts.started_at = evil.to_owned();
        facts.notes.push(evil.to_owned());
        facts.tally = crate::bench::tally::Tally::new([(
            evil.to_owned(),
            crate::bench::exposition::Counters::default(),
        )]);
        for row in &mut facts.requests {
            row.pod = Some(evil.to_owned());
            row.pod_from = Some(evil.to_owned());
            row.error = Some(evil.to_owned());
        }
        outcome(facts)
    }

    #[test]
    fn the_page_shows_the_figures_and_needs_nothing_from_outside() {
        let page = render(&[outcome(published())]).unwrap();
        for part in [
            "87.44 %",
            "90.45 %",
            "99.92 %",
            "4,776",
            "4,176",
            "b26rq",
            "<svg",
            "role=\"img\"",
            "Stickiness by requests",
            "<details",
        ] {
            assert!(page.contains(part), "{part:?} is not in the page");
        }
        for reference in ["src=", "href=", "url(", "@import", "<script"] {
            assert!(!page.contains(reference), "{reference:?} is in the page");
        }
    }

    #[test]
    fn texts_from_a_run_cannot_become_markup() {
        let page = render(&[hostile(), hostile()]).unwrap();
        assert!(!page.contains("<script") && !page.contains("alert(1)</script>"));
        assert!(page.contains("&lt;script&gt;alert(1)"));
    }

    #[test]
    fn several_runs_stand_side_by_side_under_their_labels() {
        let mut other = published();
        other.label = "session scorer off".to_owned();
        let page = render(&[outcome(other), outcome(published())]).unwrap();
        assert_eq!(
            page.matches("<th scope=\"col\" class=\"n\">session scorer off</th>")
                .count(),
            1
        );
        let ids: Vec<_> = page
            .match_indices(" id=\"")
            .map(|(at, _)| page[at + 5..].split('"').next().unwrap())
            .collect();
        let unique: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(ids.len(), unique.len(), "ids repeat");
    }

    #[test]
    fn a_run_that_measured_nothing_still_has_a_page() {
        let mut facts = published();
        facts.tally = crate::bench::tally::Tally::default();
        facts.requests.clear();
        facts.ceiling = None;
        assert!(render(&[outcome(facts)]).is_ok());
    }
}
