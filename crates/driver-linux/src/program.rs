//! envd's program as a file that sandboxes are shown.
//!
//! It is named by its content, so that a sandbox that is brought back from disk finds the program it was running, and lies
//! below the run directory, because `/proc/self/mountinfo` tells every sandbox where a file that it is shown comes from.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use soulbox_linux::mount;
use soulbox_types::id::random_label;

/// Its name is what the kernel calls the process.
const NAME: &str = "envd";

/// Puts a program below `covers`, unless it is there already, and makes sure that it can be shown to sandboxes.
///
/// # Errors
/// When there is no space, or the file system of the run directory refuses to run programs and this process may not
/// change that.
pub(crate) fn keep(covers: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let directory = covers.join(digest(content));
    let program = directory.join(NAME);
    // What is there by this name was put there by a server of this version; a half-written one has another name.
    if fs::read(&program).is_ok_and(|found| found == content) {
        return usable(program);
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&directory)?;
    // A name of its own: two sandboxes of an earlier version may be brought back at once.
    let draft = directory.join(format!("draft-{}", random_label(8)));
    let mut file = File::create(&draft)?;
    file.write_all(content)?;
    file.set_permissions(Permissions::from_mode(0o555))?;
    // Nobody may execute what somebody still has open for writing.
    drop(file);
    fs::rename(draft, &program)?;
    usable(program)
}

fn usable(program: PathBuf) -> io::Result<PathBuf> {
    mount::detached_program(&program).map_err(|error| {
        let path = program.display();
        let text = format!(
            "{path} cannot be shown to sandboxes: {error}\n\
             FIX: mount the file system of /run without noexec"
        );
        io::Error::new(error.kind(), text)
    })?;
    Ok(program)
}

fn digest(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    hash.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _written = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_have_names_of_their_own() {
        let (one, other) = (digest(b"one"), digest(b"other"));
        assert_eq!((one.len(), other.len()), (64, 64));
        assert_ne!(one, other);
    }
}
