//! The store of templates in one data directory.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::bootstrap::{Bootstrap, BootstrapOptions};
use crate::digest::{LayerDigest, LayerFacts};
use crate::durable;
use crate::error::ArtifactError;
use crate::manifest::{self, TemplateManifest};
use crate::progress::{Phase, Progress};
use crate::tree;

/// Templates and layers under one data directory. Cheap to clone; every call looks at the disk.
#[derive(Debug, Clone)]
pub struct Artifacts {
    data_dir: PathBuf,
}

/// What a layer's directory looked like when it was published.
///
/// It is compared on every use. That catches a layer that was removed, replaced or edited at its top; an edit deep
/// inside is found by [`Artifacts::verify`] only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    facts: LayerFacts,
    root: RootLook,
}

/// A layer that lies in the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerHere {
    /// What it holds.
    pub facts: LayerFacts,
    /// When it was made, by the clock of this machine.
    pub made_at: SystemTime,
    /// Whether a manifest of a template names it.
    pub named: bool,
}

/// The root directory of a layer, as `stat` shows it. Its modification time changes with every name added or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RootLook {
    mode: u32,
    uid: u32,
    gid: u32,
    modified_seconds: i64,
    modified_nanoseconds: i64,
}

impl Artifacts {
    /// Opens the store in a data directory and makes what is missing of its layout.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn open(data_dir: &Path) -> Result<Self, ArtifactError> {
        let data_dir =
            std::path::absolute(data_dir).map_err(|e| ArtifactError::io("resolve", data_dir, e))?;
        let artifacts = Self { data_dir };
        // Layers hold programs with set-id bits that are meant for sandboxes, not for users of the host. Sandboxes reach
        // them through mounts only.
        for (dir, mode) in [
            ("layers", 0o700),
            ("templates", 0o755),
            ("cache", 0o755),
            ("tmp", 0o700),
        ] {
            let path = artifacts.data_dir.join(dir);
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(&path);
            made.map_err(|e| ArtifactError::io("create", &path, e))?;
            // Also when it was there, made by something more generous.
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                .map_err(|e| ArtifactError::io("protect", &path, e))?;
        }
        Ok(artifacts)
    }

    /// The store as it is, for a reader that may change nothing.
    ///
    /// # Errors
    /// When there is none.
    pub fn existing(data_dir: &Path) -> Result<Self, ArtifactError> {
        let templates = data_dir.join("templates");
        match fs::metadata(&templates) {
            Ok(_) => Ok(Self {
                data_dir: data_dir.to_owned(),
            }),
            Err(error) => Err(ArtifactError::io("open", &templates, error)),
        }
    }

    /// The data directory, absolute.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The manifest of a template, when it is here.
    ///
    /// # Errors
    /// When the name is not allowed or the file cannot be read or believed.
    pub fn manifest(&self, name: &str) -> Result<Option<TemplateManifest>, ArtifactError> {
        let path = self.manifest_path(name)?;
        let Some(bytes) = read_if_there(&path)? else {
            return Ok(None);
        };
        let manifest: TemplateManifest = manifest::open("template", &bytes)
            .map_err(|reason| ArtifactError::Damaged { path, reason })?;
        Ok(Some(manifest))
    }

    /// Every template that is here, by name.
    ///
    /// # Errors
    /// When one of them cannot be read or believed.
    pub fn manifests(&self) -> Result<Vec<TemplateManifest>, ArtifactError> {
        let names = self.names()?;
        let found: Result<Vec<_>, _> = names.iter().map(|name| self.manifest(name)).collect();
        Ok(found?.into_iter().flatten().collect())
    }

    /// The names of the templates that have a manifest, in order; whether it can be believed is not looked at.
    ///
    /// # Errors
    /// When the directory of manifests cannot be read.
    pub fn names(&self) -> Result<Vec<String>, ArtifactError> {
        let dir = self.data_dir.join("templates");
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir).map_err(|e| ArtifactError::io("read", &dir, e))? {
            let entry = entry.map_err(|e| ArtifactError::io("read", &dir, e))?;
            let name = entry
                .file_name()
                .to_str()
                .and_then(|n| n.strip_suffix(".json"))
                .map(str::to_owned);
            names.extend(name.filter(|n| manifest::is_valid_name(n)));
        }
        names.sort();
        Ok(names)
    }

    /// Every layer that is here.
    ///
    /// # Errors
    /// When the directory of layers or a manifest cannot be read, or a manifest cannot be believed.
    pub fn all_layers(&self) -> Result<Vec<LayerHere>, ArtifactError> {
        let manifests = self.manifests()?;
        let named: HashSet<LayerDigest> = manifests
            .iter()
            .flat_map(|manifest| manifest.layers.iter().copied())
            .collect();
        let dir = self.layers_dir();
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(|e| ArtifactError::io("read", &dir, e))? {
            let entry = entry.map_err(|e| ArtifactError::io("read", &dir, e))?;
            let name = entry.file_name();
            let Some(digest) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // Without a marker it is being made or removed.
            if let Some((facts, made_at)) = self.read_marker(&digest)? {
                found.push(LayerHere {
                    facts,
                    made_at,
                    named: named.contains(&digest),
                });
            }
        }
        Ok(found)
    }

    fn read_marker(
        &self,
        digest: &LayerDigest,
    ) -> Result<Option<(LayerFacts, SystemTime)>, ArtifactError> {
        let path = self.marker_path(digest);
        let Some(bytes) = read_if_there(&path)? else {
            return Ok(None);
        };
        let made_at = fs::metadata(&path).and_then(|metadata| metadata.modified());
        let made_at = made_at.map_err(|e| ArtifactError::io("stat", &path, e))?;
        let marker: Marker = manifest::open("layer", &bytes)
            .map_err(|reason| ArtifactError::Damaged { path, reason })?;
        Ok(Some((marker.facts, made_at)))
    }

    /// Where layers lie, each under its digest.
    #[must_use]
    pub fn layers_dir(&self) -> PathBuf {
        self.data_dir.join("layers")
    }

    /// Where a layer lies (or would lie).
    #[must_use]
    pub fn layer_path(&self, digest: &LayerDigest) -> PathBuf {
        self.layers_dir().join(digest.to_string())
    }

    /// The directories of a template's layers, topmost first, after the cheap check of each.
    ///
    /// # Errors
    /// When a layer is missing, or its root does not look as it did when it was published.
    pub fn layers(&self, manifest: &TemplateManifest) -> Result<Vec<PathBuf>, ArtifactError> {
        manifest
            .layers
            .iter()
            .map(|digest| self.check_layer(digest))
            .collect()
    }

    /// Reads every byte of a template's layers and compares it with their digests.
    ///
    /// # Errors
    /// When a layer is missing, unreadable or altered.
    pub fn verify(
        &self,
        manifest: &TemplateManifest,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), ArtifactError> {
        for digest in &manifest.layers {
            let path = self.layer_path(digest);
            if !path.exists() {
                return Err(ArtifactError::LayerMissing { digest: *digest });
            }
            let found = hash_with_progress(&path, manifest.size_bytes, progress)?;
            if found.digest != *digest {
                return Err(ArtifactError::LayerAltered {
                    digest: *digest,
                    detail: format!("its content has digest {}", found.digest),
                });
            }
            // The content is right: a marker that disagrees (a restored backup has other times) is brought up to date.
            if self.check_layer(digest).is_err() {
                self.write_marker(&path, found)?;
            }
        }
        progress(Progress {
            phase: Phase::Ready,
            percent: Some(100),
            line: format!("{} is intact", manifest.name),
        });
        Ok(())
    }

    /// Makes the `base` template, or takes it over from another data directory. Returns at once when it is here.
    ///
    /// Blocking, and long: not for a thread of an async runtime.
    /// Can be called again after any failure or kill; it goes on where that makes sense.
    ///
    /// # Errors
    /// When the host lacks something, a download or installation fails, or the disk does.
    pub fn bootstrap_base(
        &self,
        options: &BootstrapOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<TemplateManifest, ArtifactError> {
        Bootstrap::new(self, options, progress).run()
    }

    /// The directory of a layer, when it is there and its root is as it was.
    pub(crate) fn check_layer(&self, digest: &LayerDigest) -> Result<PathBuf, ArtifactError> {
        let (path, marker_path) = (self.layer_path(digest), self.marker_path(digest));
        let look = match look_at(&path) {
            Ok(look) => look,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(ArtifactError::LayerMissing { digest: *digest });
            }
            Err(e) => return Err(ArtifactError::io("stat", path, e)),
        };
        let altered = |detail: &str| ArtifactError::LayerAltered {
            digest: *digest,
            detail: detail.into(),
        };
        let bytes = read_if_there(&marker_path)?.ok_or_else(|| altered("its marker is missing"))?;
        let marker: Marker =
            manifest::open("layer", &bytes).map_err(|reason| ArtifactError::Damaged {
                path: marker_path,
                reason,
            })?;
        if marker.facts.digest != *digest {
            return Err(altered("its marker belongs to another layer"));
        }
        if marker.root != look {
            return Err(altered("its root directory was changed"));
        }
        Ok(path)
    }

    /// Writes the marker of a layer whose tree is (still, or already) at `tree`. A rename does not change what it holds.
    pub(crate) fn write_marker(&self, tree: &Path, facts: LayerFacts) -> Result<(), ArtifactError> {
        let root = look_at(tree).map_err(|e| ArtifactError::io("stat", tree, e))?;
        durable::write(
            &self.marker_path(&facts.digest),
            &manifest::seal("layer", &Marker { facts, root }),
        )
    }

    /// Moves a finished tree to where its layer belongs. Its content must be on stable storage, its marker written.
    pub(crate) fn place_layer(
        &self,
        tree: &Path,
        digest: &LayerDigest,
    ) -> Result<(), ArtifactError> {
        let path = self.layer_path(digest);
        if path.exists() {
            if let Some(facts) = tree::hash(&path, &mut |_| ())
                .ok()
                .filter(|facts| facts.digest == *digest)
            {
                // Nobody can tell the two apart, and a sandbox may run on the one that is there.
                self.write_marker(&path, facts)?;
                return tree::remove(tree);
            }
            // Damaged. It is not deleted, a sandbox may run on it: only the name changes hands.
            let aside = (0_u32..)
                .map(|n| {
                    self.data_dir
                        .join("tmp")
                        .join(format!("damaged-{digest}-{n}"))
                })
                .find(|p| !p.exists());
            let aside = aside.expect("fewer than 2^32 damaged copies of one layer");
            fs::rename(&path, &aside).map_err(|e| ArtifactError::io("rename", &path, e))?;
        }
        fs::rename(tree, &path).map_err(|e| ArtifactError::io("rename to", &path, e))?;
        durable::sync_dir(&self.data_dir.join("layers"))
    }

    /// Makes a template visible.
    pub(crate) fn write_manifest(&self, manifest: &TemplateManifest) -> Result<(), ArtifactError> {
        durable::write(
            &self.manifest_path(&manifest.name)?,
            &manifest::seal("template", manifest),
        )
    }

    fn manifest_path(&self, name: &str) -> Result<PathBuf, ArtifactError> {
        if !manifest::is_valid_name(name) {
            return Err(ArtifactError::InvalidName { name: name.into() });
        }
        Ok(self.data_dir.join("templates").join(format!("{name}.json")))
    }

    pub(crate) fn marker_path(&self, digest: &LayerDigest) -> PathBuf {
        self.data_dir.join("layers").join(format!("{digest}.json"))
    }
}

