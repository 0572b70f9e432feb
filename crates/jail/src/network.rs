//! Setting up the network namespace of a slot.
//!
//! The namespace belongs to the sandbox's user namespace, and root inside lacks the capabilities that would mean something
//! there: no raw sockets, no change of an address or a rule. What is set up here is set up with the host's root.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;

use soulbox_launch_plan::{Ipv6Ends, Network};
use soulbox_linux::link::Netlink;
use soulbox_linux::namespace;

/// Name of the cable's end inside.
const INNER_LINK: &str = "eth0";
/// Its settings of IPv6: no address but the one that it is given, and nobody is asked or believed. The last one switches it
/// on.
const INNER_IPV6: [(&str, &str); 6] = [
    ("addr_gen_mode", "1"),
    ("autoconf", "0"),
    ("accept_ra", "0"),
    ("accept_redirects", "0"),
    ("accept_dad", "0"),
    ("disable_ipv6", "0"),
];

type Failed = (&'static str, io::Error);

/// Enters an empty network namespace and gives it the planned contents.
pub(crate) fn enter(namespace: &OwnedFd, plan: &Network) -> Result<(), Failed> {
    let host = Netlink::open().map_err(|e| ("host netlink", e))?;
    let host_namespace =
        namespace::open(Path::new("/proc/self/ns/net")).map_err(|e| ("host namespace", e))?;
    namespace::enter_network(namespace).map_err(|e| ("setns", e))?;
    let mut inner = Netlink::open().map_err(|e| ("netlink", e))?;
    let loopback = inner.link_index("lo").map_err(|e| ("find lo", e))?;
    inner.set_up(loopback).map_err(|e| ("lo up", e))?;
    sysctls().map_err(|e| ("sysctl", e))?;
    match plan {
        Network::Loopback => Ok(()),
        Network::Cable {
            host_link,
            address,
            gateway,
            ipv6,
        } => {
            let cable = Cable {
                host_link,
                address: *address,
                gateway: *gateway,
                ipv6: *ipv6,
            };
            cable.lay(inner, host, &host_namespace)
        }
    }
}

/// Ordinary users may bind any port and send pings, as on a machine of their own. IPv6 is off outside loopback unless the
/// plan has it: what is not there needs no rules.
fn sysctls() -> io::Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?;
    // Kernels differ in the highest group id they accept here; ping then needs the lower half of the slots.
    if fs::write("/proc/sys/net/ipv4/ping_group_range", "0 4294967294").is_err() {
        fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")?;
    }
    match fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

struct Cable<'a> {
    host_link: &'a str,
    address: Ipv4Addr,
    gateway: Ipv4Addr,
    ipv6: Option<Ipv6Ends>,
}

impl Cable<'_> {
    fn lay(
        &self,
        mut inner: Netlink,
        mut host: Netlink,
        host_namespace: &impl std::os::fd::AsFd,
    ) -> Result<(), Failed> {
        self.plug(&mut inner, &mut host, host_namespace)
            .map_err(|e| ("add cable", e))?;
        let outer = host
            .link_index(self.host_link)
            .map_err(|e| ("find host end", e))?;
        host.set_up(outer).map_err(|e| ("host end up", e))?;
        host.add_host_route(self.address, outer)
            .map_err(|e| ("host route", e))?;

        let eth0 = inner.link_index(INNER_LINK).map_err(|e| ("find eth0", e))?;
        inner
            .add_address(eth0, self.address)
            .map_err(|e| ("address", e))?;
        inner.set_up(eth0).map_err(|e| ("eth0 up", e))?;
        inner
            .add_host_route(self.gateway, eth0)
            .map_err(|e| ("gateway route", e))?;
        inner
            .add_default_route(self.gateway, eth0)
            .map_err(|e| ("default route", e))?;
        match &self.ipv6 {
            Some(ends) => lay_ipv6(ends, (&mut inner, eth0), (&mut host, outer)),
            None => Ok(()),
        }
    }

    /// A cable of the same name can be left from a sandbox whose namespace the kernel has not cleaned up yet.
    fn plug(
        &self,
        inner: &mut Netlink,
        host: &mut Netlink,
        host_namespace: &impl std::os::fd::AsFd,
    ) -> io::Result<()> {
        match inner.add_veth(INNER_LINK, self.host_link, host_namespace) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                host.delete_link(self.host_link)?;
                inner.add_veth(INNER_LINK, self.host_link, host_namespace)
            }
            other => other,
        }
    }
}

/// Both ends are told where the other is: neither asks, so that the host has nothing to answer, and nothing waits.
fn lay_ipv6(
    ends: &Ipv6Ends,
    (inner, eth0): (&mut Netlink, u32),
    (host, outer): (&mut Netlink, u32),
) -> Result<(), Failed> {
    for (name, value) in INNER_IPV6 {
        let path = format!("/proc/sys/net/ipv6/conf/{INNER_LINK}/{name}");
        fs::write(path, value).map_err(|e| ("sysctl of IPv6", e))?;
    }
    let (near, far) = (inner.hardware_address(eth0), host.hardware_address(outer));
    let (near, far) = near
        .and_then(|near| Ok((near, far?)))
        .map_err(|e| ("hardware addresses", e))?;
    host.add_host_route(ends.address, outer)
        .and_then(|()| host.add_neighbour(outer, ends.address, &near))
        .map_err(|e| ("host route of IPv6", e))?;
    inner
        .add_address(eth0, ends.address)
        .and_then(|()| inner.add_host_route(ends.gateway, eth0))
        .and_then(|()| inner.add_neighbour(eth0, ends.gateway, &far))
        .and_then(|()| inner.add_default_route(ends.gateway, eth0))
        .map_err(|e| ("routes of IPv6", e))
}
