//! A file as the body of a request, piece by piece.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream as _;
use http_body::Frame;
use tokio::fs::File;
use tokio_util::io::ReaderStream;

/// Bytes that are sent at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// See the module.
pub(crate) struct FileBody {
    pieces: ReaderStream<File>,
    sent: Arc<AtomicU64>,
}

impl FileBody {
    /// What is left of a file.
    pub(crate) fn of(file: File) -> Self {
        Self {
            pieces: ReaderStream::with_capacity(file, PIECE_BYTES),
            sent: Arc::default(),
        }
    }

    /// How many bytes are on their way, from now on.
    pub(crate) fn sent(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.sent)
    }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = ready!(Pin::new(&mut self.pieces).poll_next(context));
        Poll::Ready(piece.map(|piece| {
            let piece = piece?;
            self.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Ok(Frame::data(piece))
        }))
    }
}
