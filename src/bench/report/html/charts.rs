//! The charts of the page, with their keys and captions. PURE.
#![deny(clippy::disallowed_methods)]

use super::super::chart::{self, About, Bar, Error, Ink, Line, SERIES, Stroke};
use super::super::{milliseconds, percent, short_names};
use super::escape;
use crate::bench::measure::{self, WINDOW};
use crate::bench::outcome::{Run, Spread};

const WIDE: u32 = 960;
const NARROW: u32 = 560;

/// Bars of one chart; the table has every pod.
const MOST_BARS: usize = 24;

/// Draws the figure of one run, by its place among the runs and a width.
type Draw = fn(usize, &Run, u32) -> Result<String, Error>;

/// Every chart.
pub(super) fn all(runs: &[Run]) -> Result<String, Error> {
    let mut out = String::new();
    if runs.len() > 1 {
        out.push_str("<section>\n<h2>Hit rate of all runs</h2>\n");
        out.push_str(&overlay(runs)?);
        out.push_str("</section>\n");
    }
    let sections: [(&str, Draw); 3] = [
        ("Hit rate over time", hit_rate),
        ("Requests per pod", requests_per_pod),
        ("Latency, cold against warm", latency),
    ];
    for (title, figure) in sections {
        out.push_str(&format!(
            "<section>\n<h2>{title}</h2>\n<div class=\"grid\">\n"
        ));
        let width = if runs.len() == 1 { WIDE } else { NARROW };
        for (index, run) in runs.iter().enumerate() {
            out.push_str(&figure(index, run, width)?);
        }
        out.push_str("</div>\n</section>\n");
    }
    Ok(out)
}

fn figure(heading: &str, keys: &[(&str, String)], svg: &str, caption: &str, wide: bool) -> String {
    let mut out = format!(
        "<figure{}>\n<h3>{}</h3>\n",
        if wide { " class=\"wide\"" } else { "" },
        escape(heading)
    );
    if !keys.is_empty() {
        out.push_str("<ul class=\"keys\">");
        for (class, text) in keys {
            out.push_str(&format!(
                "<li><i class=\"{class}\" aria-hidden=\"true\"></i>{}</li>",
                escape(text)
            ));
        }
        out.push_str("</ul>\n");
    }
    out.push_str(&format!("<div class=\"scroll\">{svg}</div>\n"));
    out.push_str(&format!(
        "<figcaption>{}</figcaption>\n</figure>\n",
        escape(caption)
    ));
    out
}

fn colour_class(index: usize) -> &'static str {
    ["c1", "c2", "c3", "c4", "c5", "c6"][index % SERIES]
}

fn overlay(runs: &[Run]) -> Result<String, Error> {
    let mut lines = Vec::new();
    let mut keys = Vec::new();
    let mut description = String::new();
    for (index, run) in runs.iter().enumerate() {
        let (points, _) = measure::series(run);
        lines.push(Line {
            ink: Ink::Series(index),
            stroke: Stroke::Solid,
            points: points
                .iter()
                .map(|point| (point.done as f64, point.cumulative))
                .collect(),
        });
        let end = percent(run.totals.hit_rate_percent);
        keys.push((colour_class(index), format!("{}, {end}", run.label)));
        description.push_str(&format!("{} ends at {end}. ", run.label));
    }
    let about = About {
        id: "overlay",
        title: "Hit rate of all runs over their requests",
        description: &description,
    };
    Ok(figure(
        "Since the baseline",
        &keys,
        &chart::lines(&about, &lines, WIDE)?,
        "Hit rate since each run's baseline, after each request.",
        true,
    ))
}

