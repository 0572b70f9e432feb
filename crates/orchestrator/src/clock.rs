//! The wall clock as a value, so that tests may turn it.

use std::fmt::Debug;

use soulbox_types::Timestamp;

/// Says what time it is.
pub trait Clock: Debug + Send + Sync {
    /// The present. May jump either way.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
