//! Tokens as they come -> the JSON or the server-sent events that clients read. IO.
//!
//! ```text
//! tickets of the engine -> voices (text, stop strings, logprobs) -> steps -> an API's form
//! ```

pub(super) mod chat;
pub(super) mod completions;
pub(super) mod generate;
pub(super) mod logprobs;
pub(super) mod messages;
pub(super) mod responses;
pub(super) mod voice;

use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream, SelectAll};
use serde_json::{Value, json};

use self::voice::{Step, Voice};
use super::problem::Problem;
use super::request::Ask;
use super::{Sim, now_seconds};
use crate::sim::engine::Finish;
use crate::sim::task::{Ticket, Update};

/// What every event of an answer repeats.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) ask: Ask,
}

/// Tokens of a whole answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) prompt: usize,
    pub(super) generated: usize,
    /// `None` where it is not told yet.
    pub(super) cached: Option<usize>,
}

impl Usage {
    /// OpenAI's form.
    pub(super) fn json(self) -> Value {
        let mut usage = json!({
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.generated,
            "completion_tokens": self.generated,
        });
        if let Some(cached) = self.cached {
            usage["prompt_tokens_details"] = json!({"cached_tokens": cached});
        }
        usage
    }
}

/// How an API writes an answer.
pub(super) trait Form: Send {
    /// The events before the first token.
    fn begin(&mut self, _head: &Head) -> String {
        String::new()
    }

    /// The events of a step of one sample; `usage` is of this sample so far.
    fn step(&mut self, head: &Head, step: &Step, usage: Usage) -> String;

    /// The events after the last token.
    fn end(&mut self, head: &Head, usage: Usage) -> String;

    /// The events that tell of an error after the answer has begun.
    fn failed(&mut self, problem: &Problem) -> String {
        format!("data: {}\n\ndata: [DONE]\n\n", problem.body())
    }

    /// The answer in one piece: of each sample one step with all of it.
    fn whole(
        &mut self,
        head: &Head,
        steps: &[Step],
        usage: Usage,
        transfer: Option<Value>,
    ) -> Value;
}

/// One answer on its way to a client.
pub(super) struct Answer {
    sim: Arc<Sim>,
    head: Head,
    form: Box<dyn Form>,
    voices: Vec<Voice>,
    updates: SelectAll<BoxStream<'static, (usize, Option<Update>)>>,
    /// Break off after so many events.
    disconnect: Option<usize>,
    begun: bool,
    events: usize,
    ended: bool,
}

impl Answer {
    pub(super) fn new(
        sim: Arc<Sim>,
        head: Head,
        form: Box<dyn Form>,
        tickets: Vec<Ticket>,
        disconnect: Option<usize>,
    ) -> Self {
        let mut voices = Vec::with_capacity(tickets.len());
        let mut updates = SelectAll::new();
        for (index, ticket) in tickets.into_iter().enumerate() {
            voices.push(Voice::new(index, ticket.id, &head.ask));
            let heard = stream::unfold(Some(ticket.updates), move |updates| async move {
                let mut updates = updates?;
                let update = updates.recv().await;
                let last = matches!(update, None | Some(Update::Finished(_)));
                Some(((index, update), (!last).then_some(updates)))
            });
            updates.push(heard.boxed());
        }
        Self {
            sim,
            head,
            form,
            voices,
            updates,
            disconnect,
            begun: false,
            events: 0,
            ended: false,
        }
    }

    /// The next step of some sample; `None` when all have ended.
    async fn next(&mut self) -> Result<Option<Step>, Problem> {
        loop {
            let Some((index, update)) = self.updates.next().await else {
                return Ok(None);
            };
            let voice = &mut self.voices[index];
            let update = update.ok_or_else(stopped)?;
            if let Update::Finished(finished) = &update
                && finished.finish == Finish::Error
            {
                return Err(not_loaded());
            }
            let step = voice.hear(update, &self.sim.tokens);
            if let Some(id) = voice.stopped_early() {
                self.sim.handle.stop(id).await.map_err(|_| stopped())?;
            }
            if step.is_some() {
                return Ok(step);
            }
        }
    }

