//! The form of `/v1/messages`: Anthropic's. PURE but for new names of tool calls.

use serde_json::{Value, json};

use super::super::problem::Problem;
use super::super::request::Call;
use super::chat::{call_id, complete, escaped};
use super::voice::End;
use super::{Form, Head, Step, Usage};

/// Messages of Anthropic's API.
#[derive(Default)]
pub(in crate::sim::server) struct Messages {
    /// A content block has begun.
    open: bool,
    end: Option<End>,
}

fn event(kind: &str, mut body: Value) -> String {
    body["type"] = json!(kind);
    format!("event: {kind}\ndata: {body}\n\n")
}

/// Anthropic counts what was cached apart.
fn usage_json(usage: Usage) -> Value {
    let cached = usage.cached.unwrap_or_default();
    let mut json = json!({
        "input_tokens": usage.prompt.saturating_sub(cached),
        "output_tokens": usage.generated,
    });
    if usage.cached.is_some() {
        json["cache_read_input_tokens"] = json!(cached);
    }
    json
}

/// `stop_reason` and `stop_sequence`.
fn reasons(call: Option<&Call>, end: Option<&End>) -> (Value, Value) {
    let Some(end) = end else {
        return (Value::Null, Value::Null);
    };
    match (call, &end.stop) {
        _ if end.reason == "length" => (json!("max_tokens"), Value::Null),
        (Some(_), _) => (json!("tool_use"), Value::Null),
        (None, Value::String(stop)) => (json!("stop_sequence"), json!(stop)),
        (None, _) => (json!("end_turn"), Value::Null),
    }
}

impl Messages {
    fn start_block(&mut self, call: Option<&Call>) -> String {
        self.open = true;
        let block = match call {
            None => json!({"type": "text", "text": ""}),
            Some(call) => json!({
                "type": "tool_use", "id": call_id(), "name": call.name, "input": {},
            }),
        };
        event(
            "content_block_start",
            json!({"index": 0, "content_block": block}),
        )
    }
}

impl Form for Messages {
    fn begin(&mut self, head: &Head) -> String {
        let usage = Usage {
            prompt: head.ask.prompts[0].tokens.len(),
            ..Usage::default()
        };
        let message = json!({
            "id": head.id, "type": "message", "role": "assistant", "content": [],
            "model": head.ask.model, "stop_reason": null, "stop_sequence": null,
            "usage": usage_json(usage),
        });
        event("message_start", json!({"message": message}))
    }

    fn step(&mut self, head: &Head, step: &Step, _usage: Usage) -> String {
        let call = head.ask.call.as_ref();
        let mut out = String::new();
        let (kind, field, text) = match call {
            None => ("text_delta", "text", step.text.clone()),
            Some(call) => {
                let before = if step.first { call.before.as_str() } else { "" };
                let said = if call.speaks {
                    escaped(&step.text)
                } else {
                    String::new()
                };
                let whole = complete(step.end.as_ref());
                let after = if whole { call.after.as_str() } else { "" };
                let text = format!("{before}{said}{after}");
                ("input_json_delta", "partial_json", text)
            }
        };
        if !text.is_empty() {
            if !self.open {
                out.push_str(&self.start_block(call));
            }
            let delta = json!({"type": kind, field: text});
            let body = json!({"index": 0, "delta": delta});
            out.push_str(&event("content_block_delta", body));
        }
        self.end = self.end.take().or_else(|| step.end.clone());
        out
    }

    fn end(&mut self, head: &Head, usage: Usage) -> String {
        let mut out = String::new();
        if self.open {
            out.push_str(&event("content_block_stop", json!({"index": 0})));
        }
        let (reason, sequence) = reasons(head.ask.call.as_ref(), self.end.as_ref());
        let delta = json!({"stop_reason": reason, "stop_sequence": sequence});
        let body = json!({"delta": delta, "usage": usage_json(usage)});
        out.push_str(&event("message_delta", body));
        out.push_str(&event("message_stop", json!({})));
        out
    }

    fn failed(&mut self, problem: &Problem) -> String {
        let error = json!({"type": "internal_error", "message": problem.message});
        event("error", json!({"error": error}))
    }

    fn whole(
        &mut self,
        head: &Head,
        steps: &[Step],
        usage: Usage,
        transfer: Option<Value>,
    ) -> Value {
        let call = head.ask.call.as_ref();
        let (step, end) = (&steps[0], steps[0].end.as_ref());
        let block = match call.filter(|_| complete(end)) {
            // What is cut off is no call.
            None if call.is_some() => json!({"type": "text", "text": ""}),
            None => json!({"type": "text", "text": step.text}),
            Some(call) => {
                let arguments = call.arguments(&step.text, end);
                let input: Value = serde_json::from_str(&arguments).unwrap_or_default();
                json!({"type": "tool_use", "id": call_id(), "name": call.name, "input": input})
            }
        };
        let (reason, sequence) = reasons(call, end);
        let mut body = json!({
            "id": head.id, "type": "message", "role": "assistant", "content": [block],
            "model": head.ask.model, "stop_reason": reason, "usage": usage_json(usage),
        });
        // vLLM leaves out what is null.
        if !sequence.is_null() {
            body["stop_sequence"] = sequence;
        }
        if let Some(transfer) = transfer {
            body["kv_transfer_params"] = transfer;
        }
        body
    }
}
