//! Where missed batches come from: the place for replay, snapshots and peers.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

use bytes::Bytes;

use super::Wanted;

/// What became of missed batches.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Recovered {
    /// The payloads of every missed sequence number, in order.
    Payloads(Vec<Bytes>),
    /// They are lost, or some of them.
    Lost,
}

/// Fetches batches that a subscriber has missed.
///
/// The live stream waits meanwhile: batches apply in order. An implementation bounds its time
/// and its answer.
pub trait Recover: Send + Sync {
    /// The payloads of these sequence numbers of this engine.
    fn recover<'a>(
        &'a self,
        from: &'a Wanted,
        missed: Range<u64>,
    ) -> Pin<Box<dyn Future<Output = Recovered> + Send + 'a>>;
}

/// Recovers nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Never;

impl Recover for Never {
    fn recover<'a>(
        &'a self,
        _from: &'a Wanted,
        _missed: Range<u64>,
    ) -> Pin<Box<dyn Future<Output = Recovered> + Send + 'a>> {
        Box::pin(std::future::ready(Recovered::Lost))
    }
}
