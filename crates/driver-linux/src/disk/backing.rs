//! By which means the kernel keeps a sandbox within its disk limit, and the sandbox's disk by that means.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, fstatfs, mkdirat, openat, statvfs};
use serde::{Deserialize, Serialize};
use soulbox_linux::loopdev::{self, Bound};
use soulbox_types::{Limits, SlotIndex};

use super::image::{Image, Template, remove_file};
use super::{DIRECTORY, image, quota, usage};
use crate::plan::SandboxFiles;

/// Where the limit of a sandbox's disk is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// A project quota of the file system that holds the data directory.
    ProjectQuota,
    /// A file system for each sandbox, in a sparse image on a loop device.
    Image,
    /// Nowhere: a sandbox can fill the file system that holds the data directory.
    #[default]
    None,
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ProjectQuota => "project-quota",
            Self::Image => "image",
            Self::None => "none",
        })
    }
}

/// What the operator wants. The default is [`BackingChoice::Auto`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackingChoice {
    /// The first that works of project quota and image.
    #[default]
    Auto,
    /// This one, or no start.
    Only(Backing),
}

impl FromStr for BackingChoice {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "auto" => Self::Auto,
            "project-quota" => Self::Only(Backing::ProjectQuota),
            "image" => Self::Only(Backing::Image),
            "none" => Self::Only(Backing::None),
            _ => return Err(()),
        })
    }
}

/// What the operator says about disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSettings {
    /// By what means they are limited.
    pub backing: BackingChoice,
    /// The size that most sandboxes have; disks of it are made ahead. MiB.
    pub usual_mib: u32,
    /// No sandbox is created when less than this is free on the file system of the data directory. MiB.
    pub reserve_mib: u32,
}

impl Default for DiskSettings {
    fn default() -> Self {
        Self {
            backing: BackingChoice::Auto,
            usual_mib: Limits::STANDARD.disk_mib,
            reserve_mib: 1024,
        }
    }
}

/// Nothing works that the operator agrees with.
#[derive(Debug, thiserror::Error)]
#[error(
    "the disk space of sandboxes cannot be limited on this host ({})\n\
     FIX: install e2fsprogs and load the loop driver (modprobe loop), or mount the file system of the data directory \
     with prjquota. disk_backing = \"none\" runs sandboxes without a limit",
    self.tried()
)]
pub struct NoBacking(Vec<(Backing, String)>);

impl NoBacking {
    fn tried(&self) -> String {
        let each: Vec<_> = self
            .0
            .iter()
            .map(|(backing, why)| format!("{backing}: {why}"))
            .collect();
        each.join("; ")
    }
}

/// Which backing a server with this data directory would use. Really tries it, and leaves nothing. Needs root and a
/// data directory that exists.
///
/// # Errors
/// When nothing works that the choice allows; the text says why and what to do.
pub fn probe(data_dir: &Path, choice: BackingChoice) -> Result<Backing, NoBacking> {
    decide(choice, |backing| match backing {
        Backing::ProjectQuota => quota::try_in(data_dir),
        Backing::Image => image::try_in(data_dir),
        Backing::None => Ok(()),
    })
}

/// Quotas come first: they cost nothing, and what a sandbox deletes the host has back at once.
fn decide(
    choice: BackingChoice,
    mut works: impl FnMut(Backing) -> io::Result<()>,
) -> Result<Backing, NoBacking> {
    let candidates = match choice {
        BackingChoice::Auto => vec![Backing::ProjectQuota, Backing::Image],
        BackingChoice::Only(backing) => vec![backing],
    };
    let mut tried = Vec::new();
    for backing in candidates {
        match works(backing) {
            Ok(()) => return Ok(backing),
            Err(error) => tried.push((backing, error.to_string())),
        }
    }
    Err(NoBacking(tried))
}

/// A template that is being made, or is made; one at a time.
type TemplateCell = Arc<Mutex<Option<Arc<Template>>>>;

/// Makes and finds the disks of sandboxes.
#[derive(Debug)]
pub(crate) struct Disks {
    backing: Backing,
    settings: DiskSettings,
    /// `<data>/disks`: images, named `<slot>.<MiB>.img`.
    directory: PathBuf,
    data: PathBuf,
    templates: Mutex<HashMap<u32, TemplateCell>>,
}

