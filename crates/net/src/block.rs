//! Which block of slots this server holds, when several servers share a machine.
//!
//! One file per block, `<run dir>/blocks/<number>`, holding the absolute data directory of its server. All of it happens under
//! a lock on the directory, so two servers that start together cannot take the same block. A claim appears whole or not at
//! all.
//!
//! A claim may be lost while what it stands for is not: somebody empties the run directory, or a claim is overwritten.
//! Whoever then takes the block ends the sandboxes in it. So a server also remembers its block in its data directory and
//! asks for that one first, and a block without a claim whose network link is there is given to nobody else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use soulbox_fault as fault;
use soulbox_linux::mount;
use soulbox_types::ErrorKind;
use soulbox_types::slot::{BLOCKS, Block};

/// Below this the servers of this machine claim their blocks. A reboot empties it; what the claims stand for is gone
/// then, too.
pub const RUN_DIR: &str = "/run/soulbox";
/// Where the kernel shows the network links of this machine.
const LINKS_DIR: &str = "/sys/class/net";
/// In the data directory: the number of the block that its server had last.
const REMEMBERED: &str = "address-block";

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
    /// No claim that says anything, but a link: somebody's claim is damaged or was removed.
    Lost,
}

/// Chooses a block: our own again, else the one we had last, else the first free one, else one whose owner is gone.
fn choose(claims: &[(Block, Claim)], data_dir: &Path, remembered: Option<Block>) -> Option<Block> {
    let find = |wanted: &dyn Fn(&Claim) -> bool| {
        claims
            .iter()
            .find(|(_, claim)| wanted(claim))
            .map(|(block, _)| *block)
    };
    let last = remembered.filter(|last| {
        let claim = claims.iter().find(|(block, _)| block == last);
        claim.is_some_and(|(_, claim)| !matches!(claim, Claim::Held(_)))
    });
    find(&|claim| matches!(claim, Claim::Held(owner) if owner == data_dir))
        .or(last)
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

fn read(run_dir: &Path, links_dir: &Path, block: Block) -> Result<Claim, ClaimError> {
    let path = path_of(run_dir, block);
    let owner = match fs::read(&path) {
        Ok(bytes) => Some(PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(at("read", &path)(error)),
    };
    let linked = || links_dir.join(gateway_link(block)).exists();
    Ok(match owner {
        None if linked() => Claim::Lost,
        None => Claim::Free,
        Some(owner) if !owner.is_absolute() => {
            let claim = path.display();
            tracing::warn!(%claim, "this claim of an address block is damaged. FIX: nothing, if its server starts again; else soulbox purge --data-dir <its data directory>");
            if linked() { Claim::Lost } else { Claim::Stale }
        }
        // When in doubt (no permission to look) it counts as held.
        Some(owner) if matches!(owner.try_exists(), Ok(false)) => Claim::Stale,
        Some(owner) => Claim::Held(owner),
    })
}

fn gateway_link(block: Block) -> String {
    format!("{}gw", block.prefix())
}

/// Claims a block for the server of `data_dir`, which must exist. The same server gets the same block again.
///
/// # Errors
/// When all blocks are taken, or the directories cannot be used.
pub fn claim(run_dir: &Path, data_dir: &Path) -> Result<Block, ClaimError> {
    claim_among(run_dir, Path::new(LINKS_DIR), data_dir)
}

fn claim_among(run_dir: &Path, links_dir: &Path, data_dir: &Path) -> Result<Block, ClaimError> {
    let data_dir = fs::canonicalize(data_dir).map_err(at("find", data_dir))?;
    let _lock = lock(run_dir)?;
    let claims: Vec<(Block, Claim)> = (0..BLOCKS)
        .filter_map(Block::new)
        .map(|block| Ok((block, read(run_dir, links_dir, block)?)))
        .collect::<Result<_, ClaimError>>()?;
    let Some(block) = choose(&claims, &data_dir, remembered(&data_dir)) else {
        let owners = claims.iter().filter_map(|(block, claim)| match claim {
            Claim::Held(owner) => Some(owner.display().to_string()),
            Claim::Lost => Some(format!("an unknown directory (block {})", block.number())),
            Claim::Free | Claim::Stale => None,
        });
        return Err(ClaimError::AllTaken {
            owners: owners.collect(),
        });
    };
    if !claims.contains(&(block, Claim::Held(data_dir.clone()))) {
        write(&path_of(run_dir, block), data_dir.as_os_str().as_bytes())?;
        fault::point!("start.claim-written");
    }
    if remembered(&data_dir) != Some(block) {
        let number = format!("{}\n", block.number());
        write(&data_dir.join(REMEMBERED), number.as_bytes())?;
    }
    Ok(block)
}

/// The block that this data directory's server had last. A preference only: what cannot be read is as if it were not
/// there, and what somebody else has put there, too. The server itself may write into the directory.
fn remembered(data_dir: &Path) -> Option<Block> {
    let path = data_dir.join(REMEMBERED);
    let ours = fs::symlink_metadata(&path)
        .is_ok_and(|facts| facts.is_file() && facts.uid() == rustix::process::geteuid().as_raw());
    let text = ours.then(|| fs::read_to_string(&path).ok()).flatten()?;
    text.trim().parse().ok().and_then(Block::new)
}

/// Whole or not at all. Under the lock, so nobody else writes the same draft; a new file, so that a link that somebody has
/// put there leads nowhere.
fn write(path: &Path, content: &[u8]) -> Result<(), ClaimError> {
    let draft = path.with_extension("draft");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(at("remove", &draft)(error));
        }
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(at("create", &draft))?;
    file.write_all(content).map_err(at("write", &draft))?;
    fault::point!("start.claim-drafted");
    fs::rename(&draft, path).map_err(at("write", path))
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
            remove_views(run_dir, block)?;
            fs::remove_file(&path).map_err(at("remove", &path))?;
            fault::point!("stop.claim-released");
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(at("read", &path)(error)),
    }
}

