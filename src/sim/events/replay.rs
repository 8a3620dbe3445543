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
use zeromq::{
    RouterSendHalf, RouterSocket, Socket as _, SocketRecv as _, SocketSend as _, ZmqMessage,
};

use super::ring::Ring;
use crate::telemetry::shutdown::Shutdown;

/// Replays at once; more are not answered.
const MAX_REPLAYS: usize = 8;
/// A reader that takes longer for one replay is left alone.
const MAX_TIME: Duration = Duration::from_secs(30);
const END: [u8; 8] = [0xff; 8];

/// Listens, and returns the address with the port that was chosen.
///
/// # Errors
/// When the address cannot be listened on.
pub(super) async fn start(
    address: &str,
    topic: Bytes,
    ring: Arc<Mutex<Ring>>,
    shutdown: &Shutdown,
) -> anyhow::Result<String> {
    let mut socket = RouterSocket::new();
    let bound = socket.bind(address).await;
    let bound = bound.with_context(|| format!("replay KV events on {address}"))?;
    let (sender, mut receiver) = socket.split();
    let seats = Arc::new(Semaphore::new(MAX_REPLAYS));
    let stop = shutdown.clone();
    shutdown.spawn("kv event replay", async move {
        loop {
            let request = tokio::select! {
                () = stop.requested() => return Ok(()),
                request = receiver.recv() => request,
            };
            let Some((peer, from)) = request.ok().and_then(|request| read(&request)) else {
                continue;
            };
            let Ok(seat) = seats.clone().try_acquire_owned() else {
                continue;
            };
            let batches = ring
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .from(from);
            let (sender, topic) = (sender.clone(), topic.clone());
            // Ends by itself after MAX_TIME.
            tokio::spawn(async move {
                let _seat = seat;
                let answer = answer(sender, peer, topic, batches);
                if tokio::time::timeout(MAX_TIME, answer).await.is_err() {
                    tracing::warn!("a replay of KV events took too long");
                }
            });
        }
    });
    Ok(bound.to_string())
}

/// The peer and the first number it wants.
fn read(request: &ZmqMessage) -> Option<(Bytes, u64)> {
    let number: [u8; 8] = request.get(request.len().checked_sub(1)?)?[..]
        .try_into()
        .ok()?;
    (request.len() == 3).then_some((request.get(0)?.clone(), u64::from_be_bytes(number)))
}

async fn answer(mut sender: RouterSendHalf, peer: Bytes, topic: Bytes, batches: Vec<(u64, Bytes)>) {
    let frames = batches
        .into_iter()
        .map(|(number, payload)| (topic.clone(), number.to_be_bytes(), payload))
        .chain([(Bytes::new(), END, Bytes::new())]);
    for (topic, number, payload) in frames {
        let mut message = ZmqMessage::from(peer.clone());
        for frame in [Bytes::new(), topic, number.to_vec().into(), payload] {
            message.push_back(frame);
        }
        if sender.send(message).await.is_err() {
            return;
        }
    }
}
