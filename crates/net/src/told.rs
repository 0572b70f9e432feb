//! Packets that the kernel refuses by address, told to the server: the rule that tells, and what is in a message.
//!
//! A sandbox chooses how many it sends. So the kernel tells so many of each, and forgets the rest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use soulbox_linux::told::{attributes, messages};
use soulbox_types::slot::Block;

/// Of each sandbox, so many in a second are told, and so many at once after some quiet.
const PER_SECOND: u32 = 10;
const AT_ONCE: u32 = 50;
/// As much of a packet as shows where it was to go: the longest header of IPv4 or the one of IPv6, and ports.
pub const BYTES: u32 = 64;
/// Groups are the host's: ours begin here, one for each block.
const FIRST_GROUP: u16 = 0x5b00;
/// `NFULNL_MSG_PACKET`, and attributes of it, of `linux/netfilter/nfnetlink_log.h`.
const PACKET: u16 = 4 << 8;
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;
/// Bytes before the attributes.
const FAMILY_AND_GROUP: usize = 4;

/// The group that rules of a block log to.
#[must_use]
pub fn group(block: Block) -> u16 {
    FIRST_GROUP + u16::from(block.number())
}

/// Which rule refused a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// One of the sandbox's policy.
    Policy,
    /// One that closes the address to every sandbox.
    Closed,
    /// The one of how many connections a sandbox may have and begin.
    Connections,
}

impl Refusal {
    const ALL: [Self; 3] = [Self::Policy, Self::Closed, Self::Connections];

    fn word(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Closed => "closed",
            Self::Connections => "connections",
        }
    }
}

const SET: &str = "told { type ifname; flags dynamic; size 4096; }";

/// Commands for the rule that stands first in the chain `refuse` of a table, where refusals are told: without what hears
/// them, the kernel may not know such a rule. What is told is counted by the name of the cable, which no sandbox chooses.
pub(crate) fn rule(table: &str, block: Block, refusal: Refusal, tells: bool) -> String {
    if !tells {
        return String::new();
    }
    let (word, group) = (refusal.word(), group(block));
    format!(
        "add set {table} {SET}\n\
         add rule {table} refuse add @told {{ iifname limit rate {PER_SECOND}/second burst {AT_ONCE} packets }} \
         log prefix \"{word}\" group {group} snaplen {BYTES}\n"
    )
}

/// A packet that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedPacket {
    /// By which rule.
    pub refusal: Refusal,
    /// The sandbox's address.
    pub from: IpAddr,
    /// Where it was to go.
    pub to: IpAddr,
    /// The number of its protocol.
    pub protocol: u8,
    /// The port, where the protocol has some.
    pub port: Option<u16>,
}

/// What was refused, by what the kernel has said. What cannot be read is left out.
pub fn refused_packets(heard: &[u8]) -> impl Iterator<Item = RefusedPacket> {
    messages(heard).filter_map(|(kind, body)| {
        let body = body.get(FAMILY_AND_GROUP..).filter(|_| kind == PACKET)?;
        let find = |wanted| {
            let mut all = attributes(body);
            all.find(|(kind, _)| *kind == wanted)
                .map(|(_, value)| value)
        };
        let word = find(PREFIX)?.split(|byte| *byte == 0).next()?;
        let refusal = Refusal::ALL
            .into_iter()
            .find(|refusal| refusal.word().as_bytes() == word)?;
        packet(refusal, find(PAYLOAD)?)
    })
}

fn packet(refusal: Refusal, bytes: &[u8]) -> Option<RefusedPacket> {
    match bytes.first()? >> 4 {
        4 => packet_v4(refusal, bytes),
        6 => packet_v6(refusal, bytes),
        _ => None,
    }
}

/// RFC 791.
fn packet_v4(refusal: Refusal, bytes: &[u8]) -> Option<RefusedPacket> {
    let address = |at: usize| -> Option<Ipv4Addr> {
        let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(octets.into())
    };
    let protocol = *bytes.get(9)?;
    // The second and later parts of a packet in parts have no ports.
    let is_first = bytes.get(6)? & 0x1f == 0 && *bytes.get(7)? == 0;
    let behind = usize::from(bytes.first()? & 0x0f) * 4;
    Some(RefusedPacket {
        refusal,
        from: address(12)?.into(),
        to: address(16)?.into(),
        protocol,
        port: port(protocol, bytes.get(behind..)).filter(|_| is_first),
    })
}

