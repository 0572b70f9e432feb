//! `soulbox purge`: takes away everything a server has put on this host.
//!
//! It takes the server's place, adopts its sandboxes like the next server would, and ends them.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use soulbox_driver::Driver as _;
use soulbox_driver_linux::{Backing, BackingChoice, DiskSettings};
use soulbox_net::ipv6::Ipv6;
use soulbox_net::limits::ConnectionLimits;

use crate::args::PurgeArgs;
use crate::embed::PROGRAMS;
use crate::failure::Failure;
use crate::output::Output;
use crate::serve::Claim;

/// Nothing is created here, so nothing has to be able to be: a host may have lost what it made disks with.
const NO_NEW_DISKS: DiskSettings = DiskSettings {
    backing: BackingChoice::Only(Backing::None),
    usual_mib: 0,
    reserve_mib: 0,
};

#[derive(Serialize)]
struct Purged {
    data_dir: PathBuf,
    killed: usize,
    data_removed: bool,
}

pub(crate) async fn run(data_dir: PathBuf, args: PurgeArgs, output: Output) -> Result<(), Failure> {
    if !data_dir.is_dir() {
        return Err(
            Failure::user(format!("there is no data directory {}", data_dir.display()))
                .fix("name it with --data-dir"),
        );
    }
    confirm(&data_dir, &args)?;
    let killed = end_everything(&data_dir).await.map_err(Failure::from_any)?;
    if args.data {
        std::fs::remove_dir_all(&data_dir).map_err(|error| {
            Failure::user(format!("cannot remove {}", data_dir.display())).because(error)
        })?;
    }
    let purged = Purged {
        data_dir,
        killed,
        data_removed: args.data,
    };
    output.show(&purged, |purged| {
        let data = if purged.data_removed {
            "removed"
        } else {
            "kept"
        };
        format!(
            "killed {} sandboxes; data in {} {data}",
            purged.killed,
            purged.data_dir.display()
        )
    })
}

async fn end_everything(data_dir: &Path) -> anyhow::Result<usize> {
    let claim = Claim::take(data_dir, ConnectionLimits::default(), Ipv6::Off).await?;
    let driver = claim.driver(0, NO_NEW_DISKS, PROGRAMS)?;
    let guests = driver.adopt().await?;
    for guest in &guests {
        guest.kill().await?;
    }
    driver.shutdown().await;
    claim.release()?;
    Ok(guests.len())
}

fn confirm(data_dir: &Path, args: &PurgeArgs) -> Result<(), Failure> {
    if args.yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(
            Failure::usage("purge kills every sandbox of the server").fix("say so with --yes")
        );
    }
    let data = if args.data {
        " and delete its data"
    } else {
        ""
    };
    let asked = write!(
        io::stderr(),
        "Kill every sandbox of {}{data}? [y/N] ",
        data_dir.display()
    );
    let mut answer = String::new();
    let answered = asked.and_then(|()| io::stdin().read_line(&mut answer));
    match answered {
        Ok(_) if answer.trim().eq_ignore_ascii_case("y") => Ok(()),
        _ => Err(Failure::user("nothing was purged")),
    }
}
