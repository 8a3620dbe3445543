//! Bytes in any chunks -> the same items; bytes of any kind -> never more memory than allowed.

use bytes::Bytes;
use proptest::prelude::*;

use crate::zmtp::codec::{Command, Decoder, Item, SocketType, Version, Violation, WireLimits};
use crate::zmtp::{command, frame, greeting};

const SMALL: WireLimits = WireLimits {
    frame_bytes: 1000,
    message_bytes: 1500,
    frames: 4,
};
/// Of a command, which may come between the frames of a message.
const COMMAND_BYTES: usize = 4096;
/// A list of that many frames, as a `Vec` grows.
const LIST_BYTES: usize = 4 * size_of::<Bytes>();

/// Feeds chunks of these sizes, again and again; checks what is held after each.
fn decode(wire: &[u8], chunks: &[usize], limits: WireLimits) -> (Vec<Item>, Option<Violation>) {
    let mut decoder = Decoder::new(limits);
    let mut items = Vec::new();
    let mut rest = wire;
    let mut fed = 0;
    for size in chunks.iter().cycle() {
        let (chunk, after) = rest.split_at((*size).max(1).min(rest.len()));
        rest = after;
        fed += chunk.len();
        let mut input = chunk;
        loop {
            let result = decoder.decode(&mut input);
            let held = decoder.held_bytes();
            assert!(held <= limits.message_bytes + COMMAND_BYTES + LIST_BYTES);
            assert!(held <= 2 * fed + LIST_BYTES, "{held} for {fed} that came");
            match result {
                Ok(Some(item)) => items.push(item),
                Ok(None) => break,
                Err(violation) => {
                    assert_eq!(decoder.decode(&mut input), Err(violation));
                    assert_eq!(decoder.held_bytes(), 0);
                    return (items, Some(violation));
                }
            }
        }
        assert!(input.is_empty(), "all of a chunk is taken");
        if rest.is_empty() {
            return (items, None);
        }
    }
    unreachable!("the sizes are cycled")
}

fn handshake() -> Vec<u8> {
    let mut wire = greeting::ours().to_vec();
    wire.extend_from_slice(&command::ready(SocketType::Pub));
    wire
}

/// What comes of these bytes after a handshake.
fn traffic(bytes: &[u8]) -> (Vec<Item>, Option<Violation>) {
    let mut wire = handshake();
    wire.extend_from_slice(bytes);
    let (mut items, violation) = decode(&wire, &[7], SMALL);
    items.drain(..2);
    (items, violation)
}

fn header(flags: u8, bytes: u64) -> Vec<u8> {
    let mut header = vec![flags | 2];
    header.extend_from_slice(&bytes.to_be_bytes());
    header
}

fn any_item() -> impl Strategy<Value = (Bytes, Item)> {
    let blob = |most| prop::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from);
    let message = prop::collection::vec(blob(375), 1..=4)
        .prop_map(|frames| (frame::message(&frames), Item::Message(frames)));
    let ping = blob(16).prop_map(|context| {
        let wire = frame::command("PING", &[&[0, 9], &context]);
        (wire, Item::Command(Command::Ping(context)))
    });
    let subscribe = blob(300).prop_map(|prefix| {
        let wire = frame::command("SUBSCRIBE", &[&prefix]);
        (wire, Item::Command(Command::Subscribe(prefix)))
    });
    let cancel = blob(300).prop_map(|prefix| {
        let wire = frame::command("CANCEL", &[&prefix]);
        (wire, Item::Command(Command::Cancel(prefix)))
    });
    let unheard = blob(300).prop_map(|data| {
        let wire = frame::command("UNHEARD", &[&data]);
        (wire, Item::Command(Command::Other))
    });
    prop_oneof![4 => message, 1 => ping, 1 => subscribe, 1 => cancel, 1 => unheard]
}

