//! Taking `base` over from another data directory: seconds instead of minutes, and no second copy of the bytes.

use std::path::Path;

use crate::artifacts::{Artifacts, hash_with_progress};
use crate::bootstrap::{BASE, Bootstrap, Step};
use crate::error::ArtifactError;
use crate::manifest::TemplateManifest;
use crate::progress::{Phase, Progress};
use crate::tree;

impl Bootstrap<'_> {
    /// Copies, hashes the copy, and publishes it only when it is what the other manifest says.
    pub(crate) fn import(&mut self, from: &Path) -> Result<TemplateManifest, ArtifactError> {
        let missing = || ArtifactError::NothingToImport {
            path: from.into(),
            name: BASE.into(),
        };
        if !from.join("templates").is_dir() {
            // Opening would make the layout there; another's directory is only read.
            return Err(missing());
        }
        let source = Artifacts::open(from)?;
        let manifest = source.manifest(BASE)?.ok_or_else(missing)?;
        let mut trees = Vec::new();
        for (digest, path) in manifest.layers.iter().zip(source.layers(&manifest)?) {
            let tree = self
                .artifacts
                .data_dir()
                .join("tmp")
                .join(format!("import-{digest}"));
            tree::remove(&tree)?;
            let mut last = None;
            let progress = &mut *self.progress;
            tree::copy(&path, &tree, &mut |entries| {
                let percent = u8::try_from((entries * 100 / manifest.entries.max(1)).min(100)).ok();
                if percent != last {
                    last = percent;
                    progress(Progress {
                        phase: Phase::Importing,
                        percent,
                        line: format!("{entries} entries"),
                    });
                }
            })?;
            self.step(Step::Built)?;
            let facts = hash_with_progress(&tree, manifest.size_bytes, &mut *self.progress)?;
            if facts.digest != *digest {
                tree::remove(&tree)?;
                return Err(ArtifactError::LayerAltered {
                    digest: *digest,
                    detail: format!("in {}", from.display()),
                });
            }
            self.step(Step::Hashed)?;
            trees.push((tree, facts));
        }
        self.publish(&trees, &manifest)?;
        Ok(manifest)
    }
}
