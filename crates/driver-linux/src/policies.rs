//! Which slots have a policy of their own in the kernel, so that those without one cost nothing, and whose connections they
//! count as.

use std::collections::HashSet;
use std::sync::Mutex;

use soulbox_net::firewall::{self, FirewallError};
use soulbox_net::limits::TeamLimits;
use soulbox_net::nft::Nft;
use soulbox_net::{limits, policy};
use soulbox_types::slot::Block;
use soulbox_types::{NetworkMode, SandboxSpec, SlotIndex};

use crate::driver::Settings;
use crate::lock::locked;

/// The policies of a block. Only [`Policies`] changes the block's second table, and who is a member of a team in the third.
#[derive(Debug)]
pub(crate) struct Policies {
    block: Block,
    /// Whether somebody hears what they refuse.
    tells: bool,
    /// Whether the server takes connections of IPv6.
    has_ipv6: bool,
    /// What connections all sandboxes of a team may have.
    of_team: TeamLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Those with a policy.
    slots: HashSet<SlotIndex>,
    nft: Nft,
}

impl Policies {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            block: settings.block,
            tells: settings.tells_refusals,
            has_ipv6: settings.has_ipv6,
            of_team: settings.connections_of_team,
            state: Mutex::default(),
        }
    }

    /// Makes everything be in force in a slot that is about the network of the sandbox that is to stand there.
    pub(crate) fn enter(&self, slot: SlotIndex, spec: &SandboxSpec) -> Result<(), FirewallError> {
        if spec.network.has_cable() && !self.of_team.is_none() {
            let member = limits::render_member(slot, spec.team.as_ref(), self.of_team);
            locked(&self.state).nft.apply(&member)?;
        }
        self.put(slot, &spec.network)
    }

    /// Makes what the network says be in force in a slot.
    pub(crate) fn put(&self, slot: SlotIndex, network: &NetworkMode) -> Result<(), FirewallError> {
        let Some(lists) = network.policy() else {
            return self.end(slot);
        };
        let mut state = locked(&self.state);
        // Noted first: half of it would be removed, too.
        state.slots.insert(slot);
        state.nft.apply(&policy::render(slot, lists, self.has_ipv6))
    }

    /// Leaves the slot without a policy.
    pub(crate) fn end(&self, slot: SlotIndex) -> Result<(), FirewallError> {
        let mut state = locked(&self.state);
        if state.slots.contains(&slot) {
            state.nft.apply(&policy::render_end(slot))?;
            state.slots.remove(&slot);
        }
        Ok(())
    }

    /// Makes exactly these be in force, in one transaction.
    pub(crate) fn restore<'a>(
        &self,
        specs: impl Iterator<Item = (SlotIndex, &'a SandboxSpec)>,
    ) -> Result<(), FirewallError> {
        let (mut found, mut members) = (Vec::new(), String::new());
        for (slot, spec) in specs {
            found.extend(spec.network.policy().map(|policy| (slot, policy)));
            if !self.of_team.is_none() {
                members += &limits::render_member(slot, spec.team.as_ref(), self.of_team);
            }
        }
        let mut state = locked(&self.state);
        let policies =
            policy::render_all(self.block, self.tells, self.has_ipv6, found.iter().copied());
        firewall::apply(&(policies + &members))?;
        state.slots = found.into_iter().map(|(slot, _)| slot).collect();
        Ok(())
    }
}
