//! Making `base`: the order of the steps, and what a later attempt finds after each of them.
//!
//! ```text
//! lock → here already? → look at the host → fetch npm → build in tmp/ → record → finish → hash → sync
//!      → marker → rename into layers/ → manifest
//! ```
//!
//! Killed before the record, the next attempt builds again (its downloads are cached); killed after it, the next
//! attempt goes on from the built tree. Only the manifest, the last write, makes anything visible.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha512};
use soulbox_types::{Limits, Timestamp};

use crate::artifacts::{Artifacts, hash_with_progress};
use crate::digest::LayerFacts;
use crate::error::ArtifactError;
use crate::host::{self, HostFacts};
use crate::manifest::{self, TemplateManifest};
use crate::progress::{BuildMeter, Phase, Progress};
use crate::recipe::{self, BuildPaths, NpmSource, Recipe, Suite};
use crate::{durable, finish, tool, tree};

/// The one template that is made on the machine instead of by a user's build.
pub(crate) const BASE: &str = "base";

/// A slow mirror and a slow disk together; a good pair takes a minute.
const BUILD_DEADLINE: Duration = Duration::from_mins(60);
const FETCH_DEADLINE: Duration = Duration::from_mins(5);

/// How `base` is to be made.
#[derive(Debug, Clone, Default)]
pub struct BootstrapOptions {
    /// Debian mirror, for example `http://deb.debian.org/debian`; the host's own when absent.
    pub mirror: Option<String>,
    /// Debian release; the newest that can be had when absent.
    pub suite: Option<Suite>,
    /// Another data directory to take the template over from, instead of building it.
    pub from: Option<PathBuf>,
    /// Build again even when the template is here.
    pub rebuild: bool,
}

/// Points between which the process may die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Locked,
    Checked,
    Fetched,
    Built,
    Recorded,
    Finished,
    Hashed,
    MarkerWritten,
    LayerPlaced,
    ManifestWritten,
}

/// One run.
pub(crate) struct Bootstrap<'a> {
    pub(crate) artifacts: &'a Artifacts,
    pub(crate) progress: &'a mut dyn FnMut(Progress),
    options: &'a BootstrapOptions,
    gather: fn(&Path) -> Result<HostFacts, ArtifactError>,
    /// Whether the tool gets namespaces of its own. Tests run without root and with a tool that mounts nothing.
    confine: bool,
    after: fn(Step) -> Result<(), ArtifactError>,
}

/// Left beside a built tree.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    recipe: String,
}

impl<'a> Bootstrap<'a> {
    pub(crate) fn new(
        artifacts: &'a Artifacts,
        options: &'a BootstrapOptions,
        progress: &'a mut dyn FnMut(Progress),
    ) -> Self {
        Self {
            artifacts,
            progress,
            options,
            gather: HostFacts::gather,
            confine: true,
            after: |_| Ok(()),
        }
    }

    pub(crate) fn run(mut self) -> Result<TemplateManifest, ArtifactError> {
        let lock = self.tmp().join("bootstrap.lock");
        let _lock = durable::Lock::take(&lock, || {
            self.say(
                Phase::Waiting,
                "another process is making the base template",
            );
        })?;
        self.step(Step::Locked)?;
        if let Some(manifest) = self.present() {
            self.say(
                Phase::Ready,
                format!("{BASE} is here: {}", manifest.distribution),
            );
            return Ok(manifest);
        }
        let manifest = match &self.options.from {
            Some(from) => self.import(from)?,
            None => self.build()?,
        };
        self.say(
            Phase::Ready,
            format!(
                "{BASE} is ready: {}, {} MiB",
                manifest.distribution,
                manifest.size_bytes >> 20
            ),
        );
        Ok(manifest)
    }

    /// The template that is already here, unless it is to be made again or cannot be used.
    fn present(&mut self) -> Option<TemplateManifest> {
        if self.options.rebuild {
            return None;
        }
        let usable = self.artifacts.manifest(BASE).and_then(|found| {
            let Some(manifest) = found else {
                return Ok(None);
            };
            self.artifacts.layers(&manifest).map(|_| Some(manifest))
        });
        usable.unwrap_or_else(|error| {
            self.say(
                Phase::Checking,
                format!("the base template that is here cannot be used ({error}); making it again"),
            );
            None
        })
    }

