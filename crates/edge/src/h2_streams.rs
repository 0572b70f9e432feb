//! Running the streams of an HTTP/2 connection.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::poll_fn;
use tokio::time::timeout;

use crate::guard::CutSlot;

/// How long an HTTP/2 stream whose sandbox has closed may wait for the client to make room for the reset.
const STUCK_STREAM_GRACE: Duration = Duration::from_secs(5);

/// Runs the streams of one HTTP/2 connection, and gives up those that are stuck in a write after their sandbox has
/// closed. hyper calls the service and then the executor, in the same poll: that is how the two halves of a stream
/// meet in `last`.
#[derive(Debug, Clone, Default)]
pub(crate) struct StreamExecutor {
    last: Arc<Mutex<CutSlot>>,
}

impl StreamExecutor {
    pub(crate) fn next_stream(&self) -> CutSlot {
        let cut = CutSlot::default();
        self.last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&cut);
        cut
    }
}

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let cut = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        tokio::spawn(async move {
            let mut stream = pin!(stream);
            let ended = poll_fn(|cx: &mut Context<'_>| match stream.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending => cut.poll(cx).map(|()| false),
            })
            .await;
            if !ended && timeout(STUCK_STREAM_GRACE, stream).await.is_err() {
                tracing::debug!("gave up a stream whose client does not read");
            }
        });
    }
}