/// RFC 8200. Of a packet with more headers the protocol is the first of them.
fn packet_v6(refusal: Refusal, bytes: &[u8]) -> Option<RefusedPacket> {
    let address = |at: usize| -> Option<Ipv6Addr> {
        let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
        Some(octets.into())
    };
    let protocol = *bytes.get(6)?;
    Some(RefusedPacket {
        refusal,
        from: address(8)?.into(),
        to: address(24)?.into(),
        protocol,
        port: port(protocol, bytes.get(40..)),
    })
}

/// The port that a header of TCP or UDP is for.
fn port(protocol: u8, header: Option<&[u8]>) -> Option<u16> {
    const TCP_AND_UDP: [u8; 2] = [6, 17];
    let bytes = header?.get(2..4)?.try_into().ok()?;
    TCP_AND_UDP
        .contains(&protocol)
        .then(|| u16::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel writes it.
    fn told(word: &str, packet: &[u8]) -> Vec<u8> {
        let attribute = |kind: u16, value: &[u8]| {
            let length = u16::try_from(4 + value.len()).unwrap();
            let mut made = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
            made.extend(value);
            made.resize(made.len().next_multiple_of(4), 0);
            made
        };
        let prefix = [word.as_bytes(), &[0]].concat();
        let body = [
            vec![2, 0, 0x5b, 1],
            attribute(PREFIX, &prefix),
            attribute(PAYLOAD, packet),
        ]
        .concat();
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(PACKET.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    fn syn() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0];
        packet.extend([10, 200, 0, 5, 203, 0, 113, 7, 0x9c, 0x40, 1, 187]);
        packet
    }

    #[test]
    fn where_a_packet_was_to_go() {
        let expected = RefusedPacket {
            refusal: Refusal::Policy,
            from: Ipv4Addr::new(10, 200, 0, 5).into(),
            to: Ipv4Addr::new(203, 0, 113, 7).into(),
            protocol: 6,
            port: Some(443),
        };
        let found: Vec<_> = refused_packets(&told("policy", &syn())).collect();
        assert_eq!(found, [expected]);
        let mut ping = syn();
        ping[9] = 1;
        let mut later_part = syn();
        later_part[7] = 9;
        for packet in [ping, later_part] {
            let bytes = told("closed", &packet);
            let found = refused_packets(&bytes).next().unwrap();
            assert_eq!((found.refusal, found.port), (Refusal::Closed, None));
        }
    }

    #[test]
    fn where_a_packet_of_ipv6_was_to_go() {
        let (from, to): (Ipv6Addr, Ipv6Addr) = (
            "fd7c:9e24:51b3:1::1:7".parse().unwrap(),
            "2a0b::5".parse().unwrap(),
        );
        for (protocol, port) in [(6, Some(443)), (17, Some(443)), (58, None), (44, None)] {
            let mut packet = vec![0x60, 0, 0, 0, 0, 40, protocol, 64];
            packet.extend(from.octets());
            packet.extend(to.octets());
            packet.extend([0x9c, 0x40, 1, 187]);
            let found = refused_packets(&told("closed", &packet)).next().unwrap();
            let expected = RefusedPacket {
                refusal: Refusal::Closed,
                from: from.into(),
                to: to.into(),
                protocol,
                port,
            };
            assert_eq!(found, expected);
            assert_eq!(refused_packets(&told("closed", &packet[..39])).count(), 0);
        }
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let mut other = syn();
        other[0] = 0x55;
        for bytes in [
            told("policy", &other),
            told("policy", &syn()[..19]),
            told("somebody else's", &syn()),
            vec![0xff; 64],
        ] {
            assert_eq!(refused_packets(&bytes).count(), 0);
        }
        let whole = told("policy", &syn());
        for end in 0..whole.len() {
            assert!(refused_packets(&whole[..end]).count() <= 1);
        }
    }
}
