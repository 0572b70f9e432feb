//! Slots: the numbered places on a node that sandboxes are put into.
//!
//! A slot fixes everything that must not overlap between two sandboxes: the range of user ids and the address.
//! Both follow from two numbers, the block of this server and the index in it, so there is nothing to allocate
//! and nothing to leak. Two servers on one machine hold different blocks.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Number of user ids in a sandbox.
pub const UIDS_PER_SLOT: u32 = 65_536;
/// Slots of one server.
pub const SLOTS_PER_BLOCK: u16 = 2048;
/// Blocks on one machine, hence servers beside each other.
pub const BLOCKS: u8 = 16;
/// First user id of the first slot. Above what distributions and systemd hand out.
pub const FIRST_UID: u32 = 0x7000_0000;
/// 198.18.0.0/15 is set aside for benchmarks (RFC 2544): no real network behind a host uses it.
const FIRST_ADDRESS: u32 = u32::from_be_bytes([198, 18, 0, 0]);
/// Addresses of one block: a /20 for 2048 slots, the gateway, and room to spare.
const ADDRESSES_PER_BLOCK: u32 = 4096;
/// SoulBox's own /48 of unique local addresses (RFC 4193, drawn by lot): a /64 of it for each block.
const FIRST_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd7c, 0x9e24, 0x51b3, 0, 0, 0, 0, 0);

/// Which block of slots a server holds, `0..BLOCKS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Block(u8);

impl Block {
    /// The block with this number, if there is one.
    #[must_use]
    pub fn new(number: u8) -> Option<Self> {
        (number < BLOCKS).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// User and group id of the server that holds the block. Below those of all sandboxes, in no password file, and
    /// different for each server: one cannot touch another's files or memory.
    #[must_use]
    pub fn server_id(self) -> u32 {
        FIRST_UID - u32::from(BLOCKS) + u32::from(self.0)
    }

    fn base(self) -> u32 {
        FIRST_ADDRESS + u32::from(self.0) * ADDRESSES_PER_BLOCK
    }

    /// The address on the host's side that every sandbox of the block sees as gateway and DNS server.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base() + 1)
    }

    /// The block's network in CIDR form, for firewall rules.
    #[must_use]
    pub fn cidr(self) -> String {
        format!("{}/20", Ipv4Addr::from(self.base()))
    }

    fn base_v6(self) -> u128 {
        FIRST_IPV6.to_bits() | u128::from(self.0) << 64
    }

    /// Where packets of IPv6 leave the sandboxes of the block.
    #[must_use]
    pub fn gateway_v6(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.base_v6() | 1)
    }

    /// The block's network of IPv6 in CIDR form, for firewall rules.
    #[must_use]
    pub fn cidr_v6(self) -> String {
        format!("{}/64", Ipv6Addr::from_bits(self.base_v6()))
    }

    /// Prefix of the names of everything this block puts on the host: interfaces, tables, cgroups.
    #[must_use]
    pub fn prefix(self) -> String {
        format!("sb{:x}", self.0)
    }
}

/// One slot of a block, `0..SLOTS_PER_BLOCK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotIndex {
    block: Block,
    index: u16,
}

impl SlotIndex {
    /// The slot with this number, if there is one.
    #[must_use]
    pub fn new(block: Block, index: u16) -> Option<Self> {
        (index < SLOTS_PER_BLOCK).then_some(Self { block, index })
    }

    /// The block it belongs to.
    #[must_use]
    pub fn block(self) -> Block {
        self.block
    }

    /// Its number in the block.
    #[must_use]
    pub fn index(self) -> u16 {
        self.index
    }

    /// First host user id (and group id) of the slot: root inside.
    #[must_use]
    pub fn uid_base(self) -> u32 {
        let slot = u32::from(self.block.0) * u32::from(SLOTS_PER_BLOCK) + u32::from(self.index);
        FIRST_UID + slot * UIDS_PER_SLOT
    }

    /// The slot that a user of the host belongs to.
    #[must_use]
    pub fn of_user(id: u32) -> Option<Self> {
        let slot = id.checked_sub(FIRST_UID)? / UIDS_PER_SLOT;
        let per_block = u32::from(SLOTS_PER_BLOCK);
        let block = Block::new(u8::try_from(slot / per_block).ok()?)?;
        Self::new(block, u16::try_from(slot % per_block).ok()?)
    }