impl Disks {
    /// Chooses the backing and makes the directory of images.
    pub(crate) fn prepare(data_dir: &Path, settings: DiskSettings) -> io::Result<Self> {
        let directory = data_dir.join("disks");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)?;
        let backing = probe(&directory, settings.backing).map_err(io::Error::other)?;
        if backing == Backing::None {
            tracing::warn!(
                "disk_backing = \"none\": a sandbox can fill the file system of the data directory"
            );
        } else {
            tracing::info!(%backing, "the disk space of sandboxes is limited");
        }
        Ok(Self {
            backing,
            settings,
            directory,
            data: data_dir.to_owned(),
            templates: Mutex::default(),
        })
    }

    /// How new sandboxes are limited.
    pub(crate) fn backing(&self) -> Backing {
        self.backing
    }

    /// Whether the host has so little space left that another sandbox would make it worse.
    pub(crate) fn host_is_full(&self) -> io::Result<bool> {
        self.host_is_too_full_for(0)
    }

    /// Whether it would have, with so many bytes more.
    pub(crate) fn host_is_too_full_for(&self, bytes: u64) -> io::Result<bool> {
        let host = statvfs(&self.data)?;
        let free = host.f_bavail.saturating_mul(host.f_frsize);
        Ok(free.saturating_sub(bytes) < u64::from(self.settings.reserve_mib) << 20)
    }

    /// Makes what can be made before it is known for whom: an image of the usual size.
    pub(crate) fn ahead(&self, slot: SlotIndex) -> io::Result<Option<Image>> {
        match self.backing {
            Backing::Image => self.image(slot, self.settings.usual_mib).map(Some),
            Backing::ProjectQuota | Backing::None => Ok(None),
        }
    }

    /// Makes the disk of a sandbox, whose directory exists, from what was made ahead where it fits.
    pub(crate) fn fit(
        &self,
        ahead: &mut Option<Image>,
        slot: SlotIndex,
        files: &SandboxFiles,
        limits: &Limits,
    ) -> io::Result<Disk> {
        DirBuilder::new().mode(0o700).create(files.disk())?;
        if self.backing == Backing::Image {
            let image = match ahead.take() {
                Some(image) if image.disk_mib() == limits.disk_mib => image,
                other => {
                    other.map_or(Ok(()), Image::discard)?;
                    self.image(slot, limits.disk_mib)?
                }
            };
            return Ok(Disk::Image(image));
        }
        let disk = Disk::in_directory(self.backing, slot, files)?;
        if let Disk::Quota { root, project } = &disk {
            let bytes = u64::from(limits.disk_mib) << 20;
            quota::limit(root, *project, bytes, image::inodes(limits.disk_mib))?;
        }
        mkdirat(disk.root(), "upper", Mode::from_raw_mode(0o755))?;
        mkdirat(disk.root(), "work", Mode::from_raw_mode(0o700))?;
        Ok(disk)
    }

    /// The loop devices there are, to find the disks of running sandboxes by.
    pub(crate) fn loop_devices(&self) -> io::Result<Vec<Bound>> {
        loopdev::bound(&self.directory)
    }

    /// Finds the disk of a sandbox that runs, with envd's number. `backing` is the one it was made with. A sandbox need
    /// not end because its disk is not found: the kernel holds it all the same.
    pub(crate) fn reopen(
        &self,
        backing: Backing,
        place: (SlotIndex, &SandboxFiles, &Limits),
        pid: i32,
        devices: &[Bound],
    ) -> io::Result<Disk> {
        let (slot, files, limits) = place;
        if backing != Backing::Image {
            return Disk::in_directory(backing, slot, files);
        }
        let path = self.image_path(slot, limits.disk_mib);
        match self.reopen_image(path.clone(), limits.disk_mib, devices) {
            Ok(image) => Ok(Disk::Image(image)),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the disk of a running sandbox was not found");
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let root = openat(CWD, format!("/proc/{pid}/root"), flags, Mode::empty())?;
                Ok(Disk::NotFound { root, path })
            }
        }
    }

    fn reopen_image(&self, path: PathBuf, disk_mib: u32, devices: &[Bound]) -> io::Result<Image> {
        let file = fs::metadata(&path)?;
        let device = devices
            .iter()
            .find(|bound| (bound.device, bound.inode) == (file.dev(), file.ino()));
        let device =
            device.ok_or_else(|| io::Error::other("no loop device is bound to the image"))?;
        Image::reopen(path, disk_mib, device.number, &self.directory)
    }

    /// Removes every image that belongs to none of these slots.
    pub(crate) fn keep_only(&self, slots: &HashSet<u16>) -> io::Result<()> {
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let slot = name.to_str().and_then(|name| name.split('.').next());
            let kept = slot
                .and_then(|slot| slot.parse().ok())
                .is_some_and(|slot: u16| slots.contains(&slot));
            if !kept {
                remove_file(&entry.path())?;
            }
        }
        Ok(())
    }

    fn image(&self, slot: SlotIndex, disk_mib: u32) -> io::Result<Image> {
        let template = self.template(disk_mib)?;
        Image::make(&template, self.image_path(slot, disk_mib), &self.directory)
    }

    pub(crate) fn image_path(&self, slot: SlotIndex, disk_mib: u32) -> PathBuf {
        self.directory
            .join(format!("{}.{disk_mib}.img", slot.index()))
    }

    fn template(&self, disk_mib: u32) -> io::Result<Arc<Template>> {
        let cell = {
            let mut templates = self
                .templates
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            Arc::clone(templates.entry(disk_mib).or_default())
        };
        // Whoever wants the same size waits; other sizes do not.
        let mut made = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(template) = &*made {
            return Ok(Arc::clone(template));
        }
        let template = Arc::new(Template::make(disk_mib)?);
        *made = Some(Arc::clone(&template));
        Ok(template)
    }
}

