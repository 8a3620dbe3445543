//! Request head -> which API it is for, which headers go on to the engine, and which prefill
//! endpoints it names. PURE.
#![deny(clippy::disallowed_methods)]

use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method};

use crate::contract;
use crate::openai::api::Api;

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
/// What a prefill endpoint gets of a client's headers: what ties its leg to the request in
/// logs and traces. No cookie, no credential, nothing that an engine could act upon.
const PREFILL_KEEPS: &[&str] = &[contract::HEADER_REQUEST_ID, "traceparent", "tracestate"];
/// Most prefill endpoints read of one request's headers.
pub const MAX_PREFILLERS: usize = 8;

/// What happens to a request's body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Route {
    /// It is streamed through unread.
    Pass,
    /// It may carry KV transfer parameters: it is read first.
    Inspect(Option<Api>),
    /// It has none: the connection becomes a WebSocket between client and engine.
    Upgrade,
}

/// Which route a request takes. Every JSON body is read, whatever its path: engines serve the
/// same requests under other paths too (`/invocations`, a root path), and a body without a
/// type counts as JSON for them. To be asked before [`strip_hop_by_hop`].
pub fn route(method: &Method, path: &str, headers: &HeaderMap) -> Route {
    if method == Method::GET && is_websocket(headers) && !has_body(headers) {
        return Route::Upgrade;
    }
    if method != Method::POST {
        return Route::Pass;
    }
    let api = Api::of(path);
    let mut kinds = headers.get_all(CONTENT_TYPE).iter().peekable();
    let untyped = kinds.peek().is_none();
    let json = kinds.any(|kind| {
        let kind = kind.as_bytes().to_ascii_lowercase();
        kind.windows(4).any(|window| window == b"json")
    });
    if api.is_some() || json || untyped {
        Route::Inspect(api)
    } else {
        Route::Pass
    }
}

/// True when a body follows. A handshake has none: one that went on without its body would let
/// an engine that does not upgrade take the next request of the connection for it.
fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH);
    headers.contains_key(TRANSFER_ENCODING) || length.is_some_and(|length| length != "0")
}

/// True when the client asks for a WebSocket. Other upgrades are not taken up, as a server
/// may: through `h2c` a client would talk to the engine past everything that is checked here.
fn is_websocket(headers: &HeaderMap) -> bool {
    let has = |name: HeaderName, word: &str| {
        let values = headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let mut words = values.flat_map(|value| value.split(',')).map(str::trim);
        words.any(|found| found.eq_ignore_ascii_case(word))
    };
    has(CONNECTION, "upgrade") && has(UPGRADE, "websocket")
}

/// The headers of a prefill leg: its body is always JSON, and so is the answer wanted;
/// `authorization` is the operator's key for the prefill engines, where they need one.
pub fn prefill_headers(client: &HeaderMap, authorization: Option<HeaderValue>) -> HeaderMap {
    let json = HeaderValue::from_static("application/json");
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, json.clone()), (ACCEPT, json)]);
    for name in PREFILL_KEEPS {
        if let Some(value) = client.get(*name) {
            headers.insert(*name, value.clone());
        }
    }
    if let Some(key) = authorization {
        headers.insert(AUTHORIZATION, key);
    }
    headers
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

#[cfg(test)]
mod tests {
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
        // Servers differ in which of two types they believe.
        let mut two = headers(Some("text/plain"));
        two.append(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        assert_eq!(route(&Method::POST, "/x", &two), Route::Inspect(None));
    }

    #[test]
    fn only_websockets_are_upgraded() {
        let route = |connection: &'static str, upgrade: &'static str| {
            let value = HeaderValue::from_static;
            let headers = [(CONNECTION, value(connection)), (UPGRADE, value(upgrade))];
            route(&Method::GET, "/v1/realtime", &headers.into_iter().collect())
        };
        assert_eq!(route("Upgrade", "websocket"), Route::Upgrade);
        assert_eq!(route("keep-alive, upgrade", "WebSocket"), Route::Upgrade);
        assert_eq!(route("keep-alive", "websocket"), Route::Pass);
        assert_eq!(route("Upgrade, HTTP2-Settings", "h2c"), Route::Pass);
        for (name, value) in [("content-length", "9"), ("transfer-encoding", "chunked")] {
            let headers = [
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                (name, value),
            ];
            let headers = headers.map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            });
            let headers = headers.into_iter().collect();
            assert_eq!(
                super::route(&Method::GET, "/v1/realtime", &headers),
                Route::Pass,
                "{name}"
            );
        }
    }

    #[test]
    fn a_prefill_leg_carries_only_what_it_needs() {
        let mut client = HeaderMap::new();
        for (name, value) in [
            ("cookie", "c"),
            ("authorization", "Bearer client"),
            ("x-api-key", "k"),
            ("x-request-id", "r"),
            ("traceparent", "t"),
            ("content-type", "text/x"),
            ("accept", "text/event-stream"),
            ("x-anything", "x"),
        ] {
            client.insert(name, HeaderValue::from_static(value));
        }
        let sent = prefill_headers(&client, None);
        let mut names: Vec<_> = sent.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["accept", "content-type", "traceparent", "x-request-id"]
        );
        assert_eq!(sent[CONTENT_TYPE], "application/json");
        let key = HeaderValue::from_static("Bearer operator");
        assert_eq!(
            prefill_headers(&client, Some(key))[AUTHORIZATION],
            "Bearer operator"
        );
    }
}
