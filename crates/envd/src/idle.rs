//! Giving memory back after work, without costing an idle envd anything.

use std::time::Duration;

use soulbox_linux::heap::release_free_memory;
use tokio::sync::Notify;

/// Work that follows closely is waited for; trimming in between would only slow it down.
const PAUSE: Duration = Duration::from_secs(1);

static WORKED: Notify = Notify::const_new();

/// Something that may have used much memory is done.
pub(crate) fn worked() {
    WORKED.notify_one();
}

/// Calls [`worked`] when whatever holds it goes away.
#[derive(Debug)]
pub(crate) struct Work;

impl Drop for Work {
    fn drop(&mut self) {
        worked();
    }
}

/// Trims a while after work; sleeps for ever when there is none.
pub(crate) async fn trim_after_work() -> ! {
    loop {
        WORKED.notified().await;
        tokio::time::sleep(PAUSE).await;
        release_free_memory();
    }
}
