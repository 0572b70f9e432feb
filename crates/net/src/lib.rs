//! The host's side of the sandboxes' network: address block, gateway, firewall, DNS forwarder.
//!
//! It knows blocks of slots and nothing of who stands in one.

mod ask;
pub mod block;
mod dns;
pub mod firewall;
pub mod gateway;
pub mod ipv6;
pub mod limits;
pub mod nft;
pub mod policy;
pub mod resolver;
pub mod told;