/// What the block's sandboxes were shown of themselves, and the directory of all blocks' when it is the last one.
fn remove_views(run_dir: &Path, block: Block) -> Result<(), ClaimError> {
    let views = run_dir.join("views");
    let own = views.join(block.prefix());
    // Where the run directory is on a disk, they have a file system of their own (EINVAL: not here).
    match mount::detach(&own) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
            ) =>
        {
            return Err(at("unmount", &own)(error));
        }
        _ => {}
    }
    match fs::remove_dir_all(&own) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(at("remove", &own)(error));
        }
        _ => {}
    }
    // Another server's are still there: then it stays.
    let _others = fs::remove_dir(&views);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;

    use super::*;

    fn block(number: u8) -> Block {
        Block::new(number).unwrap()
    }

    /// On a machine without links.
    fn claim_in(run: &Path, data: &Path) -> Result<Block, ClaimError> {
        claim_among(run, Path::new("/nonexistent"), data)
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
            choose(&claims, me, Some(block(2))).map(Block::number)
        };
        assert_eq!(
            choose(&[Claim::Free, held("/me")]),
            Some(1),
            "our own first"
        );
        assert_eq!(
            choose(&[held("/a"), Claim::Stale, held("/b"), Claim::Free]),
            Some(3),
            "free before stale"
        );
        for last in [Claim::Free, Claim::Stale, Claim::Lost] {
            assert_eq!(
                choose(&[Claim::Free, Claim::Free, last]),
                Some(2),
                "the last one again"
            );
        }
        assert_eq!(
            choose(&[Claim::Free, held("/me"), Claim::Lost]),
            Some(1),
            "a claim counts more than a memory"
        );
        assert_eq!(choose(&[Claim::Lost, held("/a"), held("/b")]), None);
        assert_eq!(
            choose(&[Claim::Lost, held("/a"), held("/b"), Claim::Stale]),
            Some(3)
        );
        assert_eq!(choose(&[held("/a"), Claim::Stale, held("/b")]), Some(1));
        assert_eq!(choose(&[held("/a"), held("/b")]), None);
    }

    #[test]
    fn the_same_server_gets_its_block_again() {
        let dirs = Dirs::new();
        let (a, b) = (dirs.data("a"), dirs.data("b"));
        assert_eq!(claim_in(&dirs.run(), &a).unwrap(), block(0));
        assert_eq!(claim_in(&dirs.run(), &b).unwrap(), block(1));
        assert_eq!(claim_in(&dirs.run(), &a.join(".")).unwrap(), block(0));
        release(&dirs.run(), block(0), &b).unwrap();
        assert_eq!(
            claim_in(&dirs.run(), &a).unwrap(),
            block(0),
            "not b's to give back"
        );
        release(&dirs.run(), block(0), &a).unwrap();
        release(&dirs.run(), block(0), &a).unwrap();
        assert_eq!(claim_in(&dirs.run(), &dirs.data("c")).unwrap(), block(0));
        assert!(
            claim_in(&dirs.run(), Path::new("/nonexistent"))
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
                claim_in(&dirs.run(), &dirs.data(&format!("d{i}"))).unwrap(),
                block(i)
            );
        }
        let late = dirs.data("late");
        let error = claim_in(&dirs.run(), &late).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitExceeded);
        assert!(error.to_string().contains("/d3") && error.to_string().contains("FIX:"));
        fs::remove_dir_all(dirs.data("d5")).unwrap();
        assert_eq!(claim_in(&dirs.run(), &late).unwrap(), block(5));
        fs::write(path_of(&dirs.run(), block(9)), "").unwrap();
        assert_eq!(
            claim_in(&dirs.run(), &dirs.data("later")).unwrap(),
            block(9),
            "damaged, and nothing stands in it"
        );
    }

    #[test]
    fn a_lost_claim_does_not_give_the_block_away() {
        let dirs = Dirs::new();
        let links = dirs.data("links");
        let (a, b, c) = (dirs.data("a"), dirs.data("b"), dirs.data("c"));
        let claim = |data: &Path| claim_among(&dirs.run(), &links, data).unwrap();
        assert_eq!((claim(&a), claim(&b)), (block(0), block(1)));
        fs::create_dir(links.join("sb0gw")).unwrap();
        fs::create_dir(links.join("sb1gw")).unwrap();
        for damage in [None, Some(""), Some("\0\0\0\0"), Some("garbage")] {
            for number in [0, 1] {
                let path = path_of(&dirs.run(), block(number));
                match damage {
                    None => fs::remove_file(path).unwrap(),
                    Some(text) => fs::write(path, text).unwrap(),
                }
            }
            assert_eq!(claim(&c), block(2), "{damage:?}: neither is taken");
            assert_eq!((claim(&b), claim(&a)), (block(1), block(0)), "{damage:?}");
        }
        fs::write(b.join(REMEMBERED), "99").unwrap();
        assert_eq!(claim(&b), block(1), "its claim is enough");
        assert_eq!(fs::read_to_string(b.join(REMEMBERED)).unwrap(), "1\n");
        assert!(!dirs.run().join("blocks/1.draft").exists());
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
                            claim_in(&run, &data).unwrap().number()
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
