//! Request headers -> an engine's answer: JSON at once, a stream of events, or a stream that
//! stays open. The stream's clock is IO.
//!
//! `x-bench-answer: json|sse|hold`, `x-bench-answer-trailers: 1`.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;

use super::Body;

const JSON: &str = "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1,\
    \"model\":\"m\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\
    \"content\":\"yes\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":10,\
    \"completion_tokens\":1,\"total_tokens\":11}}";
const EVENT: &str = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\
    \"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" yes\"},\
    \"finish_reason\":null}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";
/// Events of one streamed answer.
pub const EVENTS: usize = 20;
/// Between two of them.
const PACE: Duration = Duration::from_millis(5);

/// The answer that the request asks for.
pub(super) fn answer(asked: &HeaderMap) -> Response<Body> {
    let kind = asked
        .get("x-bench-answer")
        .map_or("json", |value| value.to_str().unwrap_or_default());
    let trailers = asked.contains_key("x-bench-answer-trailers").then(trailers);
    let (media, body) = match kind {
        "sse" => ("text/event-stream", events(trailers)),
        "hold" => ("text/event-stream", open()),
        _ => {
            let body = Full::new(Bytes::from_static(JSON.as_bytes()));
            let body = match trailers {
                Some(trailers) => body
                    .with_trailers(std::future::ready(Some(Ok(trailers))))
                    .boxed_unsync(),
                None => body.boxed_unsync(),
            };
            ("application/json", body)
        }
    };
    let mut response = Response::new(body);
    let media = HeaderValue::from_static(media);
    response.headers_mut().insert("content-type", media);
    response
}

fn trailers() -> HeaderMap {
    let name = HeaderName::from_static("x-bench-end");
    HeaderMap::from_iter([(name, HeaderValue::from_static("1"))])
}

fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

fn events(trailers: Option<HeaderMap>) -> Body {
    let paced = stream::unfold(0, |sent| async move {
        if sent == EVENTS {
            return None;
        }
        if sent > 0 {
            tokio::time::sleep(PACE).await;
        }
        Some((data(EVENT), sent + 1))
    });
    let end = trailers.map(Frame::trailers);
    let all = paced
        .chain(stream::iter([data(DONE)]))
        .chain(stream::iter(end))
        .map(Ok::<_, Infallible>);
    StreamBody::new(all).boxed_unsync()
}

/// One event, and then nothing until the client leaves.
fn open() -> Body {
    let all = stream::iter([data(EVENT)])
        .chain(stream::pending())
        .map(Ok::<_, Infallible>);
    StreamBody::new(all).boxed_unsync()
}
