//! Network links, addresses and routes over netlink, blocking.
//!
//! A [`Netlink`] socket belongs to the network namespace in which it was opened and keeps working on it wherever the
//! caller goes afterwards.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use crate::namespace::raw;

/// A route netlink socket of one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open() -> io::Result<Self> {
        // Protocol 0 is NETLINK_ROUTE.
        let socket = socket_with(
            rustix::net::AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// The index of a link by its name.
    ///
    /// # Errors
    /// `ENODEV` when there is none.
    pub fn link_index(&mut self, name: &str) -> io::Result<u32> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        let answer = self.exchange(RouteNetlinkMessage::GetLink(message), 0)?;
        match answer {
            Some(RouteNetlinkMessage::NewLink(link)) => Ok(link.header.index),
            _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }

    /// Makes a cable: `name` here, `peer_name` in the network namespace `peer_namespace`. Both ends are down.
    ///
    /// # Errors
    /// `EEXIST` when either name is taken.
    pub fn add_veth(
        &mut self,
        name: &str,
        peer_name: &str,
        peer_namespace: &impl AsFd,
    ) -> io::Result<()> {
        let mut peer = LinkMessage::default();
        peer.attributes
            .push(LinkAttribute::IfName(peer_name.to_owned()));
        peer.attributes
            .push(LinkAttribute::NetNsFd(raw(peer_namespace)));
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.acknowledged(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Makes a bridge.
    ///
    /// # Errors
    /// `EEXIST` when the name is taken.
    pub fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        message
            .attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(
                InfoKind::Bridge,
            )]));
        self.acknowledged(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Removes a link. One that does not exist is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_link(&mut self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        match self.acknowledged(RouteNetlinkMessage::DelLink(message), 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Switches a link on.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.acknowledged(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// The hardware address of a link.
    ///
    /// # Errors
    /// When there is no such link, or it has none.
    pub fn hardware_address(&mut self, index: u32) -> io::Result<Vec<u8>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.exchange(RouteNetlinkMessage::GetLink(message), 0)? {
            Some(RouteNetlinkMessage::NewLink(link)) => {
                let address = link.attributes.into_iter().find_map(|it| match it {
                    LinkAttribute::Address(address) => Some(address),
                    _ => None,
                });
                address.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
            }
            _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
        }
    }

    /// Gives a link an address of its own, without a network around it. One of IPv6 is not looked for on the link first.
    ///
    /// # Errors
    /// `EEXIST` when it has it already.
    pub fn add_address(&mut self, index: u32, address: impl Into<IpAddr>) -> io::Result<()> {
        let address = address.into();
        let mut message = own_address(index, address);
        if address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.header.scope = AddressScope::Universe;
        message.attributes.push(AddressAttribute::Address(address));
        self.acknowledged(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Takes an address away again.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL` when the link does not have it.
    pub fn remove_address(&mut self, index: u32, address: impl Into<IpAddr>) -> io::Result<()> {
        let message = own_address(index, address.into());
        self.acknowledged(RouteNetlinkMessage::DelAddress(message), 0)
    }

    /// Says once and for all what hardware address a neighbour has, so that nobody asks.
    ///
    /// # Errors
    /// When the link is down.
    pub fn add_neighbour(
        &mut self,
        index: u32,
        neighbour: Ipv6Addr,
        hardware: &[u8],
    ) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.ifindex = index;
        message.header.state = NeighbourState::Permanent;
        let address = NeighbourAttribute::Destination(NeighbourAddress::Inet6(neighbour));
        let hardware = NeighbourAttribute::LinkLayerAddress(hardware.to_vec());
        message.attributes = vec![address, hardware];
        self.acknowledged(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Adds a route to one address over a link directly.
    ///
    /// # Errors
    /// When it exists or the link is down.
    pub fn add_host_route(&mut self, destination: impl Into<IpAddr>, index: u32) -> io::Result<()> {
        let destination = destination.into();
        let mut message = route(RouteScope::Link, destination);
        message.header.destination_prefix_length = longest(destination);
        message
            .attributes
            .push(RouteAttribute::Destination(destination.into()));
        message.attributes.push(RouteAttribute::Oif(index));
        self.acknowledged(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Adds the default route over a gateway.
    ///
    /// # Errors
    /// When the gateway cannot be reached over a route that exists.
    pub fn add_default_route(&mut self, gateway: impl Into<IpAddr>, index: u32) -> io::Result<()> {
        let gateway = gateway.into();
        let mut message = route(RouteScope::Universe, gateway);
        message
            .attributes
            .push(RouteAttribute::Gateway(gateway.into()));
        message.attributes.push(RouteAttribute::Oif(index));
        self.acknowledged(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    fn acknowledged(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(message, flags | NLM_F_ACK).map(drop)
    }

    /// Sends one request and reads its answer: a message, an acknowledgement (`None`) or an error.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Option<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        send(&self.socket, &bytes, SendFlags::empty())?;
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let (n, _) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            let answer: NetlinkMessage<RouteNetlinkMessage> =
                NetlinkMessage::deserialize(&buffer[..n])
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            return match answer.payload {
                NetlinkPayload::Error(error) => match error.code {
                    None => Ok(None),
                    Some(code) => Err(io::Error::from_raw_os_error(code.get().saturating_abs())),
                },
                NetlinkPayload::InnerMessage(inner) => Ok(Some(inner)),
                _ => Err(io::Error::from(io::ErrorKind::InvalidData)),
            };
        }
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The length of a prefix that is all of an address.
fn longest(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn own_address(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = longest(address);
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address));
    message
}

/// The family is that of an address of it.
fn route(scope: RouteScope, address: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(address);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = scope;
    message.header.kind = RouteType::Unicast;
    message
}
