//! Requests at a fixed rate, whatever becomes of them. A request's time counts from when it was
//! due, not from when it was sent: a server that stalls does not hide the requests it delays.
//! IO: a thread keeps the schedule, since the runtime's clock ticks in milliseconds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::client::Client;
use crate::prompts::Prompts;

/// How much, how long.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Requests a second.
    pub rate: u32,
    /// How long.
    pub duration: Duration,
    /// Number of the first request: others have other prompts.
    pub first: u64,
}

/// What became of them.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Milliseconds of those answered with 200, ascending.
    pub millis: Vec<f64>,
    /// How many were sent.
    pub sent: usize,
    /// How many ended how: a status, or what broke.
    pub ends: BTreeMap<String, usize>,
    /// The most that a request was sent too late, in milliseconds.
    pub late_ms: f64,
}

impl Outcome {
    /// Answered with 200.
    pub fn ok(&self) -> usize {
        self.millis.len()
    }

    /// A quantile from 0 to 1, in milliseconds.
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.millis.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        self.millis.get(index).copied().unwrap_or(f64::NAN)
    }
}

struct End {
    how: String,
    ok: bool,
    millis: f64,
    late_ms: f64,
}

/// Sends them and waits for all answers.
pub async fn run(client: &Client, to: SocketAddr, prompts: Arc<Prompts>, load: Load) -> Outcome {
    let (ends, mut all) = mpsc::unbounded_channel();
    let sent = (f64::from(load.rate) * load.duration.as_secs_f64()).round() as usize;
    let (runtime, client) = (Handle::current(), client.clone());
    let pacer = std::thread::spawn(move || {
        let started = Instant::now() + Duration::from_millis(5);
        for number in 0..sent {
            let request = Client::chat(to, prompts.body(load.first + number as u64));
            let due = started + Duration::from_secs_f64(number as f64 / f64::from(load.rate));
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let (client, ends) = (client.clone(), ends.clone());
            runtime.spawn(async move {
                let late_ms = millis(due);
                let result = client.send(request).await;
                let ok = result.as_ref().is_ok_and(|answer| answer.status == 200);
                let how = match result {
                    Ok(answer) => answer.status.as_u16().to_string(),
                    Err(error) => error.root_cause().to_string(),
                };
                // The receiver waits for all of them.
                let _ = ends.send(End {
                    how,
                    ok,
                    millis: millis(due),
                    late_ms,
                });
            });
        }
    });
    let mut outcome = Outcome {
        sent,
        ..Outcome::default()
    };
    while let Some(end) = all.recv().await {
        *outcome.ends.entry(end.how).or_default() += 1;
        outcome.late_ms = outcome.late_ms.max(end.late_ms);
        if end.ok {
            outcome.millis.push(end.millis);
        }
    }
    // It is done: its sender is gone.
    let _ = pacer.join();
    outcome.millis.sort_by(f64::total_cmp);
    outcome
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
