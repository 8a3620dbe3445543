//! The number of bindings of one endpoint, which can be taken out of a map without losing a
//! count. PURE.

#![deny(clippy::disallowed_methods)]

use std::sync::atomic::{AtomicU64, Ordering};

/// Number of bindings of one endpoint; once closed it takes no more.
#[derive(Debug, Default)]
pub(super) struct Tally(AtomicU64);

impl Tally {
    const CLOSED: u64 = u64::MAX;

    /// Counts one more; false when it is closed.
    pub(super) fn try_add(&self) -> bool {
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                (count != Self::CLOSED).then(|| count + 1)
            })
            .is_ok()
    }

    /// Takes back one that was added, so it cannot be closed.
    pub(super) fn subtract(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }

    /// Closes it if it counts nothing; true when it was this call that did.
    pub(super) fn close_if_zero(&self) -> bool {
        self.0
            .compare_exchange(0, Self::CLOSED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The number.
    pub(super) fn get(&self) -> u64 {
        match self.0.load(Ordering::Acquire) {
            Self::CLOSED => 0,
            count => count,
        }
    }
}
