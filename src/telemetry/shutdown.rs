//! SIGTERM, SIGINT or a failed task -> one cancellation that every task sees. IO.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use futures::FutureExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Handed to every long-running task; cheap to clone.
///
/// Tasks are started with [`Shutdown::spawn`], so that none is without an owner:
/// [`Shutdown::finished`] returns only when all have ended.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
    /// What the first task that failed said.
    failed: Arc<OnceLock<String>>,
}

impl Shutdown {
    /// A shutdown that nothing has asked for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every task to end.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// True once somebody asked.
    pub fn begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Resolves once somebody asked.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// An owned version of [`Shutdown::requested`], for servers that keep the future.
    pub fn into_requested(self) -> impl Future<Output = ()> + Send + 'static {
        self.token.cancelled_owned()
    }

    /// Starts a task that this shutdown owns. A task that returns an error or panics takes the
    /// program down: half a program that looks alive is worse than a restart.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.tasks.spawn(self.clone().reported(name, task));
    }

    /// Starts a task that serves one peer. If it panics, that peer alone goes without: nothing
    /// that a peer sends may take the program down.
    pub fn spawn_for_peer<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(task = name, "panicked: its peer goes without");
            }
        });
    }

    /// The same as [`Shutdown::spawn`] on a thread of its own, for a task that requests wake: a runtime of several
    /// workers wakes two of them for each message, and burdens what else they do.
    pub fn spawn_thread<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let task = self.clone().reported(name, task);
        let owned = self.tasks.token();
        let started = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .and_then(|runtime| {
                std::thread::Builder::new()
                    .name(name.replace(' ', "-"))
                    .spawn(move || {
                        runtime.block_on(task);
                        drop(owned);
                    })
            });
        if let Err(error) = started {
            self.fail(name, &format!("cannot start its thread: {error}"));
        }
    }

    /// Runs a task; one that fails takes the program down.
    async fn reported<F>(self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        match AssertUnwindSafe(task).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.fail(name, &format!("{error:#}")),
            Err(_) => self.fail(name, "panicked"),
        }
    }

    fn fail(&self, task: &'static str, error: &str) {
        tracing::error!(task, error, "task failed");
        // The first one is the cause, mostly.
        let _ = self.failed.set(format!("{task}: {error}"));
        self.token.cancel();
    }

    /// Waits for every task started here.
    ///
    /// # Errors
    /// When a task failed: the program ends with an error, too.
    pub async fn finished(&self) -> anyhow::Result<()> {
        self.tasks.close();
        self.tasks.wait().await;
        match self.failed.get() {
            None => Ok(()),
            Some(error) => Err(anyhow::anyhow!("{error}")),
        }
    }

    /// Begins the shutdown when the process is asked to stop.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let token = self.token.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "shutting down"),
                _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "shutting down"),
                () = token.cancelled() => {}
            }
            token.cancel();
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_fails_or_panics_ends_the_program() {
        let start: [fn(&Shutdown); 4] = [
            |shutdown| shutdown.spawn("fails", async { anyhow::bail!("no") }),
            |shutdown| shutdown.spawn("panics", async { panic!("no") }),
            |shutdown| shutdown.spawn_thread("fails", async { anyhow::bail!("no") }),
            |shutdown| shutdown.spawn_thread("panics", async { panic!("no") }),
        ];
        for start in start {
            let shutdown = Shutdown::new();
            start(&shutdown);
            shutdown.requested().await;
            let error = shutdown.finished().await.unwrap_err().to_string();
            assert!(
                ["fails: no", "panics: panicked"].contains(&error.as_str()),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn a_task_of_one_peer_that_panics_ends_alone() {
        let shutdown = Shutdown::new();
        shutdown.spawn_for_peer("panics", async { panic!("no") });
        shutdown.finished().await.unwrap();
        assert!(!shutdown.begun());
    }
}
