//! Which block of slots and addresses a server holds, among several servers on one machine.
//!
//! A claim is a file `<run>/blocks/<number>` that holds the path of the server's data directory. It outlives the server,
//! because its sandboxes do, and ends with a reboot (the directory is on a tmpfs), with a clean stop or with
//! `soulbox purge`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use soulbox_types::slot::{BLOCKS, Block};

/// Why no block could be claimed.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// Other servers hold all of them.
    #[error("{BLOCKS} servers on this machine hold all address blocks\nFIX: soulbox purge --data-dir <one that is not used any more>")]
    Exhausted,
    /// The claims cannot be read or written.
    #[error("cannot use {path}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What is known of one block.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    Nobody,
    Server { data_dir: PathBuf, exists: bool },
}

/// What to try next, given who holds what: the own block, else a free one, else one whose server's data is gone.
fn choose(holders: &[Holder], own: &Path) -> Option<usize> {
    let position = |wanted: &dyn Fn(&Holder) -> bool| holders.iter().position(wanted);
    position(&|h| matches!(h, Holder::Server { data_dir, .. } if data_dir == own))
        .or_else(|| position(&|h| *h == Holder::Nobody))
        .or_else(|| position(&|h| matches!(h, Holder::Server { exists: false, .. })))
}

/// Claims a block for the server with this data directory, the same one as before if it has one.
///
/// # Errors
/// When all blocks are held, or the claims cannot be read or written.
pub fn claim(run_dir: &Path, data_dir: &Path) -> Result<Block, BlockError> {
    let blocks = run_dir.join("blocks");
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| BlockError::Io { path, source }
    };
    fs::create_dir_all(&blocks).map_err(at(&blocks))?;
    // Two servers that start at once take turns. The lock ends with the descriptor.
    let lock_path = blocks.join("lock");
    let lock = File::create(&lock_path).map_err(at(&lock_path))?;
    lock.lock().map_err(at(&lock_path))?;
    let holders: Vec<Holder> =
        (0..BLOCKS).map(|n| holder(&blocks.join(n.to_string()))).collect::<Result<_, _>>().map_err(at(&blocks))?;
    let number = choose(&holders, data_dir).and_then(|n| u8::try_from(n).ok()).ok_or(BlockError::Exhausted)?;
    let path = blocks.join(number.to_string());
    write_whole(&path, data_dir).map_err(at(&path))?;
    Block::new(number).ok_or(BlockError::Exhausted)
}

/// Gives a block back, if this server holds it.
///
/// # Errors
/// When the claim cannot be read or removed.
pub fn release(run_dir: &Path, block: Block, data_dir: &Path) -> Result<(), BlockError> {
    let path = run_dir.join("blocks").join(block.number().to_string());
    let ours = matches!(holder(&path), Ok(Holder::Server { data_dir: held, .. }) if held == data_dir);
    if !ours {
        return Ok(());
    }
    fs::remove_file(&path).map_err(|source| BlockError::Io { path, source })
}

fn holder(path: &Path) -> io::Result<Holder> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Holder::Nobody),
        Err(error) => Err(error),
        Ok(text) => {
            let data_dir = PathBuf::from(text);
            let exists = data_dir.is_dir();
            Ok(Holder::Server { data_dir, exists })
        }
    }
}

fn write_whole(path: &Path, data_dir: &Path) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = File::create(&draft)?;
    file.write_all(data_dir.as_os_str().as_encoded_bytes())?;
    fs::rename(draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(path: &str, exists: bool) -> Holder {
        Holder::Server { data_dir: PathBuf::from(path), exists }
    }

    #[test]
    fn the_own_block_first_then_a_free_one_then_a_dead_one() {
        let own = Path::new("/d");
        assert_eq!(choose(&[Holder::Nobody, server("/d", true)], own), Some(1));
        assert_eq!(choose(&[server("/x", false), Holder::Nobody], own), Some(1));
        assert_eq!(choose(&[server("/y", true), server("/x", false)], own), Some(1));
        assert_eq!(choose(&[server("/y", true)], own), None);
    }

    #[test]
    fn claims_last_and_never_collide() {
        let run = tempfile::tempdir().unwrap();
        let data: Vec<_> = (0..BLOCKS).map(|_| tempfile::tempdir().unwrap()).collect();
        let claimed: std::collections::HashSet<Block> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                data.iter().map(|d| scope.spawn(|| claim(run.path(), d.path()).unwrap())).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(claimed.len(), data.len());
        let again = claim(run.path(), data[3].path()).unwrap();
        assert_eq!(claim(run.path(), data[3].path()).unwrap(), again);
        let other = tempfile::tempdir().unwrap();
        assert!(matches!(claim(run.path(), other.path()), Err(BlockError::Exhausted)));
        release(run.path(), again, other.path()).unwrap();
        assert!(claim(run.path(), other.path()).is_err());
        release(run.path(), again, data[3].path()).unwrap();
        assert_eq!(claim(run.path(), other.path()).unwrap(), again);
    }
}
