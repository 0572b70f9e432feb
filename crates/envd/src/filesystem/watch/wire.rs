//! The stream of a client that watches.

use std::time::Duration;

use connectrpc::{ConnectError, ErrorCode, ServiceStream};
use futures_util::stream::unfold;
use soulbox_envd_proto::filesystem::WatchDirResponse;
use soulbox_envd_proto::filesystem::watch_dir_response::Event;

use super::{Watch, WatchError};

impl From<WatchError> for ConnectError {
    fn from(error: WatchError) -> Self {
        let code = match &error {
            WatchError::NotFound(_) | WatchError::Unknown(_) => ErrorCode::NotFound,
            WatchError::NotDirectory(_) | WatchError::NetworkMount(_) => ErrorCode::InvalidArgument,
            WatchError::TooMany | WatchError::Exhausted(_) => ErrorCode::ResourceExhausted,
            WatchError::Overflow | WatchError::Failed(_) => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

enum Step {
    Start,
    Follow,
    Done,
}

/// Start, because the watch is armed; then what happens, with a sign of life whenever nothing does.
pub(crate) fn stream(watch: Watch, keepalive: Duration) -> ServiceStream<WatchDirResponse> {
    Box::pin(unfold(
        (watch, Step::Start),
        move |(watch, step)| async move {
            let (item, step) = match step {
                Step::Start => (Ok(Event::Start(Box::default())), Step::Follow),
                Step::Follow => match watch.next(keepalive).await {
                    Some(Ok(event)) => (Ok(Event::Filesystem(Box::new(event))), Step::Follow),
                    Some(Err(error)) => (Err(ConnectError::from(error)), Step::Done),
                    None => (Ok(Event::Keepalive(Box::default())), Step::Follow),
                },
                Step::Done => return None,
            };
            let message = |event| WatchDirResponse {
                event: Some(event),
                ..WatchDirResponse::default()
            };
            Some((item.map(message), (watch, step)))
        },
    ))
}
