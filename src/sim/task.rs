//! Requests over channels -> the engine, on a clock. IO: one task owns the engine.
//!
//! ```text
//! Handle.submit -> command -> engine.step(now) -> updates per request, KV events, fetches
//! ```
//!
//! The task never waits for a client: every answer has room for all of its tokens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::engine::{Engine, Finish, Finished, Id, Output, Refused, Submit};
use super::events::Publisher;
use super::metrics::Metrics;
use super::transfer::Client;
use crate::telemetry::shutdown::Shutdown;

/// Commands that wait for the engine; more make their callers wait.
const MAX_COMMANDS: usize = 1024;

/// What a request hears of its answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// The next token.
    Token(u32),
    /// The end; nothing comes after it.
    Finished(Box<Finished>),
}

/// A request that was taken.
#[derive(Debug)]
pub struct Ticket {
    /// Its name, to end it early.
    pub id: Id,
    /// What is heard of it. Dropping this ends the request.
    pub updates: mpsc::Receiver<Update>,
}

/// The engine is gone: the program shuts down.
#[derive(Debug, thiserror::Error)]
#[error("the engine has stopped")]
pub struct Stopped;

enum Command {
    Submit(Box<Submit>, oneshot::Sender<Result<Ticket, Refused>>),
    Stop(Id),
    Fetched(Id, Option<Vec<u32>>),
    Read(Id, Vec<u64>, oneshot::Sender<Vec<u32>>),
    Reset(oneshot::Sender<bool>),
    SlowDown(f64),
}

/// Speaks to the engine's task; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle(mpsc::Sender<Command>);

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Command")
    }
}

impl Handle {
    /// Hands a request in.
    ///
    /// # Errors
    /// When the engine has stopped; inside, when it refuses the request.
    pub async fn submit(&self, submit: Submit) -> Result<Result<Ticket, Refused>, Stopped> {
        self.ask(|reply| Command::Submit(Box::new(submit), reply))
            .await
    }

    /// Ends a request whose answer has reached a stop string.
    ///
    /// # Errors
    /// When the engine has stopped.
    pub async fn stop(&self, id: Id) -> Result<(), Stopped> {
        let sent = self.0.send(Command::Stop(id)).await;
        sent.map_err(|_| Stopped)
    }

    /// Another engine reads these blocks: what they hold. Those of the request it names, where
    /// they are held for it, are free from then on.
    ///
    /// # Errors
    /// When the engine has stopped.
    pub async fn read(&self, id: Id, blocks: Vec<u64>) -> Result<Vec<u32>, Stopped> {
        self.ask(|reply| Command::Read(id, blocks, reply)).await
    }

    /// Empties the prefix cache; false, and nothing done, while blocks are in use.
    ///
    /// # Errors
    /// When the engine has stopped.
    pub async fn reset_prefix_cache(&self) -> Result<bool, Stopped> {
        self.ask(Command::Reset).await
    }

    /// Makes every step this many times as long.
    ///
    /// # Errors
    /// When the engine has stopped.
    pub async fn slow_down(&self, factor: f64) -> Result<(), Stopped> {
        let sent = self.0.send(Command::SlowDown(factor)).await;
        sent.map_err(|_| Stopped)
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.0.send(command(reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }
}

/// Starts the engine's task.
pub fn start(
    engine: Engine,
    metrics: Arc<Mutex<Metrics>>,
    publisher: Option<Publisher>,
    client: Client,
    shutdown: &Shutdown,
) -> Handle {
    let (sender, commands) = mpsc::channel(MAX_COMMANDS);
    let task = Task {
        engine,
        started: Instant::now(),
        answers: HashMap::new(),
        metrics,
        publisher,
        client,
        handle: sender.downgrade(),
        unheld_reads: 0,
    };
    let stop = shutdown.clone();
    shutdown.spawn("engine", async move {
        tokio::select! {
            () = stop.requested() => {}
            () = task.run(commands) => {}
        }
        Ok(())
    });
    Handle(sender)
}

struct Task {
    engine: Engine,
    started: Instant,
    answers: HashMap<Id, mpsc::Sender<Update>>,
    metrics: Arc<Mutex<Metrics>>,
    publisher: Option<Publisher>,
    client: Client,
    handle: mpsc::WeakSender<Command>,
    /// Reads of blocks that were not, or no longer, held for their reader.
    unheld_reads: u64,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let due = self.engine.next_due().map(|due| self.started + due);
            if due.is_some_and(|due| due <= Instant::now()) {
                // Time has run ahead of us: no sleep, but others get their turn.
                tokio::task::yield_now().await;
            } else {
                let command = tokio::select! {
                    command = commands.recv() => Some(command),
                    () = sleep_until(due) => None,
                };
                match command {
                    Some(Some(command)) => self.obey(command),
                    Some(None) => return,
                    None => {}
                }
            }
            for _ in 0..MAX_COMMANDS {
                let Ok(command) = commands.try_recv() else {
                    break;
                };
                self.obey(command);
            }
            self.abort_those_who_left();
            let output = self.engine.step(self.started.elapsed());
            self.pass_on(output);
        }
    }