    fn build(&mut self) -> Result<TemplateManifest, ArtifactError> {
        self.say(Phase::Checking, "looking at the host");
        let host = (self.gather)(self.artifacts.data_dir())?;
        host.check(self.artifacts.data_dir())?;
        self.step(Step::Checked)?;
        let npm = self.fetch_npm(&host)?;
        self.step(Step::Fetched)?;
        let recipes = host.recipes(self.options, &npm)?;
        let recipe = self.build_tree(&host, &recipes)?;
        self.say(Phase::Finishing, "examining the tree");
        let rootfs = self.rootfs();
        let packages = match finish::finish(&rootfs).and_then(|()| finish::packages(&rootfs)) {
            Ok(packages) => packages,
            Err(error) => {
                // The next attempt must not go on with this tree.
                tree::remove(&self.record_path())?;
                return Err(error);
            }
        };
        self.step(Step::Finished)?;
        let facts = hash_with_progress(&rootfs, 0, &mut *self.progress)?;
        self.step(Step::Hashed)?;
        let manifest = TemplateManifest {
            name: BASE.into(),
            layers: vec![facts.digest],
            default_user: "user".into(),
            default_workdir: None,
            limits: Limits::STANDARD,
            created_at: Timestamp::now(),
            distribution: recipe.suite.description().into(),
            architecture: host.architecture.into(),
            recipe: recipe.fingerprint(),
            entries: facts.entries,
            size_bytes: facts.content_bytes,
            packages,
        };
        self.publish(&[(rootfs, facts)], &manifest)?;
        tree::remove(&self.work_dir())?;
        Ok(manifest)
    }

    /// Gives finished trees their names, the manifest last.
    pub(crate) fn publish(
        &mut self,
        trees: &[(PathBuf, LayerFacts)],
        manifest: &TemplateManifest,
    ) -> Result<(), ArtifactError> {
        self.say(Phase::Publishing, "writing to stable storage");
        durable::sync_file_system(self.artifacts.data_dir())?;
        for (tree, facts) in trees {
            self.artifacts.write_marker(tree, *facts)?;
            self.step(Step::MarkerWritten)?;
            self.artifacts.place_layer(tree, &facts.digest)?;
            self.step(Step::LayerPlaced)?;
        }
        self.artifacts.write_manifest(manifest)?;
        self.step(Step::ManifestWritten)
    }

    /// Leaves a complete tree at [`Self::rootfs`] and says which recipe it is of.
    fn build_tree(
        &mut self,
        host: &HostFacts,
        recipes: &[Recipe],
    ) -> Result<Recipe, ArtifactError> {
        if let Some(recipe) = self.recorded(recipes) {
            self.say(
                Phase::Building,
                "going on with the tree of an earlier attempt",
            );
            return Ok(recipe);
        }
        let (last, earlier) = recipes.split_last().ok_or(ArtifactError::NoTool)?;
        for recipe in earlier {
            match self.run_recipe(host, recipe) {
                Ok(()) => return Ok(recipe.clone()),
                Err(ArtifactError::Tool { tail, .. }) if host::release_unavailable(&tail) => {
                    self.say(
                        Phase::Building,
                        format!(
                            "{} cannot be had from {}",
                            recipe.suite.description(),
                            recipe.mirror
                        ),
                    );
                }
                Err(error) => return Err(error),
            }
        }
        self.run_recipe(host, last)?;
        Ok(last.clone())
    }

    /// The recipe of a complete tree that an earlier attempt left behind.
    fn recorded(&self, recipes: &[Recipe]) -> Option<Recipe> {
        let bytes = fs::read(self.record_path()).ok()?;
        let record: Record = manifest::open("record", &bytes).ok()?;
        let recipe = recipes
            .iter()
            .find(|recipe| recipe.fingerprint() == record.recipe)?;
        self.rootfs().is_dir().then(|| recipe.clone())
    }

    fn run_recipe(&mut self, host: &HostFacts, recipe: &Recipe) -> Result<(), ArtifactError> {
        let work = self.work_dir();
        // Our builds mount in a namespace of their own; this is for what a person did by hand.
        unmount_below(&work)?;
        tree::remove(&work)?;
        let (rootfs, apt_cache) = (self.rootfs(), self.artifacts.data_dir().join("cache/apt"));
        let (customize, debootstrap) = (work.join("customize.sh"), work.join("debootstrap.sh"));
        for dir in [&work, &rootfs, &apt_cache, &apt_cache.join("partial")] {
            fs::create_dir_all(dir).map_err(|e| ArtifactError::io("create", dir, e))?;
        }
        durable::write(&customize, recipe::CUSTOMIZE.as_bytes())?;
        durable::write(&debootstrap, recipe::DEBOOTSTRAP.as_bytes())?;
        let paths = BuildPaths {
            rootfs: &rootfs,
            apt_cache: &apt_cache,
            customize: &customize,
            debootstrap: &debootstrap,
        };

        self.say(
            Phase::Building,
            format!("{} from {}", recipe.suite.description(), recipe.mirror),
        );
        let mut meter = BuildMeter::default();
        let command = self.command(host, recipe, &paths);
        tool::run(command, BUILD_DEADLINE, &mut |line| {
            if let Some(step) = meter.line(line) {
                (self.progress)(step);
            }
        })?;
        self.step(Step::Built)?;
        // The record promises a complete tree, so the tree must be on the disk before it.
        durable::sync_file_system(&work)?;
        durable::write(
            &self.record_path(),
            &manifest::seal(
                "record",
                &Record {
                    recipe: recipe.fingerprint(),
                },
            ),
        )?;
        self.step(Step::Recorded)
    }

