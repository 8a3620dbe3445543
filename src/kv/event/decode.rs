//! One payload -> its batch. PURE.

use super::extra_keys;
use super::value::{Input, Value};
use super::{
    Batch, DecodeError, Event, MAX_BATCH_HASHES, MAX_BATCH_TOKENS, MAX_EVENTS, MAX_HASHES,
    MAX_NAME_BYTES, MAX_TOKENS, Medium, Reason, Rejected, Removed, SpecKind, Stored,
};

/// Characters kept of the name of an event that was rejected.
const TYPE_NAME_CHARACTERS: usize = 32;

/// Room made for a list before its items are read; beyond it grows with them.
const FIRST_ITEMS: usize = 1024;

/// Reads one payload. Fields and events not known here are passed over, so that a newer
/// engine keeps working.
///
/// # Errors
/// Only where the outer array cannot be read to its end; an odd event is in
/// [`Batch::rejected`].
pub fn decode(payload: &[u8]) -> Result<Batch, DecodeError> {
    let mut input = Input::new(payload);
    let Value::Array(fields @ 2..) = input.value()? else {
        return Err(DecodeError::NotABatch);
    };
    let mut batch = Batch {
        timestamp_seconds: match input.value()? {
            Value::Float(seconds) => seconds,
            Value::Unsigned(seconds) => seconds as f64,
            _ => return Err(DecodeError::NotABatch),
        },
        ..Batch::default()
    };
    let Value::Array(events) = input.value()? else {
        return Err(DecodeError::NotABatch);
    };
    let mut left = Left {
        hashes: MAX_BATCH_HASHES,
        tokens: MAX_BATCH_TOKENS,
    };
    for index in 0..events as usize {
        read_event(&mut input, index, &mut left, &mut batch)?;
    }
    if fields > 2 {
        batch.rank = match input.value()? {
            Value::Nil => None,
            Value::Unsigned(rank) => Some(u32::try_from(rank).map_err(|_| DecodeError::NotABatch)?),
            _ => return Err(DecodeError::NotABatch),
        };
    }
    for _ in 3..fields {
        input.skip()?;
    }
    Ok(batch)
}

/// Entries that the rest of a batch may have.
#[derive(Clone, Copy, Default)]
struct Left {
    hashes: usize,
    tokens: usize,
}

fn read_event(
    input: &mut Input<'_>,
    index: usize,
    left: &mut Left,
    batch: &mut Batch,
) -> Result<(), DecodeError> {
    if index >= MAX_EVENTS {
        if index == MAX_EVENTS {
            batch.rejected.push(Rejected {
                index,
                reason: Reason::TooManyEvents,
                type_name: String::new(),
            });
        }
        return input.skip();
    }
    let start = *input;
    let mut fields = Fields {
        left: *left,
        ..Fields::default()
    };
    match fields.read(input) {
        Ok(event) => {
            let (hashes, tokens) = match &event {
                Event::Stored(stored) => (stored.hashes.len(), stored.tokens.len()),
                Event::Removed(removed) => (removed.hashes.len(), 0),
                Event::Cleared => (0, 0),
            };
            left.hashes -= hashes;
            left.tokens -= tokens;
            batch.events.push(event);
        }
        Err(reason) => {
            *input = start;
            input.skip()?;
            let name = String::from_utf8_lossy(fields.type_name.unwrap_or_default());
            batch.rejected.push(Rejected {
                index,
                reason,
                type_name: name.chars().take(TYPE_NAME_CHARACTERS).collect(),
            });
        }
    }
    Ok(())
}

