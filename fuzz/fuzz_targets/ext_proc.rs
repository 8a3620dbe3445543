//! Any messages of a gateway in any order: a stream never panics, never asks twice before an
//! answer, and holds no more than its bound. The first bytes pick the managed mode; each
//! message is a length and so many bytes, where some lengths stand for an answer or time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llm_d_operator::epp::ext_proc::mode::{Body, BodyMode};
use llm_d_operator::epp::ext_proc::reply::{Refusal, Routed};
use llm_d_operator::epp::ext_proc::stream::{Effect, Effects, Stream};
use llm_d_operator::epp::ext_proc::wire::ProcessingRequest;
use prost::Message as _;

const LIMIT_BYTES: usize = 2000;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, mut rest)) = bytes.split_first() else {
        return;
    };
    let modes = BodyMode::ALL;
    let managed = modes.get(usize::from(*first) % 16).map(|(mode, _, _)| *mode);
    let mut stream = Stream::new(managed, LIMIT_BYTES);
    let mut effects = Effects::default();
    while let Some((kind, tail)) = rest.split_first() {
        rest = tail;
        match kind {
            0xff => stream.give_up(&mut effects),
            0xfe => stream.refuse(&Refusal::over_budget(), &mut effects),
            _ => {
                let length = usize::from(*kind).min(rest.len());
                let (message, tail) = rest.split_at(length);
                rest = tail;
                if let Ok(message) = ProcessingRequest::decode(message) {
                    stream.handle(message, &mut effects);
                }
            }
        }
        settle(&mut stream, &mut effects);
        assert!(stream.held_bytes() <= LIMIT_BYTES);
        assert!(stream.question().is_none(), "every question was answered");
    }
});

fn settle(stream: &mut Stream, effects: &mut Effects) {
    while let Some(effect) = effects.pop() {
        match effect {
            Effect::Send(reply) => assert!(!reply.encode_to_vec().is_empty()),
            Effect::Decide => {
                let Some(question) = stream.question() else {
                    continue;
                };
                let _ = (question.head.body_use(), question.head.session(&["a".to_owned()]));
                if let Body::Whole(body) | Body::Cut(body) = question.body {
                    assert_eq!(body.contiguous().len(), body.len());
                }
                let routed = Routed {
                    destination: "10.0.0.1:1".to_owned(),
                    prefiller: None,
                    new_request_id: None,
                };
                stream.decided(&Ok(routed), effects);
            }
            Effect::Learn(_) | Effect::Skipped | Effect::Refused(_) => {}
        }
    }
}
