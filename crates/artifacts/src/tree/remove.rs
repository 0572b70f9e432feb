//! Removing trees that may have been half written by a killed build, or by hostile code.

use std::ffi::CStr;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, FileType};

use super::Dir;
use crate::error::ArtifactError;

/// Removes a tree; nothing there is fine. Stops at a mount point instead of deleting what is mounted.
pub(crate) fn remove(root: &Path) -> Result<(), ArtifactError> {
    match std::fs::symlink_metadata(root) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(ArtifactError::io("stat", root, e)),
        Ok(meta) if !meta.is_dir() => {
            return std::fs::remove_file(root).map_err(|e| ArtifactError::io("remove", root, e));
        }
        Ok(_) => {}
    }
    empty(&Dir::open_root(root)?)?;
    std::fs::remove_dir(root).map_err(|e| ArtifactError::io("remove", root, e))
}

/// Removes what is in a directory of a tree and keeps the directory. A link in its place is refused.
pub(crate) fn empty_dir(root: &Path, name: &CStr) -> Result<(), ArtifactError> {
    empty(&Dir::open_root(root)?.child(name)?)
}

fn empty(dir: &Dir) -> Result<(), ArtifactError> {
    for name in dir.names()? {
        let is_dir = FileType::from_raw_mode(dir.stat(&name)?.st_mode) == FileType::Directory;
        let flags = if is_dir {
            empty(&dir.child(&name)?)?;
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        rustix::fs::unlinkat(dir, &name, flags)
            .map_err(|e| ArtifactError::io("remove", dir.path_of(&name), e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_removed_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/kept"), b"x").unwrap();
        fs::create_dir_all(dir.path().join("tree/sub")).unwrap();
        symlink("../../outside", dir.path().join("tree/sub/link")).unwrap();
        symlink("../outside", dir.path().join("tree/dev")).unwrap();
        assert!(empty_dir(&dir.path().join("tree"), c"dev").is_err());
        remove(&dir.path().join("tree")).unwrap();
        assert!(!dir.path().join("tree").exists());
        assert!(dir.path().join("outside/kept").exists());
        remove(&dir.path().join("tree")).unwrap();
    }

    #[test]
    fn a_directory_can_be_emptied() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("run/x/y")).unwrap();
        fs::write(dir.path().join("run/x/y/z"), b"x").unwrap();
        empty_dir(dir.path(), c"run").unwrap();
        assert_eq!(fs::read_dir(dir.path().join("run")).unwrap().count(), 0);
    }
}
