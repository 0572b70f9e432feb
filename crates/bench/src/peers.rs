//! Other programs that run a command in isolation, on the same files: what is installed of them.
//!
//! Each starts, runs `/bin/true` and ends: the whole of `crun run` is compared with our create, which also leaves a
//! sandbox behind. They get a read-only root and the namespaces we use, as far as each can.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::bare::{FIRST_UID, UIDS};

const TIMEOUT: Duration = Duration::from_secs(30);

/// OCI bundles over one root file system, in a directory that goes away with this.
#[derive(Debug)]
pub struct Bundle {
    directory: TempDir,
    rootfs: PathBuf,
}

/// Which namespaces a bundle asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespaces {
    /// All that our sandboxes have but time, which few runtimes know.
    WithUser,
    /// The same without a user namespace: for what cannot map ids onto these files.
    WithoutUser,
}

impl Namespaces {
    fn name(self) -> &'static str {
        match self {
            Self::WithUser => "with-user",
            Self::WithoutUser => "without-user",
        }
    }
}

impl Bundle {
    /// Writes the bundles.
    ///
    /// # Errors
    /// When the temporary directory cannot be written.
    pub fn new(rootfs: &Path) -> io::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("soulbox-bench-")
            .tempdir()?;
        // A runtime with a user namespace must be able to walk in.
        std::fs::set_permissions(
            directory.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )?;
        for namespaces in [Namespaces::WithUser, Namespaces::WithoutUser] {
            let bundle = directory.path().join(namespaces.name());
            std::fs::create_dir(&bundle)?;
            std::fs::write(
                bundle.join("config.json"),
                config(rootfs, namespaces).to_string(),
            )?;
        }
        Ok(Self {
            directory,
            rootfs: rootfs.to_owned(),
        })
    }

    fn path(&self, namespaces: Namespaces) -> PathBuf {
        self.directory.path().join(namespaces.name())
    }

    fn state(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("state-{name}"))
    }
}

/// The bundle's `config.json`, by the OCI runtime specification.
fn config(rootfs: &Path, namespaces: Namespaces) -> Value {
    let mut kinds = vec!["pid", "mount", "ipc", "uts", "network", "cgroup"];
    let mut linux = json!({ "resources": { "pids": { "limit": 1024 } } });
    if namespaces == Namespaces::WithUser {
        kinds.push("user");
        let map = json!([{ "containerID": 0, "hostID": FIRST_UID, "size": UIDS }]);
        linux["uidMappings"] = map.clone();
        linux["gidMappings"] = map;
    }
    linux["namespaces"] = kinds.iter().map(|kind| json!({ "type": kind })).collect();
    let capabilities = json!(["CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"]);
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": rootfs, "readonly": true },
        "hostname": "bench",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["/bin/true"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
        ],
        "linux": linux,
    })
}

/// A program that can be measured here, with the arguments that work.
#[derive(Debug)]
pub struct Peer {
    name: &'static str,
    program: PathBuf,
    before: Vec<String>,
    /// Whether a container name must stand at the end, new for each run.
    named: bool,
    runs: u32,
}

impl Peer {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Runs `/bin/true` in it and waits for the end.
    ///
    /// # Errors
    /// When it cannot be started, takes too long, or does not succeed; with its own words.
    pub async fn run(&mut self) -> Result<Duration, String> {
        self.runs += 1;
        let mut command = Command::new(&self.program);
        command
            .args(&self.before)
            // Pipes, not /dev/null: runc makes its standard streams belong to root inside, and that one is everybody's.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if self.named {
            command.arg(format!(
                "soulbox-bench-{}-{}",
                std::process::id(),
                self.runs
            ));
        }
        let start = Instant::now();
        let output = tokio::time::timeout(TIMEOUT, command.output())
            .await
            .map_err(|_| format!("{} did not end within {TIMEOUT:?}", self.name))?
            .map_err(|error| format!("{} cannot be started: {error}", self.name))?;
        let elapsed = start.elapsed();
        if output.status.success() {
            return Ok(elapsed);
        }
        let words: String = String::from_utf8_lossy(&output.stderr)
            .trim()
            .chars()
            .take(200)
            .collect();
        Err(format!(
            "{} ended with {}: {words}",
            self.name, output.status
        ))
    }
}

/// Tries what is installed, each in the ways it may work, most isolated first. Returns what works, and remarks about
/// what does not.
pub async fn find(bundle: &Bundle) -> (Vec<Peer>, Vec<String>) {
    let (mut found, mut notes) = (Vec::new(), Vec::new());
    for name in ["crun", "runc", "bwrap", "runsc", "podman"] {
        let Some(program) = which(name) else {
            notes.push(format!("{name} is not installed"));
            continue;
        };
        let mut refusal = String::new();
        let mut works = None;
        for (how, before, named) in ways(name, bundle) {
            let mut peer = Peer {
                name,
                program: program.clone(),
                before,
                named,
                runs: 0,
            };
            match peer.run().await {
                Ok(_) => {
                    works = Some((how, peer));
                    break;
                }
                Err(error) => refusal = error,
            }
        }
        match works {
            Some((how, peer)) => {
                notes.push(format!("{name}: {how}"));
                found.push(peer);
            }
            None => notes.push(format!("left out: {refusal}{}", advice(&refusal))),
        }
    }
    (found, notes)
}

