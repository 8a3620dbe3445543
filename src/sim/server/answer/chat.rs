//! The form of `/v1/chat/completions`. PURE but for new names of tool calls.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::Sim;
use super::super::request::Call;
use super::super::request::tools::Choice;
use super::completions::prompt_logprobs;
use super::voice::End;
use super::{Form, Head, Step, Usage};

/// Chat completions.
pub(in crate::sim::server) struct Chat {
    sim: Arc<Sim>,
}

/// vLLM's name for a new tool call.
pub(in crate::sim::server) fn call_id() -> String {
    format!("chatcmpl-tool-{}", uuid::Uuid::new_v4().simple())
}

/// A text as a part of a JSON string.
pub(in crate::sim::server) fn escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

impl Call {
    /// The whole arguments; cut off where the answer ended too early.
    pub(in crate::sim::server) fn arguments(&self, text: &str, end: Option<&End>) -> String {
        let said = if self.speaks {
            escaped(text)
        } else {
            String::new()
        };
        let after = if complete(end) {
            self.after.as_str()
        } else {
            ""
        };
        format!("{}{said}{after}", self.before)
    }

    /// The reason that an answer with this call ends with.
    fn reason(&self, end: &End) -> &'static str {
        match self.choice {
            Choice::Named => end.reason,
            _ if end.reason == "stop" => "tool_calls",
            _ => end.reason,
        }
    }
}

/// True where an answer has come to its end and was not cut off.
pub(in crate::sim::server) fn complete(end: Option<&End>) -> bool {
    end.is_some_and(|end| end.reason == "stop")
}

impl Chat {
    pub(in crate::sim::server) fn new(sim: Arc<Sim>) -> Self {
        Self { sim }
    }

    fn event(head: &Head, choices: Value, usage: Option<Usage>) -> Value {
        let mut event = json!({
            "id": head.id, "object": "chat.completion.chunk", "created": head.created,
            "model": head.ask.model, "choices": choices,
        });
        if let Some(usage) = usage {
            event["usage"] = usage.json();
        }
        event
    }

    fn logprobs(head: &Head, step: &Step) -> Value {
        let Some(count) = head.ask.sampling.logprobs else {
            return Value::Null;
        };
        let entries = step.logprobs.iter().map(|entry| entry.chat(count));
        json!({"content": entries.collect::<Vec<_>>()})
    }

    fn message(head: &Head, step: &Step) -> Value {
        let mut message = json!({
            "role": "assistant", "content": step.text, "refusal": null,
            "annotations": null, "audio": null, "function_call": null, "reasoning": null,
        });
        let Some(call) = &head.ask.call else {
            return message;
        };
        let whole = complete(step.end.as_ref());
        message["content"] = match call.choice {
            Choice::Auto if whole => Value::Null,
            Choice::Auto => json!(call.arguments(&step.text, None)),
            _ => json!(""),
        };
        // What is cut off is no call, unless the client named it.
        if whole || call.choice == Choice::Named {
            let arguments = call.arguments(&step.text, step.end.as_ref());
            message["tool_calls"] = json!([{
                "id": call_id(), "type": "function",
                "function": {"name": call.name, "arguments": arguments},
            }]);
        }
        message
    }
}

/// What a step adds to a message.
fn delta(head: &Head, step: &Step) -> Value {
    let Some(call) = &head.ask.call else {
        return json!({"content": step.text});
    };
    let mut arguments = String::new();
    if step.first {
        arguments.push_str(&call.before);
    }
    if call.speaks {
        arguments.push_str(&escaped(&step.text));
    }
    if complete(step.end.as_ref()) {
        arguments.push_str(&call.after);
    }
    let mut part = json!({"index": 0, "function": {"arguments": arguments}});
    if step.first {
        part["id"] = json!(call_id());
        part["type"] = json!("function");
        part["function"]["name"] = json!(call.name);
    }
    json!({"tool_calls": [part]})
}

impl Form for Chat {
    fn begin(&mut self, head: &Head) -> String {
        let prompt = &head.ask.prompts[0].tokens;
        let usage = head.ask.usage.each.then_some(Usage {
            prompt: prompt.len(),
            ..Usage::default()
        });
        let mut out = String::new();
        for index in 0..head.ask.sampling.n {
            let choice = json!({
                "index": index, "delta": {"role": "assistant", "content": ""},
                "logprobs": null, "finish_reason": null,
            });
            let mut event = Self::event(head, json!([choice]), usage);
            if head.ask.return_token_ids {
                event["prompt_token_ids"] = json!(prompt);
            }
            out.push_str(&format!("data: {event}\n\n"));
        }
        out
    }

    fn step(&mut self, head: &Head, step: &Step, usage: Usage) -> String {
        let mut choice = json!({
            "index": step.index, "delta": delta(head, step),
            "logprobs": Self::logprobs(head, step), "finish_reason": null,
        });
        if let Some(end) = &step.end {
            let call = head.ask.call.as_ref();
            choice["finish_reason"] = json!(call.map_or(end.reason, |call| call.reason(end)));
            choice["stop_reason"] = end.stop.clone();
        }
        if head.ask.return_token_ids {
            choice["token_ids"] = json!(step.tokens);
        }
        let usage = head.ask.usage.each.then_some(usage);
        format!("data: {}\n\n", Self::event(head, json!([choice]), usage))
    }

    fn end(&mut self, head: &Head, usage: Usage) -> String {
        let mut out = String::new();
        if head.ask.usage.last {
            let event = Self::event(head, json!([]), Some(usage));
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
        let choice = |step: &Step| {
            let end = step.end.as_ref();
            let call = ask.call.as_ref();
            let reason = end.map(|end| call.map_or(end.reason, |call| call.reason(end)));
            json!({
                "index": step.index, "message": Self::message(head, step),
                "logprobs": Self::logprobs(head, step), "finish_reason": reason,
                "stop_reason": end.map(|end| &end.stop),
                "token_ids": ask.return_token_ids.then_some(&step.tokens),
            })
        };
        let choices: Vec<Value> = steps.iter().map(choice).collect();
        let prompt = &ask.prompts[0].tokens;
        json!({
            "id": head.id, "object": "chat.completion", "created": head.created,
            "model": ask.model, "choices": choices, "service_tier": null,
            "system_fingerprint": null, "usage": usage.json(),
            "prompt_logprobs": prompt_logprobs(&self.sim, prompt, ask.sampling.prompt_logprobs),
            "prompt_token_ids": ask.return_token_ids.then_some(prompt),
            "kv_transfer_params": transfer,
        })
    }
}
