//! msgpack bytes -> one item at a time. PURE.
//!
//! Arrays and maps come as their length; their items are the next ones read. So nothing
//! is built that the caller did not ask for, and nothing here recurses.

use rmp::Marker;
use rmp::decode::RmpRead;

use super::DecodeError;

/// One item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Nil,
    Bool,
    Unsigned(u64),
    /// Below zero.
    Negative(i64),
    Float(f64),
    /// Text that may not be UTF-8.
    Str(&'a [u8]),
    Bin(&'a [u8]),
    /// So many items follow.
    Array(u32),
    /// So many pairs follow.
    Map(u32),
    Extension,
}

/// What is left of a payload. Copying it remembers a place to come back to.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }

    /// The next item.
    pub(super) fn value(&mut self) -> Result<Value<'a>, DecodeError> {
        let marker = Marker::from_u8(self.number(RmpRead::read_data_u8)?);
        Ok(match marker {
            Marker::Null => Value::Nil,
            Marker::True | Marker::False => Value::Bool,
            Marker::FixPos(number) => Value::Unsigned(u64::from(number)),
            Marker::U8 => Value::Unsigned(u64::from(self.number(RmpRead::read_data_u8)?)),
            Marker::U16 => Value::Unsigned(u64::from(self.number(RmpRead::read_data_u16)?)),
            Marker::U32 => Value::Unsigned(u64::from(self.number(RmpRead::read_data_u32)?)),
            Marker::U64 => Value::Unsigned(self.number(RmpRead::read_data_u64)?),
            Marker::FixNeg(number) => signed(i64::from(number)),
            Marker::I8 => signed(i64::from(self.number(RmpRead::read_data_i8)?)),
            Marker::I16 => signed(i64::from(self.number(RmpRead::read_data_i16)?)),
            Marker::I32 => signed(i64::from(self.number(RmpRead::read_data_i32)?)),
            Marker::I64 => signed(self.number(RmpRead::read_data_i64)?),
            Marker::F32 => Value::Float(f64::from(self.number(RmpRead::read_data_f32)?)),
            Marker::F64 => Value::Float(self.number(RmpRead::read_data_f64)?),
            Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                let length = self.length(marker)?;
                Value::Str(self.take(length)?)
            }
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
                let length = self.length(marker)?;
                Value::Bin(self.take(length)?)
            }
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
                Value::Array(self.length(marker)?)
            }
            Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => Value::Map(self.length(marker)?),
            Marker::FixExt1 => self.extension(1)?,
            Marker::FixExt2 => self.extension(2)?,
            Marker::FixExt4 => self.extension(4)?,
            Marker::FixExt8 => self.extension(8)?,
            Marker::FixExt16 => self.extension(16)?,
            Marker::Ext8 | Marker::Ext16 | Marker::Ext32 => {
                let length = self.length(marker)?;
                self.extension(length)?
            }
            Marker::Reserved => return Err(DecodeError::Malformed),
        })
    }

    /// Passes one item with everything inside it, however deep: what is still owed is a
    /// number, and each item owed takes at least a byte of input.
    pub(super) fn skip(&mut self) -> Result<(), DecodeError> {
        let mut owed: u64 = 1;
        while owed > 0 {
            owed -= 1;
            let inside = match self.value()? {
                Value::Array(items) => u64::from(items),
                Value::Map(pairs) => 2 * u64::from(pairs),
                _ => 0,
            };
            owed = owed.saturating_add(inside);
        }
        Ok(())
    }

    /// How many items could possibly follow: a bound for allocations.
    pub(super) fn at_most(&self, items: u32) -> usize {
        self.rest.len().min(items as usize)
    }

    fn number<N, E>(
        &mut self,
        read: impl FnOnce(&mut &'a [u8]) -> Result<N, E>,
    ) -> Result<N, DecodeError> {
        read(&mut self.rest).map_err(|_| DecodeError::Malformed)
    }

    fn length(&mut self, marker: Marker) -> Result<u32, DecodeError> {
        Ok(match marker {
            Marker::FixStr(length) | Marker::FixArray(length) | Marker::FixMap(length) => {
                u32::from(length)
            }
            Marker::Str8 | Marker::Bin8 | Marker::Ext8 => {
                u32::from(self.number(RmpRead::read_data_u8)?)
            }
            Marker::Str16 | Marker::Bin16 | Marker::Ext16 | Marker::Array16 | Marker::Map16 => {
                u32::from(self.number(RmpRead::read_data_u16)?)
            }
            _ => self.number(RmpRead::read_data_u32)?,
        })
    }

    fn take(&mut self, length: u32) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length as usize)
            .ok_or(DecodeError::Malformed)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A type byte, then the content.
    fn extension(&mut self, length: u32) -> Result<Value<'a>, DecodeError> {
        self.take(1)?;
        self.take(length)?;
        Ok(Value::Extension)
    }
}

/// Engines may write a number above zero in a signed form.
fn signed<'a>(number: i64) -> Value<'a> {
    u64::try_from(number).map_or(Value::Negative(number), Value::Unsigned)
}