proptest! {
    #[test]
    fn any_chunks_give_the_same_items(
        sent in prop::collection::vec(any_item(), 0..12),
        chunks in prop::collection::vec(1_usize..600, 1..20),
    ) {
        let mut wire = handshake();
        let mut expected = vec![
            Item::Greeting(Version { major: 3, minor: 1 }),
            Item::Command(Command::Ready(Bytes::from_static(b"PUB"))),
        ];
        for (bytes, item) in sent {
            wire.extend_from_slice(&bytes);
            expected.push(item);
        }
        prop_assert_eq!(decode(&wire, &chunks, SMALL), (expected, None));
    }

    /// With a true beginning of some length, so that all states are reached, and bytes that
    /// look like headers more often than chance would have it.
    #[test]
    fn any_bytes_are_survived_within_the_limits(
        true_bytes in 0_usize..120,
        parts in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..300),
                (0_u8..8, any::<u64>()).prop_map(|(flags, size)| header(flags, size)),
                (0_u8..8, 0_u64..5000).prop_map(|(flags, size)| header(flags, size)),
                (0_u8..8, any::<u8>()).prop_map(|(flags, size)| vec![flags & !2, size]),
            ],
            0..20,
        ),
        chunks in prop::collection::vec(1_usize..600, 1..20),
    ) {
        let mut wire = handshake();
        wire.truncate(true_bytes);
        wire.extend(parts.concat());
        // The checks are inside; what the items are does not depend on the chunks.
        prop_assert_eq!(decode(&wire, &chunks, SMALL), decode(&wire, &[1], SMALL));
    }
}

#[test]
fn two_to_the_forty_bytes_are_refused_in_every_state_before_anything_is_set_aside() {
    let announced = 1 << 40;
    let greeted = greeting::ours().to_vec();
    let inside = [
        handshake(),
        frame::message(&[Bytes::from_static(b"a")]).to_vec(),
    ]
    .concat();
    let mut begun = [handshake(), vec![1, 1, b'a']].concat();
    for (before, flags, limit) in [
        (greeted.clone(), 0, 1000),
        (greeted, 4, 4096),
        (handshake(), 0, 1000),
        (handshake(), 4, 4096),
        (inside, 1, 1000),
        (std::mem::take(&mut begun), 0, 1000),
    ] {
        let wire = [before, header(flags, announced)].concat();
        let (_, violation) = decode(&wire, &[1], SMALL);
        assert_eq!(
            violation,
            Some(Violation::FrameTooLarge { announced, limit })
        );
    }
    // In the place of a greeting it is no greeting, by its first byte.
    let (_, violation) = decode(&header(0, announced), &[1], SMALL);
    assert!(matches!(violation, Some(Violation::Handshake(_))));
    let (_, violation) = traffic(&header(0, u64::MAX));
    let announced = u64::MAX;
    let limit = 1000;
    assert_eq!(
        violation,
        Some(Violation::FrameTooLarge { announced, limit })
    );
}

#[test]
fn a_body_takes_memory_as_it_comes() {
    let mut decoder = Decoder::new(WireLimits::EVENTS);
    let wire = [handshake(), header(0, 16 << 20)].concat();
    let mut input = &wire[..];
    while decoder.decode(&mut input).unwrap().is_some() {}
    assert_eq!(decoder.held_bytes(), 0);
    for _ in 0..100 {
        let mut input = &[0; 100][..];
        assert_eq!(decoder.decode(&mut input), Ok(None));
    }
    let held = decoder.held_bytes();
    assert!((10_000..=20_000).contains(&held), "{held}");
}

#[test]
fn messages_are_limited_as_a_whole() {
    let part = |size: u64| [header(1, size), vec![0; size as usize]].concat();
    let (items, violation) = traffic(&[part(900), part(601)].concat());
    let (announced, limit) = (1501, 1500);
    assert_eq!(items, []);
    assert_eq!(
        violation,
        Some(Violation::MessageTooLarge { announced, limit })
    );
    // Frames without end, each of them empty.
    let (_, violation) = traffic(&[1, 0].repeat(1000));
    assert_eq!(violation, Some(Violation::TooManyFrames { limit: 4 }));
    let exact = [part(500), part(500), part(499), vec![0, 1, 7]].concat();
    let (items, violation) = traffic(&exact);
    assert!(matches!(&items[..], [Item::Message(frames)] if frames.len() == 4));
    assert_eq!(violation, None);
    // The next message is measured anew.
    let (items, violation) = traffic(&exact.repeat(3));
    assert_eq!((items.len(), violation), (3, None));
}

#[test]
fn greetings_are_judged_byte_by_byte() {
    let judge = |change: &dyn Fn(&mut [u8; 64])| {
        let mut greeting = greeting::ours();
        change(&mut greeting);
        decode(&greeting, &[1], SMALL)
    };
    for (at, byte) in [(0, 0), (9, 0xff), (10, 2), (12, b'C'), (16, b'X'), (31, 1)] {
        let (items, violation) = judge(&|greeting| greeting[at] = byte);
        assert_eq!(items, []);
        let handshake = matches!(violation, Some(Violation::Handshake(_)));
        assert!(handshake, "byte {at}: {violation:?}");
    }
    // Padding and filler mean nothing; later versions are met with our own.
    for (at, byte) in [(1, 7), (8, 1), (11, 0), (11, 9), (10, 4), (32, 1), (63, 7)] {
        let (items, violation) = judge(&|greeting| greeting[at] = byte);
        assert_eq!((items.len(), violation), (1, None), "byte {at}");
    }
    // One that never ends is no longer one after 64 bytes.
    let (items, violation) = decode(&[0xff; 4096], &[3], SMALL);
    assert_eq!(items, []);
    assert!(matches!(violation, Some(Violation::Handshake(_))));
    let (_, violation) = decode(b"HTTP/1.1 400 Bad Request\r\n", &[5], SMALL);
    assert!(matches!(violation, Some(Violation::Handshake(_))));
}

