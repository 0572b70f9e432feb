//! The launch half of a plan: from a prepared slot to envd.
//!
//! Up to `become-guest-root` this is a process of the host's root in a mount namespace that belongs to the sandbox's user
//! namespace; all mounts are made with the host's rights. After it no power over the host is left.

use std::collections::{HashMap, VecDeque};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, setrlimit, umask};
use rustix::thread::{
    CpuSet, Gid, Uid, sched_setaffinity, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use soulbox_launch_plan::{LaunchPlan, LaunchStep, Reply, Rlimit};
use soulbox_linux::mount::{self, Attributes};
use soulbox_linux::namespace::{self, Clocks, Cloned};
use soulbox_linux::{capability, exec, landlock, process, seccomp};

use crate::errand::RESTORER_ENVIRONMENT;
use crate::slot::Slot;
use crate::{Failure, dev};

const ENVD_ENVIRONMENT: [&str; 1] =
    ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
/// What a loader loads into every program.
const PRELOAD: &str = "etc/ld.so.preload";
const I32_MAX: u32 = i32::MAX.unsigned_abs();
const NO_POWERS: Attributes = Attributes {
    read_only: false,
    no_suid: true,
    no_dev: true,
    no_exec: true,
};
const READ_ONLY: Attributes = Attributes {
    read_only: true,
    no_suid: true,
    no_dev: true,
    no_exec: true,
};

/// The descriptors that come with a launch plan.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    /// A mount of envd's program, the boot document and the status pipe; or that mount, the restorer's files, the images
    /// and the restorer's working directory.
    fixed: Vec<OwnedFd>,
    /// Mounts, in the order in which the steps take them: of the sandbox's own file system, where it has one, and of its
    /// volumes.
    mounts: VecDeque<OwnedFd>,
}

impl Handed {
    pub(crate) fn from_fds(fds: Vec<OwnedFd>, plan: &LaunchPlan) -> Result<Self, Failure> {
        let wrong = |source| Failure::new("receive-plan", "descriptors of the launch plan", source);
        let count = match plan.steps.last() {
            Some(LaunchStep::ExecRestorer { .. }) => 4,
            _ => 3,
        };
        let lifted = fds.into_iter().map(exec::lift);
        let mut fixed = lifted.collect::<io::Result<Vec<_>>>().map_err(wrong)?;
        if fixed.len() < count {
            return Err(wrong(io::ErrorKind::InvalidData.into()));
        }
        let mounts = fixed.split_off(count).into();
        Ok(Self { fixed, mounts })
    }

    /// A mount of envd's program.
    fn envd(&self) -> io::Result<&OwnedFd> {
        let first = self.fixed.first();
        first.ok_or_else(|| io::Error::other("no mount of envd came with the plan"))
    }
}

impl Handed {
    /// The next mount.
    fn mount(&mut self) -> io::Result<OwnedFd> {
        let next = self.mounts.pop_front();
        next.ok_or_else(|| io::Error::other("a mount is missing that the plan speaks of"))
    }
}

/// Carries out the steps. Returns in the parent once the clone is reported; in the child only on failure.
pub(crate) fn carry_out(
    plan: &LaunchPlan,
    slot: &Slot,
    handed: Handed,
    report: impl Fn(Reply, Option<&OwnedFd>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut launch = Launch {
        handed,
        ..steps_of(slot)
    };
    let mut moments = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        moments.push(now_ns());
        if matches!(step, LaunchStep::ExecEnvd { .. }) {
            let moments = std::mem::take(&mut moments);
            report(Reply::AllButLast { moments }, None)?;
        }
        if matches!(step, LaunchStep::ClonePid1) {
            let cloned =
                namespace::clone_pid1().map_err(|e| Failure::new(step.name(), "clone3", e))?;
            if let Cloned::Parent { pid, pidfd } = cloned {
                return report(Reply::Cloned { pid }, Some(&pidfd));
            }
            continue;
        }
        launch
            .step(step)
            .map_err(|(detail, e)| Failure::new(step.name(), detail, e))?;
    }
    Ok(())
}

