//! Measurements -> a table for people and JSON for programs. IO: prints.

use serde_json::{Value, json};

use super::Args;
use super::row::{Measured, Row};

/// What was run, and what EPPs use when idle.
pub(super) fn head(args: &Args, names: &[&str], idle: &[(f64, f64)]) {
    println!(
        "{} endpoints, {} times {} s each, request bodies {}, answers {}",
        args.common.endpoints, args.repeat, args.seconds, args.request_mode, args.response_mode
    );
    for (name, (cores, rss)) in names.iter().zip(idle) {
        println!("idle: {name:<16} {cores:.4} cores, {rss:.0} MiB");
    }
    println!(
        "times in ms, best/median of the repetitions; x = divided by {}'s; added = above the same \
         without an EPP; * = the client was late",
        names[0]
    );
    println!(
        "{:>7} {:>5}  {:<16} {:>11}  {:>13} {:>11}  {:>15} {:>11}  {:>13} {:>9} {:>7}",
        "chars",
        "rate",
        "epp",
        "ok/of",
        "CPU",
        "x",
        "added p50",
        "x",
        "added p99",
        "Envoy CPU",
        "RSS MiB"
    );
}

/// One row.
pub(super) fn row(row: Row, names: &[&str], measured: &[Measured]) {
    let first = &measured[0];
    for (name, each) in names.iter().zip(measured) {
        let (ok, sent) = each.counts();
        let (cpu_min, cpu) = (each.min(|s| s.cpu_ms), each.median(|s| s.cpu_ms));
        let (p50_best, p50) = each.added_p50();
        let (p99_best, p99) = each.added_p99();
        let (first_best, first_p50) = first.added_p50();
        let cpu_x = cpu / first.median(|s| s.cpu_ms);
        let cpu_min_x = cpu_min / first.min(|s| s.cpu_ms);
        let (p50_best_x, p50_x) = (p50_best / first_best, p50 / first_p50);
        let envoy = each.median(|s| s.envoy_ms);
        let rss = each.max(|s| s.rss_mib);
        let late = if each.max(|s| s.late_ms) > 50.0 {
            "*"
        } else {
            ""
        };
        println!(
            "{:>7} {:>5}  {name:<16} {:>11}  {:>13} {:>11}  {:>15} {:>11}  {:>13} {envoy:>9.3} \
             {rss:>7.0}{late}",
            row.chars,
            row.rate,
            format!("{ok}/{sent}"),
            format!("{cpu_min:.3}/{cpu:.3}"),
            format!("{cpu_min_x:.2}/{cpu_x:.2}"),
            format!("{p50_best:.3}/{p50:.3}"),
            format!("{p50_best_x:.2}/{p50_x:.2}"),
            format!("{p99_best:.1}/{p99:.1}"),
        );
        if ok < sent {
            println!("        void: an EPP whose requests fail looks cheap");
        }
    }
}

/// One row, for programs.
pub(super) fn row_json(row: Row, names: &[&str], measured: &[Measured]) -> Value {
    let epps: serde_json::Map<String, Value> = names
        .iter()
        .zip(measured)
        .map(|(name, each)| ((*name).to_owned(), each.json()))
        .collect();
    json!({"prompt_chars": row.chars, "rate": row.rate, "epps": epps})
}
