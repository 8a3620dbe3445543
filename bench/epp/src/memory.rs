//! A process's resident memory, sampled while something goes on. IO: one task, which ends with
//! its owner.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::process::rss_mib;

const EVERY: Duration = Duration::from_millis(500);

/// Samples until read.
pub struct Watch {
    task: JoinHandle<()>,
    samples: mpsc::UnboundedReceiver<f64>,
}

/// What was seen, in MiB.
#[derive(Clone, Debug, Default)]
pub struct Seen(Vec<f64>);

impl Watch {
    /// Watches the process with this id.
    pub fn start(id: u32) -> Self {
        let (sender, samples) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(EVERY);
            while let Ok(sample) = rss_mib(id)
                && sender.send(sample).is_ok()
            {
                ticks.tick().await;
            }
        });
        Self { task, samples }
    }

    /// Ends it.
    pub fn end(mut self) -> Seen {
        let mut seen = Vec::new();
        while let Ok(sample) = self.samples.try_recv() {
            seen.push(sample);
        }
        Seen(seen)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    /// The most.
    pub fn peak(&self) -> f64 {
        self.0.iter().copied().fold(0.0, f64::max)
    }

    /// The mean of one fifth, from 0 to 4.
    pub fn fifth(&self, which: usize) -> f64 {
        let fifth = (self.0.len() / 5).max(1);
        let part: Vec<f64> = self
            .0
            .iter()
            .skip(which * fifth)
            .take(fifth)
            .copied()
            .collect();
        part.iter().sum::<f64>() / part.len().max(1) as f64
    }

    /// Whether the last fifth is about what the second was.
    pub fn is_flat(&self) -> bool {
        self.fifth(4) <= self.fifth(1) * 1.1 + 4.0
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "RSS peak {:.0} MiB", self.peak())?;
        if self.0.len() < 5 {
            return Ok(());
        }
        write!(out, ", by fifths")?;
        (0..5).try_for_each(|which| write!(out, " {:.0}", self.fifth(which)))
    }
}
