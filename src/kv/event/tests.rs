//! What real engines send is read as they mean it, and nothing they could send does harm.

use proptest::prelude::*;
use rmp::encode as msgpack;

use super::*;
use crate::kv::blocks::engine::{EngineHash, Extra, none_hash, sha256_cbor};

/// A batch of vLLM 0.32 in map form, and the same in the older array form.
const MAP_FORM: &str = "93cb3ff8000000000000938ba474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657392cf27bd352623590b0dcfc1b4060a29bae320b1706172656e745f626c6f636b5f68617368c0a9746f6b656e5f696473dc0020000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1faa626c6f636b5f73697a6510a76c6f72615f6964c0a66d656469756da3475055a96c6f72615f6e616d65c0aa65787472615f6b65797392c0c0a967726f75705f69647800b26b765f63616368655f737065635f6b696e64ae66756c6c5f617474656e74696f6e84a474797065ac426c6f636b52656d6f766564ac626c6f636b5f68617368657391cfc1b4060a29bae320a66d656469756da3475055a967726f75705f6964780081a474797065b0416c6c426c6f636b73436c656172656400";
const ARRAY_FORM: &str = "93cb3ff8000000000000939aab426c6f636b53746f72656492cf27bd352623590b0dcfc1b4060a29bae320c0dc0020000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f10c0a3475055c092c0c00094ac426c6f636b52656d6f76656491cfc1b4060a29bae320a34750550091b0416c6c426c6f636b73436c656172656400";

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("a hex digit") as u8;
    hex.as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

fn tokens() -> Vec<u32> {
    (0..32).collect()
}

fn hashes() -> [EngineHash; 2] {
    let tokens = tokens();
    let first = sha256_cbor(&none_hash(Some("42")), &tokens[..16], &Extra::default());
    [first, sha256_cbor(&first, &tokens[16..], &Extra::default())]
}

fn golden_payload(form: Form, kind: Option<SpecKind>) -> Vec<u8> {
    let (hashes, tokens) = (hashes(), tokens());
    let events = [
        EncodeEvent::Stored(EncodeStored {
            hashes: &hashes,
            tokens: &tokens,
            block_size: 16,
            group: Some(0),
            kind,
            ..EncodeStored::default()
        }),
        EncodeEvent::Removed {
            hashes: &hashes[1..],
            medium: Medium::Gpu,
            group: Some(0),
        },
        EncodeEvent::Cleared,
    ];
    let batch = EncodeBatch {
        timestamp_seconds: 1.5,
        rank: Some(0),
        events: &events,
    };
    encode(&batch, form, HashForm::Int)
}

#[test]
fn payloads_equal_those_of_vllm() {
    let kind = Some(SpecKind::FullAttention);
    assert_eq!(golden_payload(Form::Map, kind), bytes(MAP_FORM));
    assert_eq!(golden_payload(Form::Array, None), bytes(ARRAY_FORM));
}

#[test]
fn both_forms_of_a_vllm_batch_say_the_same() {
    let batch = Batch {
        timestamp_seconds: 1.5,
        rank: Some(0),
        events: vec![
            Event::Stored(Stored {
                hashes: vec![2_863_503_375_995_570_957, 13_957_787_785_847_563_040],
                tokens: tokens(),
                block_size: 16,
                group: Some(0),
                ..Stored::default()
            }),
            Event::Removed(Removed {
                hashes: vec![13_957_787_785_847_563_040],
                group: Some(0),
                ..Removed::default()
            }),
            Event::Cleared,
        ],
        rejected: vec![],
    };
    assert_eq!(decode(&bytes(MAP_FORM)), Ok(batch.clone()));
    assert_eq!(decode(&bytes(ARRAY_FORM)), Ok(batch));
}

// === hand-made payloads ===