/// By the clock that no namespace changes.
fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let nanoseconds = now.tv_sec.saturating_mul(1_000_000_000) + now.tv_nsec;
    nanoseconds.unsigned_abs()
}

/// To carry out steps that need no descriptors.
pub(crate) fn steps_of(slot: &Slot) -> Launch<'_> {
    Launch {
        slot,
        handed: Handed::default(),
        held: HashMap::new(),
        root: PathBuf::new(),
        // Before process 1 is started: none may be older than the machine it seems to be on.
        clocks: Some(Clocks::now()),
    }
}

/// What steps leave for later ones.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    slot: &'a Slot,
    handed: Handed,
    held: HashMap<String, OwnedFd>,
    root: PathBuf,
    /// Taken by the time namespace.
    clocks: Option<Clocks>,
}

type Failed = (String, io::Error);

fn on(what: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Failed {
    let what = what.as_ref().display().to_string();
    move |error| (what, error)
}

impl Launch<'_> {
    pub(crate) fn carry_out(&mut self, steps: &[&LaunchStep]) -> Result<(), Failure> {
        steps.iter().try_for_each(|step| {
            self.step(step)
                .map_err(|(detail, e)| Failure::new(step.name(), detail, e))
        })
    }

    fn step(&mut self, step: &LaunchStep) -> Result<(), Failed> {
        match step {
            LaunchStep::PivotRoot { new_root } => mount::pivot_root(new_root).map_err(on(new_root)),
            LaunchStep::SetHostname { name } => {
                rustix::system::sethostname(name.as_bytes()).map_err(|e| (name.clone(), e.into()))
            }
            LaunchStep::ClonePid1 => Ok(()),
            LaunchStep::NewSession => match rustix::process::setsid() {
                Ok(_) => Ok(()),
                Err(error) => Err(on("setsid")(error.into())),
            },
            LaunchStep::IdmapInPlace { .. }
            | LaunchStep::AttachDisk { .. }
            | LaunchStep::MountOverlay { .. }
            | LaunchStep::MountTmpfs { .. }
            | LaunchStep::PopulateDev { .. }
            | LaunchStep::MountDevpts { .. }
            | LaunchStep::ShowEnvd { .. }
            | LaunchStep::BindReadOnly { .. }
            | LaunchStep::MountVolume { .. }
            | LaunchStep::MountWholeProc { .. }
            | LaunchStep::CoverPreload
            | LaunchStep::UncoverPreload
            | LaunchStep::HoldReadOnly { .. } => self.mount_step(step),
            LaunchStep::MountProc
            | LaunchStep::ReplaceProc
            | LaunchStep::MaskProc { .. }
            | LaunchStep::ReadOnlyProc { .. }
            | LaunchStep::ShadowProc { .. } => self.proc_step(step),
            LaunchStep::SetCpus { .. }
            | LaunchStep::SetOomScore { .. }
            | LaunchStep::SetRlimit { .. }
            | LaunchStep::BecomeGuestRoot
            | LaunchStep::NewTimeNamespace
            | LaunchStep::ResumeTimeNamespace { .. }
            | LaunchStep::RestrictScope
            | LaunchStep::KeepCapabilities { .. }
            | LaunchStep::InstallSeccomp { .. }
            | LaunchStep::ExecRestorer { .. }
            | LaunchStep::ExecEnvd { .. } => self.process_step(step),
        }
    }

    fn mount_step(&mut self, step: &LaunchStep) -> Result<(), Failed> {
        match step {
            LaunchStep::IdmapInPlace { path, read_only } => {
                self.idmap(path, *read_only).map_err(on(path))
            }
            LaunchStep::AttachDisk { target } => self.attach_disk(target).map_err(on(target)),
            LaunchStep::MountOverlay {
                base,
                lower,
                upper,
                work,
                target,
                owner,
                two_disks,
            } => {
                self.root.clone_from(target);
                rustix::process::chdir(base).map_err(|e| on(base)(e.into()))?;
                capability::set_fs_ids(*owner, *owner).map_err(on("file system ids"))?;
                let mounted = overlay(lower, upper, work, *two_disks, target).map_err(on(target));
                capability::set_fs_ids(0, 0).map_err(on("file system ids"))?;
                mounted
            }
            LaunchStep::MountTmpfs {
                target,
                size_bytes,
                mode,
                owner,
            } => {
                let (size, mode, owner) = (
                    size_bytes.to_string(),
                    format!("{mode:o}"),
                    owner.to_string(),
                );
                let options = [
                    ("size", size.as_str()),
                    ("mode", &mode),
                    ("uid", &owner),
                    ("gid", &owner),
                ];
                let attributes = Attributes {
                    no_dev: false,
                    no_exec: false,
                    ..NO_POWERS
                };
                self.mount_below("tmpfs", &options, attributes, target)
                    .map_err(on(target))
            }
            LaunchStep::PopulateDev { target, owner } => {
                let directory = mount::open_below(&self.root, target).map_err(on(target))?;
                dev::populate(directory, *owner).map_err(on(target))
            }
            LaunchStep::MountDevpts { target, tty_gid } => {
                self.mount_devpts(target, *tty_gid).map_err(on(target))
            }
            LaunchStep::ShowEnvd { target } => mount::make_file_below(&self.root, target)
                .and_then(|file| mount::attach_to(self.handed.envd()?, file))
                .map_err(on(target)),
            LaunchStep::BindReadOnly { source, target } => {
                let copy = read_only_copy(source).map_err(on(source))?;
                self.attach_below(&copy, target).map_err(on(target))
            }
            LaunchStep::MountVolume {
                scratch,
                target,
                owner,
            } => self
                .mount_volume(scratch, target, *owner)
                .map_err(on(target)),
            LaunchStep::MountWholeProc { target } => {
                self.mount_whole_proc(target).map_err(on(target))
            }
            LaunchStep::CoverPreload => self.cover_preload().map_err(on(PRELOAD)),
            LaunchStep::UncoverPreload => uncover_preload().map_err(on(PRELOAD)),
            LaunchStep::HoldReadOnly { name, source } => {
                let copy = read_only_copy(source).map_err(on(source))?;
                self.held.insert(name.clone(), copy);
                Ok(())
            }
            _ => Err((step.name().to_owned(), io::ErrorKind::InvalidInput.into())),
        }
    }

    fn proc_step(&mut self, step: &LaunchStep) -> Result<(), Failed> {
        match step {
            LaunchStep::MountProc => self.mount_proc().map_err(on("/proc")),
            LaunchStep::ReplaceProc => mount::detach(Path::new("/proc"))
                .and_then(|()| self.mount_proc())
                .map_err(on("/proc")),
            LaunchStep::MaskProc { files, directories } => {
                self.mask("empty-file", files)?;
                self.mask("empty-directory", directories)
            }
            LaunchStep::ReadOnlyProc { name } => {
                let path = Path::new("/proc").join(name);
                read_only_copy(&path)
                    .and_then(|copy| mount::attach(copy, &path))
                    .map_err(on(path))
            }
            LaunchStep::ShadowProc { name } => {
                let held = self.take(name)?;
                attach_on_proc(&held, name).map_err(on(name))
            }
            _ => Err((step.name().to_owned(), io::ErrorKind::InvalidInput.into())),
        }
    }

    fn process_step(&mut self, step: &LaunchStep) -> Result<(), Failed> {
        match step {
            LaunchStep::SetCpus { cpus } => set_cpus(cpus).map_err(on("affinity")),
            LaunchStep::SetOomScore { value } => {
                process::set_oom_score(*value).map_err(on("oom_score_adj"))
            }
            LaunchStep::SetRlimit { resource, value } => {
                set_rlimit(*resource, *value).map_err(on("rlimit"))
            }
            LaunchStep::RestrictScope => landlock::restrict_scope().map_err(on("Landlock domain")),
            LaunchStep::BecomeGuestRoot => {
                if let Some(clocks) = &mut self.clocks {
                    clocks.open_offsets().map_err(on("timens_offsets"))?;
                }
                become_guest_root(&self.slot.namespaces.user).map_err(on("user namespace"))
            }
            LaunchStep::NewTimeNamespace => self
                .take_clocks()?
                .enter_from_zero()
                .map_err(on("time namespace")),
            LaunchStep::ResumeTimeNamespace {
                boottime_ns,
                monotonic_ns,
            } => self
                .take_clocks()?
                .enter_from(*boottime_ns, *monotonic_ns)
                .map_err(on("time namespace")),
            LaunchStep::ExecRestorer { loader, argv } => {
                Err((String::from("restorer"), self.exec_restorer(loader, argv)))
            }
            LaunchStep::KeepCapabilities { keep } => {
                capability::keep_only(keep).map_err(on("capabilities"))
            }
            LaunchStep::InstallSeccomp { program } => {
                seccomp::install(program).map_err(on("filter"))
            }
            LaunchStep::ExecEnvd { argv } => Err((String::from("envd"), self.exec_envd(argv))),
            _ => Err((step.name().to_owned(), io::ErrorKind::InvalidInput.into())),
        }
    }

    fn idmap(&self, path: &Path, read_only: bool) -> io::Result<()> {
        let copy = mount::detached_copy(path)?;
        let attributes = Attributes {
            read_only,
            ..Attributes::default()
        };
        mount::set_attributes(&copy, attributes, Some(&self.slot.namespaces.user))?;
        mount::attach(copy, path)
    }

    fn attach_disk(&mut self, target: &Path) -> io::Result<()> {
        let disk = self.handed.mount()?;
        mount::set_attributes(
            &disk,
            Attributes::default(),
            Some(&self.slot.namespaces.user),
        )?;
        mount::attach(disk, target)
    }

    /// The file system is attached to a place that ends with the host's root; what stays is its directory `data`, which
    /// is all that there is of it inside.
    fn mount_volume(&mut self, scratch: &Path, target: &Path, owner: u32) -> io::Result<()> {
        let volume = self.handed.mount()?;
        let attributes = Attributes {
            no_suid: true,
            no_dev: true,
            ..Attributes::default()
        };
        mount::set_attributes(&volume, attributes, Some(&self.slot.namespaces.user))?;
        mount::attach(volume, scratch)?;
        let data = mount::detached_copy(&scratch.join("data"))?;
        capability::set_fs_ids(owner, owner)?;
        let directory = mount::make_directory_in(&self.root, target);
        capability::set_fs_ids(0, 0)?;
        mount::attach_to(data, directory?)
    }

    /// In a mount namespace that does not belong to the host the kernel makes a procfs only where another one can be seen
    /// whole: it is made among the host's mounts, of which this process is not a part any more, and attached here.
    fn mount_proc(&self) -> io::Result<()> {
        namespace::enter_mount(&self.slot.host_mounts)?;
        let made = mount::new_filesystem("proc", &[], NO_POWERS);
        namespace::enter_mount(&self.slot.namespaces.mount)?;
        mount::attach_to(made?, mount::open_below(Path::new("/"), Path::new("proc"))?)?;
        // A template could hold anything at /proc; what follows must really go to procfs (CVE-2025-52881).
        let opened = mount::open_below(Path::new("/"), Path::new("proc"))?;
        if mount::is_procfs(opened)? {
            Ok(())
        } else {
            Err(io::Error::other("/proc is not a procfs"))
        }
    }

    fn mount_devpts(&self, target: &Path, tty_gid: u32) -> io::Result<()> {
        let attributes = Attributes {
            no_dev: false,
            ..NO_POWERS
        };
        let with = |gid: String| {
            let options = [
                ("newinstance", ""),
                ("gid", gid.as_str()),
                ("mode", "620"),
                ("ptmxmode", "666"),
                // All instances share the host's kernel.pty.max of 4096.
                ("max", "256"),
            ];
            self.mount_below("devpts", &options, attributes, target)
        };
        match with(tty_gid.to_string()) {
            // Older kernels (6.1, 6.12) read the number into 64 bits and take what fits into a signed one of 32: an id
            // above 2^31 gets through as the 64 bits of its negative.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && tty_gid > I32_MAX => {
                let wrapped = i64::from(tty_gid.cast_signed()).cast_unsigned();
                with(wrapped.to_string())
            }
            other => other,
        }
    }

    fn mount_below(
        &self,
        kind: &str,
        options: &[(&str, &str)],
        attributes: Attributes,
        target: &Path,
    ) -> io::Result<()> {
        let made = mount::new_filesystem(kind, options, attributes)?;
        self.attach_below(&made, target)
    }

    fn attach_below(&self, made: &OwnedFd, target: &Path) -> io::Result<()> {
        mount::attach_to(made, mount::open_below(&self.root, target)?)
    }

    /// Made among the host's mounts for the same reason as [`Launch::mount_proc`], and of the host's processes.
    fn mount_whole_proc(&self, target: &Path) -> io::Result<()> {
        namespace::enter_mount(&self.slot.host_mounts)?;
        let made = mount::new_filesystem("proc", &[], NO_POWERS);
        namespace::enter_mount(&self.slot.namespaces.mount)?;
        self.attach_below(&made?, target)
    }

    fn cover_preload(&self) -> io::Result<()> {
        let Some(file) = mount::open_file_in(&self.root, Path::new(PRELOAD))? else {
            return Ok(());
        };
        let empty = self.held.get("empty-file");
        let empty = empty.ok_or_else(|| io::Error::other("no empty file is held"))?;
        mount::attach_to(empty, file)
    }

    fn take_clocks(&mut self) -> Result<Clocks, Failed> {
        let clocks = self.clocks.take();
        clocks.ok_or_else(|| on("clocks")(io::ErrorKind::InvalidInput.into()))
    }

    fn take(&mut self, name: &str) -> Result<OwnedFd, Failed> {
        self.held.remove(name).ok_or_else(|| {
            (
                format!("nothing held as {name}"),
                io::ErrorKind::InvalidInput.into(),
            )
        })
    }

    /// The first entry is covered by the held mount itself, the others by copies of that one: kernels before 6.15 copy
    /// only what is attached.
    fn mask(&mut self, held: &str, names: &[String]) -> Result<(), Failed> {
        let Some((first, rest)) = names.split_first() else {
            return Ok(());
        };
        let cover = self.take(held)?;
        attach_on_proc(&cover, first).map_err(on(first))?;
        let first = Path::new("/proc").join(first);
        for name in rest {
            let copy = mount::detached_copy(&first).map_err(on(&first))?;
            attach_on_proc(&copy, name).map_err(on(name))?;
        }
        Ok(())
    }

    fn exec_envd(&self, argv: &[String]) -> io::Error {
        match self.handed.envd() {
            Ok(program) => self.exec(program, argv, &ENVD_ENVIRONMENT),
            Err(error) => error,
        }
    }

    /// Its files and the images are the host's, and reached by descriptor only.
    fn exec_restorer(&self, loader: &Path, argv: &[String]) -> io::Error {
        let open = || -> io::Result<OwnedFd> {
            let files = self.handed.fixed.get(1);
            let files = files.ok_or_else(|| io::Error::other("no restorer came with the plan"))?;
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            exec::lift(rustix::fs::openat(files, loader, flags, Mode::empty())?)
        };
        match open() {
            Ok(loader) => self.exec(&loader, argv, &RESTORER_ENVIRONMENT),
            Err(error) => error,
        }
    }

    /// Hands over what came with the plan but the mount of envd, and the files of cgroups, and becomes a program.
    fn exec(&self, program: &OwnedFd, argv: &[String], environment: &[&str]) -> io::Error {
        let ready = || -> io::Result<(Vec<CString>, Vec<CString>)> {
            umask(Mode::from_raw_mode(0o022));
            let null =
                rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
            let null = exec::lift(null)?;
            let mut fds = vec![null.as_fd(), null.as_fd(), null.as_fd()];
            fds.extend(self.handed.fixed.iter().skip(1).map(AsFd::as_fd));
            fds.extend(self.slot.cgroups.iter().map(AsFd::as_fd));
            exec::keep_only_fds(&fds)?;
            let strings = |list: &mut dyn Iterator<Item = &str>| -> io::Result<Vec<CString>> {
                list.map(|s| CString::new(s).map_err(io::Error::from))
                    .collect()
            };
            Ok((
                strings(&mut argv.iter().map(String::as_str))?,
                strings(&mut environment.iter().copied())?,
            ))
        };
        match ready() {
            Ok((argv, environment)) => exec::exec_fd(program.as_fd(), &argv, &environment),
            Err(error) => error,
        }
    }
}

