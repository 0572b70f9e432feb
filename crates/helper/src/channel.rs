//! Whole messages with descriptors between the two processes, in order.
//!
//! A packet socket: no framing to get wrong, and the end of one side is seen at once by the other. What is too large
//! for a packet travels in sealed memory, so that no sender can change it while it is read.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::SealFlags;
use soulbox_linux::{exec, socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Largest message in a packet.
const PACKET_BYTES: usize = 32 * 1024;
/// Largest message at all: many times what the API accepts.
const MESSAGE_BYTES: u64 = 16 * 1024 * 1024;
const IN_PACKET: u8 = 0;
const IN_MEMORY: u8 = 1;

/// One end of the socket pair.
#[derive(Debug)]
pub struct Channel {
    socket: AsyncFd<OwnedFd>,
}

impl Channel {
    /// Takes one end of a pair made by [`socket::seqpacket_pair`].
    ///
    /// # Errors
    /// When the descriptor is no socket, or outside of a runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        #[expect(
            deprecated,
            reason = "its replacement is unsafe; an owned descriptor stays open as long as its watcher"
        )]
        let socket = AsyncFd::new(socket)?;
        Ok(Self { socket })
    }

    /// Two connected ends in this process, for tests.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socket::seqpacket_pair()?;
        Ok((Self::new(one)?, Self::new(other)?))
    }

    /// Sends one message with at most seven descriptors.
    ///
    /// # Errors
    /// When the other side is gone, or the message is too large.
    pub async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let memory;
        let mut packet = Vec::with_capacity(bytes.len().min(PACKET_BYTES) + 1);
        let mut all = Vec::with_capacity(fds.len() + 1);
        if bytes.len() <= PACKET_BYTES {
            packet.push(IN_PACKET);
            packet.extend_from_slice(bytes);
        } else {
            memory = exec::sealed_memfd("message", bytes, false)?;
            packet.push(IN_MEMORY);
            all.push(memory.as_fd());
        }
        all.extend_from_slice(fds);
        self.socket
            .async_io(Interest::WRITABLE, |socket| {
                socket::send(socket, &packet, &all)
            })
            .await
    }

    /// Receives one message. `None` means that the other side is gone.
    ///
    /// # Errors
    /// When what came is no message of ours.
    pub async fn receive(&self) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let received = self
            .socket
            .async_io(Interest::READABLE, |socket| {
                socket::receive(socket, PACKET_BYTES + 1)
            })
            .await?;
        let Some((mut packet, mut fds)) = received else {
            return Ok(None);
        };
        match packet.first() {
            Some(&IN_PACKET) => {
                packet.remove(0);
                Ok(Some((packet, fds)))
            }
            Some(&IN_MEMORY) if !fds.is_empty() => {
                let memory = fds.remove(0);
                Ok(Some((read_sealed(&memory)?, fds)))
            }
            _ => Err(malformed("a packet of no known kind")),
        }
    }
}

/// Reads sealed memory, and nothing else: a pipe would block, a file could change.
fn read_sealed(memory: &OwnedFd) -> io::Result<Vec<u8>> {
    let fixed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    let seals = rustix::fs::fcntl_get_seals(memory)
        .map_err(|_| malformed("a message that is not in memory"))?;
    let size = u64::try_from(rustix::fs::fstat(memory)?.st_size).unwrap_or(u64::MAX);
    if !seals.contains(fixed) || size > MESSAGE_BYTES {
        return Err(malformed("a message that is not sealed, or too large"));
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    let mut read = 0;
    while read < bytes.len() {
        let offset = u64::try_from(read).map_err(io::Error::other)?;
        match rustix::io::pread(memory, &mut bytes[read..], offset)? {
            0 => return Err(malformed("a message that ends early")),
            n => read += n,
        }
    }
    Ok(bytes)
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_of_any_size_arrive_whole_with_their_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for size in [0, 1, PACKET_BYTES, PACKET_BYTES + 1, 3_000_000] {
            let message: Vec<u8> = (0..size).map(|n| n.to_le_bytes()[0]).collect();
            a.send(&message, &[file.as_fd()]).await.unwrap();
            let (bytes, fds) = b.receive().await.unwrap().unwrap();
            assert!(bytes == message, "{size}");
            assert_eq!(fds.len(), 1);
        }
        drop(a);
        assert!(b.receive().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_not_sealed_memory_is_refused() {
        let (a, b) = socket::seqpacket_pair().unwrap();
        let b = Channel::new(b).unwrap();
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let open_memory =
            rustix::fs::memfd_create("m", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        for fd in [reader.as_fd(), open_memory.as_fd()] {
            socket::send(&a, &[IN_MEMORY], &[fd]).unwrap();
            assert!(b.receive().await.is_err());
        }
        for packet in [&[IN_MEMORY][..], &[9], &[9, 9]] {
            socket::send(&a, packet, &[]).unwrap();
            assert!(b.receive().await.is_err());
        }
    }
}
