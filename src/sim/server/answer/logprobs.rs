//! A token -> how likely it and others were, made of nothing but the same every time. PURE.

use serde_json::{Map, Value, json};

use crate::sim::tokens::Tokens;

/// One token and what might have come in its place, likeliest first, itself among them.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::sim::server) struct Entry {
    pub(in crate::sim::server) token: u32,
    pub(in crate::sim::server) text: String,
    pub(in crate::sim::server) logprob: f64,
    pub(in crate::sim::server) top: Vec<(u32, String, f64)>,
}

impl Entry {
    /// The token that came and `count - 1` others.
    pub(in crate::sim::server) fn new(
        token: u32,
        text: &str,
        count: usize,
        tokens: &Tokens,
    ) -> Self {
        // Powers of two in the fraction: the same digits in every program that writes them.
        let logprob = -f64::from(token % 64 + 1) / 256.0;
        let others = tokens.alternatives(token).take(count.saturating_sub(1));
        let others = others.enumerate().map(|(rank, other)| {
            let logprob = logprob - (rank + 1) as f64;
            (other, tokens.text(&[other]), logprob)
        });
        let own = (token, text.to_owned(), logprob);
        Self {
            token,
            text: text.to_owned(),
            logprob,
            top: std::iter::once(own).chain(others).collect(),
        }
    }

    /// The entries of a prompt: the first token has none, as nothing came before it.
    pub(in crate::sim::server) fn prompt(
        prompt: &[u32],
        count: usize,
        tokens: &Tokens,
    ) -> Vec<Option<Self>> {
        let entry = |(at, token): (usize, &u32)| {
            (at > 0).then(|| Self::new(*token, &tokens.text(&[*token]), count, tokens))
        };
        prompt.iter().enumerate().map(entry).collect()
    }

    /// vLLM's form of a prompt's entry, by token id.
    pub(in crate::sim::server) fn by_id(&self) -> Value {
        let entry = |(rank, (token, text, logprob)): (usize, &(u32, String, f64))| {
            let value = json!({"logprob": logprob, "rank": rank + 1, "decoded_token": text});
            (token.to_string(), value)
        };
        Value::Object(self.top.iter().enumerate().map(entry).collect())
    }

    /// OpenAI's form in chats; `count` 0 tells no alternatives.
    pub(in crate::sim::server) fn chat(&self, count: usize) -> Value {
        let one = |text: &str, logprob: f64| json!({"token": text, "logprob": logprob, "bytes": text.as_bytes()});
        let top = self.top.iter().take(count);
        let mut entry = one(&self.text, self.logprob);
        entry["top_logprobs"] = top.map(|(_, text, logprob)| one(text, *logprob)).collect();
        entry
    }
}

/// OpenAI's form in completions: four lists, the first of them places in the text from
/// `offset` on. An entry without logprobs is the first token of a prompt.
pub(in crate::sim::server) fn lists(
    entries: &[(String, Option<&Entry>)],
    mut offset: usize,
) -> Value {
    let (mut offsets, mut values) = (Vec::new(), Vec::new());
    let (mut texts, mut tops) = (Vec::new(), Vec::new());
    for (text, entry) in entries {
        offsets.push(offset);
        offset += text.chars().count();
        texts.push(text.clone());
        values.push(entry.map(|entry| entry.logprob));
        tops.push(entry.map(|entry| {
            let top = entry.top.iter();
            top.map(|(_, text, logprob)| (text.clone(), json!(logprob)))
                .collect::<Map<_, _>>()
        }));
    }
    json!({
        "text_offset": offsets, "token_logprobs": values,
        "tokens": texts, "top_logprobs": tops,
    })
}
