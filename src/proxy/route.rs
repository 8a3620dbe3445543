//! Request head -> which API it is for, which headers go on to the engine, and which prefill
//! endpoints it names. PURE.

use std::borrow::Cow;

use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, Method};

use crate::contract;

/// Headers that belong to one connection (RFC 9110, 7.6.1).
const HOP_BY_HOP: &[HeaderName] = &[
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
/// Most prefill endpoints read of one request's headers.
pub const MAX_PREFILLERS: usize = 8;

/// The APIs whose prompts can be computed elsewhere.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Api {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/messages`: Anthropic's form.
    Messages,
    /// `/v1/responses`
    Responses,
    /// `/inference/v1/generate`: tokens in, tokens out.
    Generate,
}

impl Api {
    /// Every API, in the order of the reference.
    pub const ALL: [Self; 5] = [
        Self::Chat,
        Self::Completions,
        Self::Messages,
        Self::Responses,
        Self::Generate,
    ];

    /// The path it is served at.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Messages => "/v1/messages",
            Self::Responses => "/v1/responses",
            Self::Generate => "/inference/v1/generate",
        }
    }

    /// The API of a path, percent-encoded or not: the engine decodes it too, so another
    /// spelling must not be a way around the sidecar.
    pub fn of(path: &str) -> Option<Self> {
        let path = percent_decoded(path);
        Self::ALL
            .into_iter()
            .find(|api| api.path().as_bytes() == &*path)
    }
}

/// What happens to a request's body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Route {
    /// It is streamed through unread.
    Pass,
    /// It may carry KV transfer parameters: it is read first.
    Inspect(Option<Api>),
}

/// Which route a request takes. Every JSON body is read, whatever its path: engines serve the
/// same requests under other paths too (`/invocations`, a root path), and a body without a
/// type counts as JSON for them.
pub fn route(method: &Method, path: &str, headers: &HeaderMap) -> Route {
    if method != Method::POST {
        return Route::Pass;
    }
    let api = Api::of(path);
    let json = headers.get(CONTENT_TYPE).is_none_or(|kind| {
        let kind = kind.as_bytes().to_ascii_lowercase();
        kind.windows(4).any(|window| window == b"json")
    });
    if api.is_some() || json {
        Route::Inspect(api)
    } else {
        Route::Pass
    }
}

/// True when the body is encoded (compressed), so that its bytes cannot be read as they are.
pub fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|encoding| {
        let encoding = encoding.as_bytes().trim_ascii();
        !encoding.is_empty() && !encoding.eq_ignore_ascii_case(b"identity")
    })
}

/// Drops what must not travel past this hop: connection headers, those `Connection` names,
/// and `Keep-Alive`.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(HOP_BY_HOP) {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

/// Drops the headers that steer routing (they end here) and returns the prefill endpoints they
/// named, in order and without duplicates: of the newer header, else of the older. Both may
/// repeat and hold lists; an empty one names nothing.
pub fn take_routing(headers: &mut HeaderMap) -> Vec<String> {
    let mut prefillers = named(headers, contract::HEADER_PREFILLER);
    if prefillers.is_empty() {
        prefillers = named(headers, contract::HEADER_PREFILLER_URL);
    }
    for name in contract::ROUTING_HEADERS {
        headers.remove(*name);
    }
    prefillers
}

fn named(headers: &HeaderMap, name: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let values = headers.get_all(name).iter();
    for entry in values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
        let entry = String::from_utf8_lossy(entry.trim_ascii());
        if !entry.is_empty() && !found.iter().any(|known| *known == entry) {
            found.push(entry.into_owned());
        }
        if found.len() == MAX_PREFILLERS {
            break;
        }
    }
    found
}

fn percent_decoded(path: &str) -> Cow<'_, [u8]> {
    if !path.contains('%') {
        return Cow::Borrowed(path.as_bytes());
    }
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let value = escaped
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(value.unwrap_or(bytes[at]));
        at += if value.is_some() { 3 } else { 1 };
    }
    Cow::Owned(decoded)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn prefillers(values: &[(&'static str, &str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let found = take_routing(&mut headers);
        assert!(headers.is_empty(), "{headers:?}");
        found
    }

    #[test]
    fn prefillers_come_from_lists_and_repeated_headers_in_order() {
        let new = contract::HEADER_PREFILLER;
        let old = contract::HEADER_PREFILLER_URL;
        assert_eq!(prefillers(&[]), [""; 0]);
        assert_eq!(prefillers(&[(new, ""), (new, " , ")]), [""; 0]);
        assert_eq!(
            prefillers(&[(new, " a:1 ,,b:2"), (new, "a:1"), (new, "c:3")]),
            ["a:1", "b:2", "c:3"]
        );
        assert_eq!(prefillers(&[(old, "http://a:1")]), ["http://a:1"]);
        assert_eq!(prefillers(&[(old, "http://a:1"), (new, "b:2")]), ["b:2"]);
        assert_eq!(
            prefillers(&[(old, "http://a:1"), (new, " ")]),
            ["http://a:1"]
        );
        let many: Vec<String> = (0..20).map(|n| format!("a:{n}")).collect();
        assert_eq!(prefillers(&[(new, &many.join(","))]).len(), MAX_PREFILLERS);
    }

    #[test]
    fn another_spelling_of_a_path_is_the_same_api() {
        assert_eq!(Api::of("/v1/completions"), Some(Api::Completions));
        assert_eq!(Api::of("/v1/%63hat%2Fcompletions"), Some(Api::Chat));
        assert_eq!(Api::of("/v1/completions/"), None);
        assert_eq!(Api::of("/v1/completions%"), None);
        assert_eq!(Api::of("/v1/completions%zz"), None);
    }

    #[test]
    fn json_is_read_on_every_path_and_other_bodies_are_not() {
        let headers = |kind: Option<&'static str>| {
            let kind = kind.map(|kind| (CONTENT_TYPE, HeaderValue::from_static(kind)));
            kind.into_iter().collect::<HeaderMap>()
        };
        let post = |path, kind| route(&Method::POST, path, &headers(kind));
        let multipart = Some("multipart/form-data; boundary=x");
        assert_eq!(
            post("/invocations", Some("Application/JSON")),
            Route::Inspect(None)
        );
        assert_eq!(post("/x", None), Route::Inspect(None));
        assert_eq!(post("/v1/audio/transcriptions", multipart), Route::Pass);
        assert_eq!(
            post("/v1/messages", multipart),
            Route::Inspect(Some(Api::Messages))
        );
        assert_eq!(
            route(&Method::GET, "/v1/responses", &headers(None)),
            Route::Pass
        );
    }
}
