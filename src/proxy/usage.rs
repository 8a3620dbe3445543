//! The decode engine's answer -> the same answer with the prefill engine's count of cached
//! prompt tokens. To the decode engine the whole prompt looks cached: it came from elsewhere.
//!
//! PURE but for [`Rewritten`], the body that the edits run in. Everything else of the answer
//! keeps its bytes, and a stream keeps flowing line by line.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response, header};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, Incoming};

use super::body::Body;
use super::metrics::Metrics;
use super::route;
use crate::openai::api::Api;
use crate::openai::splice::Object;
use crate::telemetry::budget::{Budget, Lease};

/// The longest line of a stream that is held back to look into it.
const MAX_LINE_BYTES: usize = 1 << 20;
/// The largest whole answer that is held back.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Where an answer of this API counts cached prompt tokens. `None` where it does not, or (the
/// Anthropic form) only as a part of sums that would no longer add up.
pub fn cached_tokens_path(api: Api) -> Option<&'static [&'static str]> {
    match api {
        Api::Chat | Api::Completions | Api::Generate => {
            Some(&["usage", "prompt_tokens_details", "cached_tokens"])
        }
        Api::Responses => Some(&["usage", "input_tokens_details", "cached_tokens"]),
        _ => None,
    }
}

/// The same inside one event of a stream.
fn event_path(api: Api) -> Option<&'static [&'static str]> {
    match api {
        Api::Responses => Some(&["response", "usage", "input_tokens_details", "cached_tokens"]),
        other => cached_tokens_path(other),
    }
}

/// Puts this count into the answer, where it is one that has such a count; any other is
/// streamed on unread. What is held back counts in the budget; where that is spent, the answer
/// goes on as it is.
pub fn rewrite(
    response: Response<Incoming>,
    api: Api,
    cached_tokens: u64,
    budget: &Budget,
    metrics: &Metrics,
) -> Response<Body> {
    let is = |kind: &str| {
        let header = response.headers().get(header::CONTENT_TYPE);
        let essence = header.and_then(|value| value.to_str().ok()?.split(';').next());
        essence.is_some_and(|found| found.trim().eq_ignore_ascii_case(kind))
    };
    let readable = response.status().is_success() && !route::is_encoded(response.headers());
    let editor = if readable && is("text/event-stream") {
        event_path(api).map(|path| Editor::lines(path, cached_tokens))
    } else if readable && is("application/json") {
        cached_tokens_path(api).map(|path| Editor::whole(path, cached_tokens))
    } else {
        None
    };
    let Some(editor) = editor else {
        return response.map(BodyExt::boxed);
    };
    let (mut parts, inner) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let body = Rewritten {
        inner,
        editor,
        last: None,
        metrics: metrics.clone(),
        lease: budget.try_take(0),
    };
    Response::from_parts(parts, body.boxed())
}

/// Takes an answer's bytes in any pieces and gives the edited ones. PURE.
#[derive(Debug)]
pub struct Editor {
    path: &'static [&'static str],
    cached_tokens: u64,
    unit: Unit,
    limit: usize,
    held: Vec<u8>,
    /// The rest of the unit is too long to be held.
    passing: bool,
    skipped: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Unit {
    Line,
    Answer,
}

