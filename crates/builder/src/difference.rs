//! What is in a build, and what differs between two. Pure.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// By full path.
    pub files: BTreeMap<String, FileFacts>,
    /// Versions of installed packages.
    pub packages: BTreeMap<(Ecosystem, String), String>,
}

/// One file, directory, link or anything else that has a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// What it is.
    pub kind: FileKind,
    /// Bytes of a regular file; 0 of anything else, where sizes say nothing.
    pub size_bytes: u64,
    /// Permissions with the bits above them, such as `0o4755`.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Where a symbolic link leads.
    pub target: Option<String>,
    /// SHA-256 of the content of a regular file that is not too large to be read.
    pub sha256: Option<[u8; 32]>,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a pipe or a socket.
    Other,
}

/// Who knows a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ecosystem {
    /// `dpkg`.
    Debian,
    /// The system's Python.
    Python,
    /// Globally installed packages of `npm`.
    Npm,
}

/// What differs between two builds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// By ecosystem and name.
    pub packages: Vec<PackageChange>,
    /// Largest first, then by path.
    pub files: Vec<FileChange>,
    /// Bytes of all files of the first build.
    pub bytes_before: u64,
    /// Bytes of all files of the second.
    pub bytes_after: u64,
}

/// A package that is new, gone or of another version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageChange {
    /// Who knows it.
    pub ecosystem: Ecosystem,
    /// Its name.
    pub name: String,
    /// Its version in the first build.
    pub before: Option<String>,
    /// Its version in the second.
    pub after: Option<String>,
}

/// A path that is new, gone or something else. One of the two sides is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChange {
    /// The path.
    pub path: String,
    /// In the first build.
    pub before: Option<FileFacts>,
    /// In the second.
    pub after: Option<FileFacts>,
}

impl FileChange {
    /// The larger of its two sizes.
    fn weight(&self) -> u64 {
        let size = |side: &Option<FileFacts>| side.as_ref().map_or(0, |facts| facts.size_bytes);
        size(&self.before).max(size(&self.after))
    }
}

/// What is in `after` and was not in `before`, the other way round, and what is not the same in both.
#[must_use]
pub fn diff(before: &Contents, after: &Contents) -> Difference {
    let packages = changes(&before.packages, &after.packages).map(|(key, before, after)| {
        let (ecosystem, name) = key.clone();
        PackageChange {
            ecosystem,
            name,
            before: before.cloned(),
            after: after.cloned(),
        }
    });
    let files = changes(&before.files, &after.files).map(|(path, before, after)| FileChange {
        path: path.clone(),
        before: before.cloned(),
        after: after.cloned(),
    });
    let packages = packages.collect();
    let mut files: Vec<FileChange> = files.collect();
    // Stable: what is of one size stays in the order of paths.
    files.sort_by_key(|change| Reverse(change.weight()));
    let total = |contents: &Contents| contents.files.values().map(|facts| facts.size_bytes).sum();
    Difference {
        packages,
        files,
        bytes_before: total(before),
        bytes_after: total(after),
    }
}

/// The keys whose values are not the same on both sides, in order.
fn changes<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    let keys: BTreeSet<&K> = before.keys().chain(after.keys()).collect();
    let sides = keys
        .into_iter()
        .map(|key| (key, before.get(key), after.get(key)));
    sides.filter(|(_, before, after)| before != after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size_bytes: u64, content: u8) -> FileFacts {
        FileFacts {
            kind: FileKind::File,
            size_bytes,
            mode: 0o644,
            uid: 0,
            gid: 0,
            target: None,
            sha256: Some([content; 32]),
        }
    }

    fn contents(files: &[(&str, FileFacts)], packages: &[(&str, &str)]) -> Contents {
        let files = files
            .iter()
            .map(|(path, facts)| ((*path).to_owned(), facts.clone()));
        let packages = packages.iter().map(|(name, version)| {
            (
                (Ecosystem::Debian, (*name).to_owned()),
                (*version).to_owned(),
            )
        });
        Contents {
            files: files.collect(),
            packages: packages.collect(),
        }
    }

    #[test]
    fn what_is_new_gone_and_other() {
        let moved = FileFacts {
            uid: 1000,
            ..file(3, 3)
        };
        let before = contents(
            &[
                ("/a", file(10, 1)),
                ("/gone", file(5, 2)),
                ("/owned", file(3, 3)),
                ("/same", file(7, 4)),
            ],
            &[("curl", "8.1"), ("git", "2.0"), ("vim", "9")],
        );
        let after = contents(
            &[
                ("/a", file(10, 9)),
                ("/new", file(99, 5)),
                ("/owned", moved),
                ("/same", file(7, 4)),
            ],
            &[("curl", "8.2"), ("git", "2.0"), ("zsh", "5")],
        );
        let found = diff(&before, &after);
        let paths: Vec<_> = found
            .files
            .iter()
            .map(|f| (f.path.as_str(), f.before.is_some(), f.after.is_some()))
            .collect();
        assert_eq!(
            paths,
            [
                ("/new", false, true),
                ("/a", true, true),
                ("/gone", true, false),
                ("/owned", true, true)
            ]
        );
        assert_eq!((found.bytes_before, found.bytes_after), (25, 119));
        let packages: Vec<_> = found
            .packages
            .iter()
            .map(|p| (p.name.as_str(), p.before.as_deref(), p.after.as_deref()))
            .collect();
        assert_eq!(
            packages,
            [
                ("curl", Some("8.1"), Some("8.2")),
                ("vim", Some("9"), None),
                ("zsh", None, Some("5"))
            ]
        );
        assert_eq!(diff(&before, &before).files, []);
    }
}