    /// The tool, started so that nothing of it outlives us: its mounts are in a namespace of its own, its processes in
    /// another whose first one dies with us.
    fn command(&self, host: &HostFacts, recipe: &Recipe, paths: &BuildPaths<'_>) -> Command {
        let mut command = tool_command(host, self.confine);
        command.args(recipe.command(paths));
        command.envs(recipe.environment(paths));
        command
    }

    /// npm's own package in the cache, from there or through the host's npm client.
    fn fetch_npm(&mut self, host: &HostFacts) -> Result<NpmSource, ArtifactError> {
        let dir = self.artifacts.data_dir().join("cache/npm");
        let tarball = dir.join(format!("npm-{}.tgz", recipe::NPM_VERSION));
        if has_sha512(&tarball, recipe::NPM_SHA512) {
            return Ok(NpmSource::Tarball(tarball));
        }
        let Some(npm) = &host.npm else {
            self.say(
                Phase::Fetching,
                "no npm on this machine: taking Debian's, which is larger",
            );
            return Ok(NpmSource::Debian);
        };
        self.say(Phase::Fetching, format!("npm {}", recipe::NPM_VERSION));
        fs::create_dir_all(&dir).map_err(|e| ArtifactError::io("create", &dir, e))?;
        let mut command = Command::new(npm);
        command
            .args([
                "pack",
                "--silent",
                "--pack-destination",
                ".",
                &format!("npm@{}", recipe::NPM_VERSION),
            ])
            .current_dir(&dir);
        let fetched = tool::run(command, FETCH_DEADLINE, &mut |_| ());
        if has_sha512(&tarball, recipe::NPM_SHA512) {
            return Ok(NpmSource::Tarball(tarball));
        }
        let reason = fetched.map_or_else(
            |error| error.to_string(),
            |()| "its digest is not the expected one".into(),
        );
        self.say(
            Phase::Fetching,
            format!(
                "npm {} could not be had ({reason}): taking Debian's, which is larger",
                recipe::NPM_VERSION
            ),
        );
        Ok(NpmSource::Debian)
    }

    pub(crate) fn step(&self, step: Step) -> Result<(), ArtifactError> {
        (self.after)(step)
    }

    fn say(&mut self, phase: Phase, line: impl Into<String>) {
        (self.progress)(Progress::line(phase, line));
    }

    fn tmp(&self) -> PathBuf {
        self.artifacts.data_dir().join("tmp")
    }

    fn work_dir(&self) -> PathBuf {
        self.tmp().join("bootstrap-base")
    }

    fn rootfs(&self) -> PathBuf {
        self.work_dir().join("rootfs")
    }

    fn record_path(&self) -> PathBuf {
        self.work_dir().join("built.json")
    }
}

/// What a tool is started by, without the tool: nothing of it outlives us.
pub(crate) fn tool_command(host: &HostFacts, confine: bool) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "umask 022 && exec \"$@\"", "soulbox-bootstrap"]);
    if let (true, Some(setpriv), Some(unshare)) = (confine, &host.setpriv, &host.unshare) {
        command.arg(setpriv).args(["--pdeathsig", "KILL", "--"]);
        command.arg(unshare).args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
            "--",
        ]);
    }
    command.env_clear();
    command.env(
        "PATH",
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    );
    command.envs([
        ("HOME", "/root"),
        ("LC_ALL", "C.UTF-8"),
        ("DEBIAN_FRONTEND", "noninteractive"),
    ]);
    command
        .envs(std::env::vars_os().filter(|(name, _)| is_proxy_variable(&name.to_string_lossy())));
    command
}

fn is_proxy_variable(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [
        "http_proxy",
        "https_proxy",
        "ftp_proxy",
        "all_proxy",
        "no_proxy",
    ]
    .contains(&name.as_str())
}

fn has_sha512(path: &Path, hex: &str) -> bool {
    let Ok(bytes) = fs::read(path) else {
        return false;
    };
    Sha512::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>()
        == hex
}

/// Detaches every mount below a directory, so that removing it cannot reach what is mounted there.
fn unmount_below(dir: &Path) -> Result<(), ArtifactError> {
    let path = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(path).map_err(|e| ArtifactError::io("read", path, e))?;
    for mount in mounts_below(&text, dir) {
        rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH)
            .map_err(|e| ArtifactError::io("unmount", &mount, e))?;
    }
    Ok(())
}

/// Mount points below `dir` in the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)), last mounted first.
fn mounts_below(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    let points = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .map(PathBuf::from);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(dir)).collect();
    below.reverse();
    below
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(text.to_owned(), |t, (code, c)| t.replace(code, c))
}

#[cfg(test)]
mod tests;
