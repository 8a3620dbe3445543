//! A chat template's source -> whether it wants message content as text or as a list of parts,
//! and a source that the template engine can read. PURE.
//!
//! The engine looks for a loop over a message's content in the template's syntax tree
//! (`_detect_content_format` in <https://github.com/vllm-project/vllm/blob/main/vllm/renderers/hf.py>);
//! the same question is answered here from the tags alone.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeSet;

/// What a template wants message content to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ContentFormat {
    /// One text per message.
    Text,
    /// A list of parts, over which the template loops.
    Parts,
}

/// What the template wants.
pub(super) fn detect(source: &str) -> ContentFormat {
    let mut assignments = Vec::new();
    let mut loops = Vec::new();
    for tag in tags(source) {
        if let Some(rest) = tag.strip_prefix("set ") {
            if let Some((name, value)) = rest.split_once('=') {
                assignments.push((name.trim(), value.trim()));
            }
        } else if let Some((name, rest)) = tag
            .strip_prefix("for ")
            .and_then(|rest| rest.split_once(" in "))
        {
            let over = rest.split(" if ").next().unwrap_or(rest);
            let over = over.strip_suffix(" recursive").unwrap_or(over);
            loops.push((name.trim(), over.trim()));
        }
    }
    let mut lists = BTreeSet::from(["messages"]);
    loop {
        let before = lists.len();
        for (name, value) in &assignments {
            if lists.contains(root(value)) {
                lists.insert(name);
            }
        }
        if lists.len() == before {
            break;
        }
    }
    let messages: BTreeSet<&str> = loops
        .iter()
        .filter(|(_, over)| lists.contains(root(over)))
        .map(|(name, _)| *name)
        .collect();
    let over_content = loops
        .iter()
        .any(|(_, over)| content_of(root(over)).is_some_and(|message| messages.contains(message)));
    if over_content {
        ContentFormat::Parts
    } else {
        ContentFormat::Text
    }
}

/// `{% generation %}` marks what the model wrote, for training; it changes no output, and only
/// transformers knows it.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else {
            break;
        };
        let tag = &rest[start..start + length + 2];
        let name = tag[2..tag.len() - 2].trim_matches(['-', '+']).trim();
        out.push_str(&rest[..start]);
        match name {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = &rest[start + length + 2..];
    }
    out.push_str(rest);
    out
}

/// The inside of every `{% %}`, trimmed.
fn tags(source: &str) -> impl Iterator<Item = &str> {
    let mut rest = source;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find("{%").unwrap_or(rest.len());
            let comment = rest.find("{#").unwrap_or(rest.len());
            if comment < start {
                let end = rest[comment..].find("#}")?;
                rest = &rest[comment + end + 2..];
                continue;
            }
            let inside = rest.get(start + 2..)?;
            let end = inside.find("%}")?;
            rest = &inside[end + 2..];
            return Some(inside[..end].trim_matches(['-', '+']).trim());
        }
    })
}

/// An expression without its filters, tests, slices and brackets.
fn root(expression: &str) -> &str {
    let mut root = expression.split('|').next().unwrap_or(expression);
    root = root.split(" is ").next().unwrap_or(root).trim();
    loop {
        let before = root;
        if let Some(inner) = root.strip_prefix('(').and_then(|it| it.strip_suffix(')')) {
            root = inner.trim();
        }
        if root.ends_with(']')
            && let Some(start) = root.rfind('[')
            && root[start..].contains(':')
        {
            root = root[..start].trim();
        }
        if root == before {
            return root;
        }
    }
}

/// The variable whose `content` this is.
fn content_of(expression: &str) -> Option<&str> {
    [".content", "['content']", "[\"content\"]"]
        .iter()
        .find_map(|suffix| expression.strip_suffix(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_prints_content_wants_text() {
        for source in [
            "{% for message in messages %}{{ message['content'] }}{% endfor %}",
            "{%- for m in messages %}{% for c in m.tool_calls %}{{ c }}{% endfor %}{% endfor %}",
            "{# {% for c in message.content %} #}{% for message in messages %}{{ message.content | trim }}{% endfor %}",
            "",
        ] {
            assert_eq!(detect(source), ContentFormat::Text, "{source}");
        }
    }

    #[test]
    fn a_template_that_loops_over_content_wants_parts() {
        for source in [
            "{% for message in messages %}{% for part in message['content'] %}{{ part.text }}{% endfor %}{% endfor %}",
            "{%- set rest = messages[1:] -%}{%- for m in rest -%}{%- for c in m.content | list -%}{{ c }}{%- endfor -%}{%- endfor -%}",
            "{% set a = messages %}{% set b = a | list %}{% for m in b if m.role %}{% for c in m[\"content\"] if c.text %}x{% endfor %}{% endfor %}",
        ] {
            assert_eq!(detect(source), ContentFormat::Parts, "{source}");
        }
    }

    #[test]
    fn generation_tags_become_plain_ones() {
        assert_eq!(
            without_generation_tags(
                "a{%- generation -%}b{% endgeneration %}c{% if x %}d{% endif %}"
            ),
            "a{%- if true -%}b{% endif %}c{% if x %}d{% endif %}"
        );
    }
}
