//! One message of an engine's stream -> what to make of it. PURE.
#![deny(clippy::disallowed_methods)]

use std::net::{IpAddr, SocketAddr};

use crate::contract::read_kv_topic;

/// Longer topics name no model that is served.
const MAX_TOPIC_BYTES: usize = 1024;

/// Why a message is dropped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Refused {
    /// Not three frames of the right kinds.
    BadFrames,
    /// It speaks for another endpoint.
    Foreign,
    /// It speaks of another model.
    OtherModel,
}

/// A message from the right engine.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Message<'a> {
    pub(super) model: &'a str,
    pub(super) sequence: u64,
    pub(super) payload: &'a [u8],
}

/// Reads a message and checks whose it is.
pub(super) fn read<'a>(
    frames: &[&'a [u8]],
    endpoint: SocketAddr,
    expected_model: Option<&str>,
) -> Result<Message<'a>, Refused> {
    let [topic, sequence, payload] = frames else {
        return Err(Refused::BadFrames);
    };
    let sequence = <[u8; 8]>::try_from(*sequence).map_err(|_| Refused::BadFrames)?;
    if topic.len() > MAX_TOPIC_BYTES {
        return Err(Refused::BadFrames);
    }
    let topic = std::str::from_utf8(topic).map_err(|_| Refused::BadFrames)?;
    let (address, model) = read_kv_topic(topic).ok_or(Refused::Foreign)?;
    if !is_address_of(address, endpoint) {
        return Err(Refused::Foreign);
    }
    if expected_model.is_some_and(|expected| expected != model) {
        return Err(Refused::OtherModel);
    }
    Ok(Message {
        model,
        sequence: u64::from_be_bytes(sequence),
        payload,
    })
}

/// Whether a topic's address, with or without a port, is this endpoint's.
fn is_address_of(address: &str, endpoint: SocketAddr) -> bool {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return address == endpoint;
    }
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    // Without brackets the port of an IPv6 address reads as one more group.
    if let Some((host, port)) = address.rsplit_once(':')
        && endpoint.is_ipv6()
        && port.parse() == Ok(endpoint.port())
        && host.parse() == Ok(endpoint.ip())
    {
        return true;
    }
    bare.parse::<IpAddr>() == Ok(endpoint.ip())
}

/// What a sequence number says about the stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    /// Nothing is missing.
    Next,
    /// The first one seen is not the engine's first.
    JoinedLate,
    /// Those from here to this one are missing.
    Gap(u64),
    /// The engine began anew; those before this one are missing.
    Restart,
}

/// The next sequence number of one engine; `None` before its first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sequence {
    expected: Option<u64>,
}

impl Sequence {
    /// Takes in the next number.
    pub(super) fn see(&mut self, sequence: u64) -> Seen {
        let expected = self.expected.replace(sequence.saturating_add(1));
        match expected {
            None if sequence == 0 => Seen::Next,
            None => Seen::JoinedLate,
            Some(expected) if sequence == expected => Seen::Next,
            Some(expected) if sequence > expected => Seen::Gap(expected),
            Some(_) => Seen::Restart,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ZERO: [u8; 8] = [0; 8];

    fn refusal(topic: &str) -> Option<Refused> {
        let endpoint = "10.0.0.5:8000".parse().unwrap();
        read(&[topic.as_bytes(), &ZERO, b"x"], endpoint, Some("a/b@c")).err()
    }

    #[test]
    fn only_the_endpoints_own_topic_is_taken() {
        for (topic, expected) in [
            ("kv@10.0.0.5:8000@a/b@c", None),
            ("kv@10.0.0.5@a/b@c", None),
            ("kv@10.0.0.5:8001@a/b@c", Some(Refused::Foreign)),
            ("kv@10.0.0.50@a/b@c", Some(Refused::Foreign)),
            ("kv@pod-1:8000@a/b@c", Some(Refused::Foreign)),
            ("kv@10.0.0.5:8000@a/b", Some(Refused::OtherModel)),
            ("kv@10.0.0.5:8000", Some(Refused::Foreign)),
            ("", Some(Refused::Foreign)),
        ] {
            assert_eq!(refusal(topic), expected, "{topic}");
        }
        assert_eq!(refusal(&"x".repeat(2000)), Some(Refused::BadFrames));
    }

    #[test]
    fn addresses_of_version_6_are_read_with_and_without_brackets() {
        let endpoint = "[fd00::5]:8000".parse().unwrap();
        for (address, expected) in [
            ("[fd00::5]:8000", true),
            ("[fd00::5]", true),
            ("fd00::5", true),
            ("fd00::5:8000", true),
            ("[fd00::6]:8000", false),
            ("[fd00::5]:8001", false),
        ] {
            assert_eq!(is_address_of(address, endpoint), expected, "{address}");
        }
    }

    #[test]
    fn frames_of_other_shapes_are_refused() {
        let endpoint = "10.0.0.5:8000".parse().unwrap();
        let topic = b"kv@10.0.0.5:8000@m".as_slice();
        for frames in [
            vec![],
            vec![topic],
            vec![topic, &ZERO],
            vec![topic, &ZERO[..7], b"x"],
            vec![topic, &ZERO, b"x", b"y"],
            vec![b"kv@\xff", &ZERO, b"x"],
        ] {
            assert_eq!(read(&frames, endpoint, None), Err(Refused::BadFrames));
        }
    }

    #[test]
    fn a_sequence_that_jumps_is_a_gap_and_one_that_falls_back_a_restart() {
        let mut sequence = Sequence::default();
        let seen: Vec<Seen> = [0, 1, 4, 5, 2, 3, 3, 0, u64::MAX]
            .map(|number| sequence.see(number))
            .into();
        assert_eq!(
            seen,
            [
                Seen::Next,
                Seen::Next,
                Seen::Gap(2),
                Seen::Next,
                Seen::Restart,
                Seen::Next,
                Seen::Restart,
                Seen::Restart,
                Seen::Gap(1),
            ]
        );
        assert_eq!(Sequence::default().see(7), Seen::JoinedLate);
    }

    proptest! {
        #[test]
        fn after_any_number_its_successor_is_next(numbers in proptest::collection::vec(0_u64..u64::MAX, 1..20)) {
            let mut sequence = Sequence::default();
            for number in numbers {
                sequence.see(number);
                prop_assert_eq!(sequence.see(number + 1), Seen::Next);
            }
        }

        #[test]
        fn no_bytes_break_the_reader(topic in proptest::collection::vec(any::<u8>(), 0..60), sequence in proptest::collection::vec(any::<u8>(), 0..10)) {
            let endpoint = "10.0.0.5:8000".parse().unwrap();
            let _ = read(&[&topic, &sequence, b""], endpoint, None);
        }
    }
}