/// The disk of one sandbox: `upper` and `work` in a directory with limits. Dropping it leaves it as it is.
#[derive(Debug)]
pub(crate) enum Disk {
    /// In a file system of its own.
    Image(Image),
    /// In the data directory, under a project quota.
    Quota { root: OwnedFd, project: u32 },
    /// In the data directory.
    Unlimited { root: OwnedFd },
    /// In a file system of its own that could not be found again. `root` is that of the sandbox.
    NotFound { root: OwnedFd, path: PathBuf },
}

impl Disk {
    fn in_directory(backing: Backing, slot: SlotIndex, files: &SandboxFiles) -> io::Result<Self> {
        let root = openat(CWD, files.disk(), DIRECTORY, Mode::empty())?;
        Ok(match backing {
            Backing::ProjectQuota => Self::Quota {
                root,
                project: quota::project(slot),
            },
            Backing::Image | Backing::None => Self::Unlimited { root },
        })
    }

    /// The directory that holds `upper` and `work`.
    pub(crate) fn root(&self) -> &OwnedFd {
        match self {
            Self::Image(image) => image.root(),
            Self::Quota { root, .. } | Self::Unlimited { root } | Self::NotFound { root, .. } => {
                root
            }
        }
    }

    /// What the sandbox has written, as its overlay has put it there.
    pub(crate) fn upper(&self) -> io::Result<OwnedFd> {
        if let Self::NotFound { .. } = self {
            return Err(io::Error::other("its disk was not found at the start"));
        }
        Ok(openat(self.root(), "upper", DIRECTORY, Mode::empty())?)
    }

    /// What has to be mounted where the sandbox is built, if anything.
    pub(crate) fn mount(&self) -> Option<&OwnedFd> {
        match self {
            Self::Image(image) => image.mount(),
            Self::Quota { .. } | Self::Unlimited { .. } | Self::NotFound { .. } => None,
        }
    }

    /// Bytes in use. The kernel keeps count where it keeps a limit; otherwise the files are looked at.
    pub(crate) fn used_bytes(&self) -> io::Result<u64> {
        if let Self::Unlimited { .. } = self {
            return usage(self.upper()?);
        }
        let stat = fstatfs(self.root())?;
        let block = u64::try_from(stat.f_bsize).unwrap_or_default();
        Ok(stat.f_blocks.saturating_sub(stat.f_bfree) * block)
    }

    /// What to give back to the host, see [`Image::worth_trimming`].
    pub(crate) fn worth_trimming(&self, used: u64) -> io::Result<Option<OwnedFd>> {
        match self {
            Self::Image(image) => image.worth_trimming(used),
            Self::Quota { .. } | Self::Unlimited { .. } | Self::NotFound { .. } => Ok(None),
        }
    }

    /// Ends it, after its sandbox, and after the files in the sandbox's directory are removed.
    pub(crate) fn discard(self) -> io::Result<()> {
        match self {
            Self::Image(image) => image.discard(),
            Self::Quota { root, project } => quota::lift(root, project),
            Self::Unlimited { .. } => Ok(()),
            Self::NotFound { path, .. } => remove_file(&path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(choice: &str, works: &[Backing]) -> Result<Backing, String> {
        decide(choice.parse().unwrap(), |backing| {
            if works.contains(&backing) {
                Ok(())
            } else {
                Err(io::Error::other("not here"))
            }
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn quotas_come_first_then_images_and_never_nothing_unasked() {
        use Backing::{Image, None, ProjectQuota};
        let everything = [ProjectQuota, Image, None];
        assert_eq!(decided("auto", &everything), Ok(ProjectQuota));
        assert_eq!(decided("auto", &[Image, None]), Ok(Image));
        let refused = decided("auto", &[None]).unwrap_err();
        assert!(
            refused.contains("project-quota: not here; image: not here"),
            "{refused}"
        );
        assert!(refused.contains("\nFIX: install e2fsprogs"), "{refused}");
        assert_eq!(decided("image", &everything), Ok(Image));
        assert_eq!(decided("none", &everything), Ok(None));
        assert!(decided("project-quota", &[Image]).is_err());
        assert!(decided("image", &[ProjectQuota]).is_err());
    }

    #[test]
    fn choices_are_spelled_like_backings() {
        for backing in [Backing::ProjectQuota, Backing::Image, Backing::None] {
            assert_eq!(
                backing.to_string().parse(),
                Ok(BackingChoice::Only(backing))
            );
            let spelled = serde_json::to_value(backing).unwrap();
            assert_eq!(spelled, backing.to_string());
        }
        assert!("quota".parse::<BackingChoice>().is_err());
    }
}