/// A msgpack value in tests.
#[derive(Clone)]
enum Item {
    Nil,
    Int(i64),
    Text(&'static str),
    Bytes(Vec<u8>),
    List(Vec<Item>),
    Map(Vec<(Item, Item)>),
}
use Item::{Int, List, Nil, Text};

impl Item {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Nil => msgpack::write_nil(out).unwrap(),
            Int(number) => drop(msgpack::write_sint(out, *number).unwrap()),
            Text(text) => msgpack::write_str(out, text).unwrap(),
            Item::Bytes(bytes) => msgpack::write_bin(out, bytes).unwrap(),
            List(items) => {
                msgpack::write_array_len(out, items.len() as u32).unwrap();
                for item in items {
                    item.write(out);
                }
            }
            Item::Map(pairs) => {
                msgpack::write_map_len(out, pairs.len() as u32).unwrap();
                for (key, value) in pairs {
                    key.write(out);
                    value.write(out);
                }
            }
        }
    }
}

fn decode_events(events: Vec<Item>) -> Batch {
    let mut out = Vec::new();
    List(vec![Int(7), List(events)]).write(&mut out);
    decode(&out).expect("a batch")
}

fn stored_array(more: Vec<Item>) -> Item {
    let mut items = vec![
        Text("BlockStored"),
        List(vec![Int(1), Int(2)]),
        Nil,
        List(vec![Int(5), Int(6)]),
        Int(1),
    ];
    items.extend(more);
    List(items)
}

fn decode_stored(event: Item) -> Stored {
    let batch = decode_events(vec![event]);
    match batch.events.as_slice() {
        [Event::Stored(stored)] => stored.clone(),
        _ => panic!("not one stored event: {batch:?}"),
    }
}

fn plain() -> Stored {
    Stored {
        hashes: vec![1, 2],
        tokens: vec![5, 6],
        block_size: 1,
        ..Stored::default()
    }
}

#[test]
fn trailing_fields_may_be_missing() {
    assert_eq!(decode_stored(stored_array(vec![])), plain());
    let removed = decode_events(vec![List(vec![Text("BlockRemoved"), List(vec![Int(1)])])]);
    let expected = Removed {
        hashes: vec![1],
        ..Removed::default()
    };
    assert_eq!(removed.events, [Event::Removed(expected)]);
    assert_eq!(removed.rank, None);
}

#[test]
fn fields_of_a_later_release_are_passed_over() {
    let deep = List(vec![List(vec![Nil]), Item::Map(vec![(Int(1), Text("x"))])]);
    let mut more = vec![Nil; 6];
    more.extend([Nil, deep.clone(), deep.clone()]);
    assert_eq!(decode_stored(stored_array(more)), plain());

    let map = Item::Map(vec![
        (Text("token_ids"), List(vec![Int(5), Int(6)])),
        (Text("novelty"), deep),
        (Text("block_hashes"), List(vec![Int(1), Int(2)])),
        (Text("parent_block_hash"), Nil),
        (Text("block_size"), Int(1)),
        (Text("type"), Text("BlockStored")),
    ]);
    assert_eq!(decode_stored(map), plain());
}

#[test]
fn hashes_of_every_form_are_the_same_number() {
    let digest: Vec<u8> = (0..32).collect();
    let number = 0x1819_1a1b_1c1d_1e1f;
    let forms = List(vec![
        Int(number),
        Item::Bytes(digest.clone()),
        Item::Bytes(digest[16..].to_vec()),
        Text("12345678"),
        Int(-2),
    ]);
    let batch = decode_events(vec![List(vec![Text("BlockRemoved"), forms])]);
    let expected = Removed {
        hashes: vec![
            number as u64,
            number as u64,
            number as u64,
            u64::from_be_bytes(*b"12345678"),
            u64::MAX - 1,
        ],
        ..Removed::default()
    };
    assert_eq!(batch.events, [Event::Removed(expected)]);
}

#[test]
fn the_medium_is_read_in_either_case() {
    let media = [
        ("gpu", Medium::Gpu),
        ("CPU", Medium::Cpu),
        ("Storage", Medium::Storage),
        ("tape", Medium::Other),
    ];
    for (name, medium) in media {
        let stored = decode_stored(stored_array(vec![Nil, Text(name)]));
        assert_eq!(stored.medium, medium);
    }
}

#[test]
fn sglang_metadata_may_stand_where_the_adapter_does() {
    let metadata = Item::Map(vec![
        (Text("session_id"), List(vec![Int(1)])),
        (Text("cache_salt"), Text("s")),
    ]);
    let stored = decode_stored(stored_array(vec![Nil, Nil, metadata]));
    assert_eq!(stored.salt.as_deref(), Some("s"));
    assert_eq!(stored.lora, None);
}

