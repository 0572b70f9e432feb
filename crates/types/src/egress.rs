//! Where no sandbox may go, whatever anybody allows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Cidr;

/// Ranges that are closed to every sandbox: private networks, the machine itself, link-local with the cloud
/// metadata addresses (one of which, 168.63.129.16 on Azure, is not link-local), and what is not unicast. No user rule opens them.
pub const CLOSED_IPV4: [&str; 15] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// Where sandboxes may go with IPv6: what is given out of global unicast addresses (RFC 4291). All that is private, of one
/// link, of this machine, of many receivers, or stands for an IPv4 address lies outside.
pub const OPEN_IPV6: &str = "2000::/3";

/// What is closed in [`OPEN_IPV6`]: ranges for protocols (Teredo and benchmarks among them), documentation, and 6to4, which
/// carries packets to the IPv4 address within.
pub const CLOSED_IPV6: [&str; 4] = ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"];

/// Whether an address is one of the public internet, in whatever form it is written: what names a host's own networks,
/// or carries such an address inside, is not.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => !CLOSED_IPV4.iter().any(|range| contains(range, address)),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn contains(range: &str, address: IpAddr) -> bool {
    Cidr::parse(range).is_some_and(|range| range.contains(address))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let part = address.segments();
    let carried = |high: u16, low: u16| {
        is_public(IpAddr::V4(Ipv4Addr::from_bits(
            u32::from(high) << 16 | u32::from(low),
        )))
    };
    match part {
        // RFC 4291 mapped, RFC 6052 translated: what carries them looks at the address within.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            carried(high, low)
        }
        _ => {
            let address = IpAddr::V6(address);
            contains(OPEN_IPV6, address)
                && !CLOSED_IPV6.iter().any(|range| contains(range, address))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_in_every_form() {
        for (address, public) in [
            ("8.8.8.8", true),
            ("10.1.2.3", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("198.19.255.255", false),
            ("198.20.0.0", true),
            ("255.255.255.255", false),
            ("::1", false),
            ("::", false),
            ("::ffff:10.0.0.1", false),
            ("::ffff:8.8.8.8", true),
            ("64:ff9b::a00:1", false),
            ("64:ff9b::808:808", true),
            ("2002:a00:1::", false),
            ("2002:808:808::", false),
            ("64:ff9b:1::808:808", false),
            ("100::1", false),
            ("fec0::1", false),
            ("fd00:ec2::254", false),
            ("2001:1ff:ffff::1", false),
            ("2001:200::1", true),
            ("3fff:fff::1", false),
            ("3fff:1000::1", true),
            ("4000::1", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("ff02::1", false),
            ("2001:db8::1", false),
            ("2001:0:1::", false),
            ("2606:4700::1111", true),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }
}
