//! Volumes: what their names look like, where they may be mounted, and paths inside of them.

use serde::{Deserialize, Serialize};

use crate::VolumeId;

/// Volumes that one sandbox may have.
pub const MOST_MOUNTS: usize = 8;
/// Bytes of the path of a mount.
const MOST_PATH_BYTES: usize = 1024;
/// What belongs to the sandbox itself: nothing is mounted there or below.
const RESERVED: [&str; 4] = ["dev", "proc", "sys", ".soulbox"];

/// A volume and where it appears in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// Which.
    pub volume: VolumeId,
    /// Absolute path inside, see [`check_mount_path`].
    pub path: String,
}

/// Whether a volume may be called so: `[a-zA-Z0-9_-]+`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Why a volume cannot be mounted at a path. The first three texts are the wire's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountPathError {
    /// Nothing is there.
    #[error("path cannot be empty")]
    Empty,
    /// It does not begin with `/`.
    #[error("path must be absolute")]
    Relative,
    /// It would not mean what it says.
    #[error("path must not contain any '.' or '..' components")]
    Dots,
    /// The root, or a place that the sandbox itself needs.
    #[error("path '{0}' belongs to the sandbox itself")]
    Reserved(String),
    /// No path of a file system.
    #[error("path is longer than 1024 bytes or has a zero byte")]
    Unusable,
}

/// Checks where a volume is to be mounted. Returns the path without its leading, doubled and trailing slashes, by which
/// two paths are compared.
///
/// # Errors
/// The first thing that is wrong.
pub fn check_mount_path(path: &str) -> Result<String, MountPathError> {
    if path.is_empty() {
        return Err(MountPathError::Empty);
    }
    if !path.starts_with('/') {
        return Err(MountPathError::Relative);
    }
    if path.len() > MOST_PATH_BYTES || path.contains('\0') {
        return Err(MountPathError::Unusable);
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    if parts.iter().any(|part| matches!(*part, "." | "..")) {
        return Err(MountPathError::Dots);
    }
    match parts.first() {
        Some(first) if !RESERVED.contains(first) => Ok(parts.join("/")),
        _ => Err(MountPathError::Reserved(path.to_owned())),
    }
}

/// A path inside a volume without `.`, `..` and doubled slashes; relative ones begin at the root, and nothing leads above
/// it. Empty for the root.
#[must_use]
pub fn normal_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(["a", "A-b_9", "-"].iter().all(|name| is_name(name)));
        assert!(
            !["", "a b", "a/b", "..", "ä"]
                .iter()
                .any(|name| is_name(name))
        );
    }

    #[test]
    fn mount_paths() {
        for (path, want) in [
            ("/data", "data"),
            ("//a///b/", "a/b"),
            ("/devices", "devices"),
        ] {
            assert_eq!(check_mount_path(path).as_deref(), Ok(want));
        }
        for (path, want) in [
            ("", "path cannot be empty"),
            ("data", "path must be absolute"),
            (
                "/a/../b",
                "path must not contain any '.' or '..' components",
            ),
            ("/a/.", "path must not contain any '.' or '..' components"),
            ("/", "path '/' belongs to the sandbox itself"),
            ("/proc/x", "path '/proc/x' belongs to the sandbox itself"),
            ("/a\0", "path is longer than 1024 bytes or has a zero byte"),
        ] {
            assert_eq!(
                check_mount_path(path).unwrap_err().to_string(),
                want,
                "{path}"
            );
        }
    }

    #[test]
    fn paths_never_lead_above_the_root() {
        for (path, want) in [
            ("", ""),
            ("/", ""),
            ("../../etc", "etc"),
            ("a/./b//../c/", "a/c"),
            ("/a/../../..", ""),
        ] {
            assert_eq!(normal_path(path), want, "{path}");
        }
    }
}
