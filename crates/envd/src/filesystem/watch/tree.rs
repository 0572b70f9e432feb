//! One watched directory: which directories below it the kernel watches, and what its events mean to a client.
//!
//! Made for recursive watches, where three races have to be closed. A directory may be filled before it is watched: its
//! content is reported as created when the watch is on it. Something may be seen both ways: the kernel's event for what
//! was already reported is dropped. A directory may move: inside the tree it keeps its watches under the new name,
//! moved out it loses them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{ReadFlags, Reader, WatchFlags, add_watch, remove_watch};
use rustix::io::Errno;
use soulbox_envd_proto::filesystem::{EventType, FilesystemEvent};

use super::WatchError;
use super::queue::Queue;

/// Directories of one watch.
const DIRECTORIES_MAX: usize = 65_536;

/// What is watched.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub(super) root: String,
    pub(super) recursive: bool,
    /// Whether events carry a description of the file.
    pub(super) entries: bool,
}

#[derive(Debug)]
pub(super) struct Tree {
    scope: Scope,
    root: i32,
    /// Watched directories, by the kernel's number, as paths below the root.
    watched: HashMap<i32, PathBuf>,
    /// What was reported by looking into a directory, and that the kernel may report again.
    reported: HashSet<(i32, OsString)>,
    /// A directory that left its place, until it is clear where to: the kernel reports both halves one after the other.
    moving: Option<(u32, PathBuf)>,
    queue: Queue,
}

/// One event of the kernel.
struct Raw {
    directory: i32,
    flags: ReadFlags,
    cookie: u32,
    name: Option<OsString>,
}

fn mask() -> WatchFlags {
    WatchFlags::CREATE
        | WatchFlags::MODIFY
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVE_SELF
        | WatchFlags::ATTRIB
        | WatchFlags::ONLYDIR
}

impl Tree {
    /// Watches the root and, if asked, everything below it.
    pub(super) fn arm(kernel: BorrowedFd<'_>, scope: Scope) -> Result<Self, WatchError> {
        let root = add_watch(kernel, scope.root.as_str(), mask()).map_err(|error| match error {
            Errno::NOENT => WatchError::NotFound(scope.root.clone()),
            Errno::NOTDIR => WatchError::NotDirectory(scope.root.clone()),
            Errno::NOSPC | Errno::NOMEM => {
                WatchError::Exhausted(format!("cannot watch {}: {error}", scope.root))
            }
            other => WatchError::Failed(other.to_string()),
        })?;
        let queue = Queue::new(scope.root.clone(), scope.entries);
        let mut tree = Self {
            scope,
            root,
            watched: HashMap::from([(root, PathBuf::new())]),
            reported: HashSet::new(),
            moving: None,
            queue,
        };
        if tree.scope.recursive {
            tree.look_into(kernel, root, PathBuf::new(), false);
        }
        match tree.queue.failure() {
            Some(failure) => Err(failure.clone()),
            None => Ok(tree),
        }
    }

    /// The next event; the failure that ended the watch, again and again; `None` when nothing has happened.
    pub(super) fn next(&mut self) -> Option<Result<FilesystemEvent, WatchError>> {
        self.queue.next()
    }

    /// Takes all events that the kernel has now.
    pub(super) fn drain(&mut self, kernel: BorrowedFd<'_>) {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = Reader::new(kernel, &mut buffer);
        loop {
            let raw = match reader.next() {
                Ok(event) => Raw {
                    directory: event.wd(),
                    flags: event.events(),
                    cookie: event.cookie(),
                    name: event
                        .file_name()
                        .map(|name| OsStr::from_bytes(name.to_bytes()).to_owned()),
                },
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(error) => {
                    self.fail(WatchError::Failed(error.to_string()));
                    break;
                }
            };
            self.apply(kernel, &raw);
        }
        self.resolve_move(kernel, None);
        self.queue.forget_names();
    }

