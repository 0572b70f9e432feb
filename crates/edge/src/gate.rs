//! A waker for two futures that one poll drives together.
//!
//! The connection into a sandbox and the body read from it wake each other through hyper's channel. Both are polled
//! in the same call, which loops until neither can go on; a wake of the task by itself would only send another
//! worker thread looking for work, once per request. The gate swallows such wakes and passes on all others.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

const OUTSIDE: u8 = 0;
const INSIDE: u8 = 1;
/// Woken while inside.
const WOKEN: u8 = 2;
/// Turns before the task is given back to the scheduler.
const MAX_TURNS: u32 = 8;

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    task: Mutex<Waker>,
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The exchange fails when outside (the task must be woken) or already woken (nothing to add).
        if self
            .state
            .compare_exchange(INSIDE, WOKEN, Ordering::AcqRel, Ordering::Acquire)
            == Err(OUTSIDE)
        {
            self.task
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .wake_by_ref();
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Gate {
    shared: Arc<Shared>,
    waker: Waker,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU8::new(OUTSIDE),
            task: Mutex::new(Waker::noop().clone()),
        });
        Self {
            waker: Waker::from(Arc::clone(&shared)),
            shared,
        }
    }

    /// Runs `poll` until it is ready, or pending without having woken itself.
    pub(crate) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        {
            let mut task = self
                .shared
                .task
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if !task.will_wake(cx.waker()) {
                task.clone_from(cx.waker());
            }
        }
        let mut inner = Context::from_waker(&self.waker);
        for _ in 0..MAX_TURNS {
            self.shared.state.store(INSIDE, Ordering::Release);
            let result = poll(&mut inner);
            let woken = self.shared.state.swap(OUTSIDE, Ordering::AcqRel) == WOKEN;
            // Whoever got a result comes back for the next one, and then everything is polled again.
            if result.is_ready() || !woken {
                return result;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn own_wakes_turn_again_and_foreign_wakes_pass() {
        let (gate, counter) = (Gate::new(), Arc::new(Counter::default()));
        let waker = Waker::from(Arc::clone(&counter));
        let mut cx = Context::from_waker(&waker);
        let (mut turns, mut kept) = (0, None);
        let result: Poll<()> = gate.poll(&mut cx, |cx| {
            turns += 1;
            kept = Some(cx.waker().clone());
            if turns < 3 {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        });
        assert!(result.is_pending());
        assert_eq!((turns, counter.0.load(Ordering::SeqCst)), (3, 0));
        kept.unwrap().wake();
        assert_eq!(counter.0.load(Ordering::SeqCst), 1);
        let result: Poll<()> = gate.poll(&mut cx, |cx| {
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        assert!(result.is_pending());
        assert_eq!(
            counter.0.load(Ordering::SeqCst),
            2,
            "a task that never rests goes back to the scheduler"
        );
    }

    #[test]
    fn no_wake_is_lost_to_a_race() {
        for _ in 0..2000 {
            let (gate, counter) = (Gate::new(), Arc::new(Counter::default()));
            let task = Waker::from(Arc::clone(&counter));
            let mut cx = Context::from_waker(&task);
            let mut waker = None;
            let first: Poll<()> = gate.poll(&mut cx, |cx| {
                waker = Some(cx.waker().clone());
                Poll::Pending
            });
            assert!(first.is_pending());
            let waker = waker.unwrap();
            let mut turns = 0;
            std::thread::scope(|scope| {
                scope.spawn(|| waker.wake_by_ref());
                let second: Poll<()> = gate.poll(&mut cx, |_| {
                    turns += 1;
                    Poll::Pending
                });
                assert!(second.is_pending());
            });
            assert!(
                turns > 1 || counter.0.load(Ordering::SeqCst) == 1,
                "polled again, or woken"
            );
        }
    }
}
