//! Volumes: the rows and the files of each kept the same. The row comes first and goes last, so that whatever a server
//! that dies leaves behind is found by its row.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;

use soulbox_driver::volumes::{Owned, UploadNumber, VolumeEntry};
use soulbox_driver::{Driver, VolumeAnswer, VolumeError, VolumeRequest};
use soulbox_fault as fault;
use soulbox_store::{Store, StoreError, Volume};
use soulbox_types::{ErrorKind, TeamId, Timestamp, VolumeId};

/// Volumes that a team may have.
const MOST: usize = 1000;

/// The volumes of this node. A copy is another handle on the same ones.
#[derive(Clone)]
pub struct Volumes {
    store: Store,
    driver: Arc<dyn Driver>,
    size_mib: u32,
}

impl fmt::Debug for Volumes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volumes")
            .field("size_mib", &self.size_mib)
            .finish_non_exhaustive()
    }
}

/// A request on volumes that was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum VolumesError {
    /// The team has one of this name.
    #[error("Volume with name '{0}' already exists")]
    NameTaken(String),
    /// The team has as many as it may have.
    #[error("a team may have at most {MOST} volumes")]
    TooMany,
    /// The record could not be read or written.
    #[error("cannot keep the records of volumes")]
    Store(#[from] StoreError),
    /// The driver could not do it.
    #[error(transparent)]
    Driver(#[from] VolumeError),
}

impl VolumesError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NameTaken(_) => ErrorKind::InvalidArgument,
            Self::TooMany => ErrorKind::LimitExceeded,
            Self::Store(error) => error.kind(),
            Self::Driver(error) => error.kind(),
        }
    }
}

impl Volumes {
    /// Takes over the volumes of an earlier server: what it was making or removing is removed. New ones hold `size_mib`.
    ///
    /// # Errors
    /// When the database fails. Files that cannot be removed are tried again at the next start.
    pub async fn open(
        store: Store,
        driver: Arc<dyn Driver>,
        size_mib: u32,
    ) -> Result<Self, StoreError> {
        let volumes = Self {
            store,
            driver,
            size_mib,
        };
        for id in volumes.store.unfinished_volumes().await? {
            if let Err(error) = volumes.clear(&id).await {
                tracing::warn!(volume.id = %id, %error, "a volume that is no more stays on the disk");
            }
        }
        Ok(volumes)
    }

    /// Makes a volume.
    ///
    /// # Errors
    /// When the name is taken, or there is no room.
    pub async fn create(&self, team: &TeamId, name: &str) -> Result<Volume, VolumesError> {
        if self.store.list_volumes(team).await?.len() >= MOST {
            return Err(VolumesError::TooMany);
        }
        let volume = Volume {
            id: VolumeId::random(),
            team: team.clone(),
            name: name.to_owned(),
            size_mib: self.size_mib,
            created_at: Timestamp::now(),
        };
        let volumes = self.clone();
        // A caller that hangs up leaves a whole volume or none.
        let made = tokio::spawn(async move { volumes.make(volume).await }).await;
        made.map_err(|error| VolumeError::Host {
            operation: "make a volume".to_owned(),
            reason: error.to_string(),
        })?
    }

    async fn make(&self, volume: Volume) -> Result<Volume, VolumesError> {
        if !self.store.begin_volume(&volume).await? {
            return Err(VolumesError::NameTaken(volume.name));
        }
        let request = VolumeRequest::Make {
            size_mib: volume.size_mib,
        };
        let made = match self.driver.volume(&volume.id, request).await {
            Ok(_) => {
                fault::point!("volume.image-made");
                self.store.finish_volume(&volume.id).await
            }
            Err(error) => {
                self.clear(&volume.id).await?;
                return Err(error.into());
            }
        };
        if let Err(error) = made {
            self.clear(&volume.id).await?;
            return Err(error.into());
        }
        Ok(volume)
    }

