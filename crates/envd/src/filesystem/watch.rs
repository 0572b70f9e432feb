//! Watches on directories: who has one, and the conditions for a new one.
//!
//! [`tree`] turns the kernel's events into clients', [`queue`] keeps them, [`wire`] writes those, this file keeps the watches and wakes them.
//! Reading the kernel's queue is synchronous and done by whoever needs it: a task per watch, so that new directories
//! are followed promptly; a client that polls; and every operation that has just made a directory, through
//! [`Watchers::catch_up`], so that what happens in it next is seen.

mod queue;
mod tree;
mod wire;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags};
use soulbox_envd_proto::filesystem::FilesystemEvent;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use self::tree::{Scope, Tree};
pub(crate) use self::wire::stream;
use crate::random;
use crate::sync::lock;
use crate::watched::watched;

/// Watches at once; each is a kernel object that all sandboxes of a host share the limit of.
const WATCHES_MAX: usize = 256;

/// What a client asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) path: String,
    pub(crate) recursive: bool,
    pub(crate) include_entry: bool,
    pub(crate) allow_network_mounts: bool,
}

/// Why there is no watch, or no more of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WatchError {
    #[error("path {0} not found")]
    NotFound(String),
    #[error("path {0} is not a directory")]
    NotDirectory(String),
    #[error("path {0} is on a network file system, whose changes elsewhere cannot be seen")]
    NetworkMount(String),
    #[error("too many watches (limit {WATCHES_MAX})")]
    TooMany,
    #[error(
        "{0}\nFIX: raise fs.inotify.max_user_instances and fs.inotify.max_user_watches on the host"
    )]
    Exhausted(String),
    #[error("events were lost: more happened than could be kept")]
    Overflow,
    #[error("error watching path: {0}")]
    Failed(String),
    #[error("watcher with id {0} not found")]
    Unknown(String),
}

/// One watch. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    reader: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    queue: AsyncFd<OwnedFd>,
    tree: Mutex<Tree>,
    changed: Notify,
}

impl Shared {
    /// Takes everything the kernel has.
    fn drain(&self) {
        lock(&self.tree).drain(self.queue.get_ref().as_fd());
        self.changed.notify_one();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Watch {
    fn start(wanted: &Wanted) -> Result<Self, WatchError> {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        let queue = inotify::init(flags)
            .map_err(|e| WatchError::Exhausted(format!("cannot watch: {e}")))?;
        let scope = Scope {
            root: wanted.path.clone(),
            recursive: wanted.recursive,
            entries: wanted.include_entry,
        };
        let tree = Tree::arm(queue.as_fd(), scope)?;
        let failed = |e: io::Error| WatchError::Failed(e.to_string());
        let queue = watched(queue, Interest::READABLE).map_err(failed)?;
        let shared = Arc::new(Shared {
            queue,
            tree: Mutex::new(tree),
            changed: Notify::new(),
        });
        let reading = Arc::clone(&shared);
        let reader = tokio::spawn(async move {
            while let Ok(mut ready) = reading.queue.readable().await {
                reading.drain();
                ready.clear_ready();
            }
        });
        Ok(Self {
            shared,
            reader: reader.abort_handle(),
        })
    }

    /// The next event, the end of the watch, or nothing within `patience`.
    async fn next(&self, patience: Duration) -> Option<Result<FilesystemEvent, WatchError>> {
        let event = async {
            loop {
                if let Some(event) = lock(&self.shared.tree).next() {
                    return event;
                }
                self.shared.changed.notified().await;
            }
        };
        tokio::time::timeout(patience, event).await.ok()
    }
}

/// All watches.
#[derive(Debug, Default)]
pub(crate) struct Watchers(Mutex<Registry>);

#[derive(Debug, Default)]
struct Registry {
    /// Those that clients poll by name.
    named: HashMap<String, Watch>,
    all: Vec<Weak<Shared>>,
}

impl Watchers {
    /// Starts a watch that lives as long as whoever holds it.
    pub(crate) fn start(&self, wanted: &Wanted) -> Result<Watch, WatchError> {
        check(wanted)?;
        let mut registry = lock(&self.0);
        registry.all.retain(|watch| watch.strong_count() > 0);
        if registry.all.len() >= WATCHES_MAX {
            return Err(WatchError::TooMany);
        }
        let watch = Watch::start(wanted)?;
        registry.all.push(Arc::downgrade(&watch.shared));
        Ok(watch)
    }

    /// Starts one that lives until it is removed; gives its name.
    pub(crate) fn create(&self, wanted: &Wanted) -> Result<String, WatchError> {
        let watch = self.start(wanted)?;
        let name = format!("w{}", random::lower_alphanumeric(20));
        lock(&self.0).named.insert(name.clone(), watch);
        Ok(name)
    }

    /// Everything that has happened since the last time, up to this moment.
    pub(crate) fn poll(&self, name: &str) -> Result<Vec<FilesystemEvent>, WatchError> {
        let registry = lock(&self.0);
        let watch = registry
            .named
            .get(name)
            .ok_or_else(|| WatchError::Unknown(name.to_owned()))?;
        watch.shared.drain();
        let mut tree = lock(&watch.shared.tree);
        let mut events = Vec::new();
        loop {
            match tree.next() {
                Some(Ok(event)) => events.push(event),
                // What came before the failure is still told; the failure at every poll after.
                Some(Err(failure)) if events.is_empty() => return Err(failure),
                Some(Err(_)) | None => return Ok(events),
            }
        }
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), WatchError> {
        let removed = lock(&self.0).named.remove(name);
        removed
            .map(drop)
            .ok_or_else(|| WatchError::Unknown(name.to_owned()))
    }

    /// Brings every watch up to date: new directories are followed when this returns.
    pub(crate) fn catch_up(&self) {
        for watch in &lock(&self.0).all {
            if let Some(watch) = watch.upgrade() {
                watch.drain();
            }
        }
    }
}

fn check(wanted: &Wanted) -> Result<(), WatchError> {
    let path = &wanted.path;
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => WatchError::NotFound(format!("{path}: {error}")),
        io::ErrorKind::NotADirectory => WatchError::NotDirectory(path.clone()),
        _ => WatchError::Failed(error.to_string()),
    })?;
    if !metadata.is_dir() {
        return Err(WatchError::NotDirectory(path.clone()));
    }
    // A sandbox whose root itself is on FUSE sees all its own changes there.
    let on_root = fs::metadata("/").is_ok_and(|root| root.dev() == metadata.dev());
    if !wanted.allow_network_mounts && !on_root && is_network(path) {
        return Err(WatchError::NetworkMount(path.clone()));
    }
    Ok(())
}

fn is_network(path: &str) -> bool {
    const NFS: u64 = 0x6969;
    const CIFS: u64 = 0xFF53_4D42;
    const SMB: u64 = 0x517B;
    const SMB2: u64 = 0xFE53_4D42;
    const FUSE: u64 = 0x6573_5546;
    let kind =
        rustix::fs::statfs(path).map(|found| u64::try_from(found.f_type).unwrap_or_default());
    matches!(kind, Ok(NFS | CIFS | SMB | SMB2 | FUSE))
}
