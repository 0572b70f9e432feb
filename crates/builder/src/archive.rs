//! An image that was uploaded: an OCI layout in one tar archive, as `soulbox template export`, skopeo and buildah write it.

use std::collections::HashMap;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

use serde::Deserialize;
use soulbox_registry::document::{self, BadDocument, Descriptor, Document, MAX_DOCUMENT_BYTES};
use soulbox_registry::{Digest, Image};
use soulbox_types::StartCommand;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _};

use crate::hash;
use crate::state::State;

/// Begins the names of blobs.
const BLOBS: &str = "blobs/sha256/";
const INDEX: &str = "index.json";
/// More entries than this has no layout.
const MOST_ENTRIES: usize = 10_000;
/// What export writes about a template, and import reads.
const TEMPLATE: &str = "dev.soulbox.template";
const START: &str = "dev.soulbox.start-command";
const READY: &str = "dev.soulbox.ready-command";

/// Why an archive is no image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayoutError {
    #[error(
        "the archive cannot be read: {0}\nFIX: upload it again; it must be a tar archive that is not compressed"
    )]
    Read(#[from] io::Error),
    #[error(
        "the archive is no OCI layout: {0}\nFIX: write one with soulbox template export, or skopeo copy … oci-archive:FILE"
    )]
    NoLayout(String),
    #[error(transparent)]
    Document(#[from] BadDocument),
}

/// A layout whose parts are found and whose documents are right. Layers are compared with their digests when they are read.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) image: Image,
    file: Arc<std::fs::File>,
    /// Where each blob lies.
    blobs: HashMap<String, (u64, u64)>,
}

impl Layout {
    /// Reads a layout. Hashes every layer: what lies in an archive was promised by nobody.
    pub(crate) async fn read(file: File, architecture: &'static str) -> Result<Self, LayoutError> {
        let file = file.into_std().await;
        let reading = tokio::task::spawn_blocking(move || read(file, architecture));
        reading
            .await
            .map_err(|error| LayoutError::Read(io::Error::other(error)))?
    }

    /// The bytes of a layer.
    pub(crate) async fn blob(
        &self,
        layer: &Descriptor,
    ) -> io::Result<impl AsyncRead + Send + use<>> {
        let &(at, length) = self
            .blobs
            .get(layer.digest.hex())
            .ok_or(io::ErrorKind::NotFound)?;
        // A description of its own: others may be reading.
        let path = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&*self.file)
        );
        let mut file = File::open(path).await?;
        file.seek(SeekFrom::Start(at)).await?;
        Ok(file.take(length))
    }

    /// Gives a state what the layout says of the template that it was. False when it was none: then the state is like that
    /// of any image.
    pub(crate) fn dress(&self, state: &mut State) -> bool {
        let config = &self.image.config.config;
        let label = |name: &str| config.labels.as_ref().and_then(|labels| labels.get(name));
        let Some(user) = config.user.clone().filter(|user| !user.is_empty()) else {
            return false;
        };
        if label(TEMPLATE).is_none() {
            return false;
        }
        state.context.user = user;
        state.context.workdir = config
            .working_dir
            .clone()
            .filter(|path| path.starts_with('/'));
        let text = |name: &str| label(name).cloned().unwrap_or_default();
        let (command, ready) = (text(START), text(READY));
        state.start = (!command.is_empty() || !ready.is_empty()).then(|| StartCommand {
            command,
            ready,
            context: state.context.clone(),
        });
        true
    }
}

fn read(mut file: std::fs::File, architecture: &str) -> Result<Layout, LayoutError> {
    let blobs = find(&mut file)?;
    let whole = |name: &str, file: &mut std::fs::File| -> Result<Vec<u8>, LayoutError> {
        let missing = || LayoutError::NoLayout(format!("{name} is missing"));
        let &(at, length) = blobs.get(name).ok_or_else(missing)?;
        if length > MAX_DOCUMENT_BYTES {
            return Err(LayoutError::NoLayout(format!("{name} is too large")));
        }
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = Vec::new();
        file.take(length).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let blob = |wanted: &Digest, file: &mut std::fs::File| -> Result<Vec<u8>, LayoutError> {
        let bytes = whole(wanted.hex(), file)?;
        match Digest::of(&bytes) == *wanted {
            true => Ok(bytes),
            false => Err(LayoutError::NoLayout(format!("{wanted} has other content"))),
        }
    };
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Descriptor>,
    }
    let index = whole(INDEX, &mut file)?;
    let index: Index = serde_json::from_slice(&index)
        .map_err(|error| LayoutError::NoLayout(format!("{INDEX}: {error}")))?;
    let mut manifests = index.manifests;
    // An index may name another one, once.
    for _ in 0..2 {
        let chosen = document::choose(&manifests, architecture)?.digest.clone();
        match Document::parse(&blob(&chosen, &mut file)?)? {
            Document::Index(inner) => manifests = inner,
            Document::Manifest(manifest) => {
                for layer in &manifest.layers {
                    check(layer, &blobs, &mut file)?;
                }
                let config = blob(&manifest.config.digest, &mut file)?;
                let image = Image::of(chosen, manifest, &config, architecture)?;
                return Ok(Layout {
                    image,
                    file: Arc::new(file),
                    blobs,
                });
            }
        }
    }
    Err(LayoutError::NoLayout(
        "its index leads on and on".to_owned(),
    ))
}

/// Where the parts of an archive lie: blobs by their digits, `index.json` by its name.
fn find(file: &mut std::fs::File) -> Result<HashMap<String, (u64, u64)>, LayoutError> {
    let mut found = HashMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if found.len() >= MOST_ENTRIES {
            return Err(LayoutError::NoLayout("it has too many entries".to_owned()));
        }
        let path = entry.path()?;
        let name = path
            .strip_prefix("./")
            .unwrap_or(&path)
            .to_string_lossy()
            .into_owned();
        let name = name.strip_prefix(BLOBS).unwrap_or(&name).to_owned();
        if entry.header().entry_type().is_file() {
            found.insert(name, (entry.raw_file_position(), entry.size()));
        }
    }
    Ok(found)
}

fn check(
    layer: &Descriptor,
    blobs: &HashMap<String, (u64, u64)>,
    file: &mut std::fs::File,
) -> Result<(), LayoutError> {
    let wrong = |what: &str| LayoutError::NoLayout(format!("layer {} {what}", layer.digest));
    let &(at, length) = blobs
        .get(layer.digest.hex())
        .ok_or_else(|| wrong("is missing"))?;
    file.seek(SeekFrom::Start(at))?;
    let hex = hash::of_all(file.take(length))?;
    if hex == layer.digest.hex() {
        Ok(())
    } else {
        Err(wrong("has other content"))
    }
}
