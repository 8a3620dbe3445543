//! A misspelt name -> the one that was probably meant. PURE.

/// Longer words are no names.
const MAX_BYTES: usize = 64;

/// The nearest of the names, where one is near enough to have been meant.
pub(crate) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_BYTES {
        return None;
    }
    // Longer words have room for more slips.
    let slips = 1 + word.chars().count() / 4;
    names
        .into_iter()
        .map(|name| (distance(word, name), name))
        .filter(|(distance, _)| *distance <= slips)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Letters to add, drop or change, in any case of letters (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().map(|c| c.to_ascii_lowercase()).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x.to_ascii_lowercase() != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_understood_and_another_word_is_not() {
        let names = ["queue-scorer", "load-aware-scorer", "weight"];
        assert_eq!(nearest("queu-scorer", names), Some("queue-scorer"));
        assert_eq!(
            nearest("loadAware-scorer", names),
            Some("load-aware-scorer")
        );
        assert_eq!(nearest("wieght", names), Some("weight"));
        assert_eq!(nearest("latency-scorer", names), None);
        assert_eq!(nearest("", names), None);
    }
}
