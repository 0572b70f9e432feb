//! IPv6 of a block: what its sandboxes may reach with it, as the text of a table of its own, and what the host must do.
//!
//! [`crate::firewall`] drops all IPv6 that comes out of a cable; here that is taken back, in the transaction that puts
//! this table in place. Sandboxes have private addresses, which the host translates to its own, as with IPv4: so nobody
//! reaches a sandbox by its address, and nothing has to be routed to this host. Of all addresses only those that are given out
//! as public are open; policies of single sandboxes are in [`crate::policy`].

use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::path::Path;
use std::str::FromStr;

use soulbox_types::egress::{CLOSED_IPV6, OPEN_IPV6, is_public};
use soulbox_types::slot::Block;

use crate::firewall::OWN_ARRIVING;
use crate::policy::PROXY_PORTS;
use crate::told::{self, Refusal};

const CONF: &str = "/proc/sys/net/ipv6/conf";

/// Whether sandboxes have IPv6.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ipv6 {
    /// Where the host has a public address of IPv6 and a default route for it.
    #[default]
    Auto,
    /// Wherever the kernel can.
    On,
    /// Nowhere.
    Off,
}

/// What is no word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither auto, on nor off")]
pub struct UnknownWord;

impl FromStr for Ipv6 {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(UnknownWord),
        }
    }
}

/// The commands that put the block's table in place and let IPv6 of its sandboxes come as far as it. They follow those of
/// [`crate::firewall::render`], in one transaction, and `tells` as they do.
#[must_use]
pub fn render(block: Block, tells: bool) -> String {
    let (table, cidr) = (block.prefix(), block.cidr_v6());
    let led = led_to_server(block);
    let tell = told::rule(&format!("ip6 {table}"), block, Refusal::Closed, tells);
    let (cables, ours) = (format!("\"{table}v*\""), format!("\"{table}*\""));
    let closed = CLOSED_IPV6.join(", ");
    let removal = render_removal(block);
    format!(
        r"{removal}table ip6 {table} {{
  set closed {{
    type ipv6_addr
    flags interval
    elements = {{ {closed} }}
  }}

  # Anybody may send from any address with IPV6_FREEBIND: it must be the one that this cable leads to. A routing header
  # would have a packet go on to where no rule has looked.
  chain anti_spoof {{
    type filter hook prerouting priority raw; policy accept;
    {OWN_ARRIVING}
    iifname {cables} ip6 saddr != {cidr} drop
    iifname {cables} fib saddr . iif oif missing drop
    iifname {cables} exthdr rt exists drop
  }}

  # Told, when somebody hears it, and answered.
  chain refuse {{
  }}

  # From a sandbox to this machine: connections that are led to the server, and nothing else.
  chain input {{
    type filter hook input priority filter - 5; policy accept;
    {OWN_ARRIVING}
    {led}
    iifname {cables} goto refuse
  }}

  # Before the other tables: one of them drops what goes from sandbox to sandbox, and a refusal is to be heard.
  chain forward {{
    type filter hook forward priority filter - 7; policy accept;
    iifname {cables} jump from_sandbox
  }}

  chain from_sandbox {{
    ip6 daddr != {OPEN_IPV6} goto refuse
    ip6 daddr @closed goto refuse
  }}

  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip6 saddr {cidr} oifname != {ours} masquerade
  }}
}}
{tell}add rule ip6 {table} refuse meta l4proto tcp reject with tcp reset
add rule ip6 {table} refuse reject with icmpv6 type admin-prohibited
flush chain inet {table} ipv6
"
    )
}

/// The rule that lets connections come in that were led to the server.
pub(crate) fn led_to_server(block: Block) -> String {
    let (table, gateway) = (block.prefix(), block.gateway_v6());
    let [http, tls] = PROXY_PORTS;
    format!(
        "iifname \"{table}v*\" ct status dnat ip6 daddr {gateway} tcp dport {{ {http}, {tls} }} accept"
    )
}

/// The commands that remove the block's table, whether it is there or not.
#[must_use]
pub fn render_removal(block: Block) -> String {
    let table = block.prefix();
    format!("table ip6 {table}\ndelete table ip6 {table}\n")
}

