//! How many connections sandboxes may have and begin: the text of a third nftables table.
//!
//! A table of its own, after [`crate::firewall`] has judged: it is never replaced while sandboxes run, because what the
//! kernel has counted would be forgotten. The table outlives the server, as sandboxes do. Counts are kept by the name of
//! the cable, which no sandbox can choose, whatever addresses it sends from.

use soulbox_types::slot::Block;
use soulbox_types::{SlotIndex, TeamId};

use crate::firewall::OWN_ARRIVING;
use crate::told::{self, Refusal};

/// What sandboxes may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections at a time that lead out of one sandbox, UDP included. The host's table holds 65,536 on a small machine
    /// and 262,144 on others; a browser needs some hundred.
    pub per_sandbox: u32,
    /// Connections that one sandbox may begin in a second. Twice as many at once are let through after some quiet.
    pub new_per_second: u32,
    /// What all sandboxes of one team may have together.
    pub of_team: TeamLimits,
}

/// What all sandboxes of one team may have together, as far as that is bounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TeamLimits {
    /// Connections at a time that lead out of them.
    pub open: Option<u32>,
    /// Connections that they may begin in a second. Twice as many at once are let through after some quiet.
    pub new_per_second: Option<u32>,
}

impl TeamLimits {
    /// Whether there is nothing to count.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            per_sandbox: 4096,
            new_per_second: 1000,
            of_team: TeamLimits::default(),
        }
    }
}

/// From the cable of a sandbox to the chain of its team.
const MEMBERS: &str = "type ifname : verdict;";

fn table(block: Block) -> String {
    format!("inet {}l", block.prefix())
}

/// The commands that put the limits in force. What was counted under the same limits stays counted: a set bears its limit
/// in its name, because elements keep the one that they were made with. Whether it `tells` what is refused: see
/// [`crate::told`].
#[must_use]
pub fn render(block: Block, limits: ConnectionLimits, tells: bool) -> String {
    let (table, cables) = (table(block), format!("\"{}v*\"", block.prefix()));
    let ConnectionLimits {
        per_sandbox,
        new_per_second,
        of_team,
    } = limits;
    let burst = new_per_second.saturating_mul(2);
    let tell = told::rule(&table, block, Refusal::Connections, tells);
    let of_team = match of_team.is_none() {
        true => String::new(),
        false => format!("add rule {table} judge iifname vmap @members\n"),
    };
    format!(
        r"add table {table}
add set {table} open{per_sandbox} {{ type ifname; flags dynamic; size 4096; }}
add set {table} begun{new_per_second} {{ type ifname; flags dynamic; size 4096; }}
add counter {table} too_many_open
add counter {table} too_many_begun
add counter {table} too_many_of_team
add counter {table} too_many_begun_of_team
add map {table} members {{ {MEMBERS} }}
add chain {table} refuse
flush chain {table} refuse
{tell}add rule {table} refuse meta l4proto tcp reject with tcp reset
add rule {table} refuse reject with icmpx type admin-prohibited
add chain {table} judge
flush chain {table} judge
add rule {table} judge ct state != new return
add rule {table} judge ct status & confirmed == confirmed return
add rule {table} judge add @begun{new_per_second} {{ iifname limit rate over {new_per_second}/second burst {burst} packets }} counter name too_many_begun goto refuse
add rule {table} judge add @open{per_sandbox} {{ iifname ct count over {per_sandbox} }} counter name too_many_open goto refuse
{of_team}add chain {table} input {{ type filter hook input priority filter - 4; policy accept; }}
flush chain {table} input
add rule {table} input {OWN_ARRIVING}
add rule {table} input iifname {cables} jump judge
add chain {table} forward {{ type filter hook forward priority filter - 4; policy accept; }}
flush chain {table} forward
add rule {table} forward iifname {cables} jump judge
"
    )
}

/// The commands that make a slot's connections count as this team's, and nobody else's.
/// All connections of a team are in one element of each set, whose key is what all cables have in common.
#[must_use]
pub fn render_member(slot: SlotIndex, team: Option<&TeamId>, limits: TeamLimits) -> String {
    let (table, cable, number) = (table(slot.block()), slot.link_name(), slot.index());
    let mut text = format!("add chain {table} m{number}\nflush chain {table} m{number}\n");
    if let Some(team) = team {
        let team = team.as_str().replace('-', "");
        let TeamLimits {
            open,
            new_per_second,
        } = limits;
        text += &format!("add chain {table} t{team}\nflush chain {table} t{team}\n");
        let mut counted = |set: &str, what: &str, counter: &str| {
            text += &format!(
                "add set {table} {set} {{ type iface_type; flags dynamic; size 2; }}\n\
                 add rule {table} t{team} add @{set} {{ meta iiftype {what} }} counter name {counter} goto refuse\n"
            );
        };
        if let Some(rate) = new_per_second {
            let burst = rate.saturating_mul(2);
            let what = format!("limit rate over {rate}/second burst {burst} packets");
            counted(&format!("t{team}r{rate}"), &what, "too_many_begun_of_team");
        }
        if let Some(most) = open {
            let what = format!("ct count over {most}");
            counted(&format!("t{team}n{most}"), &what, "too_many_of_team");
        }
        text += &format!("add rule {table} m{number} jump t{team}\n");
    }
    text + &format!(
        "add map {table} members {{ {MEMBERS} elements = {{ \"{cable}\" : jump m{number} }}; }}\n"
    )
}

/// The commands that remove the table, whether it is there or not.
#[must_use]
pub fn render_removal(block: Block) -> String {
    let table = table(block);
    format!("table {table}\ndelete table {table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let block = Block::new(1).unwrap();
        let team = "0a1b2c3d-0000-4000-8000-00000000000f".parse().unwrap();
        let slot = SlotIndex::new(block, 7).unwrap();
        let of_team = TeamLimits {
            open: Some(100),
            new_per_second: Some(50),
        };
        let bounded = ConnectionLimits {
            of_team,
            ..ConnectionLimits::default()
        };
        insta::assert_snapshot!(
            render(block, ConnectionLimits::default(), true) + &render_removal(block)
        );
        insta::assert_snapshot!(
            render(block, bounded, true)
                + &render_member(slot, Some(&team), of_team)
                + &render_member(slot, None, of_team)
        );
    }
}
