//! Listing a directory of a volume, which sandboxes may fill without end.

use std::io;

use rustix::fs::{AtFlags, Dir, FileType, OFlags, readlinkat, statat};
use soulbox_driver::VolumeError;
use soulbox_driver::volumes::{EntryKind, VolumeEntry};

use super::content::{Tree, checked, described, refused};
use super::resolve;

/// Entries of one answer, and bytes of their names.
const MOST_ENTRIES: usize = 20_000;
const MOST_BYTES: usize = 4 << 20;

impl Tree {
    pub(super) fn list(&self, path: &str, depth: u32) -> Result<Vec<VolumeEntry>, VolumeError> {
        let path = checked(path)?;
        if depth == 0 {
            return Err(VolumeError::Invalid("depth must be at least 1".to_owned()));
        }
        let mut listing = Listing::default();
        // Links are followed to the directory itself, and to nothing below.
        let top = resolve::directory(&self.data, &path).and_then(resolve::readable);
        let top = top.map_err(refused(&path, "list a directory"))?;
        listing.read(&top, &path, depth)?;
        while let Some((below, left)) = listing.waiting.pop() {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let found = match below.strip_prefix(path.as_str()) {
                Some(relative) => resolve::at(&top, relative.trim_start_matches('/'), flags),
                None => continue,
            };
            // What a sandbox takes away meanwhile is not there.
            if let Ok(found) = found.and_then(resolve::readable) {
                listing.read(&found, &below, left)?;
            }
        }
        let mut found = listing.found;
        found.sort_by(|one, other| one.path.split('/').cmp(other.path.split('/')));
        Ok(found)
    }
}

#[derive(Default)]
struct Listing {
    found: Vec<VolumeEntry>,
    bytes: usize,
    /// Directories that are still to be read, and how many levels of them.
    waiting: Vec<(String, u32)>,
}

impl Listing {
    fn read(
        &mut self,
        directory: &std::os::fd::OwnedFd,
        path: &str,
        depth: u32,
    ) -> Result<(), VolumeError> {
        let failed =
            |error: rustix::io::Errno| refused(path, "list a directory")(io::Error::from(error));
        let mut reader = Dir::read_from(directory).map_err(failed)?;
        while let Some(next) = reader.read() {
            let next = next.map_err(failed)?;
            let name = next.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let Ok(stat) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let kind = match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => EntryKind::File,
                FileType::Directory => EntryKind::Directory,
                FileType::Symlink => match readlinkat(directory, name, Vec::new()) {
                    Ok(target) => EntryKind::Link(target.to_string_lossy().into_owned()),
                    Err(_) => continue,
                },
                _ => EntryKind::Other,
            };
            let name = name.to_string_lossy();
            let below = if path.is_empty() {
                name.into_owned()
            } else {
                format!("{path}/{name}")
            };
            if kind == EntryKind::Directory && depth > 1 {
                self.waiting.push((below.clone(), depth - 1));
            }
            self.add(described(&stat, kind, &below))?;
        }
        Ok(())
    }

    fn add(&mut self, entry: VolumeEntry) -> Result<(), VolumeError> {
        self.bytes += entry.path.len();
        if let EntryKind::Link(target) = &entry.kind {
            self.bytes += target.len();
        }
        if self.found.len() >= MOST_ENTRIES || self.bytes > MOST_BYTES {
            return Err(VolumeError::Invalid(format!(
                "there are more than {MOST_ENTRIES} entries\nFIX: list a directory below, or with a smaller depth"
            )));
        }
        self.found.push(entry);
        Ok(())
    }
}
