//! One file as clients see it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use buffa_types::google::protobuf::Timestamp;
use soulbox_envd_proto::filesystem::{EntryInfo, FileType};

use super::permissions::letters;
use crate::files::metadata;
use crate::path::base_name;
use crate::user::Names;

/// Describes the file at `path` itself; a symlink is described by its own size and permissions but its target's type.
///
/// # Errors
/// When there is no such file.
pub(crate) fn entry(path: &str, names: &Names) -> io::Result<EntryInfo> {
    let own = fs::symlink_metadata(path)?;
    let is_symlink = own.file_type().is_symlink();
    let target = if is_symlink {
        fs::metadata(path).ok()
    } else {
        None
    };
    let followed = if is_symlink {
        target.as_ref()
    } else {
        Some(&own)
    };
    // `is_symlink` (field 12) stays unset. Clients that know it show a link as SYMLINK when it is set, but the suites
    // of all clients before it want a link to have its target's type, and the newest clients agree when it is absent.
    Ok(EntryInfo {
        name: base_name(path).to_owned(),
        r#type: followed
            .map_or(FileType::FILE_TYPE_UNSPECIFIED, file_type)
            .into(),
        path: path.to_owned(),
        size: i64::try_from(own.len()).unwrap_or(i64::MAX),
        mode: followed.map_or(0, |m| m.mode() & 0o777),
        permissions: letters(own.mode()),
        owner: names.user(own.uid()),
        group: names.group(own.gid()),
        modified_time: modified(&own).into(),
        symlink_target: is_symlink.then(|| symlink_target(path)),
        metadata: attributes(path, followed),
        ..EntryInfo::default()
    })
}

fn file_type(metadata: &fs::Metadata) -> FileType {
    if metadata.is_file() {
        FileType::FILE_TYPE_FILE
    } else if metadata.is_dir() {
        FileType::FILE_TYPE_DIRECTORY
    } else {
        FileType::FILE_TYPE_UNSPECIFIED
    }
}

fn modified(metadata: &fs::Metadata) -> Timestamp {
    let nanos = i32::try_from(metadata.mtime_nsec()).unwrap_or_default();
    Timestamp {
        seconds: metadata.mtime(),
        nanos,
        ..Timestamp::default()
    }
}

/// Where the link leads in the end; the link itself when that is nowhere.
fn symlink_target(path: &str) -> String {
    match fs::canonicalize(path) {
        Ok(target) => target.to_string_lossy().into_owned(),
        Err(_) => path.to_owned(),
    }
}

/// Only regular files and directories can bear `user.*` attributes.
fn attributes<M: FromIterator<(String, String)> + Default>(
    path: &str,
    followed: Option<&fs::Metadata>,
) -> M {
    if followed.is_some_and(|m| m.is_file() || m.is_dir()) {
        let read: BTreeMap<String, String> = metadata::read(path).unwrap_or_default();
        read.into_iter().collect()
    } else {
        M::default()
    }
}
