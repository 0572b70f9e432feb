//! A file up and down through the edge: how fast, and whether the server's memory stays flat meanwhile.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use soulbox_client::Api;
use soulbox_client::envd::Envd;

use crate::Report;
use crate::host;
use crate::report::Bound;
use crate::run::{BenchError, Options, create_usable, request};

const ROUNDS: usize = 3;
const PIECE_BYTES: usize = 1 << 20;
const FILE: &str = "soulbox-bench.bin";

pub(crate) async fn run(api: &Api, options: &Options) -> Result<Report, BenchError> {
    let size = u64::from(options.size_mib) << 20;
    let created = create_usable(api, &request(&options.template)).await?;
    let watch = Watch::start(server_pid(api));
    let outcome = rounds(&created.envd, size).await;
    let memory = watch.stop().await;
    api.kill(&created.sandbox.sandbox_id).await?;
    let (upload, download) = outcome?;
    let mut report = Report::new("transfer");
    let rate = |time: Duration| gigabytes(size) / time.as_secs_f64();
    report.figure(
        format!("upload of {} MiB, best of {ROUNDS}", options.size_mib),
        rate(upload),
        "GB/s",
        Some(Bound::AtLeast(1.0)),
    );
    report.figure(
        format!("download of {} MiB, best of {ROUNDS}", options.size_mib),
        rate(download),
        "GB/s",
        Some(Bound::AtLeast(1.0)),
    );
    match memory {
        // 16 MiB leave room for buffers of connections; a file that is held in memory shows at once.
        Some(grown_kib) => report.figure(
            "growth of the server's memory meanwhile",
            mib(grown_kib),
            "MiB",
            Some(Bound::AtMost(16.0)),
        ),
        None => report.note(
            "the server's memory is not visible from here: it runs elsewhere, or as another user",
        ),
    }
    Ok(report)
}

/// The best of some rounds: the question is what the path can carry, not what the disk did meanwhile.
async fn rounds(envd: &Envd, size: u64) -> Result<(Duration, Duration), BenchError> {
    let pattern = Bytes::from(pattern());
    let (mut upload, mut download) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        envd.upload(FILE, None, Repeat::new(pattern.clone(), size))
            .await?;
        upload = upload.min(start.elapsed());
        let start = Instant::now();
        let mut file = envd.download(FILE, None).await?;
        let mut received = 0_u64;
        while let Some(piece) = file.next().await? {
            received += length(&piece);
        }
        download = download.min(start.elapsed());
        if received != size {
            return Err(BenchError::Corrupt(format!(
                "{received} bytes instead of {size}"
            )));
        }
    }
    verify(envd, &pattern).await?;
    Ok((upload, download))
}

/// Compares every byte, once, outside the timing.
async fn verify(envd: &Envd, pattern: &[u8]) -> Result<(), BenchError> {
    let mut file = envd.download(FILE, None).await?;
    let mut at = 0_usize;
    while let Some(mut piece) = file.next().await? {
        while !piece.is_empty() {
            let offset = at % pattern.len();
            let part = piece.split_to(piece.len().min(pattern.len() - offset));
            if pattern.get(offset..offset + part.len()) != Some(part.as_ref()) {
                return Err(BenchError::Corrupt(format!("bytes at {at} differ")));
            }
            at += part.len();
        }
    }
    Ok(())
}

/// A piece whose every part differs from its neighbours, so that a swapped or doubled block shows.
pub(crate) fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(PIECE_BYTES);
    while bytes.len() < PIECE_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// A body of known length that repeats one piece without copying it.
pub(crate) struct Repeat {
    piece: Bytes,
    left: u64,
}

impl Repeat {
    pub(crate) fn new(piece: Bytes, left: u64) -> Self {
        Self { piece, left }
    }
}

impl Body for Repeat {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let take =
            usize::try_from(self.left).map_or(self.piece.len(), |left| left.min(self.piece.len()));
        let piece = self.piece.slice(..take);
        self.left -= length(&piece);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

pub(crate) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

pub(crate) fn gigabytes(bytes: u64) -> f64 {
    // Files here are at most 16 GiB: millions of bytes fit u32 exactly.
    u32::try_from(bytes / 1_000_000).map_or(f64::INFINITY, f64::from) / 1000.0
}

fn mib(kib: u64) -> f64 {
    u32::try_from(kib).map_or(f64::INFINITY, f64::from) / 1024.0
}

/// The server's process, when it is on this machine.
pub(crate) fn server_pid(api: &Api) -> Option<u32> {
    let (_, rest) = api.endpoint().api_url.split_once("://")?;
    let (host, port) = rest.split('/').next()?.rsplit_once(':')?;
    matches!(host, "127.0.0.1" | "localhost" | "[::1]")
        .then(|| host::listener(port.parse().ok()?))
        .flatten()
}

/// Watches a process's memory until it is told to stop.
struct Watch {
    stop: Arc<AtomicBool>,
    most_kib: Arc<AtomicU64>,
    before_kib: Option<u64>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    fn start(pid: Option<u32>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let most_kib = Arc::new(AtomicU64::new(0));
        let before_kib = pid.and_then(host::rss_kib);
        let (stopped, most) = (Arc::clone(&stop), Arc::clone(&most_kib));
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                most.fetch_max(
                    pid.and_then(host::rss_kib).unwrap_or_default(),
                    Ordering::Relaxed,
                );
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self {
            stop,
            most_kib,
            before_kib,
            task,
        }
    }

    /// How far it grew above where it began, in KiB.
    async fn stop(self) -> Option<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.ok();
        Some(
            self.most_kib
                .load(Ordering::Relaxed)
                .saturating_sub(self.before_kib?),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_of_known_length() {
        let mut body = Repeat::new(Bytes::from_static(b"abc"), 8);
        assert_eq!(body.size_hint().exact(), Some(8));
        let mut all = Vec::new();
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
        {
            all.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        assert_eq!(all, b"abcabcab");
        assert!(body.is_end_stream());
    }

    #[test]
    fn patterns_do_not_repeat_within() {
        let pattern = pattern();
        assert_eq!(pattern.len(), PIECE_BYTES);
        assert_ne!(pattern[..4096], pattern[4096..8192]);
    }

    #[test]
    fn units() {
        assert!((gigabytes(256 << 20) - 0.268).abs() < 1e-9);
        assert!((mib(1536) - 1.5).abs() < 1e-9);
    }
}
