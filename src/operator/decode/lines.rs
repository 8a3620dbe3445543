//! Rendered text and a field -> the line the field is in. PURE, and by reading indents and
//! names, not YAML: good enough for a message, never for a decision.
#![deny(clippy::disallowed_methods)]

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

/// The line, from 1, that gives a list item its name, such as an env entry: looked for
/// below the item called `within` where there is one. For messages only.
pub fn line_of_item(text: &str, within: Option<&str>, name: &str) -> Option<u64> {
    let lines: Vec<&str> = text.lines().collect();
    let names = |line: &str, wanted: &str| {
        unlisted(line)
            .trim_start_matches('{')
            .trim_start()
            .strip_prefix("name:")
            .map(|rest| rest.split([',', '}', '#']).next().unwrap_or_default())
            .is_some_and(|value| value.trim().trim_matches(['"', '\'']) == wanted)
    };
    let find = |from: usize, wanted: &str| {
        lines[from..]
            .iter()
            .position(|line| names(line, wanted))
            .map(|position| position + from)
    };
    let from = within.and_then(|within| find(0, within)).unwrap_or(0);
    // A container may give its env before its name.
    find(from, name)
        .or_else(|| find(0, name))
        .map(|line| line as u64 + 1)
}

/// The line, from 1, of the first field of that name, below the item called `within`
/// where there is one. For messages only.
pub fn line_of_field(text: &str, within: Option<&str>, field: &str) -> Option<u64> {
    let wanted = format!("{field}:");
    // Also in the middle of a line: `securityContext: {privileged: true}`.
    let says = |line: &str| {
        let found = line.find(&wanted);
        found.is_some_and(|at| {
            let before = line[..at].chars().next_back();
            before.is_none_or(|c| c == ' ' || c == '{' || c == ',')
        })
    };
    let find = |from: usize| {
        text.lines()
            .enumerate()
            .skip(from)
            .find(|(_, line)| !line.trim_start().starts_with('#') && says(line))
    };
    let from = within
        .and_then(|within| line_of_item(text, None, within))
        .map_or(0, |line| line as usize - 1);
    find(from)
        .or_else(|| find(0))
        .map(|(line, _)| line as u64 + 1)
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