/// What helps against a refusal, where we know.
fn advice(refusal: &str) -> &'static str {
    // crun gives up when a controller is left to cgroup v2 beside v1 hierarchies. Out of its sight, it is content.
    if refusal.contains("hybrid mode") {
        "\n  FIX: unshare -m sh -c 'umount /sys/fs/cgroup/unified && exec soulbox bench create --peers'"
    } else {
        ""
    }
}

/// The ways to call one: a remark, the arguments, whether a name follows.
fn ways(name: &str, bundle: &Bundle) -> Vec<(&'static str, Vec<String>, bool)> {
    let text = |path: &Path| path.display().to_string();
    let oci = |namespaces: Namespaces, options: &[&str]| -> Vec<String> {
        let mut args = vec!["--root".to_owned(), text(&bundle.state(name))];
        args.extend(options.iter().map(|option| (*option).to_owned()));
        args.extend([
            "run".to_owned(),
            "--bundle".to_owned(),
            text(&bundle.path(namespaces)),
        ]);
        args
    };
    let (with, without) = (Namespaces::WithUser, Namespaces::WithoutUser);
    match name {
        "crun" => vec![
            (
                "user, pid, mount, ipc, uts, net and cgroup namespaces",
                oci(with, &["--cgroup-manager=cgroupfs"]),
                true,
            ),
            (
                "without user namespace",
                oci(without, &["--cgroup-manager=cgroupfs"]),
                true,
            ),
            (
                "without user namespace and without cgroup",
                oci(without, &["--cgroup-manager=disabled"]),
                true,
            ),
        ],
        "runc" => vec![
            (
                "user, pid, mount, ipc, uts, net and cgroup namespaces",
                oci(with, &[]),
                true,
            ),
            ("without user namespace", oci(without, &[]), true),
        ],
        "runsc" => vec![
            (
                "systrap",
                oci(without, &["--platform=systrap", "--network=none"]),
                true,
            ),
            (
                "systrap, without cgroup",
                oci(
                    without,
                    &["--platform=systrap", "--network=none", "--ignore-cgroups"],
                ),
                true,
            ),
        ],
        "podman" => vec![
            ("without user namespace", podman(bundle, &[]), false),
            (
                "without user namespace and without cgroup",
                podman(bundle, &["--cgroups=disabled"]),
                false,
            ),
        ],
        _ => vec![(
            "all namespaces, no cgroup of its own",
            bwrap(&bundle.rootfs),
            false,
        )],
    }
}

fn bwrap(rootfs: &Path) -> Vec<String> {
    let files = rootfs.display().to_string();
    let args = [
        "--unshare-all",
        "--unshare-user",
        "--ro-bind",
        &files,
        "/",
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "/bin/true",
    ];
    args.map(ToOwned::to_owned).into()
}

fn podman(bundle: &Bundle, more: &[&str]) -> Vec<String> {
    let state = bundle.state("podman").display().to_string();
    let files = format!("{}:O", bundle.rootfs.display());
    let before = [
        format!("--root={state}/root"),
        format!("--runroot={state}/run"),
        // With another one a mount would stay behind.
        "--storage-driver=vfs".to_owned(),
    ];
    // Limits of its own would be more than this process may give.
    let run = [
        "run",
        "--rm",
        "--network=none",
        "--ulimit=nofile=1024:1024",
        "--ulimit=nproc=1024:1024",
    ];
    let command = ["--rootfs", &files, "/bin/true"];
    let behind = run.iter().chain(more).chain(&command);
    let behind = behind.map(|&arg| arg.to_owned());
    before.into_iter().chain(behind).collect()
}

pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles() {
        let with = config(Path::new("/layer"), Namespaces::WithUser);
        assert_eq!(with["root"], json!({ "path": "/layer", "readonly": true }));
        assert_eq!(with["linux"]["uidMappings"][0]["size"], 65_536);
        assert_eq!(with["linux"]["namespaces"].as_array().unwrap().len(), 7);
        let without = config(Path::new("/layer"), Namespaces::WithoutUser);
        assert!(without["linux"].get("uidMappings").is_none());
        assert_eq!(without["linux"]["namespaces"].as_array().unwrap().len(), 6);
        let bundle = Bundle::new(Path::new("/layer")).unwrap();
        assert!(
            bundle
                .path(Namespaces::WithUser)
                .join("config.json")
                .exists()
        );
    }

    #[test]
    fn every_peer_has_a_way() {
        let bundle = Bundle::new(Path::new("/layer")).unwrap();
        for name in ["crun", "runc", "bwrap", "runsc", "podman"] {
            assert!(!ways(name, &bundle).is_empty(), "{name}");
        }
    }
}
