//! Bytes of an HTTP/2 connection -> the same bytes with a readable `:authority`. PURE but for
//! the thin reader at the end, which applies it to a socket.
//!
//! An Envoy whose filter names only a cluster sends the cluster's name as `:authority`
//! (<https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/core/v3/grpc_service.proto>),
//! and Istio's names hold `|`: `outbound|9002||epp.ns.svc.cluster.local`. No URI may hold that
//! character, so the HTTP/2 library refuses such streams with PROTOCOL_ERROR. Here it becomes
//! `_`. The length stays, so that both ends keep the same HPACK table (RFC 7541 section 4.1),
//! and nothing else of the connection is looked at.
//!
//! The filter that the operator renders names a readable authority itself: this is for filters
//! that others wrote. Of a connection that needs no mending every byte goes through as it came,
//! at the cost of stepping over the fields of each header block; nothing is decoded but a value
//! of `:authority` itself.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use httlib_huffman::DecoderSpeed;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// The client's side of a connection starts with these (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// The largest frame a peer may send unless told otherwise, and the largest we hold.
const MAX_FRAME: usize = 16_384;
/// `:authority` in HPACK's static table.
const AUTHORITY: u64 = 1;
const READ_SIZE: usize = 16 * 1024;

/// Where in the connection the next byte belongs.
#[derive(Debug)]
enum State {
    Preface,
    Header,
    /// This many bytes go through as they are.
    Through(usize),
    /// A header frame is held until it is whole.
    Frame(usize),
    /// Not HTTP/2, or not understood: everything goes through.
    Blind,
}

/// Rewrites one direction of one connection.
#[derive(Debug)]
pub(super) struct Rewriter {
    state: State,
    held: Vec<u8>,
}

impl Rewriter {
    pub(super) fn new() -> Self {
        Self {
            state: State::Preface,
            held: Vec::new(),
        }
    }

    /// Takes the next bytes; what can go on is appended to `out`.
    pub(super) fn push(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while !input.is_empty() {
            let wanted = match self.state {
                State::Blind => {
                    out.extend_from_slice(input);
                    return;
                }
                State::Through(left) => {
                    let count = left.min(input.len());
                    out.extend_from_slice(&input[..count]);
                    input = &input[count..];
                    self.state = if left == count {
                        State::Header
                    } else {
                        State::Through(left - count)
                    };
                    continue;
                }
                State::Preface => PREFACE.len(),
                State::Header => FRAME_HEADER,
                State::Frame(length) => FRAME_HEADER + length,
            };
            let count = (wanted - self.held.len()).min(input.len());
            self.held.extend_from_slice(&input[..count]);
            input = &input[count..];
            // A peer that does not speak HTTP/2 may wait for an answer to less than a preface.
            let foreign = matches!(self.state, State::Preface) && !PREFACE.starts_with(&self.held);
            if self.held.len() == wanted || foreign {
                self.advance(out);
            }
        }
    }

    /// `held` has all that its state wanted.
    fn advance(&mut self, out: &mut Vec<u8>) {
        match self.state {
            State::Preface => {
                self.state = if self.held == PREFACE {
                    State::Header
                } else {
                    State::Blind
                };
            }
            State::Header => {
                let length = usize::from(self.held[0]) << 16
                    | usize::from(self.held[1]) << 8
                    | usize::from(self.held[2]);
                // A block that goes on in another frame is longer than any gateway's.
                let whole = self.held[3] == HEADERS && self.held[4] & END_HEADERS != 0;
                if whole && (1..=MAX_FRAME).contains(&length) {
                    self.state = State::Frame(length);
                    return;
                }
                self.state = if length == 0 {
                    State::Header
                } else {
                    State::Through(length)
                };
            }
            State::Frame(_) => {
                self.state = State::Header;
                if let Some(frame) = rewrite(&self.held) {
                    out.extend_from_slice(&frame);
                    self.held.clear();
                    return;
                }
            }
            State::Through(_) | State::Blind => {}
        }
        out.append(&mut self.held);
    }
}

