//! The form of `/v1/responses`. PURE but for new names of items.
//!
//! ```text
//! created, in_progress, output_item.added, content_part.added, output_text.delta …,
//! output_text.done, content_part.done, output_item.done, completed
//! ```

use serde_json::{Value, json};

use super::super::request::Call;
use super::chat::{call_id, complete, escaped};
use super::logprobs::Entry;
use super::voice::End;
use super::{Form, Head, Step, Usage};

/// Responses of OpenAI's newer API.
#[derive(Default)]
pub(in crate::sim::server) struct Responses {
    events: u64,
    item: String,
    call: String,
    /// The text, or the arguments, so far.
    said: String,
    logprobs: Vec<Value>,
    end: Option<End>,
}

fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", uuid::Uuid::new_v4().simple())
}

impl Responses {
    fn event(&mut self, kind: &str, mut body: Value) -> String {
        body["type"] = json!(kind);
        body["sequence_number"] = json!(self.events);
        self.events += 1;
        format!("event: {kind}\ndata: {body}\n\n")
    }

    fn response(head: &Head, status: &str, output: &Value, usage: Option<Usage>) -> Value {
        let ask = &head.ask;
        let mut response = ask.view.clone();
        let incomplete = (status == "incomplete").then(|| json!({"reason": "max_output_tokens"}));
        let rest = json!({
            "id": head.id, "object": "response", "created_at": head.created,
            "model": ask.model, "output": output, "status": status,
            "incomplete_details": incomplete, "background": false,
            "max_output_tokens": ask.prompts[0].max_tokens, "service_tier": "auto",
            "truncation": "disabled", "top_logprobs": ask.sampling.logprobs,
            "usage": usage.map(usage_json),
        });
        if let (Some(response), Value::Object(rest)) = (response.as_object_mut(), rest) {
            response.extend(rest);
        }
        response
    }

    fn part(&self) -> Value {
        let logprobs = (!self.logprobs.is_empty()).then_some(&self.logprobs);
        json!({
            "type": "output_text", "text": self.said, "annotations": [], "logprobs": logprobs,
        })
    }

    fn done_item(&self, call: Option<&Call>, status: &str) -> Value {
        match call {
            None => json!({
                "id": self.item, "type": "message", "role": "assistant",
                "status": status, "content": [self.part()],
            }),
            Some(call) => json!({
                "id": self.item, "type": "function_call", "call_id": self.call,
                "name": call.name, "arguments": self.said, "status": "completed",
            }),
        }
    }

    fn name_item(&mut self, call: Option<&Call>) {
        self.item = new_id(if call.is_some() { "fc" } else { "msg" });
        self.call = call_id();
    }

    fn add_item(&mut self, call: Option<&Call>) -> String {
        self.name_item(call);
        let item = match call {
            None => json!({
                "id": self.item, "type": "message", "role": "assistant",
                "status": "in_progress", "content": [],
            }),
            Some(call) => json!({
                "id": self.item, "type": "function_call", "call_id": self.call,
                "name": call.name, "arguments": "", "status": "in_progress",
            }),
        };
        let body = json!({"output_index": 0, "item": item});
        let mut out = self.event("response.output_item.added", body);
        if call.is_none() {
            let part = json!({
                "type": "output_text", "text": "", "annotations": [], "logprobs": [],
            });
            let body = self.place(json!({"part": part}));
            out.push_str(&self.event("response.content_part.added", body));
        }
        out
    }

    /// Where in the answer an event of the text is.
    fn place(&self, mut body: Value) -> Value {
        body["item_id"] = json!(self.item);
        body["output_index"] = json!(0);
        body["content_index"] = json!(0);
        body
    }