#[test]
fn an_adapter_without_a_name_is_not_the_base_model() {
    let stored = decode_stored(stored_array(vec![Int(3)]));
    assert_eq!(stored.lora.as_deref(), Some("lora_id:3"));
    let stored = decode_stored(stored_array(vec![Int(0)]));
    assert_eq!(stored.lora, None);
}

/// Adapter, extra keys -> salt, first opaque block.
type ExtraCase = (
    Option<&'static str>,
    Vec<Item>,
    Option<&'static str>,
    Option<usize>,
);

#[test]
fn extra_keys_tell_salt_from_adapter_and_image() {
    let image = || List(vec![Text("img"), Int(-3)]);
    let list = |items: &[Item]| List(items.to_vec());
    let cases: Vec<ExtraCase> = vec![
        (None, vec![Nil, Nil], None, None),
        (None, vec![list(&[Text("s")]), Nil], Some("s"), None),
        (Some("l"), vec![list(&[Text("l")]); 2], None, None),
        (
            Some("l"),
            vec![list(&[Text("l"), Text("s")]), list(&[Text("l")])],
            Some("s"),
            None,
        ),
        // A salt that is called like the adapter is a salt.
        (
            Some("l"),
            vec![list(&[Text("l"), Text("l")])],
            Some("l"),
            None,
        ),
        (None, vec![Nil, list(&[image()])], None, Some(1)),
        (
            None,
            vec![list(&[image(), Text("s")]), Nil],
            Some("s"),
            Some(0),
        ),
        // Releases that name an image by a lone text.
        (None, vec![Nil, list(&[Text("img")])], None, Some(1)),
        (
            None,
            vec![Nil, list(&[Item::Bytes(vec![1; 32])])],
            None,
            Some(1),
        ),
    ];
    for (lora, extra_keys, salt, opaque_from) in cases {
        let name = lora.map_or(Nil, Text);
        let stored = decode_stored(stored_array(vec![Nil, Nil, name, List(extra_keys)]));
        assert_eq!(stored.lora.as_deref(), lora);
        assert_eq!(stored.salt.as_deref(), salt);
        assert_eq!(stored.opaque_from, opaque_from);
    }
}

#[test]
fn one_bad_event_costs_only_itself() {
    let missing = Item::Map(vec![(Text("type"), Text("BlockRemoved"))]);
    let batch = decode_events(vec![
        List(vec![Text("AllBlocksCleared")]),
        List(vec![Text("BlockTeleported"), List(vec![Nil])]),
        List(vec![Text("BlockRemoved"), Text("no list"), Int(1)]),
        missing,
        Int(3),
        List(vec![]),
        stored_array(vec![]),
    ]);
    assert_eq!(batch.events, [Event::Cleared, Event::Stored(plain())]);
    let rejected = [
        (1, Reason::UnknownType, "BlockTeleported"),
        (2, Reason::BadField("block_hashes"), "BlockRemoved"),
        (3, Reason::MissingField("block_hashes"), "BlockRemoved"),
        (4, Reason::NotAnEvent, ""),
        (5, Reason::NotAnEvent, ""),
    ];
    let expected = rejected.map(|(index, reason, name)| Rejected {
        index,
        reason,
        type_name: name.to_owned(),
    });
    assert_eq!(batch.rejected, expected);
}

#[test]
fn limits_reject_what_is_beyond_them() {
    let long = |items| List(vec![Int(1); items]);
    let batch = decode_events(vec![
        List(vec![Text("BlockRemoved"), long(MAX_HASHES + 1)]),
        List(vec![
            Text("BlockStored"),
            long(1),
            Nil,
            long(MAX_TOKENS + 1),
            Int(1),
        ]),
    ]);
    let reasons: Vec<_> = batch
        .rejected
        .iter()
        .map(|rejected| rejected.reason)
        .collect();
    assert_eq!(
        reasons,
        [
            Reason::TooLong("block_hashes"),
            Reason::TooLong("token_ids")
        ]
    );

    let batch = decode_events(vec![List(vec![Text("AllBlocksCleared")]); MAX_EVENTS + 2]);
    assert_eq!(batch.events.len(), MAX_EVENTS);
    assert_eq!(batch.rejected.len(), 1);
    assert_eq!(batch.rejected[0].reason, Reason::TooManyEvents);
}

