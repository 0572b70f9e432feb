//! What CRIU runs at each stage of its work. At the ones that matter the server is asked, which does its part and answers.
//!
//! It runs on the host during a checkpoint, and inside, as root of the guest, while a sandbox is brought back.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use soulbox_launch_plan::probed::{FILE, RUNTIME, TAKEN};

/// CRIU's variable for the stage.
pub(crate) const ACTION: &str = "CRTOOLS_SCRIPT_ACTION";
/// CRIU's variable for the number of the first process.
const FIRST_PROCESS: &str = "CRTOOLS_INIT_PID";
/// Nothing of the sandbox has been looked at; and: the namespaces are made, no file is open.
const ASKED: [&str; 2] = ["pre-dump", "post-setup-namespaces"];
/// Where the server listens, beside this program.
const SOCKET: &str = "ask";

/// Takes what CRIU has kept about the kernel out of the sandbox, before anything of the guest's runs.
fn take_probed() -> std::io::Result<()> {
    let file = Path::new(RUNTIME).join(FILE);
    if !Path::new(RUNTIME).is_symlink() || !file.exists() {
        return Ok(());
    }
    std::fs::copy(&file, TAKEN)?;
    std::fs::remove_file(file)
}

/// Success lets CRIU go on.
pub(crate) fn ask(action: &OsStr) -> ExitCode {
    let Some(action) = ASKED.into_iter().find(|asked| *asked == action) else {
        return ExitCode::SUCCESS;
    };
    let pid = std::env::var(FIRST_PROCESS).unwrap_or_default();
    let asked = || -> std::io::Result<bool> {
        take_probed()?;
        let mut server = UnixStream::connect(SOCKET)?;
        server.write_all(format!("{action} {pid}\n").as_bytes())?;
        let mut answer = [0];
        Ok(server.read(&mut answer)? == 1 && answer == *b"y")
    };
    match asked() {
        Ok(true) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
