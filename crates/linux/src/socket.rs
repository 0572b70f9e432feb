//! Messages with file descriptors over a `SOCK_SEQPACKET` pair: whole messages, in order, end of file on death.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

/// Most descriptors in one message.
pub const MAX_FDS: usize = 16;

/// Makes a connected pair of sockets, both close-on-exec.
///
/// # Errors
/// When descriptors run out.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends one message.
///
/// # Errors
/// When the other end is gone (`EPIPE`) or the message is larger than the socket's buffer.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "too many file descriptors in one message",
        ));
    }
    sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Receives one message of at most `limit` bytes. `None` means that the other end is gone.
///
/// # Errors
/// When a message was longer than `limit`, or the kernel refuses.
pub fn receive(socket: impl AsFd, limit: usize) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; limit];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match recvmsg(
            &socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    if message
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "message is too long",
        ));
    }
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if message.bytes == 0 && fds.is_empty() {
        return Ok(None);
    }
    bytes.truncate(message.bytes);
    Ok(Some((bytes, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors_arrive_whole() {
        let (a, b) = seqpacket_pair().unwrap();
        send(&a, b"hello", &[a.as_fd(), b.as_fd()]).unwrap();
        send(&a, b"x", &[]).unwrap();
        let (bytes, fds) = receive(&b, 64).unwrap().unwrap();
        assert_eq!((bytes.as_slice(), fds.len()), (b"hello".as_slice(), 2));
        drop(fds);
        assert_eq!(receive(&b, 64).unwrap().unwrap().0, b"x");
        send(&a, &[7; 65], &[]).unwrap();
        assert!(receive(&b, 64).is_err());
        drop(a);
        assert!(receive(&b, 64).unwrap().is_none());
    }
}
