//! A limit for a directory tree, kept by the file system of the data directory: project quota of ext4 and XFS.
//!
//! Each sandbox is a project. Its number is the first user id of its slot, which no other sandbox of this machine has.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, fstatfs, open};
use soulbox_linux::filesystem;
use soulbox_types::SlotIndex;

/// The project of the scratch directory: below those of sandboxes.
const SCRATCH_PROJECT: u32 = soulbox_types::slot::FIRST_UID - 1;
const SCRATCH_BYTES: u64 = 16 << 20;
const SCRATCH_INODES: u64 = 1024;

/// The project of a slot.
pub(crate) fn project(slot: SlotIndex) -> u32 {
    slot.uid_base()
}

/// Puts an empty directory under limits.
pub(crate) fn limit(directory: impl AsFd, project: u32, bytes: u64, inodes: u64) -> io::Result<()> {
    filesystem::set_project(&directory, project)?;
    filesystem::set_project_limits(directory, project, bytes, inodes)
}

/// Forgets the limits of a project that has no files any more.
pub(crate) fn lift(on: impl AsFd, project: u32) -> io::Result<()> {
    filesystem::set_project_limits(on, project, 0, 0)
}

/// Whether the file system of this directory can do it: limits a scratch directory and looks at it. File systems show
/// the limit only where they also enforce it.
pub(crate) fn try_in(directory: &Path) -> io::Result<()> {
    let scratch = directory.join(format!("quota-probe-{}", std::process::id()));
    DirBuilder::new().mode(0o700).create(&scratch)?;
    let tried = try_on(&scratch);
    fs::remove_dir(&scratch)?;
    tried
}

fn try_on(scratch: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let scratch = open(scratch, flags, Mode::empty())?;
    limit(&scratch, SCRATCH_PROJECT, SCRATCH_BYTES, SCRATCH_INODES)?;
    let shown = fstatfs(&scratch);
    lift(&scratch, SCRATCH_PROJECT)?;
    let shown = shown?;
    let bytes = shown.f_blocks * u64::try_from(shown.f_bsize).unwrap_or_default();
    if bytes == SCRATCH_BYTES && shown.f_files == SCRATCH_INODES {
        Ok(())
    } else {
        Err(io::Error::other(
            "project quotas are counted but not enforced",
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use soulbox_types::slot::{BLOCKS, Block, SLOTS_PER_BLOCK};

    use super::*;

    #[test]
    fn every_slot_is_a_project_of_its_own() {
        let mut seen = HashSet::from([0, SCRATCH_PROJECT]);
        for block in 0..BLOCKS {
            for index in 0..SLOTS_PER_BLOCK {
                let slot = SlotIndex::new(Block::new(block).unwrap(), index).unwrap();
                assert!(seen.insert(project(slot)), "{slot:?}");
            }
        }
    }
}
