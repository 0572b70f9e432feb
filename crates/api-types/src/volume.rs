//! Volumes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::present::present;

/// Body of `POST /volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewVolume {
    /// `[a-zA-Z0-9_-]+`, at most 255.
    #[schemars(regex(pattern = "^[a-zA-Z0-9_-]+$"), length(max = 255))]
    pub name: String,
}

/// One entry of `GET /volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Volume {
    /// Its id.
    #[serde(rename = "volumeID")]
    pub volume_id: String,
    /// Its name.
    pub name: String,
}

/// What `POST /volumes` and `GET /volumes/{volumeID}` answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VolumeAndToken {
    /// Its id.
    #[serde(rename = "volumeID")]
    pub volume_id: String,
    /// Its name.
    pub name: String,
    /// Opens its content, and no other's, for a day.
    pub token: String,
}

/// What an entry of a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VolumeEntryType {
    /// A socket, a pipe.
    Unknown,
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// One entry of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VolumeEntryStat {
    /// Last part of the path; `/` for the root.
    pub name: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: VolumeEntryType,
    /// Absolute path in the volume.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner, as sandboxes see it.
    pub uid: u32,
    /// Group, as sandboxes see it.
    pub gid: u32,
    /// Last read.
    #[schemars(extend("format" = "date-time"))]
    pub atime: String,
    /// Last written.
    #[schemars(extend("format" = "date-time"))]
    pub mtime: String,
    /// Last changed.
    #[schemars(extend("format" = "date-time"))]
    pub ctime: String,
    /// Where a link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// Body of `PATCH /volumecontent/{volumeID}/path`. What is absent stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeVolumeEntry {
    /// New owner, below 65536.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub uid: Option<u32>,
    /// New group, below 65536.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub gid: Option<u32>,
    /// New permission bits, at most 4095.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub mode: Option<u32>,
}

/// How the content of volumes says no: `code` is a word here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VolumeContentError {
    /// `not_found`, `already_exists`, `invalid_argument` and so on.
    pub code: String,
    /// What went wrong.
    pub message: String,
}
