//! Frames: a byte of flags, a size of one or eight bytes, a body. PURE.
#![deny(clippy::disallowed_methods)]

use bytes::{BufMut, Bytes, BytesMut};

use super::error::Violation;

/// Most bytes before a body.
pub(super) const MAX_HEADER_BYTES: usize = 9;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Header {
    pub(super) command: bool,
    /// Another frame of the same message follows.
    pub(super) more: bool,
    /// Bytes of the body, as announced.
    pub(super) bytes: u64,
}

/// How many bytes the header has that begins like this. The flags are judged at once.
pub(super) fn header_bytes(so_far: &[u8]) -> Result<usize, Violation> {
    let Some(flags) = so_far.first() else {
        return Ok(1);
    };
    if flags & !(MORE | LONG | COMMAND) != 0 {
        return Err(Violation::BadFrame("it has flags that do not exist"));
    }
    if flags & COMMAND != 0 && flags & MORE != 0 {
        return Err(Violation::BadFrame("a command cannot have several frames"));
    }
    Ok(if flags & LONG == 0 {
        2
    } else {
        MAX_HEADER_BYTES
    })
}

/// Reads a complete header.
pub(super) fn header(bytes: &[u8]) -> Header {
    Header {
        command: bytes[0] & COMMAND != 0,
        more: bytes[0] & MORE != 0,
        bytes: bytes[1..]
            .iter()
            .fold(0, |size, byte| size << 8 | u64::from(*byte)),
    }
}

/// A message as it is sent. One without frames is one of a single empty frame: the protocol
/// has no other form for it.
pub(super) fn message(frames: &[Bytes]) -> Bytes {
    let size = frames.iter().map(|frame| frame.len() + MAX_HEADER_BYTES);
    let mut out = BytesMut::with_capacity(size.sum());
    let Some((last, before)) = frames.split_last() else {
        put(&mut out, 0, &[&[]]);
        return out.freeze();
    };
    for frame in before {
        put(&mut out, MORE, &[frame]);
    }
    put(&mut out, 0, &[last]);
    out.freeze()
}

/// A command as it is sent, from its name and its data in parts.
pub(super) fn command(name: &str, data: &[&[u8]]) -> Bytes {
    let mut out = BytesMut::new();
    let length = [name.len() as u8];
    let mut parts = vec![&length[..], name.as_bytes()];
    parts.extend_from_slice(data);
    put(&mut out, COMMAND, &parts);
    out.freeze()
}

fn put(out: &mut BytesMut, flags: u8, parts: &[&[u8]]) {
    let size: usize = parts.iter().map(|part| part.len()).sum();
    if let Ok(short) = u8::try_from(size) {
        out.put_slice(&[flags, short]);
    } else {
        out.put_u8(flags | LONG);
        out.put_u64(size as u64);
    }
    for part in parts {
        out.put_slice(part);
    }
}
