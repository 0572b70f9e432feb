//! What CRIU finds out about the kernel when it starts, kept from its first start on: asking costs some milliseconds.
//!
//! It keeps a file of its own in the directory that a variable names, but writes it to memory only (`tmpfs`), so that it
//! does not outlive a boot. Inside a sandbox the variable names `runtime` in CRIU's working directory. The first time
//! that leads to `/dev/shm`, where the hook takes the file away before anything of the guest's runs; from then on it is a
//! directory with the file.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use soulbox_launch_plan::probed::{FILE, RUNTIME, TAKEN, WRITTEN};

/// The file has some kilobytes.
const AT_MOST: u64 = 64 << 10;

/// The file, once there is one. It is of this boot and this CRIU: the server has neither longer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Probed(Arc<OnceLock<Vec<u8>>>);

impl Probed {
    /// Makes `runtime` in a working directory of CRIU.
    pub(crate) fn offer(&self, work: &Path) -> io::Result<()> {
        let runtime = work.join(RUNTIME);
        let Some(file) = self.0.get() else {
            return symlink(WRITTEN, runtime);
        };
        DirBuilder::new().mode(0o755).create(&runtime)?;
        fs::write(runtime.join(FILE), file)
    }

    /// Takes what the hook has put there. CRIU may have kept nothing: then it asks again the next time.
    pub(crate) fn learn(&self, work: &Path) -> io::Result<()> {
        if self.0.get().is_some() {
            return Ok(());
        }
        let file = match File::open(work.join(TAKEN)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mut found = Vec::new();
        file.take(AT_MOST).read_to_end(&mut found)?;
        // Another one may have been quicker, with the same.
        let _first = self.0.set(found);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_is_offered() {
        let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let probed = Probed::default();
        probed.offer(first.path()).unwrap();
        let runtime = first.path().join(RUNTIME);
        assert_eq!(fs::read_link(runtime).unwrap(), Path::new(WRITTEN));
        probed.learn(first.path()).unwrap();
        assert!(probed.0.get().is_none());
        fs::write(first.path().join(TAKEN), "facts").unwrap();
        probed.learn(first.path()).unwrap();
        probed.offer(second.path()).unwrap();
        let offered = second.path().join(RUNTIME).join(FILE);
        assert_eq!(fs::read_to_string(offered).unwrap(), "facts");
    }
}