/// Hashes a tree and reports each percent of the `expected` bytes once.
pub(crate) fn hash_with_progress(
    tree: &Path,
    expected: u64,
    progress: &mut dyn FnMut(Progress),
) -> Result<LayerFacts, ArtifactError> {
    // No percentage is 255: the first report always goes out.
    let mut last = Some(255);
    tree::hash(tree, &mut |bytes| {
        let percent = (expected > 0)
            .then(|| u8::try_from((bytes.saturating_mul(100) / expected).min(100)).unwrap_or(100));
        if percent != last {
            last = percent;
            progress(Progress {
                phase: Phase::Hashing,
                percent,
                line: format!("{} MiB read", bytes >> 20),
            });
        }
    })
}

fn look_at(dir: &Path) -> io::Result<RootLook> {
    let meta = fs::symlink_metadata(dir)?;
    Ok(RootLook {
        mode: meta.mode(),
        uid: meta.uid(),
        gid: meta.gid(),
        modified_seconds: meta.mtime(),
        modified_nanoseconds: meta.mtime_nsec(),
    })
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, ArtifactError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(ArtifactError::io("read", path, e)),
    }
}

#[cfg(test)]
mod tests {
    use soulbox_types::{Limits, Timestamp};

    use super::*;

    /// A store with one published template `t` of one layer.
    fn published() -> (tempfile::TempDir, Artifacts, TemplateManifest) {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(dir.path()).unwrap();
        let tree = dir.path().join("tmp/tree");
        fs::create_dir_all(tree.join("etc")).unwrap();
        fs::write(tree.join("etc/file"), b"content").unwrap();
        let facts = tree::hash(&tree, &mut |_| ()).unwrap();
        artifacts.write_marker(&tree, facts).unwrap();
        artifacts.place_layer(&tree, &facts.digest).unwrap();
        let manifest = TemplateManifest {
            name: "t".into(),
            layers: vec![facts.digest],
            default_user: "user".into(),
            default_workdir: None,
            limits: Limits::STANDARD,
            created_at: Timestamp::now(),
            distribution: "test".into(),
            architecture: "x86_64".into(),
            recipe: "test".into(),
            entries: facts.entries,
            size_bytes: facts.content_bytes,
            packages: Vec::new(),
        };
        artifacts.write_manifest(&manifest).unwrap();
        (dir, artifacts, manifest)
    }

