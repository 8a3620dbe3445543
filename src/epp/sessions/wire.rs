//! Bindings <-> fields of a Redis Stream's entries. PURE.
//!
//! Every replica of the EPP, of this version or another, reads what the others write. Fields:
//! `s` hash of the session and `u` of the pod's uid (16 hex digits each), `e` the endpoint as
//! `ip:port`, `t` the time in milliseconds since 1970, `o` who wrote it. Further fields are
//! left to versions to come.

#![deny(clippy::disallowed_methods)]

use super::binding::{Bound, Change, UnixMillis};
use crate::scheduling::endpoint::EndpointId;

/// The longest name of a replica, in bytes.
pub const MAX_ORIGIN_BYTES: usize = 128;

/// What is wrong with an entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("field {0} is missing or unreadable")]
pub struct Malformed(pub &'static str);

/// The fields of an entry.
pub fn encode(change: &Change, origin: &str) -> [(&'static str, String); 5] {
    [
        ("s", format!("{:016x}", change.session)),
        ("e", change.bound.endpoint.to_string()),
        ("u", format!("{:016x}", change.bound.pod_uid)),
        ("t", change.at.0.to_string()),
        ("o", origin.to_owned()),
    ]
}

/// Reads the fields of an entry: the binding and who wrote it.
///
/// # Errors
/// Names the field that is missing or unreadable.
pub fn decode<'a>(
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<(Change, &'a str), Malformed> {
    let [mut session, mut endpoint, mut pod_uid, mut at, mut origin] = [None; 5];
    for (name, value) in fields {
        match name {
            b"s" => session = Some(value),
            b"e" => endpoint = Some(value),
            b"u" => pod_uid = Some(value),
            b"t" => at = Some(value),
            b"o" => origin = Some(value),
            _ => {}
        }
    }
    let endpoint = text(endpoint)
        .and_then(|text| text.parse().ok())
        .ok_or(Malformed("e"))?;
    let at = text(at)
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or(Malformed("t"))?;
    let origin = text(origin)
        .filter(|text| !text.is_empty() && text.len() <= MAX_ORIGIN_BYTES)
        .ok_or(Malformed("o"))?;
    let change = Change {
        session: hex(session).ok_or(Malformed("s"))?,
        bound: Bound {
            endpoint: EndpointId(endpoint),
            pod_uid: hex(pod_uid).ok_or(Malformed("u"))?,
        },
        at: UnixMillis(at),
    };
    Ok((change, origin))
}

fn text(value: Option<&[u8]>) -> Option<&str> {
    std::str::from_utf8(value?).ok()
}

fn hex(value: Option<&[u8]>) -> Option<u64> {
    let text = text(value)?;
    let digits = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pairs<'a>(fields: &'a [(&'a str, String)]) -> Vec<(&'a [u8], &'a [u8])> {
        fields
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect()
    }

    fn change() -> Change {
        Change {
            session: 0xab,
            bound: Bound {
                endpoint: EndpointId("[fd00::1]:8000".parse().unwrap()),
                pod_uid: 1,
            },
            at: UnixMillis(1_700_000_000_123),
        }
    }

    #[test]
    fn an_entry_is_written_in_the_agreed_form() {
        assert_eq!(
            encode(&change(), "epp-1"),
            [
                ("s", "00000000000000ab".to_owned()),
                ("e", "[fd00::1]:8000".to_owned()),
                ("u", "0000000000000001".to_owned()),
                ("t", "1700000000123".to_owned()),
                ("o", "epp-1".to_owned()),
            ]
        );
    }

    #[test]
    fn fields_of_versions_to_come_are_passed_over() {
        let fields = encode(&change(), "epp-1");
        let mut fields = pairs(&fields);
        fields.insert(0, (b"zone", b"\xff"));
        assert_eq!(decode(fields), Ok((change(), "epp-1")));
    }

    #[test]
    fn an_entry_that_cannot_be_read_names_the_field() {
        for (field, value) in [
            ("s", "ab"),
            ("s", "+0000000000000ab"),
            ("s", "00000000000000ag"),
            ("e", "host:8000"),
            ("e", "10.0.0.1"),
            ("e", ""),
            ("u", ""),
            ("t", "-1"),
            ("t", "+1"),
            ("t", "99999999999999999999"),
            ("o", ""),
        ] {
            let fields = encode(&change(), "epp-1");
            let mut fields = pairs(&fields);
            fields.push((field.as_bytes(), value.as_bytes()));
            assert_eq!(decode(fields), Err(Malformed(field)), "{field}={value:?}");
        }
        for missing in ["s", "e", "u", "t", "o"] {
            let fields = encode(&change(), "epp-1");
            let mut fields = pairs(&fields);
            fields.retain(|(name, _)| *name != missing.as_bytes());
            assert_eq!(decode(fields), Err(Malformed(missing)));
        }
        let long = "x".repeat(MAX_ORIGIN_BYTES + 1);
        assert_eq!(
            decode(pairs(&encode(&change(), &long))),
            Err(Malformed("o"))
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(session: u64, pod_uid: u64, at: u64, address: std::net::SocketAddr) {
            // A scope and flow label never reach an address of a pod.
            let address = std::net::SocketAddr::new(address.ip(), address.port());
            let change = Change { session, bound: Bound { endpoint: EndpointId(address), pod_uid }, at: UnixMillis(at) };
            let fields = encode(&change, "o");
            prop_assert_eq!(decode(pairs(&fields)), Ok((change, "o")));
        }

        #[test]
        fn any_fields_are_survived(fields: Vec<(Vec<u8>, Vec<u8>)>, values: [Vec<u8>; 5]) {
            let named = [&b"s"[..], b"e", b"u", b"t", b"o"].into_iter().zip(values.iter().map(Vec::as_slice));
            let _ = decode(fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).chain(named));
        }
    }
}
