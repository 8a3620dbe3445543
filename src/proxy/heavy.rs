//! Work on a body -> done here when the body is small, on a thread of its own when it is large:
//! a parse of megabytes would keep every other request of an async thread waiting. IO (threads).

use std::sync::LazyLock;

use tokio::sync::Semaphore;

/// From this size on a body's work leaves the async threads.
const LARGE_BYTES: usize = 256 << 10;

/// No more at once than there are cores: more would only take them from the async threads.
static CORES: LazyLock<Semaphore> = LazyLock::new(|| {
    Semaphore::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
});

/// Does the work, which reads a body of this many bytes. Its owner is the caller, who waits
/// for it; when the caller goes, work that has begun ends by itself and its result is dropped.
pub async fn run<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes <= LARGE_BYTES {
        return work();
    }
    let core = CORES
        .acquire()
        .await
        .expect("the semaphore is never closed");
    let done = tokio::task::spawn_blocking(move || {
        let _core = core;
        work()
    });
    match done.await {
        Ok(done) => done,
        // Cancelled only when the runtime itself ends, and this call with it.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_large_bodies_leave_the_thread() {
        let here = std::thread::current().id();
        let thread = || std::thread::current().id();
        assert_eq!(run(LARGE_BYTES, thread).await, here);
        assert_ne!(run(LARGE_BYTES + 1, thread).await, here);
    }
}
