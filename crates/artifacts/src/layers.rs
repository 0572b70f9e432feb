//! Layers that come and go while a server runs: saved from sandboxes, squashed, removed.
//!
//! What is unfinished lies in a directory of its own in `tmp/`, which is locked as long as somebody works in it: what is
//! there without a lock was left by somebody who died.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;
use soulbox_fault as fault;

use crate::artifacts::Artifacts;
use crate::digest::{LayerDigest, LayerFacts};
use crate::durable::{self, Lock};
use crate::error::ArtifactError;
use crate::tree::{self, Written};

/// Begins the name of every directory of unfinished work.
const PREFIX: &str = "layer-";
/// The bare layer, the root first.
const BARE_DIRECTORIES: [(&str, u32); 8] = [
    ("", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
];
const BARE_FILES: [(&str, &[u8], u32); 2] = [
    ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644),
    ("etc/group", b"root:x:0:\n", 0o644),
];

impl Artifacts {
    /// Makes a layer of what a sandbox has written over these layers, topmost first. `None` when that is nothing.
    /// A layer with the same content that is there already is used.
    ///
    /// Blocking, and as long as it takes to copy the files.
    ///
    /// # Errors
    /// When the tree holds what no layer can hold, a layer below is missing, or the disk fails or is full. Nothing is
    /// left then.
    pub fn save(
        &self,
        written: &Written<'_>,
        below: &[LayerDigest],
    ) -> Result<Option<LayerFacts>, ArtifactError> {
        let below = below.iter().map(|digest| self.layer_path(digest));
        let work = Work::begin(self)?;
        fault::point!("save.work-begun");
        if !tree::save(written, below.collect(), &work.tree(), &work.links())? {
            return Ok(None);
        }
        fault::point!("save.files-copied", fallible)
            .map_err(|e| ArtifactError::io("copy to", work.tree(), e))?;
        self.publish_layer(&work).map(Some)
    }

    /// Makes one layer of these, topmost first, that takes the place of all of them in a stack. Files are shared.
    ///
    /// Blocking; every file is read.
    ///
    /// # Errors
    /// When one of the layers is missing or was changed, or the disk fails or is full. Nothing is left then.
    pub fn squash(&self, layers: &[LayerDigest]) -> Result<LayerFacts, ArtifactError> {
        let from: Result<Vec<_>, _> = layers.iter().map(|layer| self.check_layer(layer)).collect();
        let work = Work::begin(self)?;
        tree::squash(&from?, &work.tree(), &work.links())?;
        self.publish_layer(&work)
    }

    /// The layer that an image lies on which brings everything but what a sandbox needs to start: the directories that
    /// are mounted over, and root's name. One that is there already is used.
    ///
    /// # Errors
    /// When the disk fails or is full. Nothing is left then.
    pub fn bare(&self) -> Result<LayerFacts, ArtifactError> {
        self.made_of(&BARE_DIRECTORIES, &BARE_FILES)
    }

    /// A layer with one program at a path like `/directory/program`. One that is there already is used.
    ///
    /// # Errors
    /// As [`Artifacts::bare`]. The path must have exactly one directory.
    pub fn tool(&self, path: &str, program: &[u8]) -> Result<LayerFacts, ArtifactError> {
        let path = path.trim_start_matches('/');
        let directory = path.split('/').next().unwrap_or_default();
        self.made_of(
            &[("", 0o755), (directory, 0o755)],
            &[(path, program, 0o755)],
        )
    }

    fn made_of(
        &self,
        directories: &[(&str, u32)],
        files: &[(&str, &[u8], u32)],
    ) -> Result<LayerFacts, ArtifactError> {
        let work = Work::begin(self)?;
        let tree = work.tree();
        let mode = |path: &Path, mode: u32| fs::set_permissions(path, Permissions::from_mode(mode));
        let made: io::Result<()> = (|| {
            for (name, bits) in directories {
                fs::create_dir(tree.join(name))?;
                mode(&tree.join(name), *bits)?;
            }
            for (name, content, bits) in files {
                fs::write(tree.join(name), content)?;
                mode(&tree.join(name), *bits)?;
            }
            Ok(())
        })();
        made.map_err(|e| ArtifactError::io("fill", &tree, e))?;
        self.publish_layer(&work)
    }

