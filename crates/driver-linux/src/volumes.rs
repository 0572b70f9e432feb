//! Volumes on the host: a file system for each, in a sparse image with a journal, `<data>/volumes/<id>.img`.
//!
//! As with disks of sandboxes, it is mounted nowhere: descriptors hold it, and the sandboxes that have it. The kernel
//! unmounts it and frees its loop device when the last of them is gone, whoever was killed in between. An image is bound
//! to one device at most: whoever opens a volume looks for that first.
//!
//! In the file system, `data` is what sandboxes see; `work` is where files are that are being written or removed, out of
//! their sight. `content` carries out what is asked of files.

mod content;
mod list;
mod resolve;

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, mkdirat, openat};
use soulbox_driver::volumes::{Owned, UploadNumber};
use soulbox_driver::{DriverError, VolumeAnswer, VolumeError, VolumeRequest};
use soulbox_fault as fault;
use soulbox_linux::loopdev::{self, LoopDevice};
use soulbox_types::{SandboxSpec, VolumeId};

use content::Tree;

use crate::disk::{self, Disks, Template, bind, mount_lasting, open_root, remove_file};
use crate::driver::host_error;
use crate::host::Host;
use crate::lock::locked;
use crate::plan::SandboxFiles;

/// Whom templates run commands as, who owns the root of a new volume.
const USER: u32 = 1000;
/// Volumes that are held open although nobody uses them at the moment.
const IDLE_OPEN: usize = 32;
/// Files that are being written at the same time, over all volumes.
const MOST_UPLOADS: usize = 512;
/// How often a device that is just being given up is looked for again, and after how long.
const BIND_TRIES: u32 = 200;
const BIND_WAIT: Duration = Duration::from_millis(5);

const DATA: &str = "data";
const WORK: &str = "work";

/// No `mke2fs`, no `/dev/loop-control`: nothing that another try would mend.
fn or_impossible(operation: &'static str) -> impl FnOnce(io::Error) -> VolumeError {
    move |error| match error.kind() {
        io::ErrorKind::NotFound => VolumeError::Impossible(error.to_string()),
        _ => host(operation)(error),
    }
}

/// A mount of each volume of a sandbox, and a place for it.
pub(crate) fn attach(
    host: &Host,
    files: &SandboxFiles,
    spec: &SandboxSpec,
) -> Result<Vec<OwnedFd>, DriverError> {
    let mounts = spec.volumes.iter().enumerate();
    let attached = mounts.map(|(number, mount)| {
        fs::create_dir(files.volume(number))
            .map_err(|source| host_error("make a place for a volume", source))?;
        let mounted = host.volumes.mount(&mount.volume);
        mounted.map_err(|error| DriverError::Volume {
            reason: error.to_string(),
        })
    });
    attached.collect()
}

/// Every volume of this server.
#[derive(Debug)]
pub(crate) struct Volumes {
    directory: PathBuf,
    open: Mutex<HashMap<VolumeId, Arc<OpenVolume>>>,
    uploads: Mutex<HashMap<UploadNumber, Upload>>,
    numbers: AtomicU64,
}

/// A volume that is mounted.
#[derive(Debug)]
pub(crate) struct OpenVolume {
    device: LoopDevice,
    tree: Tree,
}

/// A file that is being written. It has no name yet.
#[derive(Debug)]
struct Upload {
    volume: Arc<OpenVolume>,
    id: VolumeId,
    file: OwnedFd,
}

/// Says what was being done when the kernel refused.
fn host(operation: &'static str) -> impl FnOnce(io::Error) -> VolumeError {
    move |error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => VolumeError::HostFull,
        _ => VolumeError::Host {
            operation: operation.to_owned(),
            reason: error.to_string(),
        },
    }
}