#[test]
fn a_batch_is_limited_as_a_whole() {
    let hashes = List(vec![Int(1); MAX_HASHES]);
    let removed = List(vec![Text("BlockRemoved"), hashes]);
    let mut events = vec![removed; MAX_BATCH_HASHES / MAX_HASHES + 2];
    events.push(List(vec![Text("AllBlocksCleared")]));
    let batch = decode_events(events);
    assert_eq!(batch.events.len(), MAX_BATCH_HASHES / MAX_HASHES + 1);
    assert_eq!(batch.events.last(), Some(&Event::Cleared));
    let too_long = Reason::TooLong("block_hashes");
    assert!(
        batch
            .rejected
            .iter()
            .all(|rejected| rejected.reason == too_long)
    );
    assert_eq!(batch.rejected.len(), 2);
    let tokens = List(vec![Int(1); MAX_TOKENS]);
    let hashes = List(vec![Int(1)]);
    let stored = List(vec![Text("BlockStored"), hashes, Nil, tokens, Int(1)]);
    let batch = decode_events(vec![stored; MAX_BATCH_TOKENS / MAX_TOKENS + 1]);
    assert_eq!(batch.events.len(), MAX_BATCH_TOKENS / MAX_TOKENS);
    assert_eq!(batch.rejected[0].reason, Reason::TooLong("token_ids"));
}

#[test]
fn a_very_deep_value_is_passed_over() {
    let mut payload = vec![0x92, 0x01, 0x92];
    payload.extend(vec![0x91; 1_000_000]);
    payload.push(0xc0);
    payload.extend([0x91, 0xb0]);
    payload.extend(b"AllBlocksCleared");
    let batch = decode(&payload).unwrap();
    assert_eq!(batch.events, [Event::Cleared]);
    assert_eq!(batch.rejected.len(), 1);
}

#[test]
fn what_is_not_a_batch_is_an_error() {
    assert_eq!(decode(&[]), Err(DecodeError::Malformed));
    assert_eq!(decode(&[0x80]), Err(DecodeError::NotABatch));
    assert_eq!(decode(&[0x91, 0x01]), Err(DecodeError::NotABatch));
    assert_eq!(decode(&[0x92, 0x01, 0xc0]), Err(DecodeError::NotABatch));
    // Says that four billion events follow.
    let lies = [0x92, 0x01, 0xdd, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(decode(&lies), Err(DecodeError::Malformed));
}

// === properties ===

fn engine_hash() -> impl Strategy<Value = EngineHash> {
    any::<[u8; 32]>().prop_map(EngineHash)
}

fn medium() -> impl Strategy<Value = Medium> {
    prop::sample::select(Medium::NAMES.map(|(medium, _)| medium).to_vec())
}

/// Events as their owned parts: what is stored, or the hashes removed, or nothing for a clear.
#[derive(Clone, Debug)]
enum Spec {
    Stored {
        hashes: Vec<EngineHash>,
        parent: Option<EngineHash>,
        tokens: Vec<u32>,
        lora: Option<String>,
        salt: Option<String>,
        medium: Medium,
        group: Option<u32>,
        kind: Option<SpecKind>,
    },
    Removed(Vec<EngineHash>, Medium, Option<u32>),
    Cleared,
}

impl Spec {
    fn encodable(&self) -> EncodeEvent<'_> {
        match self {
            Self::Stored {
                hashes,
                parent,
                tokens,
                lora,
                salt,
                medium,
                group,
                kind,
            } => EncodeEvent::Stored(EncodeStored {
                hashes,
                parent: *parent,
                tokens,
                block_size: 16,
                lora_id: lora.as_ref().map(|_| 1),
                lora: lora.as_deref(),
                salt: salt.as_deref(),
                medium: *medium,
                group: *group,
                kind: *kind,
            }),
            Self::Removed(hashes, medium, group) => EncodeEvent::Removed {
                hashes,
                medium: *medium,
                group: *group,
            },
            Self::Cleared => EncodeEvent::Cleared,
        }
    }

    fn expected(&self) -> Event {
        let numbers = |hashes: &[EngineHash]| hashes.iter().map(EngineHash::as_u64).collect();
        match self.clone() {
            Self::Stored {
                hashes,
                parent,
                tokens,
                lora,
                salt,
                medium,
                group,
                kind,
            } => Event::Stored(Stored {
                hashes: numbers(&hashes),
                parent: parent.map(|parent| parent.as_u64()),
                tokens,
                block_size: 16,
                lora,
                // Written into the first block of a prompt, if there is one.
                salt: salt.filter(|_| parent.is_none() && !hashes.is_empty()),
                medium,
                group,
                kind: kind.unwrap_or_default(),
                opaque_from: None,
            }),
            Self::Removed(hashes, medium, group) => Event::Removed(Removed {
                hashes: numbers(&hashes),
                medium,
                group,
            }),
            Self::Cleared => Event::Cleared,
        }
    }
}