impl Editor {
    /// An editor of server-sent events.
    pub fn lines(path: &'static [&'static str], cached_tokens: u64) -> Self {
        Self::new(path, cached_tokens, Unit::Line, MAX_LINE_BYTES)
    }

    /// An editor of one JSON answer.
    pub fn whole(path: &'static [&'static str], cached_tokens: u64) -> Self {
        Self::new(path, cached_tokens, Unit::Answer, MAX_ANSWER_BYTES)
    }

    fn new(path: &'static [&'static str], cached_tokens: u64, unit: Unit, limit: usize) -> Self {
        Self {
            path,
            cached_tokens,
            unit,
            limit,
            held: Vec::new(),
            passing: false,
            skipped: 0,
        }
    }

    /// Takes the next bytes, and gives those that are ready to be sent.
    pub fn push(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 32);
        // Events end with CR, LF or both; the LF of both is a line of its own here.
        while self.unit == Unit::Line
            && let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'))
        {
            let (line, rest) = bytes.split_at(end + 1);
            self.hold(line, &mut out);
            self.flush(&mut out);
            bytes = rest;
        }
        self.hold(bytes, &mut out);
        out
    }

    /// What is left when the answer has ended.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.flush(&mut out);
        out
    }

    /// How many lines or answers were too long, since the last call.
    pub fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    /// How many bytes are held back now.
    pub fn held_bytes(&self) -> usize {
        self.held.len()
    }

    /// Gives what is held back, unedited, and holds back nothing more of this line or answer.
    pub fn let_go(&mut self, out: &mut Vec<u8>) {
        if !self.passing && !self.held.is_empty() {
            self.passing = true;
            self.skipped += 1;
            out.append(&mut self.held);
        }
    }

    fn hold(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if !self.passing && self.held.len() + bytes.len() > self.limit {
            self.passing = true;
            self.skipped += 1;
            out.append(&mut self.held);
        }
        if self.passing {
            out.extend_from_slice(bytes);
        } else {
            self.held.extend_from_slice(bytes);
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        self.passing = false;
        match self.edited() {
            Some(edited) => out.extend_from_slice(&edited),
            None => out.extend_from_slice(&self.held),
        }
        self.held.clear();
    }

    /// The held unit with the count put in; `None` where it has no place for one.
    fn edited(&self) -> Option<Vec<u8>> {
        let (prefix, json) = match self.unit {
            Unit::Answer => (&b""[..], self.held.as_slice()),
            Unit::Line => (&b"data:"[..], self.held.strip_prefix(b"data:")?),
        };
        // Most events of a stream have no usage: they are not parsed.
        if !json.windows(7).any(|window| window == b"\"usage\"") {
            return None;
        }
        let mut object = Object::read(json).ok()?;
        let counts = &self.path[..self.path.len() - 2];
        if !object.get_in(counts)?.starts_with('{') {
            return None;
        }
        object
            .set_in(self.path, &self.cached_tokens.to_string())
            .ok()?;
        Some([prefix, &object.to_bytes()].concat())
    }
}

/// An answer's body with an [`Editor`] in its way.
#[derive(Debug)]
pub struct Rewritten {
    inner: Incoming,
    editor: Editor,
    /// What follows the editor's last bytes.
    last: Option<Last>,
    metrics: Metrics,
    /// On the bytes held back; `None` when nothing may be.
    lease: Option<Lease>,
}

impl Rewritten {
    /// The next bytes, edited, as far as the budget has room to hold some back.
    fn push(&mut self, data: &[u8]) -> Vec<u8> {
        let mut out = self.editor.push(data);
        let held = self.editor.held_bytes();
        let room = self.lease.as_mut().is_some_and(|lease| {
            lease.shrink_to(held);
            lease.grow_to(held)
        });
        if !room {
            self.editor.let_go(&mut out);
        }
        out
    }
}

#[derive(Debug)]
enum Last {
    Trailers(HeaderMap),
    Error(hyper::Error),
    Nothing,
}

