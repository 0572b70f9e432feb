//! Which slots have a policy of their own in the kernel, so that those without one cost nothing.

use std::collections::HashSet;
use std::sync::Mutex;

use soulbox_net::firewall::{self, FirewallError};
use soulbox_net::policy;
use soulbox_types::slot::Block;
use soulbox_types::{NetworkMode, SlotIndex};

use crate::lock::locked;

/// The policies of a block. Only [`Policies`] changes the block's second table.
#[derive(Debug)]
pub(crate) struct Policies {
    block: Block,
    /// Whether somebody hears what they refuse.
    tells: bool,
    slots: Mutex<HashSet<SlotIndex>>,
}

impl Policies {
    pub(crate) fn of(block: Block, tells: bool) -> Self {
        Self {
            block,
            tells,
            slots: Mutex::default(),
        }
    }

    /// Makes what the network says be in force in a slot.
    pub(crate) fn put(&self, slot: SlotIndex, network: &NetworkMode) -> Result<(), FirewallError> {
        let Some(lists) = network.policy() else {
            return self.end(slot);
        };
        let mut slots = locked(&self.slots);
        // Noted first: half of it would be removed, too.
        slots.insert(slot);
        firewall::apply(&policy::render(slot, lists))
    }

    /// Leaves the slot without a policy.
    pub(crate) fn end(&self, slot: SlotIndex) -> Result<(), FirewallError> {
        let mut slots = locked(&self.slots);
        if slots.contains(&slot) {
            firewall::apply(&policy::render_end(slot))?;
            slots.remove(&slot);
        }
        Ok(())
    }

    /// Makes exactly these be in force, in one transaction.
    pub(crate) fn restore<'a>(
        &self,
        networks: impl Iterator<Item = (SlotIndex, &'a NetworkMode)>,
    ) -> Result<(), FirewallError> {
        let found: Vec<_> = networks
            .filter_map(|(slot, network)| Some((slot, network.policy()?)))
            .collect();
        let mut slots = locked(&self.slots);
        firewall::apply(&policy::render_all(
            self.block,
            self.tells,
            found.iter().copied(),
        ))?;
        *slots = found.into_iter().map(|(slot, _)| slot).collect();
        Ok(())
    }
}
