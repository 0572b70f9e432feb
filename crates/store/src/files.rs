//! What the files of a database say before SQLite opens them.
//!
//! SQLite finds most damage by itself and some it takes for the truth: an empty file is a new database, and a write-ahead
//! log is read up to the first frame that does not fit, however much follows. For SoulBox that would mean lost promises:
//! a sandbox without a row is killed. So what must be there is looked at first, and a server does not start on less.
//!
//! The log is only judged in the boot that wrote it. When the machine itself has crashed, SQLite's rule is right: the end
//! of the log may be lost, and no sandbox of that time is alive.
//!
//! Formats: <https://www.sqlite.org/fileformat.html>, <https://www.sqlite.org/walformat.html>.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// `PRAGMA application_id` of migration 2: `SBOX`.
const APPLICATION: u32 = 0x5342_4f58;
/// `PRAGMA user_version` of the newest migration.
pub(crate) const VERSION: u32 = 13;
const HEADER: usize = 100;
const WAL_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// What is wrong with one file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Which file.
    pub(crate) file: PathBuf,
    /// What, in words that go on from its name.
    pub(crate) what: String,
}

/// Whether the database must have been there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// It is made when it is not there.
    Any,
    /// Other files say that this data directory has been used: a database that is not there is lost.
    Existing,
}

fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Looks at the database, its log, and the index of its log. `boot` tells this boot of the machine from others.
pub(crate) fn examine(
    database: &Path,
    expect: Expect,
    boot: &str,
) -> io::Result<Result<(), Damage>> {
    let damage = |file: &Path, what: &str| {
        Ok(Err(Damage {
            file: file.to_owned(),
            what: what.to_owned(),
        }))
    };
    let (log, index) = (beside(database, "-wal"), beside(database, "-shm"));
    let header = match read_up_to(database, HEADER)? {
        None if expect == Expect::Existing => return damage(database, "is not there"),
        None if log.exists() => return damage(database, "is not there, its log is"),
        None => return Ok(Ok(())),
        Some(header) => header,
    };
    match (header.is_empty(), expect) {
        // Its first moments are an empty file.
        (true, Expect::Any) => return Ok(Ok(())),
        (true, Expect::Existing) => return damage(database, "is empty"),
        (false, _) => {}
    }
    if let Some(what) = misfit(&header) {
        return damage(database, &what);
    }
    if fs::read_to_string(beside(database, "-boot")).is_ok_and(|written| written == boot)
        && let Some(what) = lost_frames(&log, &index)?
    {
        return damage(&log, &what);
    }
    Ok(Ok(()))
}

/// Notes that the log is from now on written in this boot. Half a note is a note of no boot.
pub(crate) fn note_boot(database: &Path, boot: &str) -> io::Result<()> {
    let path = beside(database, "-boot");
    if fs::read_to_string(&path).is_ok_and(|written| written == boot) {
        return Ok(());
    }
    fs::write(path, boot)
}

/// Nothing when there is no file; less than `limit` bytes when it is shorter.
fn read_up_to(path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// What is wrong with a version, when it is later than ours.
pub(crate) fn newer(version: u32) -> Option<String> {
    (version > VERSION).then(|| {
        format!(
            "was written by a newer soulbox: its version is {version}, this one knows {VERSION}"
        )
    })
}

/// Why a header is not one of ours.
fn misfit(header: &[u8]) -> Option<String> {
    if header.len() < HEADER || !header.starts_with(b"SQLite format 3\0") {
        return Some("is no SQLite database".to_owned());
    }
    let (application, version) = (big(header, 68)?, big(header, 60)?);
    match application {
        APPLICATION if version > VERSION => newer(version),
        // Nothing yet: the migration that writes it is in the log, or still to come.
        APPLICATION | 0 => None,
        other => Some(format!(
            "belongs to another program: its application id is {other:#010x}"
        )),
    }
}

fn big(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(word.try_into().ok()?))
}