fn hit_rate(index: usize, run: &Run, width: u32) -> Result<String, Error> {
    let (points, from) = measure::series(run);
    let last = points.last().map_or(1.0, |point| point.done as f64);
    let mut keys = vec![
        ("c1", "since the baseline".to_owned()),
        ("c2 thin", format!("last {WINDOW} requests")),
    ];
    let mut lines = vec![
        Line {
            ink: Ink::Series(1),
            stroke: Stroke::Dotted,
            points: points
                .iter()
                .filter_map(|point| Some((point.done as f64, point.windowed?)))
                .collect(),
        },
        Line {
            ink: Ink::Series(0),
            stroke: Stroke::Solid,
            points: points
                .iter()
                .map(|point| (point.done as f64, point.cumulative))
                .collect(),
        },
    ];
    let mut description = format!(
        "{} points; the hit rate since the baseline ends at {}.",
        points.len(),
        percent(points.last().map(|point| point.cumulative))
    );
    if let Some(ceiling) = &run.ceiling {
        let value = percent(Some(ceiling.percent));
        keys.push(("faint dash", format!("ceiling of the run, {value}")));
        description.push_str(&format!(" The ceiling of the whole run is {value}."));
        lines.push(Line {
            ink: Ink::Faint,
            stroke: Stroke::Dashed,
            points: vec![(1.0, ceiling.percent), (last.max(2.0), ceiling.percent)],
        });
    }
    let about = About {
        id: &format!("rate-{index}"),
        title: &format!("Hit rate over time, {}", run.label),
        description: &description,
    };
    let caption = match (points.is_empty(), from) {
        (true, _) => {
            "No figures per request: counters were not read after each request, and the \
                      answers do not tell."
        }
        (false, "counters") => {
            "From the pods' counters, read after each request. The window of the last requests may \
             lie above the run's ceiling, since it leaves out the health check and the cold start."
        }
        (false, _) => "From the cached tokens that the answers report, without the health check.",
    };
    let svg = chart::lines(&about, &lines, width)?;
    Ok(figure(&run.label, &keys, &svg, caption, width == WIDE))
}

fn requests_per_pod(index: usize, run: &Run, width: u32) -> Result<String, Error> {
    let mut pods: Vec<_> = run.pods.iter().collect();
    pods.sort_by_key(|pod| std::cmp::Reverse((pod.requests, pod.query_tokens)));
    pods.truncate(MOST_BARS);
    let names: Vec<_> = pods.iter().map(|pod| pod.name.as_str()).collect();
    let bars: Vec<Bar> = short_names(&names)
        .into_iter()
        .zip(&pods)
        .map(|(label, pod)| Bar {
            label,
            value: pod.requests as f64,
            text: format!(
                "{} ({} of tokens)",
                pod.requests,
                percent(pod.query_share_percent)
            ),
            ink: Ink::Series(0),
        })
        .collect();
    let description: String = pods
        .iter()
        .map(|pod| format!("{}: {} requests. ", pod.name, pod.requests))
        .collect();
    let about = About {
        id: &format!("pods-{index}"),
        title: &format!("Requests per pod, {}", run.label),
        description: &description,
    };
    let svg = chart::bars(&about, &bars, width)?;
    let known = run.stickiness.requests_known;
    let caption = format!(
        "Measured requests whose pod is known ({known} of {}), and each pod's share of query tokens.",
        run.requests.len()
    );
    Ok(figure(&run.label, &[], &svg, &caption, width == WIDE))
}

fn latency(index: usize, run: &Run, width: u32) -> Result<String, Error> {
    let first = if run.latency.first_is == "first-token" {
        "first token"
    } else {
        "first byte"
    };
    let mut bars = Vec::new();
    let mut add = |name: &str, spread: Option<&Spread>, ink: usize| {
        for (which, value) in [
            ("p50", spread.map(|spread| spread.p50_milliseconds)),
            ("p95", spread.map(|spread| spread.p95_milliseconds)),
        ] {
            bars.push(Bar {
                label: format!("{name} {which}"),
                value: value.unwrap_or(0.0),
                text: milliseconds(value),
                ink: Ink::Series(ink),
            });
        }
    };
    add(
        &format!("{first}, cold"),
        run.latency.first_cold.as_ref(),
        1,
    );
    add(
        &format!("{first}, warm"),
        run.latency.first_warm.as_ref(),
        0,
    );
    add("whole, cold", run.latency.total_cold.as_ref(), 1);
    add("whole, warm", run.latency.total_warm.as_ref(), 0);
    let description: String = bars
        .iter()
        .map(|bar| format!("{}: {}. ", bar.label, bar.text))
        .collect();
    let about = About {
        id: &format!("latency-{index}"),
        title: &format!("Latency, cold against warm, {}", run.label),
        description: &description,
    };
    let count = |spread: Option<&Spread>| spread.map_or(0, |spread| spread.count);
    let caption = format!(
        "{} cold (the first of each session), {} warm requests.",
        count(run.latency.first_cold.as_ref()),
        count(run.latency.first_warm.as_ref()),
    );
    let svg = chart::bars(&about, &bars, width)?;
    Ok(figure(&run.label, &[], &svg, &caption, width == WIDE))
}
