//! Outcomes -> what people read. PURE.

pub mod chart;
pub mod html;
mod style;
pub mod text;

/// The terms of every report and what they mean.
pub const DEFINITIONS: &[(&str, &str)] = &[
    (
        "Window",
        "From the counters read after the warm-up to the counters read after the last request. \
         It holds the health check and the measured requests.",
    ),
    (
        "Hit rate",
        "Increase of vllm:prefix_cache_hits_total over increase of \
         vllm:prefix_cache_queries_total, both in tokens, summed over the decode pods, in the \
         window.",
    ),
    (
        "Ceiling",
        "The hit rate of one pod that never forgets: for each request the longest prefix of full \
         blocks shared with any earlier request, at most one token less than the prompt, over all \
         prompt tokens in the window. No routing can do better.",
    ),
    (
        "Share of the ceiling",
        "Hit tokens over the ceiling's tokens: how much of what was possible the routing reached.",
    ),
    (
        "Stickiness by tokens",
        "The largest share of query tokens on one pod, over the whole window. This is the \
         published definition of session stickiness; it counts tokens, not requests, and the \
         health check with them.",
    ),
    (
        "Stickiness by requests",
        "The share of measured requests that went to the most used pod of their session.",
    ),
    (
        "Health check",
        "A short chat request inside the window. Its prompt tokens are in the denominator and \
         almost never hit, so that even perfect routing stays below 100 %. The published test \
         counts in the same way.",
    ),
    (
        "Warm-up",
        "Requests before the window with a session of their own. The pod that answered them knows \
         the prompt: a router that finds it has no cold request in the window.",
    ),
    (
        "Cold, warm",
        "Cold is the first request of each session, warm is every other one.",
    ),
    (
        "Time to first",
        "With streaming, from the sending to the first generated text. Without, to the first byte \
         of the answer, which an engine sends when the whole answer is ready: the time of the \
         whole request, as in the published test.",
    ),
];

/// A number with thousands set apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A percentage, or a dash.
pub(crate) fn percent(value: Option<f64>) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.2} %"))
}

/// Milliseconds with as many digits as make sense, or a dash.
pub(crate) fn milliseconds(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value < 10.0 => format!("{value:.1} ms"),
        Some(value) => format!("{value:.0} ms"),
    }
}

/// Hits in percent of the ceiling's hits.
pub(crate) fn ceiling_share(run: &super::outcome::Run) -> Option<f64> {
    run.ceiling
        .as_ref()
        .filter(|ceiling| ceiling.hit_tokens > 0)
        .map(|ceiling| run.totals.hit_tokens as f64 / ceiling.hit_tokens as f64 * 100.0)
}

/// Pod names without what they all begin with, since only their ends differ.
pub(crate) fn short_names(names: &[&str]) -> Vec<String> {
    let shared = match names {
        [] | [_] => 0,
        [first, rest @ ..] => first
            .char_indices()
            .take_while(|(at, character)| {
                rest.iter().all(|name| {
                    name.get(*at..)
                        .is_some_and(|end| end.starts_with(*character))
                })
            })
            .filter(|(_, character)| *character == '-')
            .map(|(at, _)| at + 1)
            .last()
            .unwrap_or(0),
    };
    names
        .iter()
        .map(|name| {
            let short = if shared > 0 {
                format!("…{}", &name[shared..])
            } else {
                (*name).to_owned()
            };
            shorten(&short, 24)
        })
        .collect()
}

/// Keeps the end of a text, where names differ.
fn shorten(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let end: String = text.chars().skip(count + 1 - most).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(4776), "4,776");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn pod_names_lose_what_they_share() {
        let names = ["ms-decode-7f-abc", "ms-decode-7f-abd", "ms-decode-7f-x"];
        assert_eq!(short_names(&names), ["…abc", "…abd", "…x"]);
        assert_eq!(short_names(&["one-pod"]), ["one-pod"]);
        assert_eq!(short_names(&["é-a", "e-a"]), ["é-a", "e-a"]);
        let long = "x".repeat(40);
        assert_eq!(short_names(&[&long])[0].chars().count(), 24);
    }
}
