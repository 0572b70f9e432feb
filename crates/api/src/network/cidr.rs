//! Addresses and networks as policies write them.

use std::net::{IpAddr, Ipv4Addr};

use soulbox_types::egress::CLOSED_IPV4;

/// An address with a prefix length; a single address has the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cidr {
    address: IpAddr,
    prefix: u32,
}

impl Cidr {
    /// Reads `address` or `address/length`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
            Some(_) => return None,
            None => longest,
        };
        (prefix <= longest).then_some(Self { address, prefix })
    }

    pub(super) fn is_unspecified(&self) -> bool {
        self.address.is_unspecified()
    }

    /// Whether it lies within a range that no sandbox reaches, whatever anybody allows.
    pub(super) fn always_closed(&self) -> bool {
        let IpAddr::V4(address) = self.address else {
            return false;
        };
        CLOSED_IPV4
            .iter()
            .filter_map(|range| Self::parse(range))
            .any(|range| range.contains(address, self.prefix))
    }

    fn contains(&self, address: Ipv4Addr, prefix: u32) -> bool {
        let IpAddr::V4(network) = self.address else {
            return false;
        };
        let mask = u32::MAX.checked_shl(32 - self.prefix).unwrap_or(0);
        prefix >= self.prefix && u32::from(network) & mask == u32::from(address) & mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for good in [
            "1.2.3.4",
            "1.2.3.0/24",
            "::1",
            "2001:db8::/32",
            "0.0.0.0/0",
            "1.2.3.4/32",
        ] {
            assert!(Cidr::parse(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "x",
            "1.2.3",
            "1.2.3.4/33",
            "1.2.3.4/-1",
            "1.2.3.4/+1",
            "1.2.3.4/",
            "::/129",
            "1.2.3.4:80",
            "01.2.3.4",
        ] {
            assert!(Cidr::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn always_closed_ranges() {
        let closed = |text| Cidr::parse(text).unwrap().always_closed();
        assert!(
            closed("10.0.0.0/8")
                && closed("10.1.2.3")
                && closed("169.254.169.254")
                && closed("192.168.0.0/17")
        );
        assert!(
            !closed("10.0.0.0/7")
                && !closed("8.8.8.8")
                && !closed("0.0.0.0/0")
                && !closed("fd00::/8")
        );
    }
}
