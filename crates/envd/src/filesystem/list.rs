//! A directory's entries, to a depth.

use std::fs;
use std::io;
use std::path::Path;

use soulbox_envd_proto::filesystem::EntryInfo;

use super::entry::entry;
use crate::path::join;
use crate::user::Names;

/// More would not fit into one answer that clients can take.
pub(crate) const ENTRIES_MAX: usize = 200_000;

/// Why a directory cannot be listed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListError {
    #[error("path not found: {0}")]
    NotFound(String),
    #[error("path is not a directory: {0}")]
    NotDirectory(String),
    #[error("too many levels of symbolic links: {0}")]
    Loop(String),
    #[error("directory has more than {ENTRIES_MAX} entries: {0}")]
    TooMany(String),
    #[error("error reading directory: {0}")]
    Read(#[from] io::Error),
}

/// Entries depth first, each directory in the order of its names' bytes. Links to directories are not entered.
/// Paths are shown below `requested`, whatever links it leads through.
pub(crate) fn list(requested: &str, depth: u32) -> Result<Vec<EntryInfo>, ListError> {
    let root = fs::canonicalize(requested).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ListError::NotFound(requested.to_owned()),
        io::ErrorKind::NotADirectory => ListError::NotDirectory(requested.to_owned()),
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            ListError::Loop(requested.to_owned())
        }
        _ => ListError::Read(error),
    })?;
    if !fs::metadata(&root)?.is_dir() {
        return Err(ListError::NotDirectory(requested.to_owned()));
    }
    let mut walk = Walk {
        names: Names::load(),
        entries: Vec::new(),
        requested,
    };
    walk.directory(&root, requested, depth.max(1))?;
    Ok(walk.entries)
}

struct Walk<'a> {
    names: Names,
    entries: Vec<EntryInfo>,
    requested: &'a str,
}

impl Walk<'_> {
    fn directory(&mut self, real: &Path, shown: &str, depth: u32) -> Result<(), ListError> {
        let mut children: Vec<fs::DirEntry> = fs::read_dir(real)?.collect::<io::Result<_>>()?;
        children.sort_by_key(fs::DirEntry::file_name);
        for child in children {
            let real = child.path();
            let shown = join(shown, &child.file_name().to_string_lossy());
            // Gone since the directory was read.
            let Ok(mut info) = entry(&real.to_string_lossy(), &self.names) else {
                continue;
            };
            info.path.clone_from(&shown);
            if self.entries.len() >= ENTRIES_MAX {
                return Err(ListError::TooMany(self.requested.to_owned()));
            }
            self.entries.push(info);
            if depth > 1 && child.file_type().is_ok_and(|kind| kind.is_dir()) {
                match self.directory(&real, &shown, depth - 1) {
                    Err(ListError::Read(_)) | Ok(()) => {}
                    other => return other,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn depth_first_in_byte_order_without_following_links() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for directory in ["b", "B", "b/z", "b/z/deep"] {
            fs::create_dir(at(directory)).unwrap();
        }
        fs::write(at("a"), "1").unwrap();
        symlink(at("b"), at("link")).unwrap();
        symlink(root.path(), at("b/self")).unwrap();
        let through = at("through");
        symlink(root.path(), &through).unwrap();
        let shown = through.to_str().unwrap();
        let paths = |depth| {
            let entries = list(shown, depth).unwrap();
            entries
                .into_iter()
                .map(|e| e.path[shown.len()..].to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(paths(0), ["/B", "/a", "/b", "/link", "/through"]);
        assert_eq!(
            paths(2),
            ["/B", "/a", "/b", "/b/self", "/b/z", "/link", "/through"]
        );
        assert!(paths(9).contains(&"/b/z/deep".to_owned()));
        assert!(matches!(
            list(at("a").to_str().unwrap(), 1),
            Err(ListError::NotDirectory(_))
        ));
        assert!(matches!(
            list(at("none").to_str().unwrap(), 1),
            Err(ListError::NotFound(_))
        ));
        symlink(at("loop"), at("loop")).unwrap();
        assert!(matches!(
            list(at("loop").to_str().unwrap(), 1),
            Err(ListError::Loop(_))
        ));
    }
}
