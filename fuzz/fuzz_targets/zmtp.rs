//! Any bytes of a ZeroMQ peer -> no panic, no more memory than the limits allow, and the same
//! items whatever the chunks. The first byte says how large the chunks are, and whether the
//! others come after a handshake, which chance finds slowly.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llm_d_operator::zmtp::WireLimits;
use llm_d_operator::zmtp::codec::{Decoder, Item, Violation};

const LIMITS: WireLimits = WireLimits {
    frame_bytes: 512,
    message_bytes: 1024,
    frames: 4,
};
/// The limits, one command between the frames of a message, and the list of its frames.
const MOST_BYTES: usize = LIMITS.message_bytes + 4096 + LIMITS.frames * 64;

/// A greeting of ZMTP 3.1 up to its filler, and READY of a publisher.
const GREETING: &[u8] = b"\xff\0\0\0\0\0\0\0\0\x7f\x03\x01NULL";
const READY: &[u8] = b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03PUB";

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let mut wire = Vec::new();
    if first & 1 == 1 {
        wire.extend_from_slice(GREETING);
        wire.resize(64, 0);
        wire.extend_from_slice(READY);
    }
    wire.extend_from_slice(rest);
    let chunked = decode(&wire, usize::from(first / 2) + 1);
    assert_eq!(chunked, decode(&wire, wire.len().max(1)), "chunks matter");
    if first & 1 == 1 {
        assert!(chunked.0.len() >= 2, "the handshake is one");
    }
});

fn decode(wire: &[u8], chunk_bytes: usize) -> (Vec<Item>, Option<Violation>) {
    let mut decoder = Decoder::new(LIMITS);
    let mut items = Vec::new();
    for chunk in wire.chunks(chunk_bytes) {
        let mut input = chunk;
        loop {
            let result = decoder.decode(&mut input);
            assert!(decoder.held_bytes() <= MOST_BYTES, "too much is held");
            match result {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(violation) => return (items, Some(violation)),
            }
        }
        assert!(input.is_empty(), "bytes were left");
    }
    (items, None)
}
