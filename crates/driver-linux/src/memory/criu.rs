//! CRIU as a program: where its parts are, whether it is one that was tried, and how it is called.
//!
//! It is not linked and not shipped: a directory of Debian's packages, unpacked, with a loader and libraries of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::probed::Probed;

#[cfg(target_arch = "x86_64")]
const PARTS: (&str, &str) = ("usr/lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu");
#[cfg(target_arch = "aarch64")]
const PARTS: (&str, &str) = (
    "usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1",
    "usr/lib/aarch64-linux-gnu",
);
const PROGRAM: &str = "usr/sbin/criu";
/// What the images are changed for, see [`super::images`].
const TRIED: &str = "4.2";

/// A program that was found and may be used.
#[derive(Debug, Clone)]
pub(crate) struct Criu {
    files: PathBuf,
    pub(crate) probed: Probed,
}

impl Criu {
    /// Looks into a directory. The error says what to do.
    pub(crate) fn find(files: &Path) -> Result<Self, String> {
        let shown = files.display();
        let fix = "\nFIX: soulbox criu";
        for part in [PARTS.0, PROGRAM] {
            if !files.join(part).exists() {
                return Err(format!("{shown} has no {part}{fix}"));
            }
        }
        let found = Self {
            files: files.to_owned(),
            probed: Probed::default(),
        };
        let version = found
            .version()
            .ok_or_else(|| format!("{shown}/{PROGRAM} does not run{fix}"))?;
        let same = version.strip_prefix(TRIED);
        if same.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
            Ok(found)
        } else {
            Err(format!(
                "{shown} has CRIU {version}, and {TRIED} is needed{fix}"
            ))
        }
    }

    fn version(&self) -> Option<String> {
        let output = Command::new(self.loader())
            .args(Self::prefix(&self.files).iter().skip(1))
            .arg("--version")
            .env_clear()
            .env("PATH", "/nonexistent")
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version = text.lines().next()?.strip_prefix("Version:")?;
        Some(version.trim().to_owned())
    }

    /// Its directory.
    pub(crate) fn files(&self) -> &Path {
        &self.files
    }

    /// Its loader on the host.
    pub(crate) fn loader(&self) -> PathBuf {
        self.files.join(PARTS.0)
    }

    /// Its loader below its directory.
    pub(crate) fn loader_below() -> PathBuf {
        PathBuf::from(PARTS.0)
    }

    /// The first arguments, up to its own name, for whoever sees its files there.
    fn prefix(files: &Path) -> Vec<String> {
        let at = |part: &str| files.join(part).display().to_string();
        vec![
            "ld.so".to_owned(),
            "--library-path".to_owned(),
            at(PARTS.1),
            "--inhibit-cache".to_owned(),
            at(PROGRAM),
        ]
    }

    /// Arguments of an action, with what is the same for both. `images` and `work` are paths or descriptors.
    fn action(files: &Path, action: &str, images: &str, work: &str) -> Vec<String> {
        let mut argv = Self::prefix(files);
        let log = format!("{action}.log");
        let libraries = format!("{work}/none");
        let arguments = [
            action,
            "--unprivileged",
            "--no-default-config",
            "--libdir",
            &libraries,
            "-D",
            images,
            "-W",
            work,
            "-o",
            &log,
            "-v1",
            "--action-script",
            "./hook",
            "--manage-cgroups=ignore",
            "--tcp-established",
            "--file-locks",
            "--ghost-limit",
            "256M",
        ];
        argv.extend(arguments.map(str::to_owned));
        argv
    }

    /// Writes a process and all below it. `external` is what CRIU is to leave alone.
    pub(crate) fn dump(
        &self,
        pid: i32,
        [images, work, freezer]: [&Path; 3],
        external: impl IntoIterator<Item = String>,
    ) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let mut argv = Self::action(&self.files, "dump", &text(images), &text(work));
        argv.extend(["-t".to_owned(), pid.to_string()]);
        argv.push("--leave-running".to_owned());
        argv.extend(["--network-lock", "skip", "--freeze-cgroup"].map(str::to_owned));
        argv.push(text(freezer));
        // Watches on an overlay have no handle: their files are looked for.
        argv.push("--force-irmap".to_owned());
        for place in ["/home", "/root", "/tmp", "/etc", "/var", "/opt", "/srv"] {
            argv.extend(["--irmap-scan-path".to_owned(), place.to_owned()]);
        }
        for one in external {
            argv.extend(["--external".to_owned(), one]);
        }
        argv
    }

    /// Brings processes back inside: its files are descriptor 3, the images 4, the working directory 5, and the files of
    /// cgroups that the first process had come after it.
    pub(crate) fn restore(cgroup_files: &[String]) -> Vec<String> {
        let files = Path::new("/proc/self/fd/3");
        let mut argv = Self::action(files, "restore", "/proc/self/fd/4", "/proc/self/fd/5");
        argv.push("-d".to_owned());
        for (number, file) in (6..).zip(cgroup_files) {
            argv.extend(["--inherit-fd".to_owned(), format!("fd[{number}]:{file}")]);
        }
        argv
    }
}