fn spec() -> impl Strategy<Value = Spec> {
    let some_hashes = || prop::collection::vec(engine_hash(), 0..4);
    let name = || prop::option::of("[a-c]{1,3}");
    let group = || prop::option::of(any::<u32>());
    let kind = prop::option::of(prop::sample::select(
        SpecKind::NAMES.map(|(kind, _)| kind).to_vec(),
    ));
    let stored = (
        (some_hashes(), prop::option::of(engine_hash())),
        prop::collection::vec(any::<u32>(), 0..40),
        (name(), name()),
        (medium(), group(), kind),
    )
        .prop_map(
            |((hashes, parent), tokens, (lora, salt), (medium, group, kind))| Spec::Stored {
                hashes,
                parent,
                tokens,
                lora,
                salt,
                medium,
                group,
                kind,
            },
        );
    prop_oneof![
        stored,
        (some_hashes(), medium(), group())
            .prop_map(|(hashes, medium, group)| Spec::Removed(hashes, medium, group)),
        Just(Spec::Cleared),
    ]
}

fn forms() -> impl Strategy<Value = (Form, HashForm)> {
    (
        prop::sample::select(vec![Form::Array, Form::Map]),
        prop::sample::select(vec![HashForm::Int, HashForm::Bytes]),
    )
}

fn payload(specs: &[Spec], rank: Option<u32>, (form, hashes): (Form, HashForm)) -> Vec<u8> {
    let events: Vec<_> = specs.iter().map(Spec::encodable).collect();
    let batch = EncodeBatch {
        timestamp_seconds: 12.25,
        rank,
        events: &events,
    };
    encode(&batch, form, hashes)
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        specs in prop::collection::vec(spec(), 0..6),
        rank in prop::option::of(any::<u32>()),
        forms in forms(),
    ) {
        let batch = decode(&payload(&specs, rank, forms)).unwrap();
        prop_assert_eq!(batch.timestamp_seconds.to_bits(), 12.25_f64.to_bits());
        prop_assert_eq!(batch.rank, rank);
        prop_assert_eq!(batch.events, specs.iter().map(Spec::expected).collect::<Vec<_>>());
        prop_assert_eq!(batch.rejected, vec![]);
    }

    #[test]
    fn a_payload_cut_anywhere_is_an_error(
        specs in prop::collection::vec(spec(), 0..4),
        forms in forms(),
        cut in any::<prop::sample::Index>(),
    ) {
        let payload = payload(&specs, Some(1), forms);
        let cut = cut.index(payload.len());
        prop_assert_eq!(decode(&payload[..cut]), Err(DecodeError::Malformed));
    }

    #[test]
    fn damaged_payloads_never_panic_and_lose_no_event_silently(
        specs in prop::collection::vec(spec(), 1..4),
        forms in forms(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut payload = payload(&specs, Some(1), forms);
        // The headers stay, so that the number of events is known.
        for (place, byte) in damage {
            let place = 11 + place.index(payload.len() - 11);
            payload[place] = byte;
        }
        if let Ok(batch) = decode(&payload) {
            prop_assert_eq!(batch.events.len() + batch.rejected.len(), specs.len());
        }
    }

    #[test]
    fn any_bytes_are_answered(payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&payload);
        // Behind a sound beginning the bytes get further in.
        let mut payload = payload;
        payload.splice(0..0, [0x92, 0x01, 0x9f]);
        let _ = decode(&payload);
    }
}
