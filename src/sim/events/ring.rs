//! The last batches that were published, for subscribers that missed some. PURE.

use std::collections::VecDeque;

use bytes::Bytes;

/// Most bytes kept, whatever the number of batches.
const MAX_BYTES: usize = 128 << 20;

/// Batches in order of their numbers.
#[derive(Debug)]
pub(super) struct Ring {
    batches: VecDeque<(u64, Bytes)>,
    bytes: usize,
    most: usize,
}

impl Ring {
    /// Keeps at most `most` batches.
    pub(super) fn new(most: usize) -> Self {
        Self {
            batches: VecDeque::new(),
            bytes: 0,
            most,
        }
    }

    /// Adds one; the oldest go.
    pub(super) fn push(&mut self, number: u64, payload: Bytes) {
        self.bytes += payload.len();
        self.batches.push_back((number, payload));
        while self.batches.len() > self.most || self.bytes > MAX_BYTES {
            let Some((_, oldest)) = self.batches.pop_front() else {
                return;
            };
            self.bytes -= oldest.len();
        }
    }

    /// Those with this number or a higher one.
    pub(super) fn from(&self, number: u64) -> Vec<(u64, Bytes)> {
        let newer = |batch: &&(u64, Bytes)| batch.0 >= number;
        self.batches.iter().filter(newer).cloned().collect()
    }

    /// Forgets all, as a new process would.
    pub(super) fn clear(&mut self) {
        self.batches.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_batches_are_kept() {
        let mut ring = Ring::new(2);
        for number in 0..4 {
            ring.push(number, Bytes::from_static(b"x"));
        }
        let numbers = |from| {
            ring.from(from)
                .iter()
                .map(|batch| batch.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(numbers(0), [2, 3]);
        assert_eq!(numbers(3), [3]);
        assert!(numbers(4).is_empty());
    }
}