/// The frame with a readable `:authority`; `None` when it may stay as it is.
fn rewrite(frame: &[u8]) -> Option<Vec<u8>> {
    let flags = frame[4];
    let (mut start, mut end) = (FRAME_HEADER, frame.len());
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*frame.get(start)?))?;
        start += 1;
    }
    if flags & PRIORITY != 0 {
        start += 5;
    }
    let block = frame.get(start..end)?;
    let (from, to, value) = find_authority(block)?;
    let mut new = frame[..start + from].to_vec();
    put_string(&mut new, &value);
    new.extend_from_slice(&block[to..]);
    new.extend_from_slice(&frame[end..]);
    let length = new.len() - FRAME_HEADER;
    if length > MAX_FRAME {
        return None;
    }
    new[0] = (length >> 16) as u8;
    new[1] = (length >> 8) as u8;
    new[2] = length as u8;
    Some(new)
}

/// Where the literal value of `:authority` stands in a header block, and what it becomes;
/// `None` when there is none or it is readable already (RFC 7541 section 6).
fn find_authority(block: &[u8]) -> Option<(usize, usize, Vec<u8>)> {
    let mut at = 0;
    while at < block.len() {
        let first = block[at];
        let prefix_bits = match first {
            // Indexed field; table size update.
            0x80.. => {
                at = integer(block, at, 7)?.1;
                continue;
            }
            0x20..=0x3f => {
                at = integer(block, at, 5)?.1;
                continue;
            }
            // Literal with indexing; without; never indexed.
            0x40..=0x7f => 6,
            _ => 4,
        };
        let (name, after) = integer(block, at, prefix_bits)?;
        at = if name == 0 {
            span(block, after)?.end
        } else {
            after
        };
        let value = span(block, at)?;
        if name == AUTHORITY {
            let text = text(block, &value)?;
            if !text.iter().copied().all(readable) {
                let clean = text
                    .iter()
                    .map(|byte| if readable(*byte) { *byte } else { b'_' })
                    .collect();
                return Some((at, value.end, clean));
            }
        }
        at = value.end;
    }
    None
}

/// What an authority may hold (RFC 3986 section 3.2), without a user part.
fn readable(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(&byte)
}

/// RFC 7541 section 5.1.
fn integer(block: &[u8], at: usize, prefix_bits: u32) -> Option<(u64, usize)> {
    let limit = (1_u64 << prefix_bits) - 1;
    let mut value = u64::from(*block.get(at)?) & limit;
    let mut next = at + 1;
    if value < limit {
        return Some((value, next));
    }
    for shift in (0..28).step_by(7) {
        let byte = *block.get(next)?;
        next += 1;
        value += u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, next));
        }
    }
    None
}

/// A string literal (RFC 7541 section 5.2), found and not decoded.
struct Span {
    huffman: bool,
    start: usize,
    end: usize,
}

fn span(block: &[u8], at: usize) -> Option<Span> {
    let huffman = *block.get(at)? & 0x80 != 0;
    let (length, start) = integer(block, at, 7)?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    (end <= block.len()).then_some(Span {
        huffman,
        start,
        end,
    })
}

fn text<'a>(block: &'a [u8], span: &Span) -> Option<Cow<'a, [u8]>> {
    let raw = block.get(span.start..span.end)?;
    if !span.huffman {
        return Some(raw.into());
    }
    let mut text = Vec::with_capacity(raw.len() * 2);
    httlib_huffman::decode(raw, &mut text, DecoderSpeed::FourBits).ok()?;
    Some(text.into())
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    if text.len() < 127 {
        out.push(text.len() as u8);
    } else {
        out.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            out.push((rest % 128) as u8 | 0x80);
            rest /= 128;
        }
        out.push(rest as u8);
    }
    out.extend_from_slice(text);
}

/// A connection whose incoming bytes pass a [`Rewriter`].
#[derive(Debug)]
pub(super) struct Readable<S> {
    inner: S,
    rewriter: Rewriter,
    space: Box<[u8; READ_SIZE]>,
    ready: Vec<u8>,
    given: usize,
}

