//! The host side of the sandboxes' network: address block, gateway, firewall, DNS.

pub mod gateway;
