//! Which block of slots this server holds, when several servers share a machine.
//!
//! One file per block, `<run dir>/blocks/<number>`, holding the absolute data directory of its server. All of it happens under
//! a lock on the directory, so two servers that start together cannot take the same block, and a file that is empty
//! belongs to somebody who died while writing it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use soulbox_types::ErrorKind;
use soulbox_types::slot::{BLOCKS, Block};

/// Below this the servers of this machine claim their blocks. A reboot empties it; what the claims stand for is gone
/// then, too.
pub const RUN_DIR: &str = "/run/soulbox";

/// A block could not be claimed or released.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Every block has a living owner.
    #[error(
        "all {BLOCKS} address blocks of this machine are taken, by the servers of {}\nFIX: stop one of these servers, or delete the data directory of one that is no longer wanted",
        owners.join(", ")
    )]
    AllTaken {
        /// Data directories of the owners.
        owners: Vec<String>,
    },
    /// A file or directory cannot be used.
    #[error("cannot {operation} {}\nFIX: run the server as root, or give it a run directory that it may write to", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl ClaimError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::AllTaken { .. } => ErrorKind::LimitExceeded,
            Self::Io { .. } => ErrorKind::Internal,
        }
    }
}

/// What is known about one block.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Claim {
    Free,
    /// Claimed for this data directory, which exists.
    Held(PathBuf),
    /// Claimed by a server whose data directory is gone.
    Stale,
}

/// Chooses a block: our own again, else the first free one, else one whose owner is gone.
fn choose(claims: &[(Block, Claim)], data_dir: &Path) -> Option<Block> {
    let find = |wanted: &dyn Fn(&Claim) -> bool| {
        claims
            .iter()
            .find(|(_, claim)| wanted(claim))
            .map(|(block, _)| *block)
    };
    find(&|claim| matches!(claim, Claim::Held(owner) if owner == data_dir))
        .or_else(|| find(&|claim| *claim == Claim::Free))
        .or_else(|| find(&|claim| *claim == Claim::Stale))
}

fn at<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> ClaimError + use<'a> {
    move |source| ClaimError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

fn lock(run_dir: &Path) -> Result<File, ClaimError> {
    let blocks = run_dir.join("blocks");
    fs::create_dir_all(&blocks).map_err(at("create", &blocks))?;
    let path = blocks.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(at("open", &path))?;
    file.lock().map_err(at("lock", &path))?;
    Ok(file)
}

fn path_of(run_dir: &Path, block: Block) -> PathBuf {
    run_dir.join("blocks").join(block.number().to_string())
}

fn read(run_dir: &Path, block: Block) -> Result<Claim, ClaimError> {
    let path = path_of(run_dir, block);
    let owner = match fs::read(&path) {
        Ok(bytes) => PathBuf::from(std::ffi::OsStr::from_bytes(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Claim::Free),
        Err(error) => return Err(at("read", &path)(error)),
    };
    // When in doubt (no permission to look) it counts as held.
    let gone = owner.as_os_str().is_empty() || matches!(owner.try_exists(), Ok(false));
    Ok(if gone {
        Claim::Stale
    } else {
        Claim::Held(owner)
    })
}

/// Claims a block for the server of `data_dir`, which must exist. The same server gets the same block again.
///
/// # Errors
/// When all blocks are taken, or the directories cannot be used.
pub fn claim(run_dir: &Path, data_dir: &Path) -> Result<Block, ClaimError> {
    let data_dir = fs::canonicalize(data_dir).map_err(at("find", data_dir))?;
    let _lock = lock(run_dir)?;
    let claims: Vec<(Block, Claim)> = (0..BLOCKS)
        .filter_map(Block::new)
        .map(|block| Ok((block, read(run_dir, block)?)))
        .collect::<Result<_, ClaimError>>()?;
    let Some(block) = choose(&claims, &data_dir) else {
        let owners = claims.iter().filter_map(|(_, claim)| match claim {
            Claim::Held(owner) => Some(owner.display().to_string()),
            Claim::Free | Claim::Stale => None,
        });
        return Err(ClaimError::AllTaken {
            owners: owners.collect(),
        });
    };
    if !claims.contains(&(block, Claim::Held(data_dir.clone()))) {
        write(&path_of(run_dir, block), &data_dir)?;
    }
    Ok(block)
}

fn write(path: &Path, data_dir: &Path) -> Result<(), ClaimError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(at("remove", path)(error));
        }
        _ => {}
    }
    // Exclusive all the same: somebody without the lock must not be overwritten.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(at("create", path))?;
    file.write_all(data_dir.as_os_str().as_bytes())
        .map_err(at("write", path))
}

