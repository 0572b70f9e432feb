//! One of the trees that lie on each other, and what overlayfs shows of all of them under one name.

use std::ffi::{CStr, CString};
use std::path::Path;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;
use soulbox_types::slot::UIDS_PER_SLOT;

use crate::error::ArtifactError;
use crate::tree::Dir;

/// Marks a directory that shows nothing of what is below it.
pub(super) const OPAQUE: &CStr = c"trusted.overlay.opaque";
/// Marks a directory in which there may be whiteouts. Without it, and without a directory below, the kernel shows their
/// names to who reads the directory. Its value, here none, says where the directory was copied from.
pub(super) const MERGED: &CStr = c"trusted.overlay.origin";
/// Marks a directory that was moved, and says from where.
const REDIRECT: &CStr = c"trusted.overlay.redirect";

/// A directory of one tree.
pub(super) struct Source {
    pub(super) dir: Dir,
    /// Of a sandbox: its files are copied. Those of layers are linked.
    pub(super) own: bool,
    /// Where in the layers below a sandbox's directory goes on; nowhere when it is new.
    pub(super) origin: Option<Vec<CString>>,
    /// Whether that is another place than its own.
    pub(super) moved: bool,
    opaque: bool,
}

impl Source {
    /// The root of a sandbox's own files.
    pub(super) fn own(dir: Dir) -> Self {
        Self {
            dir,
            own: true,
            origin: Some(Vec::new()),
            moved: false,
            opaque: false,
        }
    }

    /// The root of a layer.
    pub(super) fn layer(path: &Path) -> Result<Self, ArtifactError> {
        let root = Self::own(Dir::open_root(path)?);
        Ok(Self { own: false, ..root })
    }

    fn child(&self, name: &CStr) -> Result<Self, ArtifactError> {
        let dir = self.dir.child(name)?;
        let opaque = attribute(&dir, OPAQUE)?.is_some_and(|value| value == b"y");
        let redirect = attribute(&dir, REDIRECT)?;
        if redirect.is_some() && !self.own {
            return Err(ArtifactError::Tree {
                path: dir.shown,
                what: "refers to another layer",
            });
        }
        let origin = match &redirect {
            Some(path) => Some(self.moved_from(path).ok_or_else(|| ArtifactError::Tree {
                path: dir.shown.clone(),
                what: "was moved from a place that is no path",
            })?),
            None => self.origin.clone().filter(|_| !opaque).map(|mut path| {
                path.push(name.to_owned());
                path
            }),
        };
        Ok(Self {
            dir,
            own: self.own,
            origin,
            moved: redirect.is_some(),
            opaque,
        })
    }

    /// A redirect is a path from the root, or a name beside this one.
    fn moved_from(&self, redirect: &[u8]) -> Option<Vec<CString>> {
        let (mut path, rest) = match redirect.strip_prefix(b"/") {
            Some(rest) => (Vec::new(), rest),
            None if redirect.contains(&b'/') => return None,
            None => (self.origin.clone()?, redirect),
        };
        for name in rest.split(|byte| *byte == b'/') {
            if matches!(name, b"" | b"." | b"..") {
                return None;
            }
            path.push(CString::new(name).ok()?);
        }
        Some(path)
    }
}

/// What is to be seen under one name.
pub(super) enum Seen<'a> {
    /// No tree has anything there.
    Nothing,
    /// Nothing, and whatever is below these trees is hidden.
    Hidden,
    /// Something that is no directory, and where it is.
    Entry(&'a Source, Stat),
    /// A directory, of these parts. When it is closed, nothing below these trees is part of it.
    Directory { stack: Vec<Source>, closed: bool },
}

/// Looks a name up in trees that lie on each other, topmost first.
pub(super) fn look_up<'a>(sources: &'a [Source], name: &CStr) -> Result<Seen<'a>, ArtifactError> {
    let (mut stack, mut closed) = (Vec::new(), false);
    for source in sources {
        let Some(stat) = source.dir.stat_if_there(name)? else {
            continue;
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let child = source.child(name)?;
                closed = child.opaque;
                stack.push(child);
            }
            _ if !stack.is_empty() => closed = true,
            // A whiteout. No other device can be in a layer: it hides what is below it and is left out.
            FileType::CharacterDevice | FileType::BlockDevice => return Ok(Seen::Hidden),
            _ => return Ok(Seen::Entry(source, stat)),
        }
        if closed {
            break;
        }
    }
    Ok(if stack.is_empty() {
        Seen::Nothing
    } else {
        Seen::Directory { stack, closed }
    })
}

fn attribute(dir: &Dir, name: &CStr) -> Result<Option<Vec<u8>>, ArtifactError> {
    let fail = |e: Errno| ArtifactError::io("read attributes of", &dir.shown, e);
    let mut value = Vec::new();
    match rustix::fs::fgetxattr_query(&dir.fd, name) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
        Ok(size) => value.resize(size, 0_u8),
        Err(e) => return Err(fail(e)),
    }
    let length = rustix::fs::fgetxattr(&dir.fd, name, &mut value[..]).map_err(fail)?;
    value.truncate(length);
    Ok(Some(value))
}

/// Bytes of a file capability that holds for every root (revision 2), and of one that names its root (revision 3).
const CAPABILITY: usize = 20;
const CAPABILITY_OF_ROOT: usize = 24;
const REVISION: u32 = 0xff00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;

/// A file capability as it would be in an image: one of the sandbox's root holds for every root, one of another user
/// inside names that user by its number inside. `first_id` is the host's number of the sandbox's root. What names
/// somebody else means nothing in any sandbox and is left out.
pub(super) fn capability(value: &[u8], first_id: u32) -> Option<Vec<u8>> {
    let number = |at: usize| {
        let bytes = value.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let magic = number(0)?;
    match (magic & REVISION, value.len()) {
        (REVISION_2, CAPABILITY) => Some(value.to_vec()),
        (REVISION_3, CAPABILITY_OF_ROOT) => {
            let root = number(CAPABILITY)?;
            // Seen from outside of the sandbox's mount, or through it.
            let inside = root.checked_sub(first_id).unwrap_or(root);
            if inside >= UIDS_PER_SLOT {
                return None;
            }
            let mut changed = value.to_vec();
            if inside == 0 {
                changed.truncate(CAPABILITY);
                let magic = magic & !REVISION | REVISION_2;
                changed[..4].copy_from_slice(&magic.to_le_bytes());
            } else {
                changed[CAPABILITY..].copy_from_slice(&inside.to_le_bytes());
            }
            Some(changed)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(revision: u32, root: Option<u32>) -> Vec<u8> {
        let mut value = (revision | 1).to_le_bytes().to_vec();
        value.extend([0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        value.extend(root.iter().flat_map(|root| root.to_le_bytes()));
        value
    }

    #[test]
    fn capabilities_come_out_as_in_an_image() {
        let first = 1_000_000;
        let plain = value(REVISION_2, None);
        let of = |root| capability(&value(REVISION_3, Some(root)), first);
        assert_eq!(capability(&plain, first), Some(plain.clone()));
        assert_eq!(of(first), Some(plain.clone()));
        assert_eq!(of(0), Some(plain.clone()));
        assert_eq!(of(first + 7), Some(value(REVISION_3, Some(7))));
        assert_eq!(of(first + UIDS_PER_SLOT), None);
        assert_eq!(capability(&plain[..19], first), None);
        assert_eq!(capability(&[], first), None);
    }
}
