//! Batches that a subscriber missed, on request. IO.
//!
//! A DEALER sends `["", number]` (8 bytes, big-endian) and gets every batch kept from that
//! number on as `["", topic, number, payload]`, then `["", "", 0xff x 8, ""]`: the framing
//! of vLLM from 0.26 on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::ring::Ring;
use crate::telemetry::shutdown::Shutdown;
use crate::zmtp::{PeerTally, Request, RouterSocket, SocketSettings};

/// Replays at once; more are not answered.
const MAX_REPLAYS: usize = 8;
/// A reader that takes longer for one replay is left alone.
const MAX_TIME: Duration = Duration::from_secs(30);
const END: [u8; 8] = [0xff; 8];

/// Listens, and returns the address with the port that was chosen, and which peers were
/// dropped.
///
/// # Errors
/// When the address cannot be listened on.
pub(super) async fn start(
    address: &str,
    topic: Bytes,
    ring: Arc<Mutex<Ring>>,
    shutdown: &Shutdown,
) -> anyhow::Result<(String, Arc<PeerTally>)> {
    let router = RouterSocket::bind(address, SocketSettings::default(), shutdown).await;
    let mut router = router.context("replay KV events")?;
    let (bound, tally) = (router.address().to_owned(), router.tally());
    let seats = Arc::new(Semaphore::new(MAX_REPLAYS));
    let stop = shutdown.clone();
    shutdown.spawn("kv event replay", async move {
        loop {
            let request = tokio::select! {
                () = stop.requested() => return Ok(()),
                request = router.receive() => request,
            };
            let Some(request) = request else {
                return Ok(());
            };
            let Some(from) = read(&request.frames) else {
                continue;
            };
            let Ok(seat) = seats.clone().try_acquire_owned() else {
                continue;
            };
            let batches = ring
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .from(from);
            let topic = topic.clone();
            // Ends by itself after MAX_TIME.
            tokio::spawn(async move {
                let _seat = seat;
                let answer = answer(request, topic, batches);
                if tokio::time::timeout(MAX_TIME, answer).await.is_err() {
                    tracing::warn!("a replay of KV events took too long");
                }
            });
        }
    });
    Ok((bound, tally))
}

/// The first number that is wanted.
fn read(frames: &[Bytes]) -> Option<u64> {
    let [_, number] = frames else {
        return None;
    };
    let number = <[u8; 8]>::try_from(&number[..]).ok()?;
    Some(u64::from_be_bytes(number))
}

async fn answer(request: Request, topic: Bytes, batches: Vec<(u64, Bytes)>) {
    let replies = batches
        .into_iter()
        .map(|(number, payload)| (topic.clone(), number.to_be_bytes(), payload))
        .chain([(Bytes::new(), END, Bytes::new())]);
    for (topic, number, payload) in replies {
        let number = Bytes::copy_from_slice(&number);
        let frames = [Bytes::new(), topic, number, payload];
        if request.reply(&frames).await.is_err() {
            return;
        }
    }
}
