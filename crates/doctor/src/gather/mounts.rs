//! Trying, on the data directory itself, what every launch does: a lower layer with mapped ids under an overlay.
//!
//! Whether a file system can do this is known only to its driver, so asking is the only way. The mounts are made in a
//! mount namespace of a thread that ends with the probe, and go with it.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::thread::UnshareFlags;
use soulbox_linux::mount::{self, Attributes};
use soulbox_linux::namespace;

use crate::facts::Probe;

/// Tries an id-mapped mount, and an overlay on it.
pub(super) fn probe(data_dir: &Path) -> (Probe, Probe) {
    let outcome = tempfile::Builder::new()
        .prefix(".soulbox-doctor-")
        .tempdir_in(data_dir)
        .map(|dir| {
            let path = dir.path().to_path_buf();
            std::thread::spawn(move || try_mounts(&path))
                .join()
                .unwrap_or_else(|_| both("the probe failed"))
        });
    outcome.unwrap_or_else(|error| both(&format!("{}: {error}", data_dir.display())))
}

fn both(reason: &str) -> (Probe, Probe) {
    (Err(reason.into()), Err(reason.into()))
}

fn try_mounts(dir: &Path) -> (Probe, Probe) {
    let at = |name: &str| dir.join(name);
    let idmapped = || -> io::Result<()> {
        for name in ["lower", "mapped", "upper", "work"] {
            fs::create_dir(at(name))?;
        }
        namespace::unshare(UnshareFlags::NEWNS)?;
        mount::make_all_private()?;
        let lower = mount::detached_copy(&at("lower"))?;
        mount::set_attributes(
            &lower,
            Attributes::default(),
            Some(&mapped_user_namespace()?),
        )?;
        mount::attach(&lower, &at("mapped"))
    };
    if let Err(error) = idmapped() {
        return (Err(error.to_string()), Err("needs id-mapped mounts".into()));
    }
    let [lower, upper, work] =
        ["mapped", "upper", "work"].map(|name| at(name).display().to_string());
    let options = [
        ("lowerdir", lower.as_str()),
        ("upperdir", &upper),
        ("workdir", &work),
    ];
    let overlay = mount::new_filesystem("overlay", &options, Attributes::default());
    (
        Ok(()),
        overlay.map(|_| ()).map_err(|error| error.to_string()),
    )
}

/// A user namespace with 65,536 ids, held by a program of its own: this process may have threads and must not fork.
fn mapped_user_namespace() -> io::Result<OwnedFd> {
    let mut holder = Command::new("unshare")
        .args(["--user", "--", "/bin/sh", "-c", "echo made; read line"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let namespace = map_and_open(&mut holder);
    // It ends at the end of its standard input, too; these fail only when it is gone already.
    holder.kill().ok();
    holder.wait().ok();
    namespace
}

fn map_and_open(holder: &mut Child) -> io::Result<OwnedFd> {
    let mut line = String::new();
    if let Some(output) = holder.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    if line.trim() != "made" {
        return Err(io::Error::other("a user namespace could not be made"));
    }
    let pid = holder.id();
    for kind in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{kind}"), "0 1000000 65536\n")?;
    }
    namespace::open(Path::new(&format!("/proc/{pid}/ns/user")))
}