/// A cut-off event cannot be passed either, so this reason is never seen outside.
impl From<DecodeError> for Reason {
    fn from(_: DecodeError) -> Self {
        Self::NotAnEvent
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Field {
    Type,
    Hashes,
    Parent,
    Tokens,
    BlockSize,
    LoraId,
    Medium,
    LoraName,
    ExtraKeys,
    Group,
    Kind,
    Salt,
}

impl Field {
    /// Order of the array form; fields that come later are not needed.
    const STORED: [Self; 10] = [
        Self::Hashes,
        Self::Parent,
        Self::Tokens,
        Self::BlockSize,
        Self::LoraId,
        Self::Medium,
        Self::LoraName,
        Self::ExtraKeys,
        Self::Group,
        Self::Kind,
    ];
    const REMOVED: [Self; 3] = [Self::Hashes, Self::Medium, Self::Group];
    /// Keys of the map form. `cache_salt` is SGLang's.
    const NAMES: [(Self, &'static str); 12] = [
        (Self::Type, "type"),
        (Self::Hashes, "block_hashes"),
        (Self::Parent, "parent_block_hash"),
        (Self::Tokens, "token_ids"),
        (Self::BlockSize, "block_size"),
        (Self::LoraId, "lora_id"),
        (Self::Medium, "medium"),
        (Self::LoraName, "lora_name"),
        (Self::ExtraKeys, "extra_keys"),
        (Self::Group, "group_idx"),
        (Self::Kind, "kv_cache_spec_kind"),
        (Self::Salt, "cache_salt"),
    ];

    fn named(name: &[u8]) -> Option<Self> {
        let mut fields = Self::NAMES.iter();
        let (field, _) = fields.find(|(_, known)| known.as_bytes() == name)?;
        Some(*field)
    }

    fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
    }

    fn bad(self) -> Reason {
        Reason::BadField(self.name())
    }

    fn missing(self) -> Reason {
        Reason::MissingField(self.name())
    }
}

/// The fields of one event as they were found: which ones it must have, its type decides.
#[derive(Default)]
struct Fields<'a> {
    left: Left,
    type_name: Option<&'a [u8]>,
    hashes: Option<Vec<u64>>,
    parent: Option<u64>,
    /// Even a prompt's first block says nil: without the field the run's place is not known.
    has_parent: bool,
    tokens: Option<Vec<u32>>,
    block_size: Option<u32>,
    lora_id: Option<u64>,
    medium: Medium,
    lora_name: Option<&'a str>,
    salt: Option<&'a str>,
    /// Read last: what it means depends on the adapter and the parent.
    extra_keys: Option<Input<'a>>,
    group: Option<u32>,
    kind: SpecKind,
}

impl<'a> Fields<'a> {
    fn read(&mut self, input: &mut Input<'a>) -> Result<Event, Reason> {
        match input.value()? {
            Value::Array(items @ 1..) => self.read_array(items, input)?,
            Value::Map(pairs) => self.read_map(pairs, input)?,
            _ => return Err(Reason::NotAnEvent),
        }
        match self.type_name {
            Some(b"BlockStored") => self.stored().map(Event::Stored),
            Some(b"BlockRemoved") => self.removed().map(Event::Removed),
            Some(b"AllBlocksCleared") => Ok(Event::Cleared),
            Some(_) => Err(Reason::UnknownType),
            None => Err(Field::Type.missing()),
        }
    }

    fn read_array(&mut self, items: u32, input: &mut Input<'a>) -> Result<(), Reason> {
        self.set(Field::Type, input)?;
        let order: &[Field] = match self.type_name {
            Some(b"BlockStored") => &Field::STORED,
            Some(b"BlockRemoved") => &Field::REMOVED,
            _ => &[],
        };
        for position in 0..items as usize - 1 {
            match order.get(position) {
                Some(field) => self.set(*field, input)?,
                None => input.skip()?,
            }
        }
        Ok(())
    }

    fn read_map(&mut self, pairs: u32, input: &mut Input<'a>) -> Result<(), Reason> {
        for _ in 0..pairs {
            let Value::Str(name) = input.value()? else {
                return Err(Reason::NotAnEvent);
            };
            match Field::named(name) {
                Some(field) => self.set(field, input)?,
                None => input.skip()?,
            }
        }
        Ok(())
    }

    fn set(&mut self, field: Field, input: &mut Input<'a>) -> Result<(), Reason> {
        match field {
            Field::Type => match input.value()? {
                Value::Str(name) => self.type_name = Some(name),
                _ => return Err(Reason::NotAnEvent),
            },
            Field::Hashes => {
                let most = MAX_HASHES.min(self.left.hashes);
                self.hashes = Some(list(field, most, hash, input)?);
            }
            Field::Parent => {
                self.parent = optional(field, hash, input)?;
                self.has_parent = true;
            }
            Field::Tokens => {
                let most = MAX_TOKENS.min(self.left.tokens);
                self.tokens = Some(list(field, most, small, input)?);
            }
            Field::BlockSize => self.block_size = optional(field, small, input)?,
            Field::LoraId => self.lora_id = optional(field, unsigned, input)?,
            Field::Medium => {
                self.medium = optional(field, bytes, input)?.map_or(Medium::Gpu, Medium::read);
            }
            Field::LoraName => self.set_lora_name(input)?,
            Field::Salt => self.salt = name(field, input)?,
            Field::ExtraKeys => {
                self.extra_keys = Some(*input);
                input.skip()?;
            }
            Field::Group => self.group = optional(field, small, input)?,
            Field::Kind => {
                self.kind =
                    optional(field, bytes, input)?.map_or(SpecKind::FullAttention, SpecKind::read);
            }
        }
        Ok(())
    }

