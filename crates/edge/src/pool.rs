//! Connections at rest, kept per run of a sandbox and per port.
//!
//! The key is the run, not the sandbox: after a pause and resume no old socket can be used by mistake.
//! What must stay true: nothing enters the pool of a closed route, and closing a route empties its pool.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use soulbox_driver::route::Route;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::rewrite::ENVD_PORT;
use crate::upstream::Upstream;

/// envd keeps idle connections longer than this.
const ENVD_IDLE: Duration = Duration::from_secs(90);
/// Below what servers that users run close after (Node and uvicorn: 5 s), so that a request seldom meets a close.
const USER_IDLE: Duration = Duration::from_secs(4);
/// So many connections may rest at a port, or as many as there were requests at once of late, where these are more: what one
/// of a thousand clients has just used is there for the next. When the requests become fewer, so do the connections.
const MAX_IDLE_PER_PORT: usize = 64;

/// All pools of an edge.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    by_run: Mutex<HashMap<u64, Arc<Pool>>>,
}

/// The pool of one run of a sandbox.
#[derive(Debug)]
pub(crate) struct Pool {
    closed: CancellationToken,
    #[expect(
        clippy::vec_box,
        reason = "a connection is large and changes hands for every request"
    )]
    idle: Mutex<HashMap<u16, Vec<Box<Upstream>>>>,
    open: AtomicUsize,
    /// Most that were open at once since the sweep before.
    peak: AtomicUsize,
}

/// Counts one open request of a sandbox, while it lives.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    pub(crate) pool: Arc<Pool>,
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.pool.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here leaves the map whole, even if it panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pools {
    /// The pool of this route, made at first use.
    pub(crate) fn of(self: &Arc<Self>, route: &Route) -> Arc<Pool> {
        let mut pools = lock(&self.by_run);
        if let Some(pool) = pools.get(&route.execution) {
            return Arc::clone(pool);
        }
        let pool = Arc::new(Pool {
            closed: route.closed.clone(),
            idle: Mutex::default(),
            open: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        });
        pools.insert(route.execution, Arc::clone(&pool));
        let (weak, execution, closed) =
            (Arc::downgrade(self), route.execution, route.closed.clone());
        tokio::spawn(async move {
            closed.cancelled().await;
            let Some(pools) = weak.upgrade() else { return };
            if let Some(pool) = lock(&pools.by_run).remove(&execution) {
                lock(&pool.idle).clear();
            }
        });
        pool
    }

    /// Closes what has been idle for too long.
    pub(crate) fn sweep(&self, now: Instant) {
        let pools: Vec<_> = lock(&self.by_run).values().cloned().collect();
        for pool in pools {
            let room = pool.room();
            lock(&pool.idle).retain(|port, idle| {
                let limit = if *port == ENVD_PORT {
                    ENVD_IDLE
                } else {
                    USER_IDLE
                };
                idle.retain(|upstream| now.duration_since(upstream.idle_since) < limit);
                // Those used last stand at the end.
                idle.drain(..idle.len().saturating_sub(room));
                !idle.is_empty()
            });
            let open = pool.open.load(Ordering::Relaxed);
            pool.peak.store(open, Ordering::Relaxed);
        }
    }
}

impl Pool {
    /// Counts one more open request; `None` when there are `limit` already.
    pub(crate) fn admit(self: &Arc<Self>, limit: Option<usize>) -> Option<OpenRequest> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        self.peak.fetch_max(before + 1, Ordering::Relaxed);
        let admitted = OpenRequest {
            pool: Arc::clone(self),
        };
        limit.is_none_or(|limit| before < limit).then_some(admitted)
    }

    /// How many connections may rest at each port.
    fn room(&self) -> usize {
        MAX_IDLE_PER_PORT.max(self.peak.load(Ordering::Relaxed))
    }

    /// Takes the connection used last that is still alive.
    pub(crate) fn take(&self, port: u16) -> Option<Box<Upstream>> {
        loop {
            let mut upstream = lock(&self.idle).get_mut(&port)?.pop()?;
            if upstream.is_alive() {
                return Some(upstream);
            }
        }
    }

    /// Keeps a connection for the next request, if it can serve one.
    pub(crate) fn give(&self, port: u16, mut upstream: Box<Upstream>) {
        if !upstream.is_alive() {
            return;
        }
        upstream.idle_since = Instant::now();
        let room = self.room();
        let mut idle = lock(&self.idle);
        // Under the lock: the sweep that follows the close then either sees this connection or we see the close.
        if self.closed.is_cancelled() {
            return;
        }
        let idle = idle.entry(port).or_default();
        if idle.len() < room {
            idle.push(upstream);
        }
    }
}
