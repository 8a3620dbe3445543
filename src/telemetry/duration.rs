//! A duration as Go programs and their flags write it -> [`Duration`]. PURE.
//!
//! `1m30s`, `200ms`, `1.5h`. What a bare number counts differs from flag to flag, so the
//! caller says it.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

/// The longest duration that Go has: some 292 years. Longer ones would leave the clocks.
const LONGEST: Duration = Duration::from_nanos(i64::MAX as u64);

/// A text that is no duration.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not a duration such as `500ms`, `30s`, `1m30s` or `1h`")]
pub struct NotADuration {
    text: String,
}

/// A duration; a bare number is seconds.
///
/// # Errors
/// When the text is none, is negative, or is longer than Go's longest.
pub fn parse(text: &str) -> Result<Duration, NotADuration> {
    parse_bare(text, Duration::from_secs(1))
}

/// A duration; a bare number counts this unit.
///
/// # Errors
/// As [`parse`].
pub fn parse_bare(text: &str, unit: Duration) -> Result<Duration, NotADuration> {
    seconds(text.trim(), unit.as_secs_f64())
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| NotADuration {
            text: text.to_owned(),
        })
}

fn seconds(text: &str, bare: f64) -> Option<f64> {
    if let Ok(number) = number(text) {
        return Some(number * bare);
    }
    let (mut rest, mut sum) = (text, 0.0);
    while !rest.is_empty() {
        let (digits, tail) = split(rest, |letter| letter.is_ascii_digit() || letter == '.');
        let (unit, tail) = split(tail, |letter| !letter.is_ascii_digit() && letter != '.');
        let unit = match unit {
            "ns" => 1e-9,
            // Both letters that Unicode has for micro.
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum += number(digits).ok()? * unit;
        rest = tail;
    }
    (!text.is_empty()).then_some(sum)
}

/// Digits with at most one point; not what else a float may look like (`1e3`, `inf`, `-1`).
fn number(text: &str) -> Result<f64, ()> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    if plain {
        text.parse().map_err(|_| ())
    } else {
        Err(())
    }
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|letter| !belongs(letter)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        let micros = |text| parse(text).map(|duration| duration.as_micros()).ok();
        for (text, want) in [
            ("200ms", 200_000),
            ("1m30.5s", 90_500_000),
            ("1.5h", 5_400_000_000),
            ("7µs", 7),
            ("7μs3000ns", 10),
            (" 2 ", 2_000_000),
            ("0", 0),
            (".5s", 500_000),
        ] {
            assert_eq!(micros(text), Some(want), "{text}");
        }
        for text in [
            "",
            "s",
            "1x",
            "-1s",
            "1s2",
            "1 s",
            ".",
            "1e3",
            "inf",
            "1..2s",
            "99999999999999h",
        ] {
            assert_eq!(micros(text), None, "{text}");
        }
    }

    #[test]
    fn a_bare_number_counts_what_its_flag_counts() {
        let millisecond = Duration::from_millis(1);
        assert_eq!(parse_bare("20", millisecond), Ok(20 * millisecond));
        assert_eq!(parse_bare("20s", millisecond), Ok(Duration::from_secs(20)));
    }

    #[test]
    fn the_error_says_which_text_and_what_would_do() {
        assert_eq!(
            parse("soon").unwrap_err().to_string(),
            "\"soon\" is not a duration such as `500ms`, `30s`, `1m30s` or `1h`"
        );
    }
}
