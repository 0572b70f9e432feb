//! Background tasks that somebody waits for, and whose panics do not go unseen.

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// The background tasks of one service: started here, waited for at its end.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
}

impl Tasks {
    /// No tasks yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` to its end. A panic in it is logged under `name` and counted.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(supervise(name, future))
    }

    /// Resolves when every task has ended. New ones may still be started meanwhile and are waited for too.
    pub async fn finished(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Number of tasks alive.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether no task is alive.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }
}

/// Runs `future` in a task that nobody waits for. A panic in it is logged under `name` and counted.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(supervise(name, future))
}

async fn supervise<F>(name: &'static str, future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    // An inner task: its panic comes back as a value and the abort of the outer one must reach it.
    let inner = AbortOnDrop(tokio::spawn(future));
    let mut inner = inner;
    if let Err(error) = (&mut inner.0).await
        && error.is_panic()
    {
        metrics::counter!("soulbox_telemetry_task_panics_total", "task" => name).increment(1);
        tracing::error!(task.name = name, "task {name} panicked");
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_panic_ends_only_its_task() {
        let tasks = Tasks::new();
        let done = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&done);
        let _a = tasks.spawn("bad", async { panic!("on purpose") });
        let _b = tasks.spawn("good", async move { seen.store(true, Ordering::SeqCst) });
        tasks.finished().await;
        assert!(done.load(Ordering::SeqCst));
        assert!(tasks.is_empty());
    }

    #[tokio::test]
    async fn abort_reaches_the_work() {
        struct Told(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Told {
            fn drop(&mut self) {
                if let Some(tell) = self.0.take() {
                    let _ = tell.send(());
                }
            }
        }
        let (tell, told) = tokio::sync::oneshot::channel();
        let (started, is_started) = tokio::sync::oneshot::channel();
        let handle = spawn("endless", async move {
            let _told = Told(Some(tell));
            let _ = started.send(());
            std::future::pending::<()>().await;
        });
        is_started.await.unwrap();
        handle.abort();
        told.await.unwrap();
    }
}
