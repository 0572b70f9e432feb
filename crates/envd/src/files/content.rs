//! Response bodies made from a file: its parts as they are, or all of it gzipped.
//!
//! Memory is constant: one chunk at a time, whatever the file's size. Reading happens on the one thread that serves
//! everybody, so after a while each body steps back to let others run.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body::{Body, Frame, SizeHint};
use rustix::buffer::spare_capacity;

use crate::idle::Work;

/// Large: at a gigabyte a second, system calls and frames are what costs.
const CHUNK: usize = 256 * 1024;
const GZIP_CHUNK: usize = 64 * 1024;
/// Chunks before others get their turn.
const TURN: u32 = 4;

/// A piece of a body.
#[derive(Debug)]
pub(crate) enum Segment {
    /// These bytes.
    Bytes(Bytes),
    /// A part of the file.
    Part { start: u64, length: u64 },
    /// The file from where it stands to its end, wherever that is.
    Rest,
}

/// A file's content.
#[derive(Debug)]
pub(crate) struct Content {
    file: File,
    segments: VecDeque<Segment>,
    turn: u32,
    _work: Work,
}

impl Content {
    pub(crate) fn new(file: File, segments: impl IntoIterator<Item = Segment>) -> Self {
        Self {
            file,
            segments: segments.into_iter().collect(),
            turn: 0,
            _work: Work,
        }
    }

    /// The length of everything, when it is known.
    fn length(&self) -> Option<u64> {
        self.segments
            .iter()
            .try_fold(0_u64, |sum, segment| match segment {
                Segment::Bytes(bytes) => sum.checked_add(u64::try_from(bytes.len()).ok()?),
                Segment::Part { length, .. } => sum.checked_add(*length),
                Segment::Rest => None,
            })
    }

    fn next(&mut self) -> io::Result<Option<Bytes>> {
        while let Some(segment) = self.segments.pop_front() {
            match segment {
                Segment::Bytes(bytes) if bytes.is_empty() => {}
                Segment::Bytes(bytes) => return Ok(Some(bytes)),
                Segment::Part { length: 0, .. } => {}
                Segment::Part { start, length } => {
                    let chunk = read_at(&self.file, start, length)?;
                    let taken = u64::try_from(chunk.len()).unwrap_or(length);
                    self.segments.push_front(Segment::Part {
                        start: start + taken,
                        length: length - taken,
                    });
                    return Ok(Some(chunk));
                }
                Segment::Rest => {
                    let chunk = read(&self.file, CHUNK)?;
                    if !chunk.is_empty() {
                        self.segments.push_front(Segment::Rest);
                        return Ok(Some(chunk.into()));
                    }
                }
            }
        }
        Ok(None)
    }
}

fn read_at(file: &File, start: u64, length: u64) -> io::Result<Bytes> {
    let wanted = usize::try_from(length).unwrap_or(CHUNK).min(CHUNK);
    let mut buffer = Vec::with_capacity(wanted);
    loop {
        match rustix::io::pread(file, spare_capacity(&mut buffer), start) {
            // It was longer when its length was promised; the client must not take this for the whole.
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {
                buffer.truncate(wanted);
                return Ok(buffer.into());
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Up to `size` bytes from where the file stands; empty at its end.
pub(crate) fn read(file: &File, size: usize) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(size);
    loop {
        match rustix::io::read(file, spare_capacity(&mut buffer)) {
            Ok(_) => return Ok(buffer),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// True when it is time to step back; the task is woken again at once.
fn step_back(turn: &mut u32, context: &Context<'_>) -> bool {
    *turn += 1;
    if *turn <= TURN {
        return false;
    }
    *turn = 0;
    context.waker().wake_by_ref();
    true
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.segments.is_empty() {
            return Poll::Ready(None);
        }
        if step_back(&mut self.turn, context) {
            return Poll::Pending;
        }
        Poll::Ready(self.next().transpose().map(|chunk| chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.length() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.length().map(SizeHint::with_exact).unwrap_or_default()
    }
}

/// A file's content, gzipped on the way.
pub(crate) struct Gzipped {
    file: File,
    /// Taken when the file's end has been written.
    encoder: Option<GzEncoder<Vec<u8>>>,
    turn: u32,
    _work: Work,
}

impl Gzipped {
    pub(crate) fn new(file: File) -> Self {
        // Fast: the wire here is mostly a loopback or a local network, and the processor is shared with the guest.
        Self {
            file,
            encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())),
            turn: 0,
            _work: Work,
        }
    }

    /// `Some(empty)` when more input is needed before there is output.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(mut encoder) = self.encoder.take() else {
            return Ok(None);
        };
        let chunk = read(&self.file, GZIP_CHUNK)?;
        if chunk.is_empty() {
            return encoder.finish().map(Some);
        }
        encoder.write_all(&chunk)?;
        let output = std::mem::take(encoder.get_mut());
        self.encoder = Some(encoder);
        Ok(Some(output))
    }
}

impl Body for Gzipped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if self.encoder.is_none() {
                return Poll::Ready(None);
            }
            if step_back(&mut self.turn, context) {
                return Poll::Pending;
            }
            match self.next() {
                // No empty frames: some HTTP/2 clients count them as an attack.
                Ok(Some(output)) if output.is_empty() => {}
                Ok(Some(output)) => return Poll::Ready(Some(Ok(Frame::data(output.into())))),
                Ok(None) => return Poll::Ready(None),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none()
    }
}
