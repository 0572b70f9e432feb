//! Layers on the server's disk, from their first byte until they are unpacked.
//!
//! What has arrived of a layer stays when the transfer breaks, the build ends or the server is killed, and the next
//! attempt goes on from there. A layer has its final name only when it is what its digest promises.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::document::{Descriptor, Digest};
use crate::error::PullError;
use crate::session::Session;

/// A registry that sends nothing for so long has stopped.
const SILENCE: Duration = Duration::from_secs(30);
/// Parts that nobody has asked for since are removed at a start.
const KEPT: Duration = Duration::from_hours(24);
const PIECE: usize = 256 * 1024;
/// Ends the name of what has not arrived whole.
const PART: &str = "part";

/// Blobs that builds share.
#[derive(Debug, Clone)]
pub struct Blobs {
    directory: PathBuf,
    /// Each with whoever waits for it or has it.
    shared: Arc<Mutex<HashMap<Digest, Weak<Place>>>>,
}

/// One blob's place, alive as long as anybody wants it.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// Whether it is there; held while it is fetched.
    there: tokio::sync::Mutex<bool>,
}

impl Drop for Place {
    fn drop(&mut self) {
        // Only the whole one: a part is where the next attempt begins.
        let _not_there = std::fs::remove_file(&self.path);
    }
}

/// A blob that is there. Its file is removed when nobody has it any more.
#[derive(Debug, Clone)]
pub struct Blob {
    place: Arc<Place>,
}

impl Blob {
    /// Its bytes, from the first.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn open(&self) -> io::Result<File> {
        File::open(&self.place.path).await
    }
}

impl Blobs {
    /// Blobs in this directory, which is made. Parts that are old are removed, and whole blobs, which nobody has yet.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)?;
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            let is_part = entry
                .path()
                .extension()
                .is_some_and(|extension| extension == PART);
            let age = SystemTime::now().duration_since(entry.metadata()?.modified()?);
            // A clock that was set back makes them new.
            if !is_part || age.is_ok_and(|age| age > KEPT) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(Self {
            directory,
            shared: Arc::default(),
        })
    }

    /// The blob, fetched unless somebody has it. Two who want the same fetch it once.
    pub(crate) async fn fetch(
        &self,
        session: &Session<'_>,
        wanted: &Descriptor,
    ) -> Result<Blob, PullError> {
        let place = self.place(&wanted.digest);
        let mut there = place.there.lock().await;
        if !*there {
            let part = place.path.with_extension(PART);
            fetch(session, wanted, &part).await?;
            fs::rename(&part, &place.path).await?;
            *there = true;
        }
        drop(there);
        Ok(Blob { place })
    }

    fn place(&self, digest: &Digest) -> Arc<Place> {
        let mut shared = self.shared.lock();
        shared.retain(|_, place| place.strong_count() > 0);
        if let Some(place) = shared.get(digest).and_then(Weak::upgrade) {
            return place;
        }
        let place = Arc::new(Place {
            path: self.directory.join(digest.hex()),
            there: tokio::sync::Mutex::new(false),
        });
        shared.insert(digest.clone(), Arc::downgrade(&place));
        place
    }
}

/// Goes on with what there is of a blob until it is whole and right.
async fn fetch(session: &Session<'_>, wanted: &Descriptor, part: &Path) -> Result<(), PullError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(part)
        .await?;
    let mut hash = Sha256::new();
    let mut got = read_all(&mut file, &mut hash).await?;
    if got > wanted.size {
        (got, hash) = restart(&mut file).await?;
    }
    if got < wanted.size {
        let answer = session.blob(&wanted.digest.to_string(), got).await?;
        if answer.status() == StatusCode::OK && got > 0 {
            (got, hash) = restart(&mut file).await?;
        }
        let mut body = answer.into_body();
        while let Some(frame) = next(&mut body).await? {
            got += frame.len() as u64;
            if got > wanted.size {
                file.set_len(0).await?;
                return Err(wrong(wanted));
            }
            hash.update(&frame);
            file.write_all(&frame).await?;
        }
        file.flush().await?;
        if got < wanted.size {
            let text = format!("a layer ended after {got} of {} bytes", wanted.size);
            return Err(PullError::Unreachable(text));
        }
    }
    if Digest::of_hash(hash) != wanted.digest {
        // Whatever is wrong with it, none of it is of use.
        file.set_len(0).await?;
        return Err(wrong(wanted));
    }
    Ok(())
}

fn wrong(wanted: &Descriptor) -> PullError {
    PullError::WrongDigest(format!("layer {}", wanted.digest))
}

async fn restart(file: &mut File) -> Result<(u64, Sha256), PullError> {
    use tokio::io::AsyncSeekExt as _;
    file.set_len(0).await?;
    file.rewind().await?;
    Ok((0, Sha256::new()))
}

async fn read_all(file: &mut File, hash: &mut Sha256) -> Result<u64, PullError> {
    let mut buffer = vec![0; PIECE];
    let mut got = 0;
    loop {
        let n = file.read(&mut buffer).await?;
        if n == 0 {
            return Ok(got);
        }
        hash.update(&buffer[..n]);
        got += n as u64;
    }
}

async fn next(body: &mut hyper::body::Incoming) -> Result<Option<bytes::Bytes>, PullError> {
    loop {
        match timeout(SILENCE, body.frame()).await {
            Err(_) => {
                return Err(PullError::Unreachable(
                    "the registry sends no more".to_owned(),
                ));
            }
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => {
                return Err(PullError::Unreachable(format!(
                    "a layer broke off: {error}"
                )));
            }
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}