impl<S> Readable<S> {
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner,
            rewriter: Rewriter::new(),
            space: Box::new([0; READ_SIZE]),
            ready: Vec::new(),
            given: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Readable<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.given == this.ready.len() {
            this.ready.clear();
            this.given = 0;
            let mut read = ReadBuf::new(&mut this.space[..]);
            match Pin::new(&mut this.inner).poll_read(context, &mut read) {
                Poll::Ready(Ok(())) if read.filled().is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => this.rewriter.push(read.filled(), &mut this.ready),
                other => return other,
            }
        }
        let count = buffer.remaining().min(this.ready.len() - this.given);
        buffer.put_slice(&this.ready[this.given..this.given + count]);
        this.given += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Readable<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<S: Connected> Connected for Readable<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ISTIO: &str = "outbound|9002||llama-3-2-1b-epp-service.llm-d.svc.cluster.local";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![
            0,
            (payload.len() >> 8) as u8,
            payload.len() as u8,
            kind,
            flags,
            0,
            0,
            0,
            1,
        ];
        frame.extend_from_slice(payload);
        frame
    }

    fn authority(value: &str, huffman: bool) -> Vec<u8> {
        // :method POST, then :authority as a literal with indexing.
        let mut block = vec![0x83, 0x41];
        if huffman {
            let mut coded = Vec::new();
            httlib_huffman::encode(value.as_bytes(), &mut coded).unwrap();
            block.push(0x80 | coded.len() as u8);
            block.extend(coded);
        } else {
            put_string(&mut block, value.as_bytes());
        }
        block
    }

    fn run(bytes: &[u8], piece: usize) -> Vec<u8> {
        let (mut rewriter, mut out) = (Rewriter::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            rewriter.push(piece, &mut out);
        }
        out
    }

    #[test]
    fn istios_cluster_name_becomes_a_readable_authority_in_any_coding_and_any_pieces() {
        let clean = ISTIO.replace('|', "_");
        let data = frame(0, 0, b"body");
        let expected = [
            &PREFACE[..],
            &frame(HEADERS, END_HEADERS, &authority(&clean, false)),
            &data,
        ]
        .concat();
        for huffman in [false, true] {
            let sent = [
                &PREFACE[..],
                &frame(HEADERS, END_HEADERS, &authority(ISTIO, huffman)),
                &data,
            ]
            .concat();
            for piece in 1..sent.len() {
                assert_eq!(run(&sent, piece), expected);
            }
        }
    }

    #[test]
    fn padding_and_priority_stay_where_they_are() {
        let flags = END_HEADERS | PADDED | PRIORITY;
        let payload = |name: &str| {
            [
                &[3_u8, 0, 0, 0, 0, 16][..],
                &authority(name, false),
                &[0, 0, 0],
            ]
            .concat()
        };
        let sent = [&PREFACE[..], &frame(HEADERS, flags, &payload(ISTIO))].concat();
        let expected = [
            &PREFACE[..],
            &frame(HEADERS, flags, &payload(&ISTIO.replace('|', "_"))),
        ]
        .concat();
        assert_eq!(run(&sent, 7), expected);
    }

    proptest! {
        #[test]
        fn anything_else_goes_through_untouched(bytes in proptest::collection::vec(any::<u8>(), 0..2000), piece in 1_usize..100) {
            prop_assume!(!PREFACE.starts_with(&bytes) && !bytes.starts_with(PREFACE));
            prop_assert_eq!(run(&bytes, piece), bytes);
        }

        #[test]
        fn readable_authorities_are_not_touched(name in "[a-z0-9.:-]{1,80}", piece in 1_usize..50) {
            let sent = [&PREFACE[..], &frame(HEADERS, END_HEADERS, &authority(&name, true)), &frame(6, 0, &[0; 8])].concat();
            prop_assert_eq!(run(&sent, piece), sent);
        }

        #[test]
        fn broken_header_blocks_do_no_harm(block in proptest::collection::vec(any::<u8>(), 0..300)) {
            let sent = [&PREFACE[..], &frame(HEADERS, END_HEADERS, &block)].concat();
            let _ = run(&sent, 11);
        }
    }
}
