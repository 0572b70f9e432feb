//! Watches.

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Watchers;

impl Watchers {
    pub(crate) fn catch_up(&self) {}
}
