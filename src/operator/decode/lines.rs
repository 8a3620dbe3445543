//! Rendered text and a field -> the line the field is in. PURE, and by reading indents and
//! names, not YAML: good enough for a message, never for a decision.
#![deny(clippy::disallowed_methods)]

use std::collections::HashMap;

/// The line, from 1, of a field: each name of the path is looked for below the one before,
/// and what shorthand leaves out is passed over. Good enough for a message, never for a
/// decision.
pub(super) fn line_of(text: &str, path: &[String]) -> Option<u64> {
    const WRAPPING: [&str; 3] = ["spec", "template", "spec"];
    let lines: Vec<&str> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let whole = lines.iter().any(|line| line.starts_with("spec:"));
    let path = match path.strip_prefix(&WRAPPING.map(str::to_owned)) {
        Some(rest) if !whole => rest,
        _ => path,
    };
    let (mut from, mut found, mut missing) = (0, None, false);
    for name in path {
        let index = name
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .and_then(|index| index.parse::<usize>().ok());
        let position = if let Some(n) = index {
            // The n-th dash below the list's own line, if that line was found.
            let dash = lines[from..]
                .iter()
                .position(|line| line.trim_start().starts_with("- "))
                .filter(|_| !missing)
                .map(|position| position + from);
            dash.and_then(|dash| {
                (dash..lines.len())
                    .filter(|i| {
                        indent(lines[*i]) == indent(lines[dash])
                            && lines[*i].trim_start().starts_with("- ")
                    })
                    .nth(n)
            })
        } else {
            let wanted = format!("{name}:");
            lines[from..]
                .iter()
                .position(|line| unlisted(line).starts_with(&wanted))
                .map(|position| position + from)
        };
        missing = position.is_none();
        if let Some(position) = position {
            from = position;
            found = Some(position);
        }
    }
    found.map(|line| line as u64 + 1)
}

/// Where names and fields are written in one text: looked for once, for all questions.
pub struct Lines<'t> {
    /// Lines, from 0, that say `name: x`, by `x`.
    items: HashMap<&'t str, Vec<usize>>,
    /// Lines, from 0, that say `x:`, by `x`; also in the middle of a line.
    fields: HashMap<&'t str, Vec<usize>>,
}

impl<'t> Lines<'t> {
    /// Reads the text once.
    pub fn new(text: &'t str) -> Self {
        let (mut items, mut fields) = (HashMap::new(), HashMap::new());
        let add = |to: &mut HashMap<&'t str, Vec<usize>>, word, line| {
            let lines = to.entry(word).or_default();
            if lines.last() != Some(&line) {
                lines.push(line);
            }
        };
        for (number, line) in text.lines().enumerate() {
            if let Some(name) = item_name(line) {
                add(&mut items, name, number);
            }
            if line.trim_start().starts_with('#') {
                continue;
            }
            for (colon, _) in line.match_indices(':') {
                let start = line[..colon].rfind([' ', '{', ',']).map_or(0, |at| at + 1);
                add(&mut fields, &line[start..colon], number);
            }
        }
        Self { items, fields }
    }

    /// The line, from 1, that gives a list item its name, such as an env entry: looked for
    /// below the item called `within` where there is one. For messages only.
    pub fn item(&self, within: Option<&str>, name: &str) -> Option<u64> {
        // A container may give its env before its name.
        first(&self.items, name, self.start(within))
    }

    /// The line, from 1, of the first field of that name, below the item called `within`
    /// where there is one. For messages only.
    pub fn field(&self, within: Option<&str>, field: &str) -> Option<u64> {
        first(&self.fields, field, self.start(within))
    }

    fn start(&self, within: Option<&str>) -> usize {
        within
            .and_then(|within| self.items.get(within)?.first())
            .map_or(0, |line| *line)
    }
}

/// The first line at or after `from`, or else the first of all.
fn first(lines: &HashMap<&str, Vec<usize>>, word: &str, from: usize) -> Option<u64> {
    let lines = lines.get(word)?;
    let after = lines.partition_point(|line| *line < from);
    let line = lines.get(after).or_else(|| lines.first())?;
    Some(*line as u64 + 1)
}

/// The name a line gives to a list item.
fn item_name(line: &str) -> Option<&str> {
    let rest = unlisted(line)
        .trim_start_matches('{')
        .trim_start()
        .strip_prefix("name:")?;
    let value = rest.split([',', '}', '#']).next().unwrap_or_default();
    Some(value.trim().trim_matches(['"', '\'']))
}

/// [`Lines::item`] for one question. For many about one text, make [`Lines`] once.
pub fn line_of_item(text: &str, within: Option<&str>, name: &str) -> Option<u64> {
    Lines::new(text).item(within, name)
}

/// [`Lines::field`] for one question. For many about one text, make [`Lines`] once.
pub fn line_of_field(text: &str, within: Option<&str>, field: &str) -> Option<u64> {
    Lines::new(text).field(within, field)
}

/// A line without its indent and the dash of a list item.
fn unlisted(line: &str) -> &str {
    line.trim_start().trim_start_matches("- ").trim_start()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_shorthand_have_lines_too() {
        let text = "env:\n- name: A\n  value: 1\ncontainers:\n- name: x\n  image: y\n  ports: no\n";
        let path = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let line = |words: &[&str]| line_of(text, &path(words));
        let ports = ["spec", "template", "spec", "containers", "[0]", "ports"];
        assert_eq!(line(&ports), Some(7));
        let missing = ["spec", "template", "spec", "volumes", "[0]"];
        assert_eq!(line(&missing), None);
    }

    #[test]
    fn an_env_entry_is_found_in_its_own_container() {
        let text = "containers:\n- name: side\n  env:\n  - name: A\n- name: epp\n  env:\n  - {name: \"A\", value: x}\n";
        assert_eq!(line_of_item(text, Some("epp"), "A"), Some(7));
        assert_eq!(line_of_item(text, Some("absent"), "A"), Some(4));
        assert_eq!(line_of_item(text, None, "B"), None);
        assert_eq!(line_of_field(text, Some("epp"), "env"), Some(6));
    }
}