    fn apply(&mut self, kernel: BorrowedFd<'_>, raw: &Raw) {
        if self.queue.failure().is_some() {
            return;
        }
        if raw.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return self.fail(WatchError::Overflow);
        }
        if raw.flags.contains(ReadFlags::IGNORED) {
            self.watched.remove(&raw.directory);
            self.reported
                .retain(|(directory, _)| *directory != raw.directory);
            return;
        }
        let Some(directory) = self.watched.get(&raw.directory) else {
            return;
        };
        match &raw.name {
            Some(name) => {
                let path = directory.join(name);
                self.apply_to_child(kernel, raw, name, &path);
            }
            // Other directories are also somebody's child, and reported there.
            None if raw.directory == self.root => self.apply_to_root(kernel, raw.flags),
            None => {}
        }
    }

    fn apply_to_root(&mut self, kernel: BorrowedFd<'_>, flags: ReadFlags) {
        let here = Path::new(".");
        if flags.contains(ReadFlags::MOVE_SELF) {
            self.emit(EventType::EVENT_TYPE_RENAME, here);
        }
        if flags.contains(ReadFlags::ATTRIB) {
            self.emit(EventType::EVENT_TYPE_CHMOD, here);
        }
        if flags.contains(ReadFlags::DELETE_SELF) {
            self.emit(EventType::EVENT_TYPE_REMOVE, here);
        }
        if flags.intersects(ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF) {
            self.forget(kernel, Path::new(""));
        }
    }

    fn apply_to_child(&mut self, kernel: BorrowedFd<'_>, raw: &Raw, name: &OsStr, path: &Path) {
        let flags = raw.flags;
        let follows = self.scope.recursive && flags.contains(ReadFlags::ISDIR);
        let seen = (raw.directory, name.to_owned());
        let arrived = flags.contains(ReadFlags::MOVED_TO);
        if self.resolve_move(kernel, arrived.then_some((raw.cookie, path))) {
            return self.emit(EventType::EVENT_TYPE_CREATE, path);
        }
        if flags.contains(ReadFlags::CREATE) && self.reported.remove(&seen) {
            return;
        }
        if flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            self.emit(EventType::EVENT_TYPE_CREATE, path);
            if follows {
                self.follow(kernel, path);
            }
        }
        if flags.contains(ReadFlags::MOVED_FROM) {
            self.reported.remove(&seen);
            self.emit(EventType::EVENT_TYPE_RENAME, path);
            if follows {
                self.moving = Some((raw.cookie, path.to_owned()));
            }
        }
        if flags.contains(ReadFlags::ATTRIB) {
            self.emit(EventType::EVENT_TYPE_CHMOD, path);
        }
        if flags.contains(ReadFlags::MODIFY) {
            self.emit(EventType::EVENT_TYPE_WRITE, path);
        }
        if flags.contains(ReadFlags::DELETE) {
            self.reported.remove(&seen);
            self.emit(EventType::EVENT_TYPE_REMOVE, path);
        }
    }

    /// Settles a directory that left its place: it has arrived at `arrival`, or it is gone. True when it has arrived.
    fn resolve_move(&mut self, kernel: BorrowedFd<'_>, arrival: Option<(u32, &Path)>) -> bool {
        let Some((cookie, old)) = self.moving.take() else {
            return false;
        };
        match arrival {
            Some((same, new)) if same == cookie => {
                for path in self.watched.values_mut() {
                    if let Ok(below) = path.strip_prefix(&old) {
                        *path = if below.as_os_str().is_empty() {
                            new.to_owned()
                        } else {
                            new.join(below)
                        };
                    }
                }
                true
            }
            _ => {
                self.forget(kernel, &old);
                false
            }
        }
    }

    /// Stops watching a directory and all below it.
    fn forget(&mut self, kernel: BorrowedFd<'_>, path: &Path) {
        let gone: Vec<i32> = self
            .watched
            .iter()
            .filter(|(_, at)| at.starts_with(path))
            .map(|(wd, _)| *wd)
            .collect();
        for directory in gone {
            self.watched.remove(&directory);
            self.reported.retain(|(of, _)| *of != directory);
            // The kernel has dropped it already when the directory is gone.
            let _ = remove_watch(kernel, directory);
        }
    }

    /// Starts to watch a new directory and all below it, reporting what is in there already.
    fn follow(&mut self, kernel: BorrowedFd<'_>, path: &Path) {
        let mut waiting = VecDeque::new();
        self.watch(kernel, path.to_owned(), &mut waiting);
        if let Some((directory, path)) = waiting.pop_front() {
            self.look_into(kernel, directory, path, true);
        }
    }

    fn look_into(&mut self, kernel: BorrowedFd<'_>, directory: i32, path: PathBuf, new: bool) {
        let mut waiting = VecDeque::from([(directory, path)]);
        while let Some((directory, path)) = waiting.pop_front() {
            let Ok(children) = fs::read_dir(Path::new(&self.scope.root).join(&path)) else {
                continue;
            };
            for child in children.flatten() {
                let below = path.join(child.file_name());
                if new {
                    self.emit(EventType::EVENT_TYPE_CREATE, &below);
                    self.reported.insert((directory, child.file_name()));
                }
                if child.file_type().is_ok_and(|kind| kind.is_dir()) {
                    self.watch(kernel, below, &mut waiting);
                }
                if self.queue.failure().is_some() {
                    return;
                }
            }
        }
    }

    /// Watches one directory and puts it on the list of those to look into: no recursion, however deep the tree is.
    fn watch(
        &mut self,
        kernel: BorrowedFd<'_>,
        path: PathBuf,
        waiting: &mut VecDeque<(i32, PathBuf)>,
    ) {
        let full = Path::new(&self.scope.root).join(&path);
        match add_watch(kernel, &full, mask() | WatchFlags::DONT_FOLLOW) {
            Ok(directory) if self.watched.len() < DIRECTORIES_MAX => {
                self.watched.insert(directory, path.clone());
                waiting.push_back((directory, path));
            }
            Ok(_) => self.fail(WatchError::Failed(format!(
                "more than {DIRECTORIES_MAX} directories"
            ))),
            Err(error @ (Errno::NOSPC | Errno::NOMEM)) => {
                self.fail(WatchError::Exhausted(format!(
                    "cannot watch {}: {error}",
                    full.display()
                )));
            }
            // Gone again, or not readable.
            Err(_) => {}
        }
    }

    fn emit(&mut self, kind: EventType, path: &Path) {
        self.queue.emit(kind, path);
    }

    fn fail(&mut self, failure: WatchError) {
        self.queue.fail(failure);
    }
}

#[cfg(test)]
mod tests;
