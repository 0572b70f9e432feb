//! What differs between two builds of a template. SoulBox's own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What `GET /templates/{templateID}/diff` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateDifference {
    /// The template.
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// What is compared.
    pub from: ComparedBuild,
    /// What it is compared with.
    pub to: ComparedBuild,
    /// Whether both have the same layers: then nothing was looked at, and every list is empty.
    pub same_layers: bool,
    /// Packages, by ecosystem and name.
    pub packages: Vec<PackageChange>,
    /// Files, largest first; at most as many as were asked for.
    pub files: Vec<FileChange>,
    /// Whether there are more files than are listed.
    pub truncated: bool,
    /// All files that are only in `to`.
    pub added: FileCount,
    /// All files that are only in `from`.
    pub removed: FileCount,
    /// All files that are in both and not the same; the bytes are those in `to`.
    pub changed: FileCount,
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComparedBuild {
    /// Its id.
    #[serde(rename = "buildID")]
    pub build_id: String,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Bytes of all its files, with those of the template it goes on from; absent when nothing was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

/// So many files with so many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileCount {
    /// Files, directories and links.
    pub count: u64,
    /// Content of the files.
    pub size_bytes: u64,
}

/// Who knows a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ecosystem {
    /// `dpkg`.
    Debian,
    /// The system's Python.
    Python,
    /// Global packages of npm.
    Npm,
}

/// A package that is new, gone or of another version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PackageChange {
    /// Who knows it.
    pub ecosystem: Ecosystem,
    /// Its name.
    pub name: String,
    /// Its version in `from`; absent when it was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Its version in `to`; absent when it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// A path that is new, gone or something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileChange {
    /// The path. Bytes that are no UTF-8 are replaced.
    pub path: String,
    /// What it was; absent when it is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ComparedFile>,
    /// What it is; absent when it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<ComparedFile>,
}

/// One file on one side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ComparedFile {
    /// What it is.
    pub r#type: ComparedFileType,
    /// Bytes of a regular file, 0 of anything else.
    pub size_bytes: u64,
    /// Permissions with the bits above them, octal: `0644`, `4755`.
    pub mode: String,
    /// Number of its owner.
    pub uid: u32,
    /// Number of its group.
    pub gid: u32,
    /// Where a symbolic link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// SHA-256 of a regular file below 64 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ComparedFileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a pipe or a socket.
    Other,
}
