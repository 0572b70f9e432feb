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
    /// Connections at a time that lead out of all sandboxes of one team, as far as that is bounded.
    pub per_team: Option<u32>,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            per_sandbox: 4096,
            new_per_second: 1000,
            per_team: None,
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
        per_team,
    } = limits;
    let burst = new_per_second.saturating_mul(2);
    let tell = told::rule(&table, block, Refusal::Connections, tells);
    let of_team = match per_team {
        Some(_) => format!("add rule {table} judge iifname vmap @members\n"),
        None => String::new(),
    };
    format!(
        r"add table {table}
add set {table} open{per_sandbox} {{ type ifname; flags dynamic; size 4096; }}
add set {table} begun{new_per_second} {{ type ifname; flags dynamic; size 4096; }}
add counter {table} too_many_open
add counter {table} too_many_begun
add counter {table} too_many_of_team
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

/// The commands that make a slot's connections count as this team's, of which there may be so many, and nobody else's.
/// All connections of a team are in one element, whose key is what all cables have in common.
#[must_use]
pub fn render_member(slot: SlotIndex, team: Option<&TeamId>, most: u32) -> String {
    let (table, cable, number) = (table(slot.block()), slot.link_name(), slot.index());
    let mut text = format!("add chain {table} m{number}\nflush chain {table} m{number}\n");
    if let Some(team) = team {
        let team = team.as_str().replace('-', "");
        text += &format!(
            r#"add set {table} t{team}n{most} {{ type iface_type; flags dynamic; size 2; }}
add chain {table} t{team}
flush chain {table} t{team}
add rule {table} t{team} add @t{team}n{most} {{ meta iiftype ct count over {most} }} counter name too_many_of_team goto refuse
add rule {table} m{number} jump t{team}
"#
        );
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
        let bounded = ConnectionLimits {
            per_team: Some(100),
            ..ConnectionLimits::default()
        };
        insta::assert_snapshot!(
            render(block, ConnectionLimits::default(), true) + &render_removal(block)
        );
        insta::assert_snapshot!(
            render(block, bounded, true)
                + &render_member(slot, Some(&team), 100)
                + &render_member(slot, None, 100)
        );
    }
}