/// Gives a block back, if this data directory holds it. Only for `purge`: a stopped server keeps its block for the
/// sandboxes that it left running.
///
/// # Errors
/// When the files cannot be used.
pub fn release(run_dir: &Path, block: Block, data_dir: &Path) -> Result<(), ClaimError> {
    // The directory may be gone by now; its name then stands as it was given.
    let data_dir = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    let _lock = lock(run_dir)?;
    let path = path_of(run_dir, block);
    match fs::read(&path) {
        Ok(bytes) if bytes == data_dir.as_os_str().as_bytes() => {
            fs::remove_file(&path).map_err(at("remove", &path))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at("read", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;

    use super::*;

    fn block(number: u8) -> Block {
        Block::new(number).unwrap()
    }

    struct Dirs {
        root: tempfile::TempDir,
    }

    impl Dirs {
        fn new() -> Self {
            Self {
                root: tempfile::tempdir().unwrap(),
            }
        }

        fn run(&self) -> PathBuf {
            self.root.path().join("run")
        }

        fn data(&self, name: &str) -> PathBuf {
            let path = self.root.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        }
    }

    #[test]
    fn the_choice() {
        let me = Path::new("/me");
        let held = |path: &str| Claim::Held(path.into());
        let choose = |claims: &[Claim]| {
            let claims: Vec<_> = (0..).map(block).zip(claims.iter().cloned()).collect();
            choose(&claims, me).map(Block::number)
        };
        assert_eq!(
            choose(&[Claim::Free, held("/me")]),
            Some(1),
            "our own first"
        );
        assert_eq!(
            choose(&[held("/a"), Claim::Stale, Claim::Free]),
            Some(2),
            "free before stale"
        );
        assert_eq!(choose(&[held("/a"), Claim::Stale, held("/b")]), Some(1));
        assert_eq!(choose(&[held("/a"), held("/b")]), None);
    }

    #[test]
    fn the_same_server_gets_its_block_again() {
        let dirs = Dirs::new();
        let (a, b) = (dirs.data("a"), dirs.data("b"));
        assert_eq!(claim(&dirs.run(), &a).unwrap(), block(0));
        assert_eq!(claim(&dirs.run(), &b).unwrap(), block(1));
        assert_eq!(claim(&dirs.run(), &a.join(".")).unwrap(), block(0));
        release(&dirs.run(), block(0), &b).unwrap();
        assert_eq!(
            claim(&dirs.run(), &a).unwrap(),
            block(0),
            "not b's to give back"
        );
        release(&dirs.run(), block(0), &a).unwrap();
        release(&dirs.run(), block(0), &a).unwrap();
        assert_eq!(claim(&dirs.run(), &dirs.data("c")).unwrap(), block(0));
        assert!(
            claim(&dirs.run(), Path::new("/nonexistent"))
                .unwrap_err()
                .to_string()
                .contains("FIX:")
        );
    }

    #[test]
    fn blocks_of_the_dead_are_taken_last() {
        let dirs = Dirs::new();
        for i in 0..BLOCKS {
            assert_eq!(
                claim(&dirs.run(), &dirs.data(&format!("d{i}"))).unwrap(),
                block(i)
            );
        }
        let late = dirs.data("late");
        let error = claim(&dirs.run(), &late).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        assert!(error.to_string().contains("/d3") && error.to_string().contains("FIX:"));
        fs::remove_dir(dirs.data("d5")).unwrap();
        assert_eq!(claim(&dirs.run(), &late).unwrap(), block(5));
        fs::write(path_of(&dirs.run(), block(9)), "").unwrap();
        assert_eq!(
            claim(&dirs.run(), &dirs.data("later")).unwrap(),
            block(9),
            "died while writing"
        );
    }

    #[test]
    fn racing_servers_get_different_blocks() {
        for _ in 0..20 {
            let dirs = Dirs::new();
            let barrier = Barrier::new(usize::from(BLOCKS));
            let blocks: HashSet<u8> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..BLOCKS)
                    .map(|i| {
                        let (run, data, barrier) =
                            (dirs.run(), dirs.data(&format!("d{i}")), &barrier);
                        scope.spawn(move || {
                            barrier.wait();
                            claim(&run, &data).unwrap().number()
                        })
                    })
                    .collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect()
            });
            assert_eq!(blocks.len(), usize::from(BLOCKS));
        }
    }
}
