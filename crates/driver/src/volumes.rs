//! What can be asked of volumes: files that outlive sandboxes, each volume with a limit of its own.
//!
//! Paths are as callers give them. Whoever carries a request out resolves them beneath the volume's root, whatever a
//! sandbox has put there.

use serde::{Deserialize, Serialize};
use soulbox_types::{ErrorKind, Timestamp};

/// Number of a file that is being written. Never used twice in a driver's life.
pub type UploadNumber = u64;

/// One request on one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeRequest {
    /// Make it, empty, its root owned by the usual user of templates. Answer: [`VolumeAnswer::Done`].
    Make {
        /// Most that it holds, in MiB.
        size_mib: u32,
    },
    /// Remove it; what a sandbox has of it stays there until that sandbox ends. There need be none.
    /// Answer: [`VolumeAnswer::Done`].
    Destroy,
    /// Look at one entry; a link is told of, not followed. Answer: [`VolumeAnswer::Entry`].
    Stat {
        /// Which.
        path: String,
    },
    /// List what is below a directory, by path. Answer: [`VolumeAnswer::Entries`].
    List {
        /// The directory; links are followed.
        path: String,
        /// How many levels; 1 is the directory's own entries.
        depth: u32,
    },
    /// Make a directory. Answer: [`VolumeAnswer::Entry`].
    MakeDirectory {
        /// Which.
        path: String,
        /// What is made is owned so.
        owned: Owned,
        /// Make those above it, too; then it may also be there already.
        parents: bool,
    },
    /// Change owner or mode of an entry; a link itself, not what it leads to. Answer: [`VolumeAnswer::Entry`].
    Change {
        /// Which.
        path: String,
        /// New owner.
        uid: Option<u32>,
        /// New group.
        gid: Option<u32>,
        /// New mode, at most 0o7777.
        mode: Option<u32>,
    },
    /// Remove an entry, with all that is below. Answer: [`VolumeAnswer::Done`].
    Remove {
        /// Which; not the root.
        path: String,
    },
    /// Open a file for reading; links are followed. Answer: [`VolumeAnswer::Opened`], and the open file.
    Read {
        /// Which.
        path: String,
    },
    /// Begin a file that is nowhere until [`VolumeRequest::Finish`]. Answer: [`VolumeAnswer::Begun`], and the file, to be
    /// written.
    Begin {
        /// Where it shall be: refused at once what would be refused in the end.
        path: String,
        /// Whether it may take the place of another file.
        replace: bool,
    },
    /// Put a file that was begun in its place, whole and durable. However it goes, the number is used up.
    /// Answer: [`VolumeAnswer::Entry`].
    Finish {
        /// Which file.
        upload: UploadNumber,
        /// Where.
        path: String,
        /// Whose it is.
        owned: Owned,
        /// Whether it may take the place of another file.
        replace: bool,
    },
    /// Forget a file that was begun. There need be none. Answer: [`VolumeAnswer::Done`].
    Abort {
        /// Which file.
        upload: UploadNumber,
    },
}

/// Owner and mode, as seen in every sandbox: ids are mapped for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// User, below 65536.
    pub uid: u32,
    /// Group, below 65536.
    pub gid: u32,
    /// At most 0o7777.
    pub mode: u32,
}

/// What a request on a volume has brought about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeAnswer {
    /// It is so.
    Done,
    /// How an entry looks now.
    Entry(VolumeEntry),
    /// What is below a directory.
    Entries(Vec<VolumeEntry>),
    /// The file that comes with the answer.
    Opened {
        /// Its size at that moment, in bytes.
        size: u64,
    },
    /// The file that comes with the answer.
    Begun {
        /// Its number.
        upload: UploadNumber,
    },
}

/// One entry of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeEntry {
    /// Absolute path in the volume; what is no UTF-8 in it is replaced.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes, of files; what the file system says, of others.
    pub size: u64,
    /// Owner and mode.
    pub owned: Owned,
    /// Last read.
    pub accessed: Timestamp,
    /// Last written.
    pub modified: Timestamp,
    /// Last changed.
    pub changed: Timestamp,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to there, in words that only a sandbox can make sense of.
    Link(String),
    /// A socket, a pipe.
    Other,
}

/// A request on a volume that was not carried out. The texts are for whoever has asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum VolumeError {
    /// There is no such volume.
    #[error("Volume not found")]
    NoVolume,
    /// There is nothing at the path, or not what was asked for.
    #[error("path '{0}' not found")]
    NotFound(String),
    /// Something is in the way.
    #[error("path '{0}' {1}")]
    InTheWay(String, String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The volume is as full as it may be.
    #[error(
        "the volume is full\nFIX: remove files from it, or make a larger one (volume_size_mib)"
    )]
    Full,
    /// The disk below it is full.
    #[error("the server's disk is full. FIX: free space in its data directory")]
    HostFull,
    /// Too many files are being written at the same time.
    #[error("too many files are being written at the same time, please retry")]
    Busy,
    /// This driver has no volumes.
    #[error("volumes are not supported by this isolation tier")]
    Unsupported,
    /// This host lacks what volumes are made with.
    #[error(
        "this host cannot have volumes ({0})\n\
         FIX: install e2fsprogs and load the loop driver (modprobe loop)"
    )]
    Impossible(String),
    /// The host does not let it be.
    #[error("cannot {operation}: {reason}")]
    Host {
        /// What was tried, as a verb with its object.
        operation: String,
        /// What the kernel said.
        reason: String,
    },
}

impl VolumeError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoVolume | Self::NotFound(_) => ErrorKind::NotFound,
            Self::InTheWay(..) => ErrorKind::Conflict,
            Self::Invalid(_) => ErrorKind::InvalidArgument,
            Self::Full | Self::HostFull => ErrorKind::StorageFull,
            Self::Busy => ErrorKind::Unavailable,
            Self::Unsupported | Self::Impossible(_) => ErrorKind::Unimplemented,
            Self::Host { .. } => ErrorKind::Internal,
        }
    }
}