    /// The sandbox's address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        Ipv4Addr::from(self.block.base() + 256 + u32::from(self.index))
    }

    /// The sandbox's address of IPv6, where the host has some.
    #[must_use]
    pub fn address_v6(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.block.base_v6() | 0x1_0000 | u128::from(self.index))
    }

    /// The slot that an address of IPv6 belongs to.
    #[must_use]
    pub fn of_address_v6(address: Ipv6Addr) -> Option<Self> {
        let within = address.to_bits() ^ FIRST_IPV6.to_bits();
        let block = Block::new(u8::try_from(within >> 64).ok()?)?;
        let rest = u64::try_from(within & u128::from(u64::MAX)).ok()?;
        Self::new(block, u16::try_from(rest.checked_sub(0x1_0000)?).ok()?)
    }

    /// Name of the host's end of its network cable (at most 15 bytes).
    #[must_use]
    pub fn link_name(self) -> String {
        format!("{}v{}", self.block.prefix(), self.index)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn all() -> impl Iterator<Item = SlotIndex> {
        (0..BLOCKS)
            .filter_map(Block::new)
            .flat_map(|b| (0..SLOTS_PER_BLOCK).filter_map(move |i| SlotIndex::new(b, i)))
    }

    #[test]
    fn users_belong_to_one_slot() {
        for (block, index) in [(0, 0), (1, 7), (BLOCKS - 1, SLOTS_PER_BLOCK - 1)] {
            let slot = SlotIndex::new(Block::new(block).unwrap(), index).unwrap();
            let base = slot.uid_base();
            assert_eq!(SlotIndex::of_user(base), Some(slot));
            assert_eq!(SlotIndex::of_user(base + UIDS_PER_SLOT - 1), Some(slot));
        }
        for stranger in [0, 1000, FIRST_UID - 1, u32::MAX] {
            assert_eq!(SlotIndex::of_user(stranger), None);
        }
    }

    #[test]
    fn addresses_belong_to_one_slot() {
        for slot in all() {
            assert_eq!(SlotIndex::of_address_v6(slot.address_v6()), Some(slot));
        }
        let last = SlotIndex::new(Block(BLOCKS - 1), SLOTS_PER_BLOCK - 1).unwrap();
        let behind = Ipv6Addr::from_bits(last.address_v6().to_bits() + 1);
        for stranger in [behind, last.block().gateway_v6(), Ipv6Addr::LOCALHOST] {
            assert_eq!(SlotIndex::of_address_v6(stranger), None, "{stranger}");
        }
        assert_eq!(
            SlotIndex::of_address_v6("fd7c:9e24:51b3:10::1:7".parse().unwrap()),
            None
        );
        assert_eq!(
            SlotIndex::of_address_v6("fd7c:9e24:51b3:1::1:0:7".parse().unwrap()),
            None
        );
    }

    #[test]
    fn nothing_overlaps() {
        let mut uids = HashSet::new();
        let mut addresses = HashSet::new();
        let mut addresses_v6 = HashSet::new();
        for slot in all() {
            assert!(slot.uid_base().checked_add(UIDS_PER_SLOT).is_some());
            assert!(slot.uid_base() >= FIRST_UID);
            assert!(uids.insert(slot.uid_base()) && slot.uid_base() % UIDS_PER_SLOT == 0);
            assert!(addresses.insert(slot.address()));
            assert!(addresses_v6.insert(slot.address_v6()));
            assert_ne!(slot.address_v6(), slot.block().gateway_v6());
            assert!(slot.link_name().len() <= 15);
            assert_ne!(slot.address(), slot.block().gateway());
        }
    }

    #[test]
    fn known_values() {
        let slot = SlotIndex::new(Block::new(1).unwrap(), 7).unwrap();
        assert_eq!(slot.address().to_string(), "198.18.17.7");
        assert_eq!(slot.block().gateway().to_string(), "198.18.16.1");
        assert_eq!(slot.block().cidr(), "198.18.16.0/20");
        assert_eq!(slot.address_v6().to_string(), "fd7c:9e24:51b3:1::1:7");
        assert_eq!(slot.block().gateway_v6().to_string(), "fd7c:9e24:51b3:1::1");
        assert_eq!(slot.block().cidr_v6(), "fd7c:9e24:51b3:1::/64");
        assert_eq!(slot.link_name(), "sb1v7");
        assert!(SlotIndex::new(slot.block(), SLOTS_PER_BLOCK).is_none());
    }
}
