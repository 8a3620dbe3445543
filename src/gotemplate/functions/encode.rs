//! sprig's encodings and hashes. PURE.

use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

use super::super::Value;
use super::{Functions, Outcome, room, string};

const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const BASE32: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

pub(super) fn add(functions: &mut Functions) {
    functions.add("b64enc", "s", |args| encode(args, BASE64, 6, 4));
    functions.add("b64dec", "s", |args| decode(args, BASE64, 6, 4));
    functions.add("b32enc", "s", |args| encode(args, BASE32, 5, 8));
    functions.add("b32dec", "s", |args| decode(args, BASE32, 5, 8));
    functions.add("sha1sum", "s", |args| hex(&Sha1::digest(string(&args[0]))));
    functions.add("sha256sum", "s", |args| {
        hex(&Sha256::digest(string(&args[0])))
    });
    functions.add("sha512sum", "s", |args| {
        hex(&Sha512::digest(string(&args[0])))
    });
    functions.add("adler32sum", "s", |args| {
        let (mut low, mut high) = (1u32, 0u32);
        for byte in string(&args[0]).bytes() {
            low = (low + u32::from(byte)) % 65_521;
            high = (high + low) % 65_521;
        }
        Ok((high << 16 | low).to_string().into())
    });
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "what a function of templates gives"
)]
fn hex(bytes: &[u8]) -> Outcome {
    Ok(bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>()
        .into())
}

/// Groups of `bits`, padded to a multiple of `group` letters.
fn encode(args: &[Value], alphabet: &[u8], bits: u32, group: usize) -> Outcome {
    let bytes = string(&args[0]).as_bytes();
    room(bytes.len().saturating_mul(2))?;
    let mut out = String::new();
    let (mut held, mut count) = (0u32, 0);
    for byte in bytes {
        held = held << 8 | u32::from(*byte);
        count += 8;
        while count >= bits {
            count -= bits;
            out.push(alphabet[(held >> count) as usize % alphabet.len()] as char);
        }
        held &= (1 << count) - 1;
    }
    if count > 0 {
        out.push(alphabet[(held << (bits - count)) as usize % alphabet.len()] as char);
    }
    while !out.len().is_multiple_of(group) {
        out.push('=');
    }
    Ok(out.into())
}

/// As sprig's, which gives the decoder's complaint as the result.
fn decode(args: &[Value], alphabet: &[u8], bits: u32, group: usize) -> Outcome {
    let name = if group == 4 { "base64" } else { "base32" };
    let text: Vec<u8> = string(&args[0])
        .bytes()
        .filter(|b| !b"\r\n".contains(b))
        .collect();
    let end = text.iter().position(|b| *b == b'=').unwrap_or(text.len());
    let (data, padding) = text.split_at(end);
    let mut out = Vec::new();
    let (mut held, mut count) = (0u32, 0);
    for (at, byte) in data.iter().enumerate() {
        let Some(digit) = alphabet.iter().position(|known| known == byte) else {
            return Ok(format!("illegal {name} data at input byte {at}").into());
        };
        held = held << bits | digit as u32;
        count += bits;
        if count >= 8 {
            count -= 8;
            out.push((held >> count) as u8);
            held &= (1 << count) - 1;
        }
    }
    let whole = text.len().is_multiple_of(group) && padding.iter().all(|byte| *byte == b'=');
    if !whole || count >= bits {
        let at = data.len() / group * group;
        return Ok(format!("illegal {name} data at input byte {at}").into());
    }
    match String::from_utf8(out) {
        Ok(text) => Ok(text.into()),
        Err(_) => Err("what was encoded is no text".to_owned()),
    }
}
