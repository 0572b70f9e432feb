//! The host's table of connections, over netlink: making the kernel forget those of an address.
//!
//! The messages are few and fixed, so they are written here by hand (linux/netfilter/nfnetlink_conntrack.h).

use std::io;
use std::net::IpAddr;

use rustix::net::{
    RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST` and `NLM_F_ACK`.
const FLAGS: u16 = 1 | 4;
/// `NLMSG_ERROR`: what an acknowledgement is, too, with number 0.
const ERROR: u16 = 2;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// `AF_INET` and `AF_INET6`.
const FAMILIES: [u8; 2] = [2, 10];
/// From this version on the kernel looks at the family.
const VERSION: u8 = 1;
/// `CTA_TUPLE_ORIG`, and `CTA_TUPLE_IP` within it.
const TUPLE: [u16; 2] = [1 | NESTED, 1 | NESTED];
/// Within that: `CTA_IP_V4_SRC` and `CTA_IP_V6_SRC`.
const SOURCES: [u16; 2] = [1, 3];
/// `CTA_FILTER`, and in it `CTA_FILTER_ORIG_FLAGS` and `CTA_FILTER_REPLY_FLAGS`.
const FILTER: u16 = 25 | NESTED;
const FILTER_FLAGS: [u16; 2] = [1, 2];
/// Of a tuple, only the source counts.
const BY_SOURCE: u32 = 1;
const HEADER_BYTES: usize = 16;

/// Makes the kernel forget every connection that an address has begun. Needs `CAP_NET_ADMIN`, and Linux 5.8.
///
/// # Errors
/// When the kernel refuses, or has no such table.
pub fn forget_from(address: IpAddr) -> io::Result<()> {
    let socket = socket_with(
        rustix::net::AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    send(&socket, &request(address), SendFlags::empty())?;
    let mut buffer = [0; 4096];
    let (count, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
    acknowledged(buffer.get(..count).unwrap_or_default())
}

fn request(address: IpAddr) -> Vec<u8> {
    let ([outer, inner], [v4, v6], [source_v4, source_v6]) = (TUPLE, FAMILIES, SOURCES);
    let (family, source) = match address {
        IpAddr::V4(address) => (v4, attribute(source_v4, &address.octets())),
        IpAddr::V6(address) => (v6, attribute(source_v6, &address.octets())),
    };
    let tuple = attribute(inner, &source);
    let [of_tuple, of_reply] = FILTER_FLAGS;
    let filter = [
        attribute(of_tuple, &BY_SOURCE.to_ne_bytes()),
        attribute(of_reply, &0_u32.to_ne_bytes()),
    ];
    let body = [
        vec![family, VERSION, 0, 0],
        attribute(outer, &tuple),
        attribute(FILTER, &filter.concat()),
    ]
    .concat();
    let length = u32::try_from(HEADER_BYTES + body.len()).expect("a message of fixed length");
    [
        length.to_ne_bytes().to_vec(),
        DELETE.to_ne_bytes().to_vec(),
        FLAGS.to_ne_bytes().to_vec(),
        // Its number, and whose it is: one message of one socket.
        vec![0; 8],
        body,
    ]
    .concat()
}

/// One attribute. All here have lengths that need no padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).expect("an attribute of fixed length");
    [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
}

fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let field = |at: usize| {
        answer
            .get(at..at + 4)?
            .try_into()
            .ok()
            .map(i32::from_ne_bytes)
    };
    let kind = answer.get(4..6).and_then(|kind| kind.try_into().ok());
    match (kind.map(u16::from_ne_bytes), field(HEADER_BYTES)) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(number)) => Err(io::Error::from_raw_os_error(number.saturating_abs())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_and_its_answers() {
        let bytes = request([198, 18, 1, 2].into());
        assert_eq!(bytes.len(), HEADER_BYTES + 4 + 16 + 20);
        assert_eq!(bytes[0..4], 56_u32.to_ne_bytes());
        assert_eq!(bytes[32..36], [198, 18, 1, 2]);
        let of_ipv6 = request("fd00::7".parse().unwrap());
        assert_eq!((of_ipv6.len(), of_ipv6[16]), (bytes.len() + 12, 10));
        let answer = |number: i32| {
            let mut answer = vec![0; HEADER_BYTES];
            answer[4..6].copy_from_slice(&ERROR.to_ne_bytes());
            answer.extend(number.to_ne_bytes());
            answer
        };
        acknowledged(&answer(0)).unwrap();
        let refused = acknowledged(&answer(-1)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
        acknowledged(&[]).unwrap_err();
    }
}
