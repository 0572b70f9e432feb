//! Making directories the way every operation that needs a parent does.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, chown};

use crate::user::User;

/// Why a directory is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    #[error("path is a file: {0}")]
    IsFile(String),
    #[error("error creating directory {path}: {source}")]
    Create {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// Makes `path` and what is missing above it: 0755, owned by the account. What exists is left as it is.
pub(crate) fn ensure(path: &str, user: &User) -> Result<(), DirectoryError> {
    // The common case first: one system call when it is there.
    if fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        return Ok(());
    }
    let ends = path
        .char_indices()
        .filter(|(at, c)| *c == '/' && *at > 0)
        .map(|(at, _)| at)
        .chain([path.len()]);
    for end in ends {
        let prefix = path.get(..end).unwrap_or(path);
        if !prefix.is_empty() {
            ensure_one(prefix, user)?;
        }
    }
    Ok(())
}

fn ensure_one(path: &str, user: &User) -> Result<(), DirectoryError> {
    let failed = |source| DirectoryError::Create {
        path: path.to_owned(),
        source,
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(DirectoryError::IsFile(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match DirBuilder::new().mode(0o755).create(path) {
                Ok(()) => chown(path, Some(user.uid), Some(user.gid)).map_err(failed),
                // Somebody else was faster.
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists
                        && fs::metadata(path).is_ok_and(|m| m.is_dir()) =>
                {
                    Ok(())
                }
                Err(error) => Err(failed(error)),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(DirectoryError::IsFile(path.to_owned()))
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_parts_are_made_and_files_are_in_the_way() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().to_str().unwrap();
        let user = User {
            name: "me".into(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            home: "/".into(),
        };
        ensure(&format!("{root}/a/b//c/"), &user).unwrap();
        assert!(fs::metadata(format!("{root}/a/b/c")).unwrap().is_dir());
        fs::write(format!("{root}/file"), "").unwrap();
        let error = ensure(&format!("{root}/file/x"), &user).unwrap_err();
        assert_eq!(error.to_string(), format!("path is a file: {root}/file"));
    }
}
