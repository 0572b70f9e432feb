//! Locks of this crate: none is ever held over code that may panic half way through a change, so whoever comes after a panic
//! finds what it guards whole.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
