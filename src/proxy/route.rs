//! Request headers -> which of them go on to the engine, and whether the request asks for a
//! prefill elsewhere. PURE.

use http::HeaderMap;
use http::header::{
    CONNECTION, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};

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

/// Drops the headers that steer routing: they end here. True when one of them asked for a
/// prefill on another endpoint.
pub fn take_routing(headers: &mut HeaderMap) -> bool {
    let wants_prefill = headers.contains_key(contract::HEADER_PREFILLER)
        || headers.contains_key(contract::HEADER_PREFILLER_URL);
    for name in contract::ROUTING_HEADERS {
        headers.remove(*name);
    }
    wants_prefill
}
