//! SIGTERM, SIGINT or a failed task -> one cancellation that every task sees. IO.

use std::future::Future;

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

    /// Starts a task that this shutdown owns. A task that returns an error takes the
    /// program down: half a program that looks alive is worse than a restart.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.tasks.spawn(reported(name, task, self.token.clone()));
    }

    /// The same on a thread of its own, for a task that requests wake: a runtime of several
    /// workers wakes two of them for each message, and burdens what else they do.
    pub fn spawn_thread<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let task = reported(name, task, self.token.clone());
        let (owned, token) = (self.tasks.token(), self.token.clone());
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
            tracing::error!(task = name, %error, "cannot start the task's thread");
            token.cancel();
        }
    }

    /// Waits for every task started with [`Shutdown::spawn`].
    pub async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
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

/// Runs a task; one that fails takes the program down.
async fn reported<F>(name: &'static str, task: F, token: CancellationToken)
where
    F: Future<Output = anyhow::Result<()>>,
{
    if let Err(error) = task.await {
        tracing::error!(task = name, error = format!("{error:#}"), "task failed");
        token.cancel();
    }
}