impl Volumes {
    /// Makes the directory of images.
    pub(crate) fn prepare(data_dir: &Path) -> io::Result<Self> {
        let directory = data_dir.join("volumes");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)?;
        Ok(Self {
            directory,
            open: Mutex::default(),
            uploads: Mutex::default(),
            numbers: AtomicU64::new(1),
        })
    }

    /// Carries out one request.
    pub(crate) fn carry_out(
        &self,
        id: &VolumeId,
        request: VolumeRequest,
        disks: &Disks,
    ) -> Result<(VolumeAnswer, Option<OwnedFd>), VolumeError> {
        let answer = match request {
            VolumeRequest::Make { size_mib } => {
                room(disks)?;
                self.make(id, size_mib)?
            }
            VolumeRequest::Destroy => self.destroy(id)?,
            VolumeRequest::Begin { path, replace } => {
                room(disks)?;
                let (upload, file) = self.begin(id, &path, replace)?;
                return Ok((VolumeAnswer::Begun { upload }, Some(file)));
            }
            VolumeRequest::Finish {
                upload,
                path,
                owned,
                replace,
            } => {
                let begun = self.taken(id, upload).ok_or(VolumeError::NoVolume)?;
                let name = format!("upload-{upload}");
                let place = content::Place {
                    path: &path,
                    replace,
                };
                VolumeAnswer::Entry(begun.volume.tree.finish(&begun.file, &name, place, owned)?)
            }
            VolumeRequest::Abort { upload } => {
                drop(self.taken(id, upload));
                VolumeAnswer::Done
            }
            VolumeRequest::Read { path } => {
                let (size, file) = self.open(id)?.tree.read(&path)?;
                return Ok((VolumeAnswer::Opened { size }, Some(file)));
            }
            VolumeRequest::Stat { path } => VolumeAnswer::Entry(self.open(id)?.tree.stat(&path)?),
            VolumeRequest::List { path, depth } => {
                VolumeAnswer::Entries(self.open(id)?.tree.list(&path, depth)?)
            }
            VolumeRequest::MakeDirectory {
                path,
                owned,
                parents,
            } => VolumeAnswer::Entry(self.open(id)?.tree.make_directory(&path, owned, parents)?),
            VolumeRequest::Change {
                path,
                uid,
                gid,
                mode,
            } => VolumeAnswer::Entry(self.open(id)?.tree.change(&path, (uid, gid), mode)?),
            VolumeRequest::Remove { path } => {
                let number = self.numbers.fetch_add(1, Ordering::Relaxed);
                self.open(id)?
                    .tree
                    .remove(&path, &format!("removed-{number}"))?;
                VolumeAnswer::Done
            }
        };
        Ok((answer, None))
    }

    /// Another mount of a volume, for a sandbox: its ids can be mapped, and it ends with the sandbox.
    pub(crate) fn mount(&self, id: &VolumeId) -> Result<OwnedFd, VolumeError> {
        mount_lasting(&self.open(id)?.device).map_err(host("mount a volume"))
    }

    fn make(&self, id: &VolumeId, size_mib: u32) -> Result<VolumeAnswer, VolumeError> {
        let path = self.image(id);
        let draft = path.with_extension("draft");
        let made = Template::lasting(size_mib)
            .and_then(|template| draw(&template, &draft, &path))
            .map_err(or_impossible("make the image of a volume"))
            .and_then(|()| self.open(id));
        if let Err(error) = made {
            self.destroy(id)?;
            return Err(error);
        }
        Ok(VolumeAnswer::Done)
    }

    fn destroy(&self, id: &VolumeId) -> Result<VolumeAnswer, VolumeError> {
        let mut open = self.table();
        open.remove(id);
        // The kernel keeps what has no name any more for as long as a sandbox has it.
        let path = self.image(id);
        remove_file(&path.with_extension("draft"))
            .and_then(|()| remove_file(&path))
            .map_err(host("remove a volume"))?;
        fault::point!("volume.image-removed");
        Ok(VolumeAnswer::Done)
    }

    fn begin(
        &self,
        id: &VolumeId,
        path: &str,
        replace: bool,
    ) -> Result<(UploadNumber, OwnedFd), VolumeError> {
        let volume = self.open(id)?;
        let file = volume.tree.begin(content::Place { path, replace })?;
        let copy = file.try_clone().map_err(host("keep a file"))?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mut uploads = locked(&self.uploads);
        if uploads.len() >= MOST_UPLOADS {
            return Err(VolumeError::Busy);
        }
        let id = id.clone();
        uploads.insert(number, Upload { volume, id, file });
        Ok((number, copy))
    }

    fn taken(&self, id: &VolumeId, number: UploadNumber) -> Option<Upload> {
        let mut uploads = locked(&self.uploads);
        match uploads.get(&number) {
            Some(upload) if upload.id == *id => uploads.remove(&number),
            _ => None,
        }
    }

    fn image(&self, id: &VolumeId) -> PathBuf {
        self.directory.join(format!("{id}.img"))
    }

    fn table(&self) -> MutexGuard<'_, HashMap<VolumeId, Arc<OpenVolume>>> {
        locked(&self.open)
    }

    /// One at a time: a second device for the same image would ruin it.
    fn open(&self, id: &VolumeId) -> Result<Arc<OpenVolume>, VolumeError> {
        let mut open = self.table();
        if let Some(volume) = open.get(id) {
            return Ok(Arc::clone(volume));
        }
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(self.image(id));
        let file = match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(VolumeError::NoVolume);
            }
            other => other.map_err(host("open a volume"))?,
        };
        let volume =
            OpenVolume::of(&file, &self.directory).map_err(or_impossible("mount a volume"))?;
        if open.len() >= IDLE_OPEN {
            open.retain(|_, volume| Arc::strong_count(volume) > 1);
        }
        let volume = Arc::new(volume);
        open.insert(id.clone(), Arc::clone(&volume));
        Ok(volume)
    }
}

