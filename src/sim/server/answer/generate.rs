//! The form of `/inference/v1/generate`: tokens, and text only where it is asked for. PURE.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::Sim;
use super::completions::prompt_logprobs;
use super::logprobs::Entry;
use super::{Form, Head, Step, Usage};

/// Tokens in, tokens out.
pub(in crate::sim::server) struct Generate {
    sim: Arc<Sim>,
}

impl Generate {
    pub(in crate::sim::server) fn new(sim: Arc<Sim>) -> Self {
        Self { sim }
    }

    fn choice(head: &Head, step: &Step) -> Value {
        let text = head.ask.view["text"] == true;
        let logprobs = head.ask.sampling.logprobs.map(|count| {
            let entry = |entry: &Entry| {
                if text {
                    entry.chat(count)
                } else {
                    by_number(entry, count)
                }
            };
            json!({"content": step.logprobs.iter().map(entry).collect::<Vec<_>>()})
        });
        let end = step.end.as_ref();
        let mut choice = json!({
            "index": step.index, "token_ids": step.tokens, "logprobs": logprobs,
            "finish_reason": end.map(|end| end.reason),
            "stop_reason": end.map(|end| &end.stop),
        });
        if text {
            choice["text"] = json!(step.text);
        }
        choice
    }

    fn mode(head: &Head) -> &'static str {
        if head.ask.view["text"] == true {
            "text"
        } else {
            "tokens"
        }
    }
}

fn by_number(entry: &Entry, count: usize) -> Value {
    let one = |rank: usize, token: u32, logprob: f64| json!({"token_id": token, "logprob": logprob, "rank": rank + 1});
    let top = entry.top.iter().take(count).enumerate();
    let mut value = one(0, entry.token, entry.logprob);
    value["top_logprobs"] = top
        .map(|(rank, (token, _, logprob))| one(rank, *token, *logprob))
        .collect();
    value
}

impl Form for Generate {
    fn step(&mut self, head: &Head, step: &Step, usage: Usage) -> String {
        let mut event = json!({
            "request_id": head.id, "output_mode": Self::mode(head),
            "choices": [Self::choice(head, step)],
        });
        if head.ask.return_token_ids && step.first && step.index == 0 {
            event["prompt_token_ids"] = json!(head.ask.prompts[0].tokens);
        }
        if head.ask.usage.each {
            event["usage"] = usage.json();
        }
        format!("data: {event}\n\n")
    }

    fn end(&mut self, head: &Head, usage: Usage) -> String {
        let mut out = String::new();
        if head.ask.usage.last {
            let event = json!({
                "request_id": head.id, "output_mode": Self::mode(head),
                "choices": [], "usage": usage.json(),
            });
            out.push_str(&format!("data: {event}\n\n"));
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
        let prompt = &ask.prompts[0].tokens;
        let choices = steps.iter().map(|step| Self::choice(head, step));
        json!({
            "request_id": head.id, "model": ask.model, "created": head.created,
            "output_mode": Self::mode(head), "choices": choices.collect::<Vec<_>>(),
            "usage": usage.json(), "kv_transfer_params": transfer,
            "prompt_token_ids": ask.return_token_ids.then_some(prompt),
            "prompt_logprobs": prompt_logprobs(&self.sim, prompt, ask.sampling.prompt_logprobs),
        })
    }
}
