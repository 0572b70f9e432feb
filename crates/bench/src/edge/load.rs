//! Work on many connections, as fast as it is answered: requests, streams and WebSockets, in plain HTTP/1.1 on sockets of our
//! own, so that what is sent and read is the same for all who are measured.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::stats::Samples;

/// A body is read in pieces of this size.
const PIECE: usize = 256 * 1024;
/// A longer head is not what we asked for.
const LONGEST_HEAD: usize = 16 * 1024;

/// What is measured on each connection, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// A request, and its answer with a length.
    Answer,
    /// A request, and its answer of so many bytes in pieces.
    Stream(u64),
    /// Behind one request that switches to WebSocket: a small message, and the same back.
    Echo,
}

/// What is sent, and to whom.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) address: SocketAddr,
    pub(super) work: Work,
    /// The whole request; it has no body.
    pub(super) request: String,
    pub(super) connections: u32,
    pub(super) lasting: Duration,
}

/// What came back.
#[derive(Debug, Default)]
pub(super) struct Answered {
    pub(super) times: Samples,
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
}

impl Answered {
    pub(super) fn requests_per_second(&self) -> f64 {
        let count = u32::try_from(self.times.len()).map_or(f64::INFINITY, f64::from);
        count / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    pub(super) fn megabytes_per_second(&self) -> f64 {
        let kilobytes = u32::try_from(self.bytes / 1000).map_or(f64::INFINITY, f64::from);
        kilobytes / 1000.0 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

impl Load {
    /// All connections are open before the time begins.
    pub(super) async fn run(&self) -> Answered {
        let mut answered = Answered::default();
        let mut opening = JoinSet::new();
        for _ in 0..self.connections {
            opening.spawn(TcpStream::connect(self.address));
        }
        let mut open = Vec::new();
        for opened in opening.join_all().await {
            match opened.and_then(|socket| socket.set_nodelay(true).map(|()| socket)) {
                Ok(socket) => open.push(socket),
                Err(error) => answered.times.fail(&error),
            }
        }
        let start = Instant::now();
        let end = start + self.lasting;
        let mut asking = JoinSet::new();
        for socket in open {
            asking.spawn(ask(socket, self.work, self.request.clone(), end));
        }
        for (times, bytes) in asking.join_all().await {
            answered.times.merge(times);
            answered.bytes += bytes;
        }
        answered.elapsed = start.elapsed();
        answered
    }
}

async fn ask(mut socket: TcpStream, work: Work, request: String, end: Instant) -> (Samples, u64) {
    let (mut times, mut bytes) = (Samples::new(), 0);
    let mut buffer = vec![0; PIECE];
    if work == Work::Echo
        && let Err(error) = switch(&mut socket, request.as_bytes()).await
    {
        times.fail(&error);
        return (times, bytes);
    }
    while Instant::now() < end {
        let start = Instant::now();
        let done = match work {
            Work::Answer => exchange(&mut socket, request.as_bytes(), &mut buffer).await,
            Work::Stream(length) => stream(&mut socket, request.as_bytes(), &mut buffer)
                .await
                .map(|()| length),
            Work::Echo => echo(&mut socket).await,
        };
        match done {
            Ok(length) => {
                times.add(start.elapsed());
                bytes += length;
            }
            Err(error) => {
                times.fail(&error);
                break;
            }
        }
    }
    (times, bytes)
}

/// A masked text frame of 32 bytes (RFC 6455 §5.2). Nobody on the way looks into it.
const FRAME: [u8; 38] = {
    let mut frame = [b'm'; 38];
    frame[0] = 0x81;
    frame[1] = 0x80 | 32;
    frame
};

async fn switch(socket: &mut TcpStream, request: &[u8]) -> io::Result<()> {
    socket.write_all(request).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // Nothing comes behind it until something is sent.
        if head.len() > LONGEST_HEAD || socket.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    match head.starts_with(b"HTTP/1.1 101 ") {
        true => Ok(()),
        false => Err(io::Error::other(
            String::from_utf8_lossy(head.get(..40).unwrap_or(&head)).into_owned(),
        )),
    }
}

async fn echo(socket: &mut TcpStream) -> io::Result<u64> {
    socket.write_all(&FRAME).await?;
    let mut back = [0; FRAME.len()];
    socket.read_exact(&mut back).await?;
    Ok(back.len() as u64)
}

/// Reads to the end of the pieces: what is in them are no line breaks.
async fn stream(socket: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> io::Result<()> {
    const END: &[u8] = b"\r\n0\r\n\r\n";
    socket.write_all(request).await?;
    let mut tail: Vec<u8> = Vec::new();
    loop {
        let read = socket.read(buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let piece = buffer.get(..read).unwrap_or_default();
        if tail.is_empty() && !piece.starts_with(b"HTTP/1.1 200 ") {
            return Err(io::Error::other("an answer that is no success"));
        }
        tail.extend_from_slice(
            piece
                .get(read.saturating_sub(END.len())..)
                .unwrap_or_default(),
        );
        if tail.ends_with(END) {
            return Ok(());
        }
        let kept = tail.len().saturating_sub(END.len());
        tail.drain(..kept);
    }
}

/// One request and its answer, whose body is read and thrown away. Gives the body's length.
async fn exchange(socket: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> io::Result<u64> {
    socket.write_all(request).await?;
    let mut filled = 0;
    let (length, end_of_head) = loop {
        let read = socket
            .read(buffer.get_mut(filled..).unwrap_or_default())
            .await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        match head(buffer.get(..filled).unwrap_or_default())? {
            Some(head) => break head,
            None if filled > LONGEST_HEAD => return Err(io::ErrorKind::InvalidData.into()),
            None => {}
        }
    };
    let mut left = length.saturating_sub(filled.saturating_sub(end_of_head) as u64);
    while left > 0 {
        let read = socket.read(buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left = left.saturating_sub(read as u64);
    }
    Ok(length)
}

/// The length of the body and of the head, once the head is whole. An answer that is no success is an error.
fn head(bytes: &[u8]) -> io::Result<Option<(u64, usize)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    let mut lines = text.lines();
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 2") {
        return Err(io::Error::other(status.to_owned()));
    }
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())
            .flatten()
    });
    // 204 has none; nothing that we ask for comes in chunks.
    let empty = status.starts_with("HTTP/1.1 204");
    match length.or(empty.then_some(0)) {
        Some(length) => Ok(Some((length, end + 4))),
        None => Err(io::Error::other("an answer without a length")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn heads() {
        assert_eq!(head(b"HTTP/1.1 200 OK\r\ncontent-le").unwrap(), None);
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello";
        assert_eq!(head(whole).unwrap(), Some((12, 39)));
        assert_eq!(
            head(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap(),
            Some((0, 27))
        );
        assert!(head(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").is_err());
        assert!(head(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    }

    #[tokio::test]
    async fn every_answer_is_counted() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut buffer = [0; 64];
                    while socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
                        socket.write_all(answer).await.unwrap();
                    }
                });
            }
        });
        let load = Load {
            address,
            work: Work::Answer,
            request: "GET / HTTP/1.1\r\n\r\n".to_owned(),
            connections: 3,
            lasting: Duration::from_millis(50),
        };
        let answered = load.run().await;
        let count = u64::try_from(answered.times.len()).unwrap();
        assert!(count >= 3 && answered.bytes == 3 * count);
        assert!(answered.requests_per_second() > 0.0 && answered.megabytes_per_second() > 0.0);
    }
}