fn native(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

/// What of the log is lost, when something is: the process that wrote it may have died between two writes, the machine
/// has not.
fn lost_frames(log: &Path, index: &Path) -> io::Result<Option<String>> {
    let bytes = match fs::read(log) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    let published = read_up_to(index, 136)?.and_then(|index| Published::of(&index));
    let lost = |whole: u32| {
        published
            .as_ref()
            .is_none_or(|published| published.needs(whole))
    };
    let found = match Frames::of(&bytes) {
        Ok(found) => found,
        // A disk that was full may have cut the very first write; then nothing had been promised.
        Err(what) => return Ok(lost(0).then(|| what.to_owned())),
    };
    Ok(published
        .filter(|published| {
            (bytes.is_empty() || published.salt == found.salt) && published.needs(found.whole)
        })
        .map(|published| {
            format!(
                "has {} whole frames, {} were written",
                found.whole, published.frames
            )
        }))
}

/// What the index says of the log: what every process that reads the database believes.
#[derive(Debug, PartialEq, Eq)]
struct Published {
    frames: u32,
    /// How many of them are in the database file already.
    moved: u32,
    salt: [u32; 2],
}

impl Published {
    /// Whether a log of so many frames lacks some. When all of them are in the database, none at all is fine, and some are
    /// not: they would be laid over what is newer.
    fn needs(&self, whole: u32) -> bool {
        whole < self.frames && (whole > 0 || self.moved < self.frames)
    }

    /// Nothing when the index is not in order: its copy differs while it is being changed.
    fn of(index: &[u8]) -> Option<Self> {
        let (one, other) = (index.get(..48)?, index.get(48..96)?);
        let set_up = *index.get(12)? == 1;
        (one == other && set_up).then_some(())?;
        Some(Self {
            frames: native(index, 16)?,
            moved: native(index, 96)?,
            // Copied as they stand in the log.
            salt: [big(index, 32)?, big(index, 36)?],
        })
    }
}

/// What a walk over the log finds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Frames {
    /// Frames that fit, from the beginning on. Behind them may stand what was never committed, or an earlier generation.
    whole: u32,
    salt: [u32; 2],
}

impl Frames {
    fn of(log: &[u8]) -> Result<Self, &'static str> {
        if log.is_empty() {
            return Ok(Self::default());
        }
        let Some(header) = log.get(..WAL_HEADER) else {
            return Err("is shorter than its header");
        };
        let word = |at| big(header, at).unwrap_or_default();
        let swapped = match word(0) {
            0x377f_0682 => false,
            0x377f_0683 => true,
            _ => return Err("does not begin like a log"),
        };
        let mut sum = Sum {
            big: swapped,
            value: [0, 0],
        };
        sum.add(&header[..24]);
        if sum.value != [word(24), word(28)] {
            return Err("has a header whose checksum does not match");
        }
        let page = usize::try_from(word(8)).unwrap_or(usize::MAX);
        if !(512..=65536).contains(&page) {
            return Err("has pages of an impossible size");
        }
        let salt = [word(16), word(20)];
        Ok(Self::walk(&log[WAL_HEADER..], page, salt, sum))
    }

    fn walk(frames: &[u8], page: usize, salt: [u32; 2], mut sum: Sum) -> Self {
        let mut whole = 0;
        for frame in frames.chunks_exact(FRAME_HEADER + page) {
            let word = |at| big(frame, at);
            sum.add(&frame[..8]);
            sum.add(&frame[FRAME_HEADER..]);
            let ours = word(8) == Some(salt[0]) && word(12) == Some(salt[1]);
            if !ours || word(16).zip(word(20)) != Some((sum.value[0], sum.value[1])) {
                break;
            }
            whole += 1;
        }
        Self { whole, salt }
    }
}

/// The checksum of the log, which goes on from frame to frame.
#[derive(Debug, Clone, Copy)]
struct Sum {
    big: bool,
    value: [u32; 2],
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        let word = |bytes: &[u8]| {
            let bytes = bytes.try_into().unwrap_or_default();
            if self.big {
                u32::from_be_bytes(bytes)
            } else {
                u32::from_le_bytes(bytes)
            }
        };
        let [mut one, mut two] = self.value;
        for pair in bytes.chunks_exact(8) {
            one = one.wrapping_add(word(&pair[..4])).wrapping_add(two);
            two = two.wrapping_add(word(&pair[4..])).wrapping_add(one);
        }
        self.value = [one, two];
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use soulbox_types::SandboxId;

    use super::*;
    use crate::database::tests::temp_store;
    use crate::sandboxes::tests::record;
    use crate::{Store, StoreError};