/// Whether sandboxes are to have IPv6 on this host.
///
/// # Errors
/// When the host's addresses cannot be read.
pub fn is_wanted(wish: Ipv6) -> io::Result<bool> {
    match wish {
        Ipv6::On => Ok(true),
        Ipv6::Off => Ok(false),
        Ipv6::Auto => {
            let (routes, addresses) = (read("/proc/net/ipv6_route")?, read("/proc/net/if_inet6")?);
            let new_links = read(&format!("{CONF}/default/disable_ipv6"))?;
            Ok(leads_out(&routes) && has_public(&addresses) && new_links.trim() == "0")
        }
    }
}

/// Makes the host forward packets of IPv6. Interfaces that learn their routes from routers would stop doing so, and lose what
/// they have learnt: those are told to go on.
///
/// # Errors
/// When the kernel has no IPv6 or refuses.
pub fn ensure_forwarding() -> io::Result<()> {
    let all = format!("{CONF}/all/forwarding");
    if fs::read_to_string(&all)?.trim() == "1" {
        return Ok(());
    }
    for entry in fs::read_dir(CONF)? {
        go_on_learning(&entry?.path())?;
    }
    fs::write(all, "1")
}

/// Sets `accept_ra` from "unless packets are forwarded" to "always".
fn go_on_learning(interface: &Path) -> io::Result<()> {
    let name = interface.file_name();
    if name.is_some_and(|name| name == "all" || name == "default") {
        return Ok(());
    }
    let accept_ra = interface.join("accept_ra");
    match fs::read_to_string(&accept_ra) {
        Ok(text) if text.trim() == "1" => fs::write(accept_ra, "2"),
        // It has gone meanwhile.
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A kernel without IPv6 has no such file, which says nothing then.
fn read(path: &str) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

/// Whether a route of `/proc/net/ipv6_route` leads everywhere and not to nothing: RTF_UP without RTF_REJECT, over a link that
/// is not loopback.
fn leads_out(routes: &str) -> bool {
    routes.lines().any(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [network, length, .., flags, link] = words.as_slice() else {
            return false;
        };
        let flags = u32::from_str_radix(flags, 16).unwrap_or(0);
        let is_default = network.bytes().all(|digit| digit == b'0') && *length == "00";
        is_default && *link != "lo" && flags & 0x1 != 0 && flags & 0x200 == 0
    })
}

/// Whether one of the addresses of `/proc/net/if_inet6` is public.
fn has_public(addresses: &str) -> bool {
    let address = |line: &str| {
        let digits = line.split_ascii_whitespace().next()?;
        let bits = u128::from_str_radix(digits, 16).ok()?;
        Some(Ipv6Addr::from_bits(bits))
    };
    let mut addresses = addresses.lines().filter_map(address);
    addresses.any(|address| is_public(address.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        insta::assert_snapshot!(render(Block::new(1).unwrap(), true));
        assert!(!render(Block::new(1).unwrap(), false).contains("log"));
    }

    #[test]
    fn words() {
        assert_eq!("auto".parse(), Ok(Ipv6::Auto));
        assert_eq!("off".parse(), Ok(Ipv6::Off));
        assert_eq!("On".parse::<Ipv6>(), Err(UnknownWord));
    }

    #[test]
    fn a_host_with_ipv6() {
        let zero = "0".repeat(32);
        let route = |network: &str, length, flags, link| {
            format!(
                "{network} {length} {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 {flags} {link}\n"
            )
        };
        let unreachable = route(&zero, "00", "00200200", "lo");
        let own = route("20010db8000000000000000000000000", "40", "00000001", "eth0");
        let default = route(&zero, "00", "00450003", "eth0");
        assert!(!leads_out(""));
        assert!(!leads_out(&(unreachable.clone() + &own)));
        assert!(leads_out(&(unreachable + &own + &default)));
        let private = "fd000000000000000000000000000002 04 40 00 82     eth0\n\
                       fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n\
                       00000000000000000000000000000001 01 80 10 80       lo\n";
        assert!(!has_public(private));
        let public = "2a0b1234000000000000000000000002 04 40 00 82 eth0\n";
        assert!(has_public(&(private.to_owned() + public)));
    }
}
