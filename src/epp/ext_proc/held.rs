//! Chunks of a body -> the body as it is held until a decision. PURE.
#![deny(clippy::disallowed_methods)]

use bytes::{Bytes, BytesMut};

/// Chunks below this size are copied together: each chunk that is kept pins the buffer it
/// came in and costs a place of its own, many times its size when a peer sends single bytes.
const COPY_BELOW_BYTES: usize = 4096;

/// A body, or the part of it that has come so far.
#[derive(Clone, Debug, Default)]
pub struct Held {
    pieces: Vec<Bytes>,
    tail: BytesMut,
    bytes: usize,
}

impl Held {
    /// Appends a chunk.
    pub fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len();
        if chunk.len() < COPY_BELOW_BYTES {
            self.tail.extend_from_slice(&chunk);
            return;
        }
        if !self.tail.is_empty() {
            self.pieces.push(self.tail.split().freeze());
        }
        self.pieces.push(chunk);
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// True when nothing is held.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Bytes that [`Held::contiguous`] copies.
    pub fn joined_bytes(&self) -> usize {
        match (self.pieces.len(), self.tail.is_empty()) {
            (0 | 1, true) => 0,
            _ => self.bytes,
        }
    }

    /// The whole in one piece; copied only when it came in several.
    pub fn contiguous(&self) -> Bytes {
        match (self.pieces.as_slice(), self.tail.is_empty()) {
            ([], true) => Bytes::new(),
            ([one], true) => one.clone(),
            ([], false) => Bytes::copy_from_slice(&self.tail),
            _ => {
                let mut all = BytesMut::with_capacity(self.bytes);
                for piece in &self.pieces {
                    all.extend_from_slice(piece);
                }
                all.extend_from_slice(&self.tail);
                all.freeze()
            }
        }
    }

    /// The pieces in their order, each of at most `most` bytes; none where nothing is held.
    pub fn into_pieces(mut self, most: usize) -> Vec<Bytes> {
        if !self.tail.is_empty() {
            self.pieces.push(self.tail.freeze());
        }
        if self.pieces.iter().all(|piece| piece.len() <= most) {
            return self.pieces;
        }
        self.pieces
            .into_iter()
            .flat_map(|mut piece| {
                let mut cut = Vec::with_capacity(piece.len() / most + 1);
                while piece.len() > most {
                    cut.push(piece.split_to(most));
                }
                cut.push(piece);
                cut
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_what_came_whatever_their_sizes() {
        for size in [1, 7, COPY_BELOW_BYTES - 1, COPY_BELOW_BYTES, 100_000] {
            let body: Vec<u8> = (0..250_000_u32).map(|n| n as u8).collect();
            let mut held = Held::default();
            for chunk in body.chunks(size) {
                held.push(Bytes::copy_from_slice(chunk));
            }
            assert_eq!(held.len(), body.len());
            assert_eq!(held.contiguous(), body, "{size}");
            let pieces = held.into_pieces(62_000);
            assert!(pieces.iter().all(|piece| piece.len() <= 62_000));
            assert_eq!(pieces.concat(), body, "{size}");
        }
        assert!(Held::default().into_pieces(10).is_empty());
    }
}
