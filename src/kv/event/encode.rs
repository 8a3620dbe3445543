//! A batch -> the payload that vLLM would send. PURE.
//!
//! For the simulator. Bytes equal vLLM's, down to the order of fields and to which of them
//! are left out.

use rmp::encode as msgpack;

use super::{Medium, SpecKind};
use crate::kv::blocks::engine::EngineHash;

const GROWS: &str = "a Vec takes every write";

/// How events are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// `["BlockStored", ...]`: vLLM up to 0.23.
    Array,
    /// `{"type": "BlockStored", ...}`: vLLM from 0.24.
    Map,
}

/// How hashes are written; vLLM's `VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HashForm {
    /// The last 8 bytes as a number.
    Int,
    /// All 32 bytes.
    Bytes,
}

/// What one rank did in one step.
#[derive(Clone, Copy, Debug)]
pub struct EncodeBatch<'a> {
    /// Seconds since 1970.
    pub timestamp_seconds: f64,
    /// The data-parallel rank.
    pub rank: Option<u32>,
    /// In order.
    pub events: &'a [EncodeEvent<'a>],
}

/// One event to write.
#[derive(Clone, Copy, Debug)]
pub enum EncodeEvent<'a> {
    /// Blocks were stored.
    Stored(EncodeStored<'a>),
    /// Blocks are gone.
    Removed {
        /// Which.
        hashes: &'a [EngineHash],
        /// From where.
        medium: Medium,
        /// The KV-cache group.
        group: Option<u32>,
    },
    /// The cache is empty.
    Cleared,
}

/// A run of consecutive blocks to write; see [`super::Stored`].
#[derive(Clone, Copy, Debug, Default)]
pub struct EncodeStored<'a> {
    /// Whole hashes of the blocks.
    pub hashes: &'a [EngineHash],
    /// The block before the run.
    pub parent: Option<EngineHash>,
    /// Usually `hashes.len() * block_size` tokens.
    pub tokens: &'a [u32],
    /// Tokens in one block.
    pub block_size: u32,
    /// The adapter's number in this engine.
    pub lora_id: Option<u32>,
    /// The adapter's name.
    pub lora: Option<&'a str>,
    /// The request's `cache_salt`; written only where the run starts a prompt.
    pub salt: Option<&'a str>,
    /// Where the blocks are.
    pub medium: Medium,
    /// The KV-cache group.
    pub group: Option<u32>,
    /// How the group attends.
    pub kind: Option<SpecKind>,
}

/// Writes one payload.
pub fn encode(batch: &EncodeBatch<'_>, form: Form, hashes: HashForm) -> Vec<u8> {
    let mut out = Output {
        bytes: Vec::new(),
        form,
        hashes,
    };
    out.array(2 + usize::from(batch.rank.is_some()));
    msgpack::write_f64(&mut out.bytes, batch.timestamp_seconds).expect(GROWS);
    out.array(batch.events.len());
    for event in batch.events {
        match event {
            EncodeEvent::Stored(stored) => out.stored(stored),
            EncodeEvent::Removed {
                hashes,
                medium,
                group,
            } => out.removed(hashes, *medium, *group),
            EncodeEvent::Cleared => out.open("AllBlocksCleared", 0),
        }
    }
    if batch.rank.is_some() {
        out.optional(batch.rank, Output::number);
    }
    out.bytes
}

struct Output {
    bytes: Vec<u8>,
    form: Form,
    hashes: HashForm,
}

impl Output {
    fn stored(&mut self, stored: &EncodeStored<'_>) {
        let (group, kind) = (stored.group.is_some(), stored.kind.is_some());
        // An array can leave out only what comes last.
        let nil_group = self.form == Form::Array && kind && !group;
        let optional = usize::from(group || nil_group) + usize::from(kind);
        self.open("BlockStored", 8 + optional);
        self.key("block_hashes");
        self.list(stored.hashes, |out, hash| out.hash(*hash));
        self.key("parent_block_hash");
        self.optional(stored.parent, Self::hash);
        self.key("token_ids");
        self.list(stored.tokens, |out, token| out.number(*token));
        self.key("block_size");
        self.number(stored.block_size);
        self.key("lora_id");
        self.optional(stored.lora_id, Self::number);
        self.key("medium");
        self.text(stored.medium.name());
        self.key("lora_name");
        self.optional(stored.lora, Self::text);
        self.key("extra_keys");
        self.extra_keys(stored);
        if group || nil_group {
            self.key("group_idx");
            self.optional(stored.group, Self::number);
        }
        if let Some(kind) = stored.kind {
            self.key("kv_cache_spec_kind");
            self.text(kind.name());
        }
    }

    /// Per block: nil, or the adapter's name and, in a prompt's first block, the salt.
    fn extra_keys(&mut self, stored: &EncodeStored<'_>) {
        self.array(stored.hashes.len());
        for block in 0..stored.hashes.len() {
            let starts_prompt = block == 0 && stored.parent.is_none();
            let salt = stored.salt.filter(|_| starts_prompt);
            let values: Vec<&str> = stored.lora.into_iter().chain(salt).collect();
            let values = Some(values).filter(|values| !values.is_empty());
            self.optional(values, |out, values| {
                out.list(&values, |out, value| out.text(value));
            });
        }
    }

    fn removed(&mut self, hashes: &[EngineHash], medium: Medium, group: Option<u32>) {
        self.open("BlockRemoved", 2 + usize::from(group.is_some()));
        self.key("block_hashes");
        self.list(hashes, |out, hash| out.hash(*hash));
        self.key("medium");
        self.text(medium.name());
        if let Some(group) = group {
            self.key("group_idx");
            self.number(group);
        }
    }

    /// Starts an event with so many fields beside its type.
    fn open(&mut self, type_name: &str, fields: usize) {
        match self.form {
            Form::Array => self.array(1 + fields),
            Form::Map => {
                msgpack::write_map_len(&mut self.bytes, 1 + fields as u32).expect(GROWS);
            }
        }
        self.key("type");
        self.text(type_name);
    }

    /// A field's name, where fields have names.
    fn key(&mut self, name: &str) {
        if self.form == Form::Map {
            self.text(name);
        }
    }

    fn array(&mut self, items: usize) {
        msgpack::write_array_len(&mut self.bytes, items as u32).expect(GROWS);
    }

    fn list<T>(&mut self, items: &[T], write: impl Fn(&mut Self, &T)) {
        self.array(items.len());
        for item in items {
            write(self, item);
        }
    }

    fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            Some(value) => write(self, value),
            None => msgpack::write_nil(&mut self.bytes).expect(GROWS),
        }
    }

    fn number(&mut self, number: u32) {
        msgpack::write_uint(&mut self.bytes, u64::from(number)).expect(GROWS);
    }

    fn text(&mut self, text: &str) {
        msgpack::write_str(&mut self.bytes, text).expect(GROWS);
    }

    fn hash(&mut self, hash: EngineHash) {
        match self.hashes {
            HashForm::Int => {
                msgpack::write_uint(&mut self.bytes, hash.as_u64()).expect(GROWS);
            }
            HashForm::Bytes => msgpack::write_bin(&mut self.bytes, &hash.0).expect(GROWS),
        }
    }
}