    const ROWS: usize = 60;
    const PARTS: [&str; 4] = ["", "-wal", "-shm", "-boot"];

    /// The files that a server left that was killed, or that ended in order.
    struct Left {
        dir: tempfile::TempDir,
        promised: BTreeSet<SandboxId>,
    }

    async fn left(killed: bool) -> Left {
        left_after(killed, "SELECT 1").await
    }

    /// `last` is the last statement before the end.
    async fn left_after(killed: bool, last: &'static str) -> Left {
        let temp = temp_store().await;
        let team = temp.default_team().await.unwrap();
        // The log holds the rows and nothing before them.
        let moved = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)");
        moved.execute(temp.store.writer()).await.unwrap();
        let mut promised = BTreeSet::new();
        for n in 0..ROWS {
            let one = record(&team.id, i64::try_from(n).unwrap(), Some(&[("k", "v")]));
            temp.insert_sandbox(&one).await.unwrap();
            promised.insert(one.id);
        }
        let last = sqlx::query(last).execute(temp.store.writer()).await;
        last.unwrap();
        if !killed {
            temp.store.close().await;
        }
        let dir = tempfile::tempdir().unwrap();
        for part in PARTS {
            let from = beside(&temp.dir.path().join("soulbox.db"), part);
            if from.exists() {
                fs::copy(&from, beside(&dir.path().join("soulbox.db"), part)).unwrap();
            }
        }
        assert_eq!(
            beside(&dir.path().join("soulbox.db"), "-wal").exists(),
            killed
        );
        temp.store.close().await;
        Left { dir, promised }
    }

    impl Left {
        fn file(&self, part: &str) -> PathBuf {
            beside(&self.dir.path().join("soulbox.db"), part)
        }

        /// A copy that may be damaged.
        fn copy(&self) -> Self {
            let dir = tempfile::tempdir().unwrap();
            for part in PARTS {
                if self.file(part).exists() {
                    fs::copy(
                        self.file(part),
                        beside(&dir.path().join("soulbox.db"), part),
                    )
                    .unwrap();
                }
            }
            Self {
                dir,
                promised: self.promised.clone(),
            }
        }

        async fn open(&self) -> Result<Store, StoreError> {
            Store::open_expecting(&self.file(""), Expect::Existing).await
        }

        /// Opens it: either an error, or everything is there. Says which.
        async fn refused_or_whole(&self, how: &str) -> bool {
            let store = match self.open().await {
                Ok(store) => store,
                Err(error) => {
                    assert!(error.is_damage(), "{how}: {error:?}");
                    assert!(error.to_string().contains("FIX: "), "{how}: {error}");
                    return true;
                }
            };
            match store.all_running().await {
                Ok(found) => {
                    let found: BTreeSet<_> = found.into_iter().map(|record| record.id).collect();
                    assert_eq!(
                        found.len(),
                        self.promised.len(),
                        "{how}: rows were lost in silence"
                    );
                    false
                }
                Err(error) => {
                    assert!(error.is_damage(), "{how}: {error:?}");
                    true
                }
            }
        }
    }

    fn truncate(path: &Path, length: u64) {
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(length)
            .unwrap();
    }

    fn flip(path: &Path, at: u64) {
        let mut bytes = fs::read(path).unwrap();
        bytes[usize::try_from(at).unwrap()] ^= 0x10;
        fs::write(path, bytes).unwrap();
    }

    fn length(path: &Path) -> u64 {
        fs::metadata(path).unwrap().len()
    }

    #[tokio::test]
    async fn what_a_killed_server_left_is_whole() {
        let left = left(true).await;
        assert!(length(&left.file("-wal")) > 100_000);
        assert!(!left.refused_or_whole("untouched").await);
        assert!(!left.refused_or_whole("once more").await);
    }

    #[tokio::test]
    async fn a_database_cut_short_anywhere_is_refused() {
        let left = left(false).await;
        let whole = length(&left.file(""));
        for length in (0..whole)
            .step_by(3001)
            .chain([1, 99, 100, 4096, whole - 4096, whole - 1])
        {
            let copy = left.copy();
            truncate(&copy.file(""), length);
            assert!(
                copy.refused_or_whole(&format!("cut to {length}")).await,
                "cut to {length}"
            );
        }
    }

    #[tokio::test]
    async fn a_log_cut_short_anywhere_is_refused() {
        let left = left(true).await;
        let whole = length(&left.file("-wal"));
        let frame = 4096 + u64::try_from(FRAME_HEADER).unwrap();
        let frames = [1, 2, 5].map(|n| whole - n * frame);
        for length in (0..whole)
            .step_by(9973)
            .chain([1, 31, 32, whole - 1])
            .chain(frames)
        {
            let copy = left.copy();
            truncate(&copy.file("-wal"), length);
            copy.refused_or_whole(&format!("log cut to {length}")).await;
        }
        let copy = left.copy();
        fs::remove_file(copy.file("-wal")).unwrap();
        let error = copy.open().await.unwrap_err().to_string();
        assert!(
            error.contains("soulbox.db-wal has 0 whole frames"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_part_of_a_log_that_was_moved_is_not_laid_over_what_is_newer() {
        let left = left_after(true, "PRAGMA wal_checkpoint(PASSIVE)").await;
        let whole = length(&left.file("-wal"));
        let mut refused = 0;
        for length in (0..whole).step_by(9973) {
            let copy = left.copy();
            truncate(&copy.file("-wal"), length);
            let how = format!("moved log cut to {length}");
            refused += usize::from(copy.refused_or_whole(&how).await);
        }
        assert!(refused > 10, "only {refused} were refused");
        let copy = left.copy();
        fs::remove_file(copy.file("-wal")).unwrap();
        assert!(!copy.refused_or_whole("no log").await, "it needs none");
    }

    #[tokio::test]
    async fn changed_bits_lose_no_row_in_silence() {
        for killed in [false, true] {
            let left = left(killed).await;
            let part = if killed { "-wal" } else { "" };
            let whole = length(&left.file(part));
            let mut refused = 0;
            for at in (0..whole).step_by(usize::try_from(whole / 90).unwrap()) {
                let copy = left.copy();
                flip(&copy.file(part), at);
                refused += usize::from(
                    copy.refused_or_whole(&format!("bit of byte {at} of {part}"))
                        .await,
                );
            }
            assert!(refused > 10, "only {refused} were noticed in {part}");
        }
    }

    #[tokio::test]
    async fn garbage_in_place_of_the_log_is_refused() {
        let left = left(true).await;
        fs::write(left.file("-wal"), [0x5a; 70_000]).unwrap();
        let error = left.open().await.unwrap_err().to_string();
        assert!(
            error.contains("soulbox.db-wal does not begin like a log"),
            "{error}"
        );
        // Another boot: the machine has crashed, and the end of the log with it.
        fs::write(left.file("-boot"), "another").unwrap();
        left.open().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_not_ours_is_named() {
        let left = left(false).await;
        let check = async |what: &str, change: &dyn Fn(&Path)| {
            let copy = left.copy();
            change(&copy.file(""));
            let error = copy.open().await.unwrap_err();
            assert!(error.is_damage(), "{what}: {error:?}");
            let text = error.to_string();
            assert!(text.contains(&format!("soulbox.db {what}")), "{text}");
        };
        let set = |path: &Path, at: usize, value: u32| {
            let mut bytes = fs::read(path).unwrap();
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
            fs::write(path, bytes).unwrap();
        };
        check("is not there", &|path| fs::remove_file(path).unwrap()).await;
        check("is empty", &|path| truncate(path, 0)).await;
        check("is no SQLite database", &|path| {
            fs::write(path, [0; 40_960]).unwrap();
        })
        .await;
        check(
            "was written by a newer soulbox: its version is 99",
            &|path| set(path, 60, 99),
        )
        .await;
        check("belongs to another program", &|path| set(path, 68, 7)).await;
        assert_eq!(big(&fs::read(left.file("")).unwrap(), 60), Some(VERSION));
    }

    #[test]
    fn a_database_may_be_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.db");
        assert_eq!(examine(&path, Expect::Any, "b").unwrap(), Ok(()));
        File::create(&path).unwrap();
        assert_eq!(examine(&path, Expect::Any, "b").unwrap(), Ok(()));
        assert!(examine(&path, Expect::Existing, "b").unwrap().is_err());
    }
}