    #[test]
    fn what_is_published_is_found() {
        let (_dir, artifacts, manifest) = published();
        assert_eq!(artifacts.manifest("t").unwrap().as_ref(), Some(&manifest));
        assert_eq!(
            artifacts.manifests().unwrap(),
            std::slice::from_ref(&manifest)
        );
        assert_eq!(
            artifacts.layers(&manifest).unwrap(),
            [artifacts.layer_path(&manifest.layers[0])]
        );
        artifacts.verify(&manifest, &mut |_| ()).unwrap();
        assert_eq!(artifacts.manifest("other").unwrap(), None);
        assert!(matches!(
            artifacts.manifest("../t"),
            Err(ArtifactError::InvalidName { .. })
        ));
    }

    #[test]
    fn the_cheap_check_sees_a_changed_root() {
        let (_dir, artifacts, manifest) = published();
        let layer = artifacts.layer_path(&manifest.layers[0]);
        fs::write(layer.join("planted"), b"").unwrap();
        assert!(matches!(
            artifacts.layers(&manifest),
            Err(ArtifactError::LayerAltered { .. })
        ));
        tree::remove(&layer).unwrap();
        assert!(matches!(
            artifacts.layers(&manifest),
            Err(ArtifactError::LayerMissing { .. })
        ));
    }

