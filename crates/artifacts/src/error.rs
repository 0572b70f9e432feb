//! What can go wrong with templates on disk, and what a person does about it.

use std::io;
use std::path::{Path, PathBuf};

use soulbox_types::ErrorKind;

use crate::digest::LayerDigest;

/// A failed operation on templates or layers.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The kernel refused a file operation.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// Verb phrase: `open`, `read`, `rename`.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A tree holds something that cannot be part of a layer.
    #[error("{} {what}", path.display())]
    Tree {
        /// Where in the tree.
        path: PathBuf,
        /// What is wrong there.
        what: &'static str,
    },
    /// A template name with characters that no file name of ours may have.
    #[error("invalid template name {name:?}")]
    InvalidName {
        /// As given.
        name: String,
    },
    /// A manifest or marker that is not what we wrote.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why it is not believed.
        reason: String,
    },
    /// A layer that a manifest names is not there.
    #[error("layer {digest} is missing")]
    LayerMissing {
        /// Which.
        digest: LayerDigest,
    },
    /// A layer's content is not what its digest says.
    #[error("layer {digest} was altered: {detail}")]
    LayerAltered {
        /// Which.
        digest: LayerDigest,
        /// What differs.
        detail: String,
    },
    /// Building a root file system needs root.
    #[error("building the base template needs root")]
    NotRoot,
    /// Neither of the tools that can make a Debian tree is installed.
    #[error("neither mmdebstrap nor debootstrap is installed")]
    NoTool,
    /// A program that every Debian has is not there.
    #[error("{program} is not installed")]
    NoProgram {
        /// Its name.
        program: &'static str,
    },
    /// The keys that Debian's package lists are signed with are not on this machine.
    #[error("no Debian archive keyring holds the keys of {wanted}")]
    NoKeyring {
        /// The releases that were looked for.
        wanted: String,
    },
    /// Debian packages exist for this machine's processor, our recipe was not tried on it.
    #[error("the base template is made for x86_64, this machine is {found}")]
    Architecture {
        /// What this machine is.
        found: &'static str,
    },
    /// Not enough room on the disk.
    #[error("{} has {have_mib} MiB free, the base template needs {need_mib} MiB", path.display())]
    NoSpace {
        /// The data directory.
        path: PathBuf,
        /// Free now.
        have_mib: u64,
        /// Needed at the peak.
        need_mib: u64,
    },
    /// The tool failed.
    #[error("{program} failed ({status}); its last lines were:\n{}", tail.join("\n"))]
    Tool {
        /// Which program.
        program: String,
        /// Exit status, or that it took too long.
        status: String,
        /// The end of its output.
        tail: Vec<String>,
    },
    /// What the tool left is not a usable base template.
    #[error("the built tree has no usable {what}")]
    Incomplete {
        /// A path inside the tree.
        what: &'static str,
    },
    /// The data directory to import from has no such template.
    #[error("{} has no finished template {name}", path.display())]
    NothingToImport {
        /// The other data directory.
        path: PathBuf,
        /// Which template.
        name: String,
    },
}

impl ArtifactError {
    /// Wraps what the kernel said about `path`.
    pub(crate) fn io(
        operation: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io {
            operation,
            path: path.as_ref().to_path_buf(),
            source: source.into(),
        }
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } if is_full(source) => ErrorKind::StorageFull,
            Self::NoSpace { .. } => ErrorKind::StorageFull,
            Self::InvalidName { .. } => ErrorKind::InvalidArgument,
            Self::NothingToImport { .. } | Self::LayerMissing { .. } => ErrorKind::NotFound,
            Self::NotRoot => ErrorKind::PermissionDenied,
            Self::NoTool | Self::NoProgram { .. } | Self::NoKeyring { .. } | Self::Tool { .. } => {
                ErrorKind::Unavailable
            }
            Self::Architecture { .. } => ErrorKind::Unimplemented,
            Self::Io { .. }
            | Self::Tree { .. }
            | Self::Damaged { .. }
            | Self::LayerAltered { .. }
            | Self::Incomplete { .. } => ErrorKind::Internal,
        }
    }

    /// One command or action that gets a person further, for the line that begins with `FIX:`.
    #[must_use]
    pub fn fix(&self) -> Option<String> {
        let text = match self {
            Self::NotRoot => "sudo soulbox template bootstrap base".into(),
            Self::NoTool => "apt-get install mmdebstrap (or debootstrap)".into(),
            Self::NoProgram { program } => format!("apt-get install {}", package_of(program)),
            Self::NoKeyring { .. } => "apt-get install --only-upgrade debian-archive-keyring".into(),
            Self::NoSpace { path, need_mib, have_mib } => {
                let more = need_mib.saturating_sub(*have_mib);
                format!("free {more} MiB on the file system of {}, or choose another --data-dir", path.display())
            }
            Self::Tool { .. } => "check that the package mirror can be reached, or name another with --mirror; then run the same command again, it continues".into(),
            Self::Damaged { .. } | Self::LayerMissing { .. } | Self::LayerAltered { .. } | Self::Incomplete { .. } => {
                "soulbox template bootstrap base --rebuild".into()
            }
            Self::NothingToImport { path, .. } => format!("soulbox template bootstrap base --data-dir {}", path.display()),
            Self::Io { source, .. } if is_full(source) => "free space on the file system of the data directory".into(),
            Self::Io { .. } | Self::Tree { .. } | Self::InvalidName { .. } | Self::Architecture { .. } => return None,
        };
        Some(text)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn package_of(program: &str) -> &str {
    match program {
        "setpriv" | "unshare" => "util-linux",
        other => other,
    }
}
