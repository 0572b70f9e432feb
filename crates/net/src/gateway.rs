//! The host's end of the sandboxes' network: one address that they all see as gateway and DNS server.
//!
//! It sits on a bridge without ports. Each sandbox hangs on a cable of its own with a route of its own, so that no
//! packet goes from one to another without passing the firewall.

use std::fs;
use std::io;

use soulbox_linux::link::Netlink;
use soulbox_types::slot::Block;

/// Name of the link that carries the gateway's address.
#[must_use]
pub fn link_name(block: Block) -> String {
    format!("{}gw", block.prefix())
}

/// Makes sure that the gateway exists and that the host forwards packets. Doing it twice is fine.
///
/// # Errors
/// When the kernel refuses, for example for want of bridge support.
pub fn ensure(block: Block) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let name = link_name(block);
    exists_is_fine(netlink.add_bridge(&name))?;
    let index = netlink.link_index(&name)?;
    exists_is_fine(netlink.add_address(index, block.gateway()))?;
    netlink.set_up(index)?;
    let forwarding = "/proc/sys/net/ipv4/ip_forward";
    if fs::read_to_string(forwarding)?.trim() != "1" {
        fs::write(forwarding, "1")?;
    }
    Ok(())
}

/// Gives the gateway its address of IPv6. Doing it twice is fine.
///
/// # Errors
/// When there is no gateway, or no IPv6 for new links.
pub fn ensure_v6(block: Block) -> io::Result<()> {
    let name = link_name(block);
    let is_off = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    if fs::read_to_string(&is_off)?.trim() != "0" {
        fs::write(is_off, "0")?;
    }
    let mut netlink = Netlink::open()?;
    let index = netlink.link_index(&name)?;
    exists_is_fine(netlink.add_address(index, block.gateway_v6()))
}

/// Removes the gateway. Forwarding stays as it is: others may rely on it by now.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(block: Block) -> io::Result<()> {
    Netlink::open()?.delete_link(&link_name(block))
}

fn exists_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