    /// Of all samples; a prompt counts once, and the cache is told of one of the prompts only,
    /// as by vLLM: the first in a stream, else the last.
    fn usage(&self, last: bool) -> Usage {
        let samples = self.head.ask.sampling.n;
        let prompts = self.head.ask.prompts.iter();
        let told = if last { self.voices.len() - samples } else { 0 };
        Usage {
            prompt: prompts.map(|prompt| prompt.tokens.len()).sum(),
            generated: self.voices.iter().map(Voice::generated).sum(),
            cached: self.voices.get(told).and_then(Voice::cached),
        }
    }

    // === in one piece ===

    pub(super) async fn whole(mut self) -> Result<Response, Problem> {
        let mut whole: Vec<Step> = (0..self.voices.len()).map(Step::empty).collect();
        while let Some(step) = self.next().await? {
            whole[step.index].append(step);
        }
        let side_channel = self.sim.side_channel.as_ref();
        // Of several prompts or samples, only the first one's blocks are told of.
        let transfer = side_channel
            .zip(self.voices.first().and_then(Voice::finished))
            .and_then(|(channel, finished)| channel.parameters(finished));
        let usage = self.usage(true);
        let body = self.form.whole(&self.head, &whole, usage, transfer);
        if self.disconnect.is_some() {
            return Ok(broken(&body.to_string()));
        }
        Ok(axum::Json(body).into_response())
    }

    // === as events ===

    pub(super) fn stream(self) -> Response {
        // The client's leaving drops the stream and with it the requests.
        let stream = stream::unfold(self, |mut answer| async move {
            let event = answer.next_event().await?;
            Some((event, answer))
        });
        let mut response = Response::new(Body::from_stream(stream));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/event-stream; charset=utf-8"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    async fn next_event(&mut self) -> Option<io::Result<Bytes>> {
        if self.ended {
            return None;
        }
        if self.disconnect.is_some_and(|after| self.events >= after) {
            self.ended = true;
            return Some(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        self.events += 1;
        let mut text = String::new();
        let next = self.next().await;
        if !self.begun && next.is_ok() {
            self.begun = true;
            text.push_str(&self.form.begin(&self.head));
        }
        match next {
            Ok(Some(step)) => {
                let voice = &self.voices[step.index];
                let prompt = &self.head.ask.prompts[step.index / self.head.ask.sampling.n];
                let usage = Usage {
                    prompt: prompt.tokens.len(),
                    generated: voice.generated(),
                    cached: None,
                };
                text.push_str(&self.form.step(&self.head, &step, usage));
            }
            Ok(None) => {
                self.ended = true;
                let usage = self.usage(false);
                text.push_str(&self.form.end(&self.head, usage));
            }
            Err(problem) => {
                self.ended = true;
                if problem == stopped() {
                    return Some(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                text.push_str(&self.form.failed(&problem));
            }
        }
        Some(Ok(text.into()))
    }
}

/// The names of a new answer.
pub(super) fn head(id: String, ask: Ask) -> Head {
    Head {
        id,
        created: now_seconds(),
        ask,
    }
}

/// The first half of a body, and then the connection closes.
fn broken(body: &str) -> Response {
    let half = Bytes::copy_from_slice(&body.as_bytes()[..body.len() / 2]);
    let parts = [Ok(half), Err(io::ErrorKind::ConnectionAborted.into())];
    let stream = stream::iter(parts as [io::Result<Bytes>; 2]);
    let mut response = Response::new(Body::from_stream(stream));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

pub(super) fn stopped() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "shutting down")
}

fn not_loaded() -> Problem {
    let message = "the KV cache of the prompt could not be loaded";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, message)
}
