//! The `nft` that stays, in a network namespace of the test's own.
//!
//! Needs root, `nft` and `unshare`; without them it says so and is skipped.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test program")]

use std::process::{Command, Stdio};

use soulbox_net::firewall::{self, FirewallError};
use soulbox_net::nft::Nft;
use soulbox_net::policy;
use soulbox_types::slot::Block;
use soulbox_types::{Cidr, EgressPolicy, SlotIndex};

const INSIDE: &str = "SOULBOX_NFT_INSIDE";

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn chain(name: &str) -> String {
    output("nft", &["list", "chain", "inet", "sb1p", name])
}

fn children() -> String {
    output("pgrep", &["-x", "nft"])
}

fn denying(cidr: &str) -> EgressPolicy {
    EgressPolicy {
        deny: vec![Cidr::parse(cidr).unwrap()],
        ..EgressPolicy::default()
    }
}

/// Run again inside a namespace, this program does what the test is about.
#[test]
fn inside() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let block = Block::new(1).unwrap();
    let slot = SlotIndex::new(block, 5).unwrap();
    firewall::apply(&policy::render_base(block, false)).unwrap();
    let mut nft = Nft::default();
    nft.apply(&policy::render(slot, &denying("203.0.113.0/24"), true))
        .unwrap();
    assert!(chain("s5").contains("ip daddr 203.0.113.0/24 goto refuse"));
    let first = children();
    assert_ne!(first, "");

    // One transaction: nothing of a change that cannot be made.
    let half = policy::render_end(slot) + "add rule inet sb1p nowhere accept\n";
    let refused = nft.apply(&half).unwrap_err();
    assert!(
        matches!(&refused, FirewallError::Refused { message } if message.contains("nowhere")),
        "{refused:?}"
    );
    assert!(chain("s5").contains("203.0.113.0/24"));
    assert_eq!(children(), first, "it stays when a change is refused");

    for number in 0..1100_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        nft.apply(&policy::render(
            slot,
            &denying(&format!("9.9.{high}.{low}")),
            true,
        ))
        .unwrap();
    }
    assert!(chain("s5").contains("ip daddr 9.9.4.75 goto refuse"));
    assert!(!chain("s5").contains("9.9.4.74"));
    let second = children();
    assert_ne!(second, first, "it remembers what it was told");

    // More than its line editor is made for.
    let many = EgressPolicy {
        deny: (0..8000_u32)
            .map(|number| {
                let [_, _, high, low] = (number * 2).to_be_bytes();
                Cidr::parse(&format!("9.8.{high}.{low}")).unwrap()
            })
            .collect(),
        ..EgressPolicy::default()
    };
    nft.apply(&policy::render(slot, &many, true)).unwrap();
    assert!(chain("s5").contains("9.8.62.126"));

    assert!(
        Command::new("kill")
            .args(["-9", second.trim()])
            .status()
            .unwrap()
            .success()
    );
    nft.apply(&policy::render(slot, &denying("203.0.113.9"), true))
        .unwrap();
    assert!(chain("s5").contains("ip daddr 203.0.113.9 goto refuse"));
    nft.apply(&policy::render_end(slot)).unwrap();
    assert!(!chain("s5").contains("refuse"));
    drop(nft);
    assert_eq!(children(), "");
    println!("all of it");
}

#[test]
fn an_nft_that_stays() {
    let possible = "test \"$(id -u)\" = 0 && command -v nft && command -v pgrep && unshare --net --pid --fork --mount-proc true";
    let possible = Command::new("sh")
        .args(["-c", possible])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !possible.is_ok_and(|status| status.success()) {
        println!("SKIPPED: needs root, nft, pgrep and the right to make namespaces");
        return;
    }
    let done = Command::new("unshare")
        .args(["--net", "--pid", "--fork", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        said.contains("all of it"),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
}
