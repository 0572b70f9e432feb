//! Lets a process without rights reach one directory, wherever it lies.
//!
//! A data directory may lie below one that only root may enter, such as a home directory. The server then gets a mount
//! namespace in which an empty directory stands in the place of the closed one, with nothing in it but the way to the
//! data directory. Every path stays what it was.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use soulbox_linux::{mount, namespace};

/// Makes `data_dir` reachable for this process once it has no privileges any more.
pub(super) fn make_reachable(data_dir: &Path) -> anyhow::Result<()> {
    let mut closed = None;
    for ancestor in data_dir.ancestors().skip(1) {
        let mode = fs::metadata(ancestor)?.permissions().mode();
        if !lets_others_through(mode) {
            closed = Some(ancestor);
        }
    }
    let Some(closed) = closed else { return Ok(()) };
    cover(closed, data_dir).with_context(|| {
        format!(
            "cannot let the server reach {}\nFIX: put the data directory where others may pass, such as /var/lib/soulbox",
            data_dir.display()
        )
    })
}

/// Whether a directory of this mode can be passed by whoever owns nothing of it.
fn lets_others_through(mode: u32) -> bool {
    mode & 0o001 != 0
}

fn cover(closed: &Path, data_dir: &Path) -> io::Result<()> {
    namespace::unshare(rustix::thread::UnshareFlags::NEWNS)?;
    // An operator can unmount a disk while a server runs: a private copy of it would keep it busy.
    mount::make_all_followers()?;
    let data = mount::detached_copy(data_dir)?;
    let empty = mount::new_filesystem(
        "tmpfs",
        &[("mode", "0711"), ("size", "64k")],
        mount::Attributes {
            read_only: false,
            no_suid: true,
            no_dev: true,
            no_exec: true,
        },
    )?;
    mount::attach(&empty, closed)?;
    make_way(closed, data_dir)?;
    mount::attach(&data, data_dir)
}

/// Makes the directories between the two, for everybody to pass.
fn make_way(closed: &Path, data_dir: &Path) -> io::Result<()> {
    let mut way: Vec<PathBuf> = data_dir
        .ancestors()
        .take_while(|ancestor| *ancestor != closed)
        .map(Path::to_owned)
        .collect();
    way.reverse();
    for directory in way {
        fs::create_dir(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o711))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_pass() {
        for (mode, passes) in [
            (0o755, true),
            (0o711, true),
            (0o1777, true),
            (0o700, false),
            (0o750, false),
        ] {
            assert_eq!(lets_others_through(mode), passes, "{mode:o}");
        }
    }

    #[test]
    fn the_way_is_made_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/b/data");
        make_way(dir.path(), &data).unwrap();
        assert!(data.is_dir());
        let mode = fs::metadata(dir.path().join("a"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o711);
        assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
    }
}