fn read_only_copy(path: &Path) -> io::Result<OwnedFd> {
    let copy = mount::detached_copy(path)?;
    mount::set_attributes(&copy, READ_ONLY, None)?;
    Ok(copy)
}

/// `volatile`: nothing is synced when the sandbox writes or ends. Its files are worthless after a crash of the host,
/// because its processes are gone then, and a sync at every end would stall the whole disk.
fn overlay(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    two_disks: bool,
    target: &Path,
) -> io::Result<()> {
    let lower: Vec<String> = lower.iter().map(|p| p.display().to_string()).collect();
    let (lower, upper, work) = (
        lower.join(":"),
        upper.display().to_string(),
        work.display().to_string(),
    );
    let mut options = vec![
        ("lowerdir", lower.as_str()),
        ("upperdir", &upper),
        ("workdir", &work),
        ("redirect_dir", "on"),
        ("index", "off"),
        ("metacopy", "off"),
        ("volatile", ""),
    ];
    if two_disks {
        options.push(("xino", "on"));
    }
    let attributes = Attributes {
        no_dev: true,
        ..Attributes::default()
    };
    // The names of the layers are longer than the newer interface takes.
    mount::mount_at("overlay", &options, attributes, target)
}

/// After the pivot, and by the same way as the cover got there.
fn uncover_preload() -> io::Result<()> {
    let Some(file) = mount::open_file_in(Path::new("/"), Path::new(PRELOAD))? else {
        return Ok(());
    };
    mount::detach_open(&file)
}

fn attach_on_proc(cover: &OwnedFd, name: &str) -> io::Result<()> {
    let target = mount::open_below(Path::new("/proc"), Path::new(name))?;
    if !mount::is_procfs(&target)? {
        return Err(io::Error::other("the entry is covered already"));
    }
    mount::attach_to(cover, target)
}

fn become_guest_root(user_namespace: &OwnedFd) -> io::Result<()> {
    namespace::enter_user(user_namespace)?;
    set_thread_groups(&[])?;
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

fn set_cpus(cpus: &[u32]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(usize::try_from(*cpu).map_err(io::Error::other)?);
    }
    Ok(sched_setaffinity(None, &set)?)
}

fn set_rlimit(resource: Rlimit, value: u64) -> io::Result<()> {
    let resource = match resource {
        Rlimit::Core => Resource::Core,
        Rlimit::OpenFiles => Resource::Nofile,
        Rlimit::MessageQueue => Resource::Msgqueue,
        Rlimit::LockedMemory => Resource::Memlock,
    };
    let value = (value != u64::MAX).then_some(value);
    Ok(setrlimit(
        resource,
        rustix::process::Rlimit {
            current: value,
            maximum: value,
        },
    )?)
}
