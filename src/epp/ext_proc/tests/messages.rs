//! Messages as a gateway builds and reads them: with generated types, through their bytes.

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Message;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    CommonResponse, HeaderMutation, HttpBody, HttpHeaders, HttpTrailers, ProcessingRequest,
    ProcessingResponse, ProtocolConfiguration,
};
use prost::Message as _;

use crate::epp::ext_proc::mode::Body;
use crate::epp::ext_proc::reply::{Refusal, Routed};
use crate::epp::ext_proc::stream::{Effect, Effects, Stream};
use crate::epp::ext_proc::wire;

pub(super) const DESTINATION: &str = "10.0.0.1:8000";

/// What a gateway says of itself.
pub(super) fn config(request: i32, response: i32, does_not_wait: bool) -> ProtocolConfiguration {
    ProtocolConfiguration {
        request_body_mode: request,
        response_body_mode: response,
        send_body_without_waiting_for_header_response: does_not_wait,
    }
}

pub(super) fn header_map(pairs: &[(&str, &str)]) -> HeaderMap {
    let headers = pairs.iter().map(|(key, value)| HeaderValue {
        key: (*key).to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    });
    HeaderMap {
        headers: headers.collect(),
    }
}

/// A POST of a chat request.
pub(super) fn chat(more: &[(&str, &str)]) -> Vec<(String, String)> {
    let fixed = [
        (":method", "POST"),
        (":path", "/v1/chat/completions"),
        ("content-type", "application/json"),
        ("x-request-id", "r"),
    ];
    let all = fixed.iter().chain(more);
    all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

pub(super) fn headers(
    pairs: &[(String, String)],
    config: Option<ProtocolConfiguration>,
    end_of_stream: bool,
) -> ProcessingRequest {
    let pairs: Vec<(&str, &str)> = pairs
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    ProcessingRequest {
        request: Some(Message::RequestHeaders(HttpHeaders {
            headers: Some(header_map(&pairs)),
            end_of_stream,
            ..HttpHeaders::default()
        })),
        protocol_config: config,
        ..ProcessingRequest::default()
    }
}

pub(super) fn body(bytes: &[u8], end_of_stream: bool) -> ProcessingRequest {
    request(Message::RequestBody(HttpBody {
        body: bytes.to_vec(),
        end_of_stream,
        ..HttpBody::default()
    }))
}

pub(super) fn trailers() -> ProcessingRequest {
    request(Message::RequestTrailers(HttpTrailers::default()))
}

pub(super) fn request(message: Message) -> ProcessingRequest {
    ProcessingRequest {
        request: Some(message),
        ..ProcessingRequest::default()
    }
}

pub(super) fn routed() -> Routed {
    Routed {
        destination: DESTINATION.to_owned(),
        prefiller: None,
        new_request_id: None,
    }
}

/// What a decision was asked about.
#[derive(Debug, PartialEq)]
pub(super) enum Asked {
    Whole(Vec<u8>),
    Cut(Vec<u8>),
    Unseen,
}

/// A stream with the director's part played.
pub(super) struct Driven {
    pub(super) stream: Stream,
    effects: Effects,
    pub(super) asked: Vec<Asked>,
    pub(super) learned: Vec<Vec<u8>>,
    pub(super) refused: Vec<&'static str>,
    pub(super) skipped: usize,
    pub(super) outcome: Result<Routed, Refusal>,
}

impl Driven {
    pub(super) fn new(stream: Stream) -> Self {
        Self {
            stream,
            effects: Effects::default(),
            asked: Vec::new(),
            learned: Vec::new(),
            refused: Vec::new(),
            skipped: 0,
            outcome: Ok(routed()),
        }
    }

    /// Hands over one message; gives the replies to it.
    pub(super) fn take(&mut self, message: &ProcessingRequest) -> Vec<ProcessingResponse> {
        let bytes = message.encode_to_vec();
        let message = wire::ProcessingRequest::decode(&bytes[..]).unwrap();
        self.stream.handle(message, &mut self.effects);
        self.settle()
    }

    /// The time for what the stream waits for is over.
    pub(super) fn give_up(&mut self) -> Vec<ProcessingResponse> {
        self.stream.give_up(&mut self.effects);
        self.settle()
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal) -> Vec<ProcessingResponse> {
        self.stream.refuse(refusal, &mut self.effects);
        self.settle()
    }

    fn settle(&mut self) -> Vec<ProcessingResponse> {
        let mut replies = Vec::new();
        while let Some(effect) = self.effects.pop() {
            match effect {
                Effect::Send(reply) => {
                    let bytes = reply.encode_to_vec();
                    replies.push(ProcessingResponse::decode(&bytes[..]).unwrap());
                }
                Effect::Decide => {
                    let question = self.stream.question().expect("a decision is asked for");
                    self.asked.push(match question.body {
                        Body::Whole(body) => Asked::Whole(body.contiguous().to_vec()),
                        Body::Cut(body) => Asked::Cut(body.contiguous().to_vec()),
                        Body::Unseen => Asked::Unseen,
                    });
                    self.stream.decided(&self.outcome, &mut self.effects);
                }
                Effect::Learn(body) => self.learned.push(body.contiguous().to_vec()),
                Effect::Skipped => self.skipped += 1,
                Effect::Refused(reason) => self.refused.push(reason.label()),
            }
        }
        replies
    }
}

pub(super) fn common(reply: &ProcessingResponse) -> Option<&CommonResponse> {
    match reply.response.as_ref()? {
        Response::RequestHeaders(headers) => headers.response.as_ref(),
        Response::RequestBody(body) => body.response.as_ref(),
        _ => None,
    }
}

pub(super) fn mutation(reply: &ProcessingResponse) -> Option<&HeaderMutation> {
    common(reply)?.header_mutation.as_ref()
}

/// The value that the reply gives a header.
pub(super) fn set_header(reply: &ProcessingResponse, name: &str) -> Option<String> {
    let options = &mutation(reply)?.set_headers;
    let header = options
        .iter()
        .filter_map(|option| option.header.as_ref())
        .find(|header| header.key == name)?;
    Some(String::from_utf8(header.raw_value.clone()).unwrap())
}

/// The piece of a body that the reply hands back, and whether it is the last.
pub(super) fn handed_back(reply: &ProcessingResponse) -> Option<(&[u8], bool)> {
    let common = match reply.response.as_ref()? {
        Response::RequestBody(body) | Response::ResponseBody(body) => body.response.as_ref()?,
        _ => return None,
    };
    match common.body_mutation.as_ref()?.mutation.as_ref()? {
        Mutation::StreamedResponse(chunk) => Some((&chunk.body, chunk.end_of_stream)),
        other => panic!("a mutation of another kind: {other:?}"),
    }
}

/// The status of an answer that the EPP gives itself.
pub(super) fn status(reply: &ProcessingResponse) -> Option<i32> {
    match reply.response.as_ref()? {
        Response::ImmediateResponse(answer) => Some(answer.status.as_ref()?.code),
        _ => None,
    }
}
