//! Batches of KV events that no healthy engine sends, for tests of who reads them. PURE.

use rmp::encode as msgpack;
use serde::{Deserialize, Serialize};

use super::Wire;
use crate::kv::blocks::engine::EngineHash;
use crate::kv::event::{EncodeBatch, EncodeEvent, EncodeStored, encode};

/// What is wrong with a batch.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Oddity {
    /// Bytes that are no msgpack.
    Garbage,
    /// An event of a type that nobody knows, beside one that is fine.
    UnknownType,
    /// Two batches whose numbers come in the wrong order.
    OutOfOrder,
    /// A block whose parent was never stored.
    UnknownParent,
    /// A block under the topic of another model.
    OtherModel,
    /// The last batch once more, with its old number.
    Duplicate,
}

const GROWS: &str = "a Vec takes every write";
/// Hashes that no real block has: nobody finds a preimage of them.
const STRANGE: [EngineHash; 2] = [EngineHash([0xab; 32]), EngineHash([0xcd; 32])];

impl Oddity {
    /// The payload of such a batch.
    pub(super) fn payload(self, wire: Wire, timestamp_seconds: f64) -> Vec<u8> {
        let tokens: Vec<u32> = (0..wire.block_size).collect();
        let stored = EncodeEvent::Stored(EncodeStored {
            hashes: &STRANGE[..1],
            parent: (self == Self::UnknownParent).then_some(STRANGE[1]),
            tokens: &tokens,
            block_size: wire.block_size,
            ..EncodeStored::default()
        });
        let events: &[EncodeEvent<'_>] = match self {
            Self::Garbage => return b"\xc1this is not msgpack\xff\xff".to_vec(),
            Self::UnknownType => return unknown_type(timestamp_seconds),
            Self::UnknownParent | Self::OtherModel => &[stored],
            Self::OutOfOrder | Self::Duplicate => &[],
        };
        let batch = EncodeBatch {
            timestamp_seconds,
            rank: Some(0),
            events,
        };
        encode(&batch, wire.form, wire.hashes)
    }
}

fn unknown_type(timestamp_seconds: f64) -> Vec<u8> {
    let mut out = Vec::new();
    msgpack::write_array_len(&mut out, 3).expect(GROWS);
    msgpack::write_f64(&mut out, timestamp_seconds).expect(GROWS);
    msgpack::write_array_len(&mut out, 2).expect(GROWS);
    msgpack::write_map_len(&mut out, 2).expect(GROWS);
    for text in ["type", "BlockMoved", "where"] {
        msgpack::write_str(&mut out, text).expect(GROWS);
    }
    msgpack::write_uint(&mut out, 7).expect(GROWS);
    msgpack::write_map_len(&mut out, 3).expect(GROWS);
    for text in ["type", "BlockRemoved", "block_hashes"] {
        msgpack::write_str(&mut out, text).expect(GROWS);
    }
    msgpack::write_array_len(&mut out, 1).expect(GROWS);
    msgpack::write_uint(&mut out, STRANGE[0].as_u64()).expect(GROWS);
    msgpack::write_str(&mut out, "medium").expect(GROWS);
    msgpack::write_str(&mut out, "GPU").expect(GROWS);
    msgpack::write_uint(&mut out, 0).expect(GROWS);
    out
}