    /// The team's volumes, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(&self, team: &TeamId) -> Result<Vec<Volume>, StoreError> {
        self.store.list_volumes(team).await
    }

    /// The ids of the team's volumes, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn by_name(&self, team: &TeamId) -> Result<HashMap<String, VolumeId>, StoreError> {
        let volumes = self.store.list_volumes(team).await?.into_iter();
        Ok(volumes.map(|volume| (volume.name, volume.id)).collect())
    }

    /// The team's volume with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get(&self, team: &TeamId, id: &VolumeId) -> Result<Option<Volume>, StoreError> {
        self.store.get_volume(team, id).await
    }

    /// Removes a volume; false when the team has none with this id. Its files go in the background, and what a sandbox
    /// has of it stays there until that sandbox ends.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove(&self, team: &TeamId, id: &VolumeId) -> Result<bool, StoreError> {
        let removed = self.store.remove_volume(team, id).await?;
        if removed {
            fault::point!("volume.row-removed");
            let (volumes, id) = (self.clone(), id.clone());
            tokio::spawn(async move {
                if let Err(error) = volumes.clear(&id).await {
                    tracing::warn!(volume.id = %id, %error, "the files of a volume are removed at the next start");
                }
            });
        }
        Ok(removed)
    }

    async fn clear(&self, id: &VolumeId) -> Result<(), VolumesError> {
        self.driver.volume(id, VolumeRequest::Destroy).await?;
        Ok(self.store.forget_volume(id).await?)
    }

    /// Carries out what is answered without a file.
    ///
    /// # Errors
    /// As the driver says.
    pub async fn ask(
        &self,
        id: &VolumeId,
        request: VolumeRequest,
    ) -> Result<VolumeAnswer, VolumeError> {
        Ok(self.driver.volume(id, request).await?.0)
    }

    /// Opens a file for reading, with its size at that moment.
    ///
    /// # Errors
    /// When there is no such file.
    pub async fn read(&self, id: &VolumeId, path: String) -> Result<(u64, File), VolumeError> {
        match self.driver.volume(id, VolumeRequest::Read { path }).await? {
            (VolumeAnswer::Opened { size }, Some(file)) => Ok((size, file.into())),
            (other, _) => Err(strange(&other)),
        }
    }

    /// Begins a file that is nowhere until [`VolumeUpload::finish`].
    ///
    /// # Errors
    /// When it could not be there in the end.
    pub async fn write(
        &self,
        id: &VolumeId,
        path: String,
        replace: bool,
    ) -> Result<VolumeUpload, VolumeError> {
        let request = VolumeRequest::Begin {
            path: path.clone(),
            replace,
        };
        match self.driver.volume(id, request).await? {
            (VolumeAnswer::Begun { upload }, Some(file)) => Ok(VolumeUpload {
                volumes: self.clone(),
                id: id.clone(),
                path,
                replace,
                number: Some(upload),
                file: Arc::new(file.into()),
            }),
            (other, _) => Err(strange(&other)),
        }
    }
}

/// A file that is being written. Dropping it leaves nothing of it.
#[derive(Debug)]
pub struct VolumeUpload {
    volumes: Volumes,
    id: VolumeId,
    path: String,
    replace: bool,
    number: Option<UploadNumber>,
    file: Arc<File>,
}

impl VolumeUpload {
    /// Adds bytes.
    ///
    /// # Errors
    /// When the volume is full.
    pub async fn write(
        &mut self,
        bytes: impl AsRef<[u8]> + Send + 'static,
    ) -> Result<(), VolumeError> {
        let file = Arc::clone(&self.file);
        let written = tokio::task::spawn_blocking(move || (&*file).write_all(bytes.as_ref()));
        match written.await.map_err(io::Error::other) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) | Err(error) => Err(match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => VolumeError::Full,
                _ => VolumeError::Host {
                    operation: "write a file".to_owned(),
                    reason: error.to_string(),
                },
            }),
        }
    }

    /// Puts the file in its place, whole and durable.
    ///
    /// # Errors
    /// When something is in the way, or the volume is full.
    pub async fn finish(mut self, owned: Owned) -> Result<VolumeEntry, VolumeError> {
        let Some(upload) = self.number else {
            return Err(VolumeError::NoVolume);
        };
        let request = VolumeRequest::Finish {
            upload,
            path: std::mem::take(&mut self.path),
            owned,
            replace: self.replace,
        };
        let answer = self.volumes.ask(&self.id, request).await;
        self.number = None;
        match answer? {
            VolumeAnswer::Entry(entry) => Ok(entry),
            other => Err(strange(&other)),
        }
    }
}

impl Drop for VolumeUpload {
    fn drop(&mut self) {
        let Some(upload) = self.number else { return };
        let (volumes, id) = (self.volumes.clone(), self.id.clone());
        tokio::spawn(async move {
            let request = VolumeRequest::Abort { upload };
            if let Err(error) = volumes.ask(&id, request).await {
                tracing::warn!(volume.id = %id, %error, "a file that nobody goes on with is kept until the next start");
            }
        });
    }
}

/// An answer to something else.
fn strange(answer: &VolumeAnswer) -> VolumeError {
    VolumeError::Host {
        operation: "ask the driver".to_owned(),
        reason: format!("an answer to something else: {answer:?}"),
    }
}
