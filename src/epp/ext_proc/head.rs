//! Headers of a request -> what the EPP reads of them. PURE.
#![deny(clippy::disallowed_methods)]

use super::wire::{HeaderMap, HeaderValue};
use crate::contract;
use crate::openai::api::Api;

/// The head of one request.
#[derive(Clone, Debug, Default)]
pub struct Head {
    headers: Vec<HeaderValue>,
}

/// What is to be done with the body of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BodyUse {
    /// It may carry a prompt: the decision waits for it.
    Read(Option<Api>),
    /// It carries none (files, audio, upgrades, other methods): the decision needs the
    /// headers only, and the body goes on as it comes.
    Pass,
    /// It would be read, but is compressed: neither we nor the engine can.
    Encoded,
}

impl Head {
    /// The headers as the gateway sent them.
    pub fn new(map: Option<HeaderMap>) -> Self {
        Self {
            headers: map.map(|map| map.headers).unwrap_or_default(),
        }
    }

    /// The first value of that name, as text; `None` where it is absent or is no UTF-8.
    /// `name` is in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.bytes(name)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
    }

    /// The first value of that name, whatever bytes it is made of.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let header = self
            .headers
            .iter()
            .find(|header| header.key.eq_ignore_ascii_case(name))?;
        Some(if header.raw_value.is_empty() {
            header.value.as_bytes()
        } else {
            &header.raw_value
        })
    }

    /// Path of the request without its query.
    pub fn path(&self) -> &str {
        let path = self.get(":path").unwrap_or_default();
        path.split('?').next().unwrap_or_default()
    }

    /// The request's id, if the client or the gateway gave one.
    pub fn request_id(&self) -> Option<&str> {
        self.get(contract::HEADER_REQUEST_ID)
            .filter(|id| !id.is_empty())
    }

    /// The length that the head announces, in bytes.
    pub fn content_length(&self) -> Option<u64> {
        self.get("content-length")?.trim().parse().ok()
    }

    /// The value that names the session: of the first of `names` that is there and not empty.
    pub fn session(&self, names: &[String]) -> Option<&[u8]> {
        names
            .iter()
            .find_map(|name| self.bytes(name).filter(|value| !value.is_empty()))
    }

    /// Whether the body matters. Unknown paths with JSON are read: engines serve the same
    /// requests under other paths too.
    pub fn body_use(&self) -> BodyUse {
        let post = self
            .get(":method")
            .is_none_or(|method| method.eq_ignore_ascii_case("POST"));
        if !post || self.is_upgrade() {
            return BodyUse::Pass;
        }
        let api = Api::of(self.path());
        let json = self
            .get("content-type")
            .is_none_or(|kind| kind.to_ascii_lowercase().contains("json"));
        let promptless = ["/v1/files", "/v1/batches", "/v1/realtime", "/v1/audio/"]
            .iter()
            .any(|path| self.path().starts_with(path));
        if !json || promptless {
            return BodyUse::Pass;
        }
        let encoded = self.get("content-encoding").is_some_and(|encoding| {
            let encoding = encoding.trim();
            !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity")
        });
        match (encoded, api) {
            (true, Some(_)) => BodyUse::Encoded,
            (true, None) => BodyUse::Pass,
            (false, api) => BodyUse::Read(api),
        }
    }

    /// An upgrade to another protocol, in HTTP/1.1's form or in HTTP/2's.
    fn is_upgrade(&self) -> bool {
        self.bytes("upgrade").is_some() || self.bytes(":protocol").is_some()
    }
}

#[cfg(test)]
pub(super) fn head(pairs: &[(&str, &str)]) -> Head {
    Head {
        headers: pairs
            .iter()
            .map(|(key, value)| HeaderValue {
                key: (*key).to_owned(),
                raw_value: value.as_bytes().to_vec().into(),
                ..HeaderValue::default()
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_waited_for_only_where_it_may_carry_a_prompt() {
        let with = |method, path, more: &[(&str, &str)]| {
            let mut pairs = vec![(":method", method), (":path", path)];
            pairs.extend_from_slice(more);
            head(&pairs).body_use()
        };
        let json = [("content-type", "application/json; charset=utf-8")];
        let chat = "/v1/chat/completions?x=1";
        assert_eq!(with("POST", chat, &json), BodyUse::Read(Some(Api::Chat)));
        assert_eq!(with("POST", chat, &[]), BodyUse::Read(Some(Api::Chat)));
        assert_eq!(with("POST", "/invocations", &json), BodyUse::Read(None));
        let gzip = [json[0], ("content-encoding", "gzip")];
        assert_eq!(with("POST", chat, &gzip), BodyUse::Encoded);
        let identity = [json[0], ("content-encoding", "identity")];
        assert_eq!(
            with("POST", chat, &identity),
            BodyUse::Read(Some(Api::Chat))
        );
        let multipart = [("content-type", "multipart/form-data; boundary=x")];
        for (method, path, more) in [
            ("POST", "/v1/audio/transcriptions", &multipart[..]),
            ("POST", "/v1/files", &multipart[..]),
            ("POST", "/v1/batches", &json[..]),
            ("GET", "/v1/models", &[]),
            ("DELETE", "/v1/responses/r", &[]),
            ("GET", "/v1/realtime", &[("upgrade", "websocket")]),
            ("CONNECT", "/v1/realtime", &[(":protocol", "websocket")]),
        ] {
            assert_eq!(with(method, path, more), BodyUse::Pass, "{method} {path}");
        }
    }

    #[test]
    fn a_session_is_named_by_the_first_header_that_says_something() {
        let names = ["session-id".to_owned(), "authorization".to_owned()];
        let head = head(&[("Session-Id", ""), ("Authorization", "Bearer x")]);
        assert_eq!(head.session(&names), Some(&b"Bearer x"[..]));
        assert_eq!(head.session(&[]), None);
    }
}