    fn obey(&mut self, command: Command) {
        let now = self.started.elapsed();
        // Whoever has left does not hear the reply.
        match command {
            Command::Submit(submit, reply) => {
                let room = submit.max_tokens + 2;
                let answer = self.engine.submit(*submit, now).map(|id| {
                    let (sender, receiver) = mpsc::channel(room);
                    self.answers.insert(id, sender);
                    Ticket {
                        id,
                        updates: receiver,
                    }
                });
                let _ = reply.send(answer);
            }
            Command::Stop(id) => self.engine.end(id, Finish::Stop, now),
            Command::Fetched(id, content) => self.engine.fetched(id, content.as_deref(), now),
            Command::Read(id, blocks, reply) => {
                let content = self.engine.peek(&blocks);
                if self.engine.release(id).is_none() {
                    self.unheld_reads += 1;
                }
                let _ = reply.send(content);
            }
            Command::Reset(reply) => {
                let _ = reply.send(self.engine.reset_prefix_cache());
            }
            Command::SlowDown(factor) => self.engine.slow_down(factor),
        }
    }

    fn abort_those_who_left(&mut self) {
        let now = self.started.elapsed();
        let gone = self.answers.iter().filter(|(_, answer)| answer.is_closed());
        let mut gone: Vec<Id> = gone.map(|(id, _)| *id).collect();
        gone.sort_unstable();
        for id in gone {
            self.answers.remove(&id);
            self.engine.end(id, Finish::Abort, now);
        }
    }

    fn pass_on(&mut self, mut output: Output) {
        for token in &output.tokens {
            if let Some(answer) = self.answers.get(&token.id) {
                let _ = answer.try_send(Update::Token(token.token));
            }
        }
        for finished in &output.finished {
            if let Some(answer) = self.answers.remove(&finished.id) {
                let _ = answer.try_send(Update::Finished(Box::new(finished.clone())));
            }
        }
        for fetch in output.fetches.drain(..) {
            let (client, handle) = (self.client.clone(), self.handle.clone());
            // Ends by the client's own timeout.
            tokio::spawn(async move {
                let content = match client.take(&fetch.remote).await {
                    Ok(content) => Some(content),
                    Err(error) => {
                        let engine = fetch.remote.engine;
                        tracing::warn!(engine, %error, "KV cache not fetched");
                        None
                    }
                };
                if let Some(handle) = handle.upgrade() {
                    let _ = handle.send(Command::Fetched(fetch.id, content)).await;
                }
            });
        }
        let events = std::mem::take(&mut output.events);
        let counts = self.publisher.as_ref().map(|publisher| {
            publisher.publish(events);
            (publisher.counts(), publisher.dropped())
        });
        let mut metrics = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        metrics.record(&output, self.engine.totals(), self.engine.gauges());
        metrics.own.unheld_reads = self.unheld_reads;
        if let Some(((batches, lost), (messages, peers))) = counts {
            metrics.own.batches = batches;
            metrics.own.lost_batches = lost;
            metrics.own.dropped_messages = messages;
            metrics.own.dropped_peers = peers;
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
