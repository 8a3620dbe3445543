//! The form of `/v1/completions`. PURE.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::Sim;
use super::logprobs::{Entry, lists};
use super::{Form, Head, Step, Usage};

/// Text completions.
pub(in crate::sim::server) struct Completions {
    sim: Arc<Sim>,
    /// Where each sample's text goes on, for logprobs.
    offsets: Vec<usize>,
}

impl Completions {
    pub(in crate::sim::server) fn new(sim: Arc<Sim>) -> Self {
        Self {
            sim,
            offsets: Vec::new(),
        }
    }

    /// The prompt's text and its logprobs, where the answer begins with it.
    fn echoed(&self, head: &Head, index: usize) -> (String, Vec<(String, Option<Entry>)>) {
        let ask = &head.ask;
        if !ask.echo {
            return (String::new(), Vec::new());
        }
        let tokens = &self.sim.tokens;
        let whole = &ask.prompts[index / ask.sampling.n];
        let prompt = &whole.tokens;
        let mut entries = Vec::new();
        if let Some(count) = ask.sampling.logprobs {
            let known = Entry::prompt(prompt, count, tokens);
            let texts = prompt.iter().map(|token| tokens.text(&[*token]));
            entries = texts.zip(known).collect();
        }
        let text = whole.text.clone();
        (text.unwrap_or_else(|| tokens.text(prompt)), entries)
    }

    fn choice(&mut self, head: &Head, step: &Step, echo: bool) -> Value {
        let ask = &head.ask;
        let (mut text, mut entries) = if echo {
            self.echoed(head, step.index)
        } else {
            Default::default()
        };
        if !ask.only_echo {
            text.push_str(&step.text);
            let own = step.logprobs.iter().cloned();
            entries.extend(own.map(|entry| (entry.text.clone(), Some(entry))));
        }
        if self.offsets.len() <= step.index {
            self.offsets.resize(step.index + 1, 0);
        }
        let offset = self.offsets[step.index];
        let lengths = entries.iter().map(|(text, _)| text.chars().count());
        self.offsets[step.index] += lengths.sum::<usize>();
        let entries: Vec<_> = entries
            .iter()
            .map(|(text, entry)| (text.clone(), entry.as_ref()))
            .collect();
        let logprobs = ask.sampling.logprobs.map(|_| lists(&entries, offset));
        json!({
            "index": step.index, "text": text, "logprobs": logprobs,
            "finish_reason": step.end.as_ref().map(|end| end.reason),
            "stop_reason": step.end.as_ref().map(|end| &end.stop),
        })
    }

    fn event(head: &Head, choices: Value, usage: Option<Usage>) -> String {
        let mut event = json!({
            "id": head.id, "object": "text_completion", "created": head.created,
            "model": head.ask.model, "choices": choices,
        });
        if let Some(usage) = usage {
            event["usage"] = usage.json();
        }
        format!("data: {event}\n\n")
    }
}

impl Form for Completions {
    fn step(&mut self, head: &Head, step: &Step, usage: Usage) -> String {
        let mut choice = self.choice(head, step, step.first);
        if head.ask.return_token_ids {
            choice["token_ids"] = json!(step.tokens);
            if step.first {
                let prompt = &head.ask.prompts[step.index / head.ask.sampling.n];
                choice["prompt_token_ids"] = json!(prompt.tokens);
            }
        }
        let usage = head.ask.usage.each.then_some(usage);
        Self::event(head, json!([choice]), usage)
    }

    fn end(&mut self, head: &Head, usage: Usage) -> String {
        let mut out = String::new();
        if head.ask.usage.last {
            out.push_str(&Self::event(head, json!([]), Some(usage)));
        }
        out.push_str("data: [DONE]\n\n");
        out
    }

    fn whole(
        &mut self,
        head: &Head,
        steps: &[Step],
        usage: Usage,
        transfer: Option<Value>,
    ) -> Value {
        let ask = &head.ask;
        let choices: Vec<Value> = steps
            .iter()
            .map(|step| {
                let mut choice = self.choice(head, step, true);
                let prompt = &ask.prompts[step.index / ask.sampling.n].tokens;
                let ids = ask.return_token_ids;
                choice["token_ids"] = json!(ids.then_some(&step.tokens));
                choice["prompt_token_ids"] = json!(ids.then_some(prompt));
                choice["prompt_logprobs"] =
                    prompt_logprobs(&self.sim, prompt, ask.sampling.prompt_logprobs);
                choice
            })
            .collect();
        json!({
            "id": head.id, "object": "text_completion", "created": head.created,
            "model": ask.model, "choices": choices, "service_tier": null,
            "system_fingerprint": null, "usage": usage.json(),
            "kv_transfer_params": transfer,
        })
    }
}

/// `prompt_logprobs` of an answer; null where they were not asked for.
pub(super) fn prompt_logprobs(sim: &Sim, prompt: &[u32], count: Option<usize>) -> Value {
    let Some(count) = count else {
        return Value::Null;
    };
    let entries = Entry::prompt(prompt, count, &sim.tokens);
    let by_id = |entry: &Option<Entry>| entry.as_ref().map(Entry::by_id);
    json!(entries.iter().map(by_id).collect::<Vec<_>>())
}