    /// SGLang 0.5.18 has a map of metadata in this place of the array form.
    fn set_lora_name(&mut self, input: &mut Input<'a>) -> Result<(), Reason> {
        let start = *input;
        let Value::Map(pairs) = input.value()? else {
            *input = start;
            self.lora_name = name(Field::LoraName, input)?;
            return Ok(());
        };
        for _ in 0..pairs {
            match input.value()? {
                Value::Str(b"cache_salt") => self.salt = name(Field::Salt, input)?,
                Value::Str(b"lora_name") => self.lora_name = name(Field::LoraName, input)?,
                Value::Str(_) => input.skip()?,
                _ => return Err(Field::LoraName.bad()),
            }
        }
        Ok(())
    }

    fn stored(&mut self) -> Result<Stored, Reason> {
        if !self.has_parent {
            return Err(Field::Parent.missing());
        }
        // Number 0 is no adapter.
        let lora_id = self.lora_id.filter(|id| *id != 0);
        let by_number = || lora_id.map(|id| format!("lora_id:{id}"));
        let mut stored = Stored {
            hashes: self.hashes.take().ok_or(Field::Hashes.missing())?,
            parent: self.parent,
            tokens: self.tokens.take().ok_or(Field::Tokens.missing())?,
            block_size: self.block_size.ok_or(Field::BlockSize.missing())?,
            lora: self.lora_name.map(str::to_owned).or_else(by_number),
            salt: self.salt.map(str::to_owned),
            medium: self.medium,
            group: self.group,
            kind: self.kind,
            opaque_from: None,
        };
        if let Some(extra_keys) = self.extra_keys {
            extra_keys::read(extra_keys, self.lora_name, &mut stored)
                .map_err(|_| Field::ExtraKeys.bad())?;
        }
        Ok(stored)
    }

    fn removed(&mut self) -> Result<Removed, Reason> {
        Ok(Removed {
            hashes: self.hashes.take().ok_or(Field::Hashes.missing())?,
            medium: self.medium,
            group: self.group,
        })
    }
}

// === single values ===

fn list<'a, T>(
    field: Field,
    limit: usize,
    read: impl Fn(Value<'a>) -> Option<T>,
    input: &mut Input<'a>,
) -> Result<Vec<T>, Reason> {
    let Value::Array(items) = input.value()? else {
        return Err(field.bad());
    };
    if items as usize > limit {
        return Err(Reason::TooLong(field.name()));
    }
    let mut list = Vec::with_capacity(input.at_most(items).min(FIRST_ITEMS));
    for _ in 0..items {
        list.push(read(input.value()?).ok_or(field.bad())?);
    }
    Ok(list)
}

/// Nil, or what `read` takes.
fn optional<'a, T>(
    field: Field,
    read: impl Fn(Value<'a>) -> Option<T>,
    input: &mut Input<'a>,
) -> Result<Option<T>, Reason> {
    match input.value()? {
        Value::Nil => Ok(None),
        value => read(value).map(Some).ok_or(field.bad()),
    }
}

/// A text of bounded length; an empty one means none.
fn name<'a>(field: Field, input: &mut Input<'a>) -> Result<Option<&'a str>, Reason> {
    let Some(bytes) = optional(field, bytes, input)? else {
        return Ok(None);
    };
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() <= MAX_NAME_BYTES => Ok(Some(text).filter(|text| !text.is_empty())),
        _ => Err(field.bad()),
    }
}

fn bytes(value: Value<'_>) -> Option<&[u8]> {
    match value {
        Value::Str(bytes) => Some(bytes),
        _ => None,
    }
}

fn unsigned(value: Value<'_>) -> Option<u64> {
    match value {
        Value::Unsigned(number) => Some(number),
        _ => None,
    }
}

fn small(value: Value<'_>) -> Option<u32> {
    u32::try_from(unsigned(value)?).ok()
}

/// A hash in any of its forms: a number, which Python may have made signed, or the digest.
fn hash(value: Value<'_>) -> Option<u64> {
    match value {
        Value::Unsigned(number) => Some(number),
        Value::Negative(number) => Some(number.cast_unsigned()),
        Value::Bin(digest) | Value::Str(digest) => {
            digest.last_chunk().map(|last| u64::from_be_bytes(*last))
        }
        _ => None,
    }
}
