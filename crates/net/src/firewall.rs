//! The packet filter of one block: what its sandboxes may reach, as the text of one nftables table.
//!
//! Text, because `nft -f` replaces a table in one transaction: there is no moment without rules. The table is ours
//! alone, so it can be replaced and removed without looking at anybody else's. What must stay true: a sandbox
//! reaches the internet and DNS on its gateway, nothing else of the host, no private range, no other sandbox; nobody
//! reaches a sandbox by its address.

use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use soulbox_types::ErrorKind;
use soulbox_types::egress::CLOSED_IPV4;
use soulbox_types::slot::Block;

use crate::policy::{self, OWN_NAMES_PORT, PROXY_PORTS};
use crate::told::{self, Refusal};
use crate::{ipv6, limits};

pub(crate) const NFT_LIMIT: Duration = Duration::from_secs(10);
/// What this machine says to itself. First in its chain: every packet of the host comes past, the edge's among them, and to
/// compare a number costs a fraction of comparing a name.
pub(crate) const OWN_ARRIVING: &str = "iif lo accept";
const OWN_LEAVING: &str = "oif lo accept";

/// The rules could not be put in place or removed.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The program is not there or cannot be run.
    #[error("cannot run nft\nFIX: install the package nftables, and run the server as root")]
    Run(#[source] io::Error),
    /// It says no.
    #[error("nft refused the rules: {}\nFIX: check that the kernel has nf_tables (modprobe nf_tables nft_masq nft_reject_inet)", message.trim())]
    Refused {
        /// What it printed.
        message: String,
    },
    /// It does not come to an end.
    #[error("nft did not finish within {} s", NFT_LIMIT.as_secs())]
    Timeout,
}

impl FirewallError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Run(_) | Self::Refused { .. } => ErrorKind::Unavailable,
            Self::Timeout => ErrorKind::Timeout,
        }
    }
}

/// The commands that put the block's table in place, whatever was there before. With `host_dns`, port 53 on the
/// gateway's address is open to sandboxes. Whether it `tells` what is refused: see [`crate::told`].
#[must_use]
pub fn render(block: Block, host_dns: bool, tells: bool) -> String {
    let (table, cidr, gateway) = (block.prefix(), block.cidr(), block.gateway());
    let cables = format!("\"{table}v*\"");
    let ours = format!("\"{table}*\"");
    let closed = CLOSED_IPV4.join(", ");
    let [http, tls] = PROXY_PORTS;
    let led = ipv6::led_to_server(block);
    let tell = told::rule(&format!("inet {table}"), block, Refusal::Closed, tells);
    let dns = if host_dns {
        format!(
            "\n    iifname {cables} ip daddr {gateway} udp dport 53 accept\
             \n    iifname {cables} ip daddr {gateway} tcp dport 53 accept"
        )
    } else {
        String::new()
    };
    format!(
        r"table inet {table}
delete table inet {table}
table inet {table} {{
  set closed {{
    type ipv4_addr
    flags interval
    elements = {{ {closed} }}
  }}

  # IPv6 goes no further, unless another table takes charge of it.
  chain ipv6 {{
    drop
  }}

  # Before connection tracking: what bears a false source leaves no trace.
  chain anti_spoof {{
    type filter hook prerouting priority raw; policy accept;
    {OWN_ARRIVING}
    iifname {cables} meta nfproto ipv6 jump ipv6
    iifname {cables} ip saddr != {cidr} drop
  }}

  # Told, when somebody hears it, and answered: a reset is what programs understand.
  chain refuse {{
  }}

  # From a sandbox to this machine: DNS, connections that are led to the server, and nothing else.
  chain input {{
    type filter hook input priority filter - 5; policy accept;
    {OWN_ARRIVING}{dns}
    iifname {cables} ct status dnat ip daddr {gateway} tcp dport {{ {http}, {tls}, {OWN_NAMES_PORT} }} accept
    {led}
    iifname {cables} goto refuse
  }}

  # From this machine to a sandbox: answers only. Ports are dialled from inside.
  chain output {{
    type filter hook output priority filter - 5; policy accept;
    {OWN_LEAVING}
    oifname {cables} ct state established,related accept
    oifname {cables} meta l4proto tcp reject with tcp reset
    oifname {cables} drop
  }}

  chain forward {{
    type filter hook forward priority filter - 5; policy accept;
    iifname {cables} jump from_sandbox
    oifname {cables} ct state established,related accept
    oifname {cables} drop
  }}

  chain from_sandbox {{
    ct state invalid drop
    ip daddr @closed goto refuse
    oifname {ours} drop
  }}

  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {cidr} oifname != {ours} masquerade
  }}
}}
{tell}add rule inet {table} refuse meta l4proto tcp reject with tcp reset
add rule inet {table} refuse reject with icmp type admin-prohibited
"
    )
}

/// The commands that lead connections to this port of the gateway to the server, who knows names below its domain to be
/// there. They add to the block's table.
#[must_use]
pub fn render_own_names(block: Block, port: u16) -> String {
    let (table, gateway) = (block.prefix(), block.gateway());
    format!(
        "add chain inet {table} own_names {{ type nat hook prerouting priority dstnat - 1; policy accept; }}\n\
         add rule inet {table} own_names iifname \"{table}v*\" ip daddr {gateway} tcp dport {port} dnat ip to {gateway}:{OWN_NAMES_PORT}\n"
    )
}

/// The commands that remove the block's table, whether it is there or not.
#[must_use]
pub fn render_removal(block: Block) -> String {
    let table = block.prefix();
    format!("table inet {table}\ndelete table inet {table}\n")
}

/// Gives commands to an `nft` of their own. Blocks for some ten milliseconds: see [`crate::nft`].
///
/// # Errors
/// When `nft` cannot be run or refuses.
pub fn apply(text: &str) -> Result<(), FirewallError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(FirewallError::Run)?;
    let written = child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    let status = wait(&mut child)?;
    let mut message = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr
            .read_to_string(&mut message)
            .map_err(FirewallError::Run)?;
    }
    if !status {
        return Err(FirewallError::Refused { message });
    }
    written.map_err(FirewallError::Run)
}

fn wait(child: &mut Child) -> Result<bool, FirewallError> {
    let deadline = Instant::now() + NFT_LIMIT;
    loop {
        if let Some(status) = child.try_wait().map_err(FirewallError::Run)? {
            return Ok(status.success());
        }
        if Instant::now() > deadline {
            child
                .kill()
                .and_then(|()| child.wait())
                .map_err(FirewallError::Run)?;
            return Err(FirewallError::Timeout);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Removes the block's rules: those of IPv6, policies and limits included.
///
/// # Errors
/// When `nft` cannot be run or refuses.
pub fn remove(block: Block) -> Result<(), FirewallError> {
    let tables = [
        render_removal(block),
        ipv6::render_removal(block),
        policy::render_removal(block),
        limits::render_removal(block),
    ];
    apply(&tables.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_table() {
        insta::assert_snapshot!(render(Block::new(1).unwrap(), true, true));
        assert!(!render(Block::new(1).unwrap(), false, false).contains("dport 53"));
        assert!(!render(Block::new(1).unwrap(), true, false).contains("log"));
        insta::assert_snapshot!(render_own_names(Block::new(1).unwrap(), 443), @r#"
        add chain inet sb1 own_names { type nat hook prerouting priority dstnat - 1; policy accept; }
        add rule inet sb1 own_names iifname "sb1v*" ip daddr 198.18.16.1 tcp dport 443 dnat ip to 198.18.16.1:20444
        "#);
    }
}