    /// Gives a finished tree its name. Whoever dies meanwhile leaves a whole layer or none.
    fn publish_layer(&self, work: &Work) -> Result<LayerFacts, ArtifactError> {
        let tree = work.tree();
        let facts = tree::hash(&tree, &mut |_| ())?;
        // One that is there was durable before it had its name: this copy need not be.
        if self.check_layer(&facts.digest).is_ok() {
            return Ok(facts);
        }
        durable::sync_file_system(&tree)?;
        fault::point!("save.content-durable");
        let _lock = self.lock_layers()?;
        if self.check_layer(&facts.digest).is_ok() {
            return Ok(facts);
        }
        self.write_marker(&tree, facts)?;
        fault::point!("save.marker-written");
        self.place_layer(&tree, &facts.digest)?;
        fault::point!("save.layer-placed");
        Ok(facts)
    }

    /// Removes a layer with its marker; `None` when there is none. Its files go when what is returned is dropped.
    /// Whoever dies meanwhile leaves it whole or not at all. The caller knows that nobody uses it.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn remove_layer(
        &self,
        digest: &LayerDigest,
    ) -> Result<Option<RemovedLayer>, ArtifactError> {
        let work = Work::begin(self)?;
        let there = self.take_away(digest, &work.tree())?;
        Ok(there.then_some(RemovedLayer { _files: work }))
    }

    /// Moves a layer out of the way. Whether there was one.
    fn take_away(&self, digest: &LayerDigest, to: &Path) -> Result<bool, ArtifactError> {
        let path = self.layer_path(digest);
        let _lock = self.lock_layers()?;
        let there = match fs::rename(&path, to) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(ArtifactError::io("rename", path, e)),
        };
        fault::point!("save.layer-taken-away");
        let marker = self.marker_path(digest);
        match fs::remove_file(&marker) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && !there => return Ok(false),
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(ArtifactError::io("remove", marker, e));
            }
            _ => {}
        }
        durable::sync_dir(&self.layers_dir())?;
        fault::point!("save.marker-removed");
        Ok(there)
    }

    /// Removes the unfinished work of those who died. Nothing there is fine.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn clear_unfinished(data_dir: &Path) -> Result<(), ArtifactError> {
        let tmp = data_dir.join("tmp");
        let entries = match fs::read_dir(&tmp) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|e| ArtifactError::io("read", &tmp, e))?,
        };
        for entry in entries {
            let entry = entry.map_err(|e| ArtifactError::io("read", &tmp, e))?;
            if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
                continue;
            }
            if let Some(work) = Work::left(entry.path())? {
                work.clear()?;
            }
        }
        Ok(())
    }

    /// Layers appear and disappear one at a time: one that is found to be there is not taken away meanwhile.
    fn lock_layers(&self) -> Result<Lock, ArtifactError> {
        Lock::take(&self.data_dir().join("tmp").join("layers.lock"), || ())
    }
}

/// The files of a layer that is no more. Dropping it removes them, which takes as long as there are many.
#[derive(Debug)]
pub struct RemovedLayer {
    _files: Work,
}

/// A directory of unfinished work. It is removed when it is dropped.
#[derive(Debug)]
struct Work {
    path: PathBuf,
    _lock: File,
}

impl Work {
    fn begin(artifacts: &Artifacts) -> Result<Self, ArtifactError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let (mut builder, tmp) = (DirBuilder::new(), artifacts.data_dir().join("tmp"));
        let path = loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = tmp.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match builder.mode(0o700).create(&path) {
                Ok(()) => break path,
                // Of a process with the same number, which died.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(ArtifactError::io("create", path, e)),
            }
        };
        let gone = || ArtifactError::io("lock", &path, io::Error::other("somebody else has it"));
        let work = Self::left(path.clone())?.ok_or_else(gone)?;
        let links = work.links();
        fs::create_dir(&links).map_err(|e| ArtifactError::io("create", links, e))?;
        Ok(work)
    }

    /// The work in this directory, if nobody is at it.
    fn left(path: PathBuf) -> Result<Option<Self>, ArtifactError> {
        let lock = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| ArtifactError::io("open", &path, e))?,
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(ArtifactError::io("lock", path, e)),
            Ok(()) => Ok(Some(Self { path, _lock: lock })),
        }
    }

    /// Where the new tree is made.
    fn tree(&self) -> PathBuf {
        self.path.join("tree")
    }

    fn links(&self) -> PathBuf {
        self.path.join("links")
    }

    fn clear(&self) -> Result<(), ArtifactError> {
        // By itself: it may be as deep as a tree can be.
        tree::remove(&self.tree())?;
        tree::remove(&self.path)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        let _cleared = self.clear();
    }
}

#[cfg(test)]
mod tests;
