//! Connections that have not shown who they are: so many and no more, and the oldest goes first.
//!
//! What must stay true: a connection that has shown a valid token is never closed for the sake of one that has not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

/// All of them.
#[derive(Clone)]
pub(super) struct Strangers {
    most: usize,
    all: Arc<Mutex<All>>,
}

#[derive(Default)]
struct All {
    last: u64,
    /// By age. A connection whose task is not known yet cannot be closed.
    by_number: BTreeMap<u64, Option<AbortHandle>>,
}

/// One of them, until it is known or ends.
pub(super) struct Stranger {
    number: u64,
    all: Arc<Mutex<All>>,
}

fn lock(all: &Mutex<All>) -> MutexGuard<'_, All> {
    // Every critical section here leaves the map whole, even if it panics.
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Strangers {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            all: Arc::default(),
        }
    }

    /// Takes one in, and closes the oldest when there are too many.
    pub(super) fn admit(&self) -> Stranger {
        let mut all = lock(&self.all);
        while all.by_number.len() >= self.most {
            let Some((_, task)) = all.by_number.pop_first() else {
                break;
            };
            if let Some(task) = task {
                task.abort();
            }
        }
        all.last += 1;
        let number = all.last;
        all.by_number.insert(number, None);
        Stranger {
            number,
            all: Arc::clone(&self.all),
        }
    }

    /// Says which task serves it; nothing happens when it has ended or is known already.
    pub(super) fn note(&self, number: u64, task: AbortHandle) {
        if let Some(place) = lock(&self.all).by_number.get_mut(&number) {
            *place = Some(task);
        }
    }
}

impl Stranger {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// It has shown a valid token: it is none any more.
    pub(super) fn is_known(&self) {
        lock(&self.all).by_number.remove(&self.number);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.is_known();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> (tokio::task::JoinHandle<()>, AbortHandle) {
        let task = tokio::spawn(std::future::pending());
        let handle = task.abort_handle();
        (task, handle)
    }

    #[tokio::test]
    async fn the_oldest_stranger_goes_first_and_the_known_stay() {
        let strangers = Strangers::new(2);
        let (first, second, third) = (task(), task(), task());
        let one = strangers.admit();
        strangers.note(one.number(), first.1);
        one.is_known();
        let two = strangers.admit();
        strangers.note(two.number(), second.1);
        let three = strangers.admit();
        strangers.note(three.number(), third.1);
        let four = strangers.admit();
        assert!(second.0.await.is_err_and(|error| error.is_cancelled()));
        assert!(!first.0.is_finished() && !third.0.is_finished());
        drop((one, two, four));
        let _five = strangers.admit();
        assert!(!third.0.is_finished(), "there is room again");
    }

    #[tokio::test]
    async fn what_has_ended_is_forgotten() {
        let strangers = Strangers::new(1);
        let (running, handle) = task();
        drop(strangers.admit());
        strangers.note(1, handle);
        drop(strangers.admit());
        assert!(!running.is_finished());
        assert!(lock(&strangers.all).by_number.is_empty());
    }
}