    fn add_text(&mut self, step: &Step, count: Option<usize>) -> String {
        let entry = |entry: &Entry| entry.chat(count.unwrap_or_default());
        let logprobs: Vec<Value> = step.logprobs.iter().map(entry).collect();
        self.said.push_str(&step.text);
        self.logprobs.extend(logprobs.iter().cloned());
        let body = json!({"delta": step.text, "logprobs": logprobs});
        let body = self.place(body);
        self.event("response.output_text.delta", body)
    }

    fn add_arguments(&mut self, call: &Call, step: &Step) -> String {
        let mut delta = String::new();
        if step.first {
            delta.push_str(&call.before);
        }
        if call.speaks {
            delta.push_str(&escaped(&step.text));
        }
        if complete(step.end.as_ref()) {
            delta.push_str(&call.after);
        }
        self.said.push_str(&delta);
        let body = json!({"item_id": self.item, "output_index": 0, "delta": delta});
        self.event("response.function_call_arguments.delta", body)
    }
}

fn usage_json(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.prompt, "output_tokens": usage.generated,
        "total_tokens": usage.prompt + usage.generated,
        "input_tokens_details": {"cached_tokens": usage.cached.unwrap_or_default()},
        "output_tokens_details": {"reasoning_tokens": 0, "tool_output_tokens": 0},
    })
}

fn status(end: Option<&End>) -> &'static str {
    if complete(end) {
        "completed"
    } else {
        "incomplete"
    }
}

impl Form for Responses {
    fn begin(&mut self, head: &Head) -> String {
        let response = Self::response(head, "in_progress", &json!([]), None);
        let mut out = String::new();
        for kind in ["response.created", "response.in_progress"] {
            out.push_str(&self.event(kind, json!({"response": response})));
        }
        out
    }

    fn step(&mut self, head: &Head, step: &Step, _usage: Usage) -> String {
        let call = head.ask.call.as_ref();
        let mut out = String::new();
        if step.first {
            out.push_str(&self.add_item(call));
        }
        out.push_str(&match call {
            None => self.add_text(step, head.ask.sampling.logprobs),
            Some(call) => self.add_arguments(call, step),
        });
        self.end = self.end.take().or_else(|| step.end.clone());
        out
    }

    fn end(&mut self, head: &Head, usage: Usage) -> String {
        let call = head.ask.call.as_ref();
        let mut out = String::new();
        if let Some(call) = call {
            let body = json!({
                "item_id": self.item, "output_index": 0,
                "arguments": self.said, "name": call.name,
            });
            out.push_str(&self.event("response.function_call_arguments.done", body));
        } else {
            let body = self.place(json!({"text": self.said, "logprobs": []}));
            out.push_str(&self.event("response.output_text.done", body));
            let body = self.place(json!({"part": self.part()}));
            out.push_str(&self.event("response.content_part.done", body));
        }
        let item = self.done_item(call, "completed");
        let body = json!({"output_index": 0, "item": item});
        out.push_str(&self.event("response.output_item.done", body));
        let status = status(self.end.as_ref());
        let response = Self::response(head, status, &json!([item]), Some(usage));
        out.push_str(&self.event("response.completed", json!({"response": response})));
        out
    }

    fn failed(&mut self, problem: &super::super::problem::Problem) -> String {
        format!("data: {}\n\n", problem.body())
    }

    fn whole(
        &mut self,
        head: &Head,
        steps: &[Step],
        usage: Usage,
        transfer: Option<Value>,
    ) -> Value {
        let call = head.ask.call.as_ref();
        let step = &steps[0];
        let end = step.end.as_ref();
        self.name_item(call);
        self.said = match call {
            None => step.text.clone(),
            Some(call) => call.arguments(&step.text, end),
        };
        let count = head.ask.sampling.logprobs.unwrap_or_default();
        self.logprobs = step
            .logprobs
            .iter()
            .map(|entry| entry.chat(count))
            .collect();
        let status = status(end);
        let item = self.done_item(call, status);
        let mut response = Self::response(head, status, &json!([item]), Some(usage));
        response["kv_transfer_params"] = json!(transfer);
        response
    }
}
