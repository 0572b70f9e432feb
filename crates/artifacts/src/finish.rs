//! The last look at a built tree: what sandboxes need is there, what they get from elsewhere is empty.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::ArtifactError;
use crate::tree;

/// Mount points: present, and empty so that nothing shines through before a mount or lies hidden under it.
const MOUNT_POINTS: [&std::ffi::CStr; 5] = [c"proc", c"sys", c"dev", c"run", c"tmp"];
/// Files that are bound over per sandbox: a link in their place would let the bind land elsewhere.
const BOUND_FILES: [&str; 3] = ["etc/resolv.conf", "etc/hosts", "etc/hostname"];
const EMPTY_FILES: [&str; 3] = ["etc/resolv.conf", "etc/hosts", "etc/machine-id"];
/// What the SDKs run, or promise.
const PROGRAMS: [&str; 8] = [
    "bin/sh",
    "bin/bash",
    "usr/bin/python3",
    "usr/bin/python",
    "usr/bin/node",
    "usr/bin/git",
    "usr/bin/sudo",
    "usr/bin/curl",
];

/// Empties the mount points and checks the rest.
pub(crate) fn finish(root: &Path) -> Result<(), ArtifactError> {
    for name in MOUNT_POINTS {
        tree::empty_dir(root, name)?;
    }
    check(root)
}

fn check(root: &Path) -> Result<(), ArtifactError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(root, flags, Mode::empty())
        .map_err(|e| ArtifactError::io("open", root, e))?;
    for what in BOUND_FILES {
        let stat = rustix::fs::statat(&dir, what, AtFlags::SYMLINK_NOFOLLOW).ok();
        let is_file =
            stat.is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile);
        is_file
            .then_some(())
            .ok_or(ArtifactError::Incomplete { what })?;
    }
    for what in EMPTY_FILES {
        let stat = rustix::fs::fstat(open_inside(&dir, what)?)
            .map_err(|e| ArtifactError::io("stat", root.join(what), e))?;
        (stat.st_size == 0)
            .then_some(())
            .ok_or(ArtifactError::Incomplete { what })?;
    }
    for what in PROGRAMS {
        let stat = rustix::fs::fstat(open_inside(&dir, what)?)
            .map_err(|e| ArtifactError::io("stat", root.join(what), e))?;
        (stat.st_mode & 0o111 != 0)
            .then_some(())
            .ok_or(ArtifactError::Incomplete { what })?;
    }
    let passwd = read_inside(&dir, root, "etc/passwd")?;
    has_user(&passwd)
        .then_some(())
        .ok_or(ArtifactError::Incomplete {
            what: "account `user` with uid 1000",
        })
}

/// Installed packages as `name=version`, sorted.
pub(crate) fn packages(root: &Path) -> Result<Vec<String>, ArtifactError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(root, flags, Mode::empty())
        .map_err(|e| ArtifactError::io("open", root, e))?;
    Ok(parse_dpkg_status(&read_inside(
        &dir,
        root,
        "var/lib/dpkg/status",
    )?))
}

/// Opens a path with every link resolved inside the tree.
fn open_inside(dir: &OwnedFd, what: &'static str) -> Result<OwnedFd, ArtifactError> {
    let opened = rustix::fs::openat2(
        dir,
        what,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    );
    opened.map_err(|e| match e {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => ArtifactError::Incomplete { what },
        e => ArtifactError::io("open", what, e),
    })
}

fn read_inside(dir: &OwnedFd, root: &Path, what: &'static str) -> Result<String, ArtifactError> {
    let mut text = String::new();
    let read = File::from(open_inside(dir, what)?).read_to_string(&mut text);
    read.map_err(|e| ArtifactError::io("read", root.join(what), e))?;
    Ok(text)
}

fn has_user(passwd: &str) -> bool {
    passwd.lines().any(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        matches!(
            fields[..],
            ["user", _, "1000", "1000", _, "/home/user", "/bin/bash"]
        )
    })
}

fn parse_dpkg_status(status: &str) -> Vec<String> {
    let package = |stanza: &str| {
        let field = |name: &str| {
            stanza
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let installed = field("Status")?.ends_with(" installed");
        installed.then_some(())?;
        Some(format!("{}={}", field("Package")?, field("Version")?))
    };
    let mut packages: Vec<String> = status.split("\n\n").filter_map(package).collect();
    packages.sort();
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpkg_status() {
        let status = "Package: zlib\nStatus: install ok installed\nVersion: 1:2\n\n\
            Package: gone\nStatus: deinstall ok config-files\nVersion: 3\n\n\
            Package: apt\nStatus: install ok installed\nDescription: x\n Package: no\nVersion: 2.6\n\n";
        assert_eq!(parse_dpkg_status(status), ["apt=2.6", "zlib=1:2"]);
    }

    #[test]
    fn the_account() {
        assert!(has_user(
            "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1000::/home/user:/bin/bash\n"
        ));
        assert!(!has_user("user:x:1001:1000::/home/user:/bin/bash\n"));
        assert!(!has_user(""));
    }
}
