//! What packets of sandboxes may do, as one nftables table per block.
//!
//! The text is a pure function of the block. The rules name interfaces by prefix and the block's network, never single
//! sandboxes: creating a sandbox changes nothing here.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use soulbox_types::egress::CLOSED_IPV4;
use soulbox_types::slot::Block;

/// The table of a block. Loading it twice is fine: the first two lines make the old one, if any, go away in the same
/// transaction.
#[must_use]
pub fn render(block: Block) -> String {
    let (table, network, gateway) = (block.prefix(), block.cidr(), block.gateway());
    let cables = format!("\"{table}v*\"");
    let closed = CLOSED_IPV4.join(", ");
    format!(
        "table inet {table} {{}}
delete table inet {table}
table inet {table} {{
    set closed {{ type ipv4_addr; flags interval; elements = {{ {closed} }} }}

    # From sandboxes to anywhere else.
    chain forward {{
        type filter hook forward priority filter - 10; policy accept;
        iifname {cables} jump from_sandbox
        oifname {cables} ct state established,related accept
        oifname {cables} drop
    }}
    chain from_sandbox {{
        meta nfproto ipv6 drop
        ip saddr != {network} drop
        oifname {cables} reject with icmp type admin-prohibited
        ip daddr @closed meta l4proto tcp reject with tcp reset
        ip daddr @closed reject with icmp type admin-prohibited
    }}

    # From sandboxes to this machine: its DNS forwarder and nothing else.
    chain input {{
        type filter hook input priority filter - 10; policy accept;
        iifname {cables} jump to_host
    }}
    chain to_host {{
        meta nfproto ipv6 drop
        ip saddr != {network} drop
        ip daddr {gateway} udp dport 53 accept
        ip daddr {gateway} tcp dport 53 accept
        ct state established,related accept
        meta l4proto tcp reject with tcp reset
        reject with icmp type admin-prohibited
    }}

    # From this machine to sandboxes: answers only. Their ports are reached through the edge.
    chain output {{
        type filter hook output priority filter - 10; policy accept;
        oifname {cables} ct state new meta l4proto tcp reject with tcp reset
        oifname {cables} ct state new drop
    }}

    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {network} oifname != {cables} masquerade
    }}
}}
"
    )
}

/// Loads the table of a block.
///
/// # Errors
/// When `nft` is missing or refuses; the text is its own.
pub fn apply(block: Block) -> io::Result<()> {
    nft(&render(block))
}

/// Removes the table of a block.
///
/// # Errors
/// When `nft` is missing or refuses.
pub fn remove(block: Block) -> io::Result<()> {
    let table = block.prefix();
    nft(&format!("table inet {table} {{}}\ndelete table inet {table}\n"))
}

fn nft(script: &str) -> io::Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("cannot run nft: {e}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("nft: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_table() {
        insta::assert_snapshot!(render(Block::new(1).unwrap()));
    }

    #[test]
    fn nft_accepts_the_table() {
        // In a network namespace of its own, made by a program of its own.
        let mut child = Command::new("unshare")
            .args(["--net", "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let twice = render(Block::new(1).unwrap()).repeat(2);
        child.stdin.take().unwrap().write_all(twice.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
