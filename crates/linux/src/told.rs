//! Sockets over which the kernel tells of what happens: packets that a rule logs, programs that are started.
//!
//! Opened with the rights to ask for it; whoever is handed one reads without any. Whole messages, bounded by the socket's
//! buffer: what does not fit is lost, and the next read says so (`ENOBUFS`).

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

/// `NFNL_SUBSYS_ULOG` and `NFULNL_MSG_CONFIG` of `linux/netfilter/nfnetlink*.h`.
const CONFIGURE_LOG: u16 = 4 << 8 | 1;
/// `NLM_F_REQUEST | NLM_F_ACK` of `linux/netlink.h`.
const REQUEST_AND_ANSWER: u16 = 1 | 4;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Bytes of the header of a message.
const HEADER: usize = 16;

fn message(kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(HEADER + body.len()).map_err(io::Error::other)?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence and sender, which nobody looks at.
    message.extend([0; 8]);
    message.extend(body);
    Ok(message)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut attribute = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// A socket that is told of packets which rules log to this group, so many bytes of each, in the network namespace of the
/// calling thread.
///
/// # Errors
/// When the kernel has no `nfnetlink_log`, or somebody else has the group.
pub fn logged_packets(group: u16, bytes: u32) -> io::Result<OwnedFd> {
    let socket = open(Some(netlink::NETFILTER), 0)?;
    let mut body = vec![0, 0];
    body.extend(group.to_be_bytes());
    // Bind; packets, not only their headers; each at once.
    body.extend(attribute(1, &[1]));
    body.extend(attribute(2, &[&bytes.to_be_bytes()[..], &[2, 0]].concat()));
    body.extend(attribute(5, &1_u32.to_be_bytes()));
    let asked = message(CONFIGURE_LOG, REQUEST_AND_ANSWER, &body)?;
    send(&socket, &asked, SendFlags::empty())?;
    let mut answer = [0; 256];
    let (_, length) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
    acknowledged(answer.get(..length).unwrap_or_default())?;
    Ok(socket)
}

fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok());
    let code = answer.get(HEADER..HEADER + 4);
    let code = code.and_then(|bytes| bytes.try_into().ok());
    match (kind.map(u16::from_ne_bytes), code.map(i32::from_ne_bytes)) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A socket that is told of every program that a process of this host begins to run.
///
/// # Errors
/// When the kernel has no process connector, or this process is not in the first user and process namespace.
pub fn started_programs() -> io::Result<OwnedFd> {
    // `CN_IDX_PROC` of `linux/connector.h` is both the group and the address.
    const PROCESSES: u32 = 1;
    // `PROC_EVENT_EXEC` of `linux/cn_proc.h`.
    const EXECUTED: u32 = 2;
    let socket = open(Some(netlink::CONNECTOR), PROCESSES)?;
    // `PROC_CN_MCAST_LISTEN`, and from Linux 6.6 on, of what: older ones ignore the second message.
    let listen = 1_u32.to_ne_bytes();
    for wanted in [listen.to_vec(), [listen, EXECUTED.to_ne_bytes()].concat()] {
        let length = u16::try_from(wanted.len()).map_err(io::Error::other)?;
        let mut body = [PROCESSES, PROCESSES, 0, 0].map(u32::to_ne_bytes).concat();
        body.extend(length.to_ne_bytes());
        body.extend([0; 2]);
        body.extend(wanted);
        let asked = message(DONE, 0, &body)?;
        send(&socket, &asked, SendFlags::empty())?;
    }
    Ok(socket)
}

fn open(protocol: Option<rustix::net::Protocol>, groups: u32) -> io::Result<OwnedFd> {
    let kind = (AddressFamily::NETLINK, SocketType::RAW);
    let socket = socket_with(kind.0, kind.1, SocketFlags::CLOEXEC, protocol)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// The messages in what was heard: kind and body of each, as far as they are whole.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let length = usize::try_from(length).ok()?;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes in a body: kind and value of each, as far as they are whole.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length.into())?;
        let next = usize::from(length).next_multiple_of(4);
        bytes = bytes.get(next..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_are_read_as_they_are_written() {
        let body = [attribute(1, b"abc"), attribute(9, &[7; 8])].concat();
        let bytes = [
            message(4, 0, &body).unwrap(),
            message(5, 0, b"last").unwrap(),
        ]
        .concat();
        let found: Vec<_> = messages(&bytes).collect();
        assert_eq!(found, [(4, &body[..]), (5, b"last")]);
        let found: Vec<_> = attributes(&body).collect();
        assert_eq!(found, [(1, &b"abc"[..]), (9, &[7; 8])]);
        // Cut anywhere, or with lengths that lie: nothing is read that is not there, and it ends.
        for end in 0..bytes.len() {
            assert!(messages(&bytes[..end]).count() < 2);
        }
        for lie in [[0; 16], [255; 16]] {
            assert!(messages(&lie).count() + attributes(&lie).count() < 8);
        }
        assert!(acknowledged(b"short").is_err());
    }
}
