//! What happens once, before the first request: the boot document, the identity files, the word that envd is ready.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use soulbox_envd_proto::Boot;

const IDENTITY_DIRECTORY: &str = "/run/e2b";
const DOCUMENT_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Reads the boot document to its end.
///
/// # Errors
/// When it cannot be read or understood.
pub(crate) fn read(from: OwnedFd) -> io::Result<Boot> {
    let mut text = Vec::new();
    File::from(from)
        .take(DOCUMENT_MAX_BYTES)
        .read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Writes who this sandbox is where its users look for it; an id that is absent stays as it is.
///
/// # Errors
/// When `/run` cannot be written.
pub(crate) fn write_identity(sandbox: Option<&str>, template: Option<&str>) -> io::Result<()> {
    let directory = Path::new(IDENTITY_DIRECTORY);
    fs::create_dir_all(directory)?;
    let files = [
        (".E2B_SANDBOX", Some("true")),
        (".E2B_SANDBOX_ID", sandbox),
        (".E2B_TEMPLATE_ID", template),
    ];
    for (name, content) in files {
        let Some(content) = content else { continue };
        let path = directory.join(name);
        // Whoever was here before may have left anything in its place.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&path)?;
        file.write_all(content.as_bytes())?;
        file.set_permissions(Permissions::from_mode(0o444))?;
    }
    Ok(())
}

/// Tells the launcher, and closes the pipe.
pub(crate) fn report(status: Option<OwnedFd>, line: &str) {
    if let Some(status) = status {
        // A launcher that has gone needs no word.
        drop(File::from(status).write_all(format!("{line}\n").as_bytes()));
    }
}