fn room(disks: &Disks) -> Result<(), VolumeError> {
    match disks.host_is_full() {
        Ok(false) => Ok(()),
        Ok(true) => Err(VolumeError::HostFull),
        Err(error) => Err(host("look at the host's free space")(error)),
    }
}

/// Writes an image, whole or not at all.
fn draw(template: &Template, draft: &Path, path: &Path) -> io::Result<()> {
    remove_file(draft)?;
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)?;
    template.write(&file)?;
    file.sync_all()?;
    fault::point!("volume.image-drafted");
    fs::rename(draft, path)?;
    path.parent()
        .map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

impl OpenVolume {
    fn of(image: &File, scratch: &Path) -> io::Result<Self> {
        let device = device(image, scratch)?;
        let root = open_root(&mount_lasting(&device)?)?;
        let user = Owned {
            uid: USER,
            gid: USER,
            mode: 0o775,
        };
        let data = match content::make_in(&root, DATA, user) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                resolve::directory(&root, DATA)?
            }
            other => other?,
        };
        // What an earlier server was about to write or to remove.
        disk::remove(&path_of(&root).join(WORK))?;
        mkdirat(&root, WORK, Mode::from_raw_mode(0o700))?;
        let work = openat(
            &root,
            WORK,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let tree = Tree { data, work };
        Ok(Self { device, tree })
    }
}

/// The device of an image: the one it has, or a new one.
fn device(image: &File, scratch: &Path) -> io::Result<LoopDevice> {
    let facts = image.metadata()?;
    let wanted = (facts.dev(), facts.ino());
    let mut last = io::Error::from(io::ErrorKind::ResourceBusy);
    for _ in 0..BIND_TRIES {
        let bound = loopdev::bound(scratch)?;
        let Some(found) = bound.iter().find(|b| (b.device, b.inode) == wanted) else {
            return bind(image, scratch);
        };
        // Between the two it may have been given up, and bound to something else.
        let opened = LoopDevice::open(found.number, scratch);
        match opened.and_then(|device| Ok((device.file()?, device))) {
            Ok((file, device)) if file == wanted => return Ok(device),
            Ok(_) => {}
            Err(error) => last = error,
        }
        std::thread::sleep(BIND_WAIT);
    }
    Err(last)
}

/// A path that leads to what is open, in this process.
fn path_of(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}
