//! Prometheus' text format -> the few figures of an engine that the test needs. PURE.
#![deny(clippy::disallowed_methods)]

use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

/// vLLM's counter of prompt tokens looked up in the prefix cache, newest name first
/// (<https://docs.vllm.ai/en/latest/usage/metrics.html>).
pub const QUERIES: &[&str] = &[
    "vllm:prefix_cache_queries_total",
    "vllm:gpu_prefix_cache_queries_total",
];
/// Of those, the tokens that were found.
pub const HITS: &[&str] = &[
    "vllm:prefix_cache_hits_total",
    "vllm:gpu_prefix_cache_hits_total",
];
/// Its labels say how the cache is set up.
pub const CACHE_CONFIG: &str = "vllm:cache_config_info";

/// Prefix cache counters, in tokens.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counters {
    /// Prompt tokens looked up.
    pub query_tokens: u64,
    /// Of those, found.
    pub hit_tokens: u64,
}

impl Counters {
    /// Hits in percent of queries; `None` without queries.
    pub fn percent(self) -> Option<f64> {
        (self.query_tokens > 0).then(|| self.hit_tokens as f64 / self.query_tokens as f64 * 100.0)
    }
}

impl Add for Counters {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            query_tokens: self.query_tokens + other.query_tokens,
            hit_tokens: self.hit_tokens + other.hit_tokens,
        }
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// What one engine says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Scrape {
    /// Summed over the engine's series (ranks, model names).
    pub counters: Counters,
    /// Tokens of a cache block.
    pub block_size: Option<u64>,
}

/// The text is not that of an engine with a prefix cache.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("no series of {0}")]
pub struct NoSeries(pub &'static str);

/// Reads an engine's `/metrics`.
///
/// # Errors
/// When the counter of queries or of hits is absent.
pub fn scan(text: &str) -> Result<Scrape, NoSeries> {
    let mut queries = vec![None; QUERIES.len()];
    let mut hits = vec![None; HITS.len()];
    let mut block_size = None;
    for sample in text.lines().filter_map(sample) {
        let add = |names: &[&str], sums: &mut [Option<f64>]| {
            if let Some(index) = names.iter().position(|name| *name == sample.name) {
                *sums[index].get_or_insert(0.0) += sample.value;
            }
        };
        add(QUERIES, &mut queries);
        add(HITS, &mut hits);
        if sample.name == CACHE_CONFIG {
            block_size = block_size.or_else(|| label(sample.labels, "block_size")?.parse().ok());
        }
    }
    // A version that serves both names serves the same figure under each.
    let first = |sums: Vec<Option<f64>>, name| {
        sums.into_iter()
            .flatten()
            .next()
            .map(|value| value.round() as u64)
            .ok_or(NoSeries(name))
    };
    Ok(Scrape {
        counters: Counters {
            query_tokens: first(queries, QUERIES[0])?,
            hit_tokens: first(hits, HITS[0])?,
        },
        block_size: block_size.filter(|size| *size > 0),
    })
}

struct Sample<'a> {
    name: &'a str,
    labels: &'a str,
    value: f64,
}

/// One line: `name{labels} value [timestamp]`. Comments and broken lines are no samples.
fn sample(line: &str) -> Option<Sample<'_>> {
    let line = line.trim_start();
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => {
            let close = closing_brace(inside)?;
            (&inside[..close], &inside[close + 1..])
        }
        None => ("", rest),
    };
    let value: f64 = rest.split_whitespace().next()?.parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some(Sample {
        name,
        labels,
        value,
    })
}

/// Where the label set ends: braces inside quoted values do not count.
fn closing_brace(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (index, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return Some(index),
            _ => {}
        }
    }
    None
}

/// The raw value of a label. Values of the labels read here hold no quotes.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = labels;
    loop {
        let (key, after) = rest.split_once("=\"")?;
        let end = closing_quote(after)?;
        if key.trim_matches([',', ' ']) == name {
            return Some(&after[..end]);
        }
        rest = &after[end + 1..];
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (index, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(index),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_series_and_read_in_every_number_form() {
        let text = "# HELP vllm:prefix_cache_queries_total x\n\
            vllm:prefix_cache_queries_total{engine=\"0\",model_name=\"a}b\\\"{\"} 1.2e+03\n\
            vllm:prefix_cache_queries_total{engine=\"1\",model_name=\"m\"} 34.0 1700000000\n\
            vllm:prefix_cache_hits_total 1000\n\
            vllm:prefix_cache_hits_created{engine=\"0\"} 1.7e9\n\
            vllm:cache_config_info{note=\"block_size=\\\"8\\\"\",block_size=\"32\"} 1.0\n";
        assert_eq!(
            scan(text),
            Ok(Scrape {
                counters: Counters {
                    query_tokens: 1234,
                    hit_tokens: 1000
                },
                block_size: Some(32),
            })
        );
    }

    #[test]
    fn the_older_names_count_only_where_the_newer_are_absent() {
        let older =
            "vllm:gpu_prefix_cache_queries_total{} 5\nvllm:gpu_prefix_cache_hits_total{} 3\n";
        assert_eq!(scan(older).unwrap().counters.hit_tokens, 3);
        let both =
            format!("{older}vllm:prefix_cache_queries_total 7\nvllm:prefix_cache_hits_total 6\n");
        assert_eq!(scan(&both).unwrap().counters.query_tokens, 7);
    }

    #[test]
    fn a_page_without_the_counters_is_an_error_and_not_zero() {
        assert_eq!(scan("up 1\n"), Err(NoSeries(QUERIES[0])));
        assert_eq!(
            scan("vllm:prefix_cache_queries_total NaN\n"),
            Err(NoSeries(QUERIES[0]))
        );
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(\\PC|\n|\\{|\\}|\"|\\\\|=){0,200}") {
            let _ = scan(&text);
            let _ = scan(&format!("vllm:cache_config_info{{{text}"));
        }
    }
}