impl HttpBody for Rewritten {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        loop {
            match this.last.take() {
                None => {}
                Some(Last::Trailers(trailers)) => {
                    this.last = Some(Last::Nothing);
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Some(Last::Error(error)) => {
                    this.last = Some(Last::Nothing);
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Last::Nothing) => {
                    this.last = Some(Last::Nothing);
                    return Poll::Ready(None);
                }
            }
            let Poll::Ready(polled) = Pin::new(&mut this.inner).poll_frame(context) else {
                return Poll::Pending;
            };
            let frame = polled.map(|frame| frame.map(Frame::into_data));
            let out = match frame {
                Some(Ok(Ok(data))) => this.push(&data),
                Some(Ok(Err(frame))) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    this.last = Some(Last::Trailers(trailers));
                    this.editor.finish()
                }
                Some(Err(error)) => {
                    this.last = Some(Last::Error(error));
                    this.editor.finish()
                }
                None => {
                    this.last = Some(Last::Nothing);
                    this.editor.finish()
                }
            };
            this.metrics.usage_skipped(this.editor.take_skipped());
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out.into()))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(editor: &mut Editor, pieces: &[&[u8]]) -> String {
        let mut out: Vec<u8> = pieces.iter().flat_map(|piece| editor.push(piece)).collect();
        out.extend(editor.finish());
        String::from_utf8(out).unwrap()
    }

    fn chat_lines() -> Editor {
        Editor::lines(event_path(Api::Chat).unwrap(), 7)
    }

    const STREAM: &str = "data: {\"id\":\"é\",\"choices\":[{\"delta\":{\"content\":\"usage\"}}],\"usage\":null}\n\n\
        : comment \"usage\"\r\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9, \"prompt_tokens_details\":{\"cached_tokens\":8},\"n\":12345678901234567890}}\r\n\r\n\
        data:{\"usage\":{\"prompt_tokens_details\":null}}\n\n\
        data: [DONE]\n\ndata: {\"usage\":{}}";
    const EDITED: &str = "data: {\"id\":\"é\",\"choices\":[{\"delta\":{\"content\":\"usage\"}}],\"usage\":null}\n\n\
        : comment \"usage\"\r\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9, \"prompt_tokens_details\":{\"cached_tokens\":7},\"n\":12345678901234567890}}\r\n\r\n\
        data:{\"usage\":{\"prompt_tokens_details\":{\"cached_tokens\":7}}}\n\n\
        data: [DONE]\n\ndata: {\"usage\":{\"prompt_tokens_details\":{\"cached_tokens\":7}}}";

    #[test]
    fn a_stream_is_edited_wherever_it_is_split() {
        let bytes = STREAM.as_bytes();
        for at in 0..=bytes.len() {
            let (left, right) = bytes.split_at(at);
            assert_eq!(
                edit(&mut chat_lines(), &[left, right]),
                EDITED,
                "split at {at}"
            );
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(edit(&mut chat_lines(), &single), EDITED);
    }

    #[test]
    fn a_whole_line_is_not_held_back() {
        let mut editor = chat_lines();
        assert_eq!(editor.push(b"data: 1\n\ndata: 2"), b"data: 1\n\n");
        assert_eq!(editor.push(b"\n"), b"data: 2\n");
        assert_eq!(editor.finish(), b"");
    }

    #[test]
    fn a_line_too_long_passes_and_the_next_is_edited_again() {
        let mut editor = Editor::new(event_path(Api::Chat).unwrap(), 7, Unit::Line, 20);
        assert_eq!(editor.push(b"data: {\"usage\":"), b"");
        assert_eq!(editor.push(b"{\"x\":1},"), b"data: {\"usage\":{\"x\":1},");
        assert_eq!(editor.push(b"\"a\":1}\nda"), b"\"a\":1}\n");
        let rest = [editor.push(b"ta:{\"usage\":{}}\n"), editor.finish()].concat();
        assert_eq!(
            String::from_utf8(rest).unwrap(),
            "data:{\"usage\":{\"prompt_tokens_details\":{\"cached_tokens\":7}}}\n"
        );
        assert_eq!((editor.take_skipped(), editor.take_skipped()), (1, 0));
    }

    #[test]
    fn what_is_let_go_passes_and_the_next_line_is_edited_again() {
        let mut editor = chat_lines();
        assert_eq!(editor.push(b"data:{\"usage\":{"), b"");
        assert_eq!(editor.held_bytes(), 15);
        let mut out = Vec::new();
        editor.let_go(&mut out);
        out.extend(editor.push(b"}}\ndata:{\"usage\":{}}\n"));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "data:{\"usage\":{}}\ndata:{\"usage\":{\"prompt_tokens_details\":{\"cached_tokens\":7}}}\n"
        );
        assert_eq!((editor.take_skipped(), editor.held_bytes()), (1, 0));
    }

    #[test]
    fn a_whole_answer_is_edited_where_it_counts_tokens() {
        let whole = |api, text: &str| {
            let mut editor = Editor::whole(cached_tokens_path(api).unwrap(), 7);
            edit(&mut editor, &[text.as_bytes()])
        };
        assert_eq!(
            whole(Api::Chat, r#"{"usage": {"a":1}, "b":2}"#),
            r#"{"usage": {"a":1,"prompt_tokens_details":{"cached_tokens":7}}, "b":2}"#
        );
        assert_eq!(
            whole(
                Api::Responses,
                r#"{"usage":{"input_tokens_details":{"cached_tokens":1}}}"#
            ),
            r#"{"usage":{"input_tokens_details":{"cached_tokens":7}}}"#
        );
        for text in ["{\"usage\":null}", "{}", "", "{\"usage\":", "[\"usage\"]"] {
            assert_eq!(whole(Api::Chat, text), text);
        }
    }

    #[test]
    fn responses_events_count_inside_their_response() {
        let mut editor = Editor::lines(event_path(Api::Responses).unwrap(), 7);
        assert_eq!(
            edit(
                &mut editor,
                &[b"data: {\"response\":{\"usage\":{}},\"usage\":{}}\n"]
            ),
            "data: {\"response\":{\"usage\":{\"input_tokens_details\":{\"cached_tokens\":7}}},\"usage\":{}}\n"
        );
    }
}