#[test]
fn a_handshake_is_ready_and_nothing_else() {
    let after_greeting = |bytes: &[u8]| {
        let wire = [&greeting::ours()[..], bytes].concat();
        let (mut items, violation) = decode(&wire, &[2], SMALL);
        items.remove(0);
        (items, violation)
    };
    for bytes in [
        &frame::message(&[Bytes::from_static(b"early")])[..],
        &frame::command("SUBSCRIBE", &[b"kv@"]),
        &frame::command("PING", &[&[0, 0]]),
        &frame::command("UNHEARD", &[]),
        &frame::command("READY", &[b"\x0bSocket-Type\0\0\0\x09PUB"]),
        &frame::command("READY", &[b"\x40Socket-Type\0\0\0\x03PUB"]),
        &frame::command("READY", &[b"\x0bSocket-Type\0\0"]),
    ] {
        let (_, violation) = after_greeting(bytes);
        let handshake = matches!(violation, Some(Violation::Handshake(_)));
        assert!(handshake, "{bytes:?}: {violation:?}");
    }
    let (items, violation) = after_greeting(&command::error("not you"));
    assert_eq!(items, [Item::Command(Command::Error("not you".to_owned()))]);
    assert_eq!(violation, None);
    // Names are not case-sensitive, and others are passed over.
    let odd = frame::command(
        "READY",
        &[b"\x03X-A\0\0\0\x01a\x0bsocket-TYPE\0\0\0\x03PUB"],
    );
    let (items, violation) = after_greeting(&odd);
    let ready = Item::Command(Command::Ready(Bytes::from_static(b"PUB")));
    assert_eq!((items, violation), (vec![ready], None));
}

#[test]
fn odd_frames_end_the_connection_and_unknown_commands_do_not() {
    for bytes in [
        &[8, 0][..],
        &[0x80, 0],
        &[5, 0],
        &[4, 0],
        &[4, 1, 0],
        &[4, 3, 9, b'A', b'B'],
        &frame::command("PING", &[&[0]]),
        &frame::command("PING", &[&[0; 2 + 17]]),
    ] {
        let (items, violation) = traffic(bytes);
        assert_eq!(items, []);
        let bad = matches!(violation, Some(Violation::BadFrame(_)));
        assert!(bad, "{bytes:?}: {violation:?}");
    }
    let (items, violation) = traffic(&frame::command("JOIN", &[b"group"]));
    assert_eq!(
        (items, violation),
        (vec![Item::Command(Command::Other)], None)
    );
    // Heartbeats of libzmq come between the frames of a message, too.
    let ping = frame::command("PING", &[&[0, 0], b"c"]);
    let (items, _) = traffic(&[&[1, 1, b'a'][..], &ping, &[0, 1, b'b']].concat());
    let message = Item::Message(vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
    let ping = Item::Command(Command::Ping(Bytes::from_static(b"c")));
    assert_eq!(items, [ping, message]);
}

#[test]
fn what_is_written_is_what_libzmq_writes() {
    let ready = command::ready(SocketType::Sub);
    assert_eq!(&ready[..], b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03SUB");
    let ready = command::ready(SocketType::Dealer);
    assert_eq!(
        &ready[..],
        b"\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
    );
    let (old, new) = (
        Version { major: 3, minor: 0 },
        Version { major: 3, minor: 1 },
    );
    assert_eq!(&command::subscribe(b"kv@", old)[..], b"\0\x04\x01kv@");
    assert_eq!(
        &command::subscribe(b"kv@", new)[..],
        b"\x04\x0d\x09SUBSCRIBEkv@"
    );
    let long = Bytes::from(vec![7; 256]);
    let wire = frame::message(&[Bytes::from_static(b"t"), long]);
    assert_eq!(&wire[..12], b"\x01\x01t\x02\0\0\0\0\0\0\x01\0");
    assert_eq!(wire.len(), 12 + 256);
    assert_eq!(&frame::message(&[])[..], b"\0\0");
}