    #[test]
    fn verify_sees_a_change_deep_inside() {
        let (_dir, artifacts, manifest) = published();
        let file = artifacts.layer_path(&manifest.layers[0]).join("etc/file");
        fs::write(&file, b"CONTENT").unwrap();
        assert!(
            artifacts.layers(&manifest).is_ok(),
            "beyond the cheap check"
        );
        let error = artifacts.verify(&manifest, &mut |_| ()).unwrap_err();
        assert!(
            matches!(error, ArtifactError::LayerAltered { .. }),
            "{error}"
        );
        assert!(error.fix().is_some());
    }

    #[test]
    fn verify_accepts_a_restored_copy() {
        let (_dir, artifacts, manifest) = published();
        let layer = artifacts.layer_path(&manifest.layers[0]);
        fs::File::open(&layer)
            .unwrap()
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        assert!(artifacts.layers(&manifest).is_err());
        artifacts.verify(&manifest, &mut |_| ()).unwrap();
        assert!(artifacts.layers(&manifest).is_ok());
    }

    #[test]
    fn a_damaged_manifest_or_marker_is_refused() {
        let (dir, artifacts, manifest) = published();
        let marker = artifacts.marker_path(&manifest.layers[0]);
        let text = fs::read_to_string(&marker).unwrap();
        fs::write(&marker, text.replace("\"entries\": 3", "\"entries\": 4")).unwrap();
        assert!(matches!(
            artifacts.layers(&manifest),
            Err(ArtifactError::Damaged { .. })
        ));
        fs::remove_file(&marker).unwrap();
        assert!(matches!(
            artifacts.layers(&manifest),
            Err(ArtifactError::LayerAltered { .. })
        ));
        let file = dir.path().join("templates/t.json");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, &text[..text.len() / 2]).unwrap();
        assert!(matches!(
            artifacts.manifest("t"),
            Err(ArtifactError::Damaged { .. })
        ));
        assert!(artifacts.manifests().is_err());
    }
}
