//! What is in a finished build, read out of a sandbox of it. Nothing of the build runs there but what we ask for.

mod parse;

use std::sync::Arc;

use bytes::Bytes;
use soulbox_client::ClientError;
use soulbox_client::process::{End, Event, Start};
use soulbox_driver::{Driver, DriverError};
use soulbox_store::Build;
use soulbox_types::{BuildContext, ErrorKind, LayerDigest};
use tokio::sync::{Semaphore, mpsc};

use crate::difference::{Contents, Difference, diff};
use crate::script::environment;
use crate::stage::{EnvdTokens, Ground, Stage, StepFailure};
use crate::uploads::Uploads;

/// Sandboxes that looks have at the same time; who comes later waits.
const MOST_SANDBOXES: u32 = 4;
/// Longest output of one script: paths of about a million files.
const MOST_BYTES: usize = 192 << 20;
/// So much of what a script says about its failure is kept.
const MOST_SAID: usize = 64 << 10;

/// Looks into finished builds. Cheap to clone; clones share the count of sandboxes.
#[derive(Clone)]
pub struct Looks {
    driver: Arc<dyn Driver>,
    pub(crate) uploads: Uploads,
    tokens: EnvdTokens,
    room: Arc<Semaphore>,
}

impl std::fmt::Debug for Looks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Looks")
            .field("room", &self.room.available_permits())
            .finish_non_exhaustive()
    }
}

/// Why a build could not be looked into.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// A layer's name is none.
    #[error("the layers of build {build} are damaged\nFIX: build the template again")]
    Damaged {
        /// The build.
        build: String,
    },
    /// No sandbox could be made.
    #[error("cannot make a sandbox of the build")]
    Driver(#[from] DriverError),
    /// The sandbox has ended or does not answer.
    #[error("the sandbox of the build has failed while it was read")]
    Sandbox(#[from] ClientError),
    /// A program that is needed is not in the template, or not the one that is needed.
    #[error(
        "cannot {what}: the template has no {program}\nFIX: install {package} in the template and build it again"
    )]
    NoProgram {
        /// What was being done.
        what: &'static str,
        /// What is missing.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// A program in the sandbox failed.
    #[error(
        "cannot {what}: {said}\nFIX: try again; sandboxes of the template must have memory and disk for it"
    )]
    Failed {
        /// What was being done.
        what: &'static str,
        /// The program's last words.
        said: String,
    },
    /// More files than are compared.
    #[error(
        "the template has too many files to be compared\nFIX: export both versions and compare them"
    )]
    TooMuch,
    /// The disk of the server is full.
    #[error(
        "no space left for the export\nFIX: free space on the file system of the data directory"
    )]
    Full,
    /// The disk of the server fails.
    #[error("cannot write the export")]
    Io(#[source] std::io::Error),
}

impl LookError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoProgram { .. } | Self::TooMuch => ErrorKind::InvalidArgument,
            Self::Driver(error) => error.kind(),
            Self::Full => ErrorKind::StorageFull,
            Self::Sandbox(_) | Self::Failed { .. } => ErrorKind::Unavailable,
            Self::Damaged { .. } | Self::Io(_) => ErrorKind::Internal,
        }
    }
}

/// Lists everything but what the kernel and the sandbox show. Records of three texts, each ended by NUL: kind, mode,
/// owner, group and size; path; where a link leads.
const LIST: &str = r"find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run/e2b \) -prune \
  -o -printf '%y %m %U %G %s\0%p\0%l\0' || true";
/// SHA-256 of regular files below 64 MiB, each record ended by NUL. A file that has gone meanwhile has none.
const HASHES: &str = r"find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run/e2b \) -prune \
  -o -type f -size -67108864c -print0 | xargs -0 -r sha256sum -z -- || true";
/// Installed packages, a line each: ecosystem, tab, and what that ecosystem's program says. Templates without such a
/// program have none of its packages.
const PACKAGES: &str = r#"
if command -v dpkg-query >/dev/null; then
  dpkg-query -W -f 'debian\t${db:Status-Status}\t${binary:Package}\t${Version}\n'
fi
if command -v python3 >/dev/null; then
  python3 -I -c 'import importlib.metadata
for found in importlib.metadata.distributions(): print("python", found.metadata["Name"], found.version, sep="\t")'
fi
if command -v npm >/dev/null; then
  npm ls -g --depth=0 --parseable --long | while IFS= read -r line; do printf 'npm\t%s\n' "$line"; done
fi
true
"#;

impl Looks {
    pub(crate) fn new(driver: Arc<dyn Driver>, uploads: Uploads, tokens: EnvdTokens) -> Self {
        let room = usize::try_from(MOST_SANDBOXES).unwrap_or(1);
        Self {
            driver,
            uploads,
            tokens,
            room: Arc::new(Semaphore::new(room)),
        }
    }

    /// What differs between two builds; `None` when they have the same layers, and then at once.
    ///
    /// # Errors
    /// See [`LookError`].
    pub async fn difference(
        &self,
        before: &Build,
        after: &Build,
    ) -> Result<Option<Difference>, LookError> {
        if before.layers == after.layers {
            return Ok(None);
        }
        let _room = self.room(2).await;
        let (before, after) = tokio::try_join!(self.contents(before), self.contents(after))?;
        Ok(Some(diff(&before, &after)))
    }

    /// Waits for room for so many sandboxes.
    pub(crate) async fn room(&self, sandboxes: u32) -> tokio::sync::SemaphorePermit<'_> {
        let room = self.room.acquire_many(sandboxes).await;
        room.expect("the semaphore is never closed")
    }

    /// A sandbox of a build, as its steps would find it.
    pub(crate) async fn stage(&self, build: &Build) -> Result<Stage, LookError> {
        let layers = build.layers.iter().map(|text| text.parse());
        let layers: Result<Vec<LayerDigest>, _> = layers.collect();
        let layers = layers.map_err(|_| LookError::Damaged {
            build: build.id.to_string(),
        })?;
        let ground = Ground {
            team: None,
            template: build.template.clone(),
            limits: build.limits,
            tokens: Arc::clone(&self.tokens),
        };
        Ok(Stage::open(&self.driver, &ground, &layers, &context(build)).await?)
    }

    async fn contents(&self, build: &Build) -> Result<Contents, LookError> {
        const WHAT: &str = "list the files";
        let stage = self.stage(build).await?;
        // First the files: the programs that know packages write some.
        let listed = collect(&stage, WHAT, LIST).await?;
        let mut files = parse::files(&listed);
        if files.is_empty() {
            return Err(LookError::NoProgram {
                what: WHAT,
                program: "GNU find",
                package: "findutils",
            });
        }
        let hashes = collect(&stage, "read the files", HASHES).await?;
        parse::hashes(&hashes, &mut files);
        let packages = stage.script(&context(build), PACKAGES, &[]).await;
        let packages = packages.map_err(|StepFailure(said)| LookError::Failed {
            what: "list the packages",
            said,
        })?;
        Ok(Contents {
            files,
            packages: parse::packages(&packages),
        })
    }
}

fn context(build: &Build) -> BuildContext {
    BuildContext {
        user: build.default_user.clone(),
        workdir: build.default_workdir.clone(),
        env: build.env.clone(),
    }
}

/// Where the output of a script goes.
pub(crate) enum Sink<'a> {
    /// Here, up to a limit.
    Keep(&'a mut Vec<u8>),
    /// To somebody who takes it piece by piece.
    Send(&'a mpsc::Sender<Bytes>),
}

impl Sink<'_> {
    async fn take(&mut self, bytes: Bytes) -> Result<(), LookError> {
        match self {
            Self::Keep(printed) if printed.len() + bytes.len() > MOST_BYTES => {
                Err(LookError::TooMuch)
            }
            Self::Keep(printed) => {
                printed.extend_from_slice(&bytes);
                Ok(())
            }
            // Nobody receives when the disk has failed; the receiver says how.
            Self::Send(sender) => sender
                .send(bytes)
                .await
                .map_err(|_| LookError::Io(std::io::ErrorKind::BrokenPipe.into())),
        }
    }
}

/// Everything that a script prints.
async fn collect(stage: &Stage, what: &'static str, script: &str) -> Result<Vec<u8>, LookError> {
    let mut printed = Vec::new();
    let (end, said) = follow(stage, script, Sink::Keep(&mut printed)).await?;
    if end.exited && end.exit_code == 0 {
        Ok(printed)
    } else {
        Err(failed(what, &end, &said))
    }
}

/// Runs a script as root and hands over what it prints, piece by piece. Also returns what it said about its failures.
pub(crate) async fn follow(
    stage: &Stage,
    script: &str,
    mut sink: Sink<'_>,
) -> Result<(End, String), LookError> {
    let start = Start {
        cmd: "/bin/bash".to_owned(),
        args: vec!["-c".to_owned(), script.to_owned()],
        user: Some("root".to_owned()),
        cwd: Some("/".to_owned()),
        envs: environment(&BuildContext::default()),
        ..Start::default()
    };
    let mut events = stage.envd().start(&start).await?;
    let (mut said, mut ended) = (Vec::new(), None);
    while let Some(event) = events.next().await? {
        match event {
            Event::Started { .. } => {}
            Event::Stdout(bytes) | Event::Pty(bytes) => sink.take(bytes).await?,
            Event::Stderr(bytes) => {
                let room = MOST_SAID.saturating_sub(said.len()).min(bytes.len());
                said.extend_from_slice(&bytes[..room]);
            }
            Event::Ended(end) => ended = Some(end),
        }
    }
    // A stream without an end is reported by `next`.
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Ok((ended.unwrap_or_default(), said))
}

pub(crate) fn failed(what: &'static str, end: &End, said: &str) -> LookError {
    let said = match said.lines().last() {
        Some(last) => format!("{last} ({})", end.status),
        None => end.status.clone(),
    };
    LookError::Failed { what, said }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::difference::{Ecosystem, FileKind};

    /// The scripts run here as they do inside, on a tree of their own.
    fn run(script: &str, root: &std::path::Path) -> Vec<u8> {
        let script = script.replace("find / ", &format!("find {} ", root.display()));
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }

    #[test]
    fn a_tree_is_read() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| format!("{}/{name}", dir.path().display());
        std::fs::create_dir(path("sub")).unwrap();
        std::fs::write(path("sub/odd\nname \\ 'é"), "abc").unwrap();
        let odd = std::fs::Permissions::from_mode(0o4750);
        std::fs::set_permissions(path("sub/odd\nname \\ 'é"), odd).unwrap();
        symlink("../else where", path("link")).unwrap();
        std::fs::File::create(path("large"))
            .unwrap()
            .set_len(64 << 20)
            .unwrap();

        let mut found = parse::files(&run(LIST, dir.path()));
        parse::hashes(&run(HASHES, dir.path()), &mut found);
        assert_eq!(found.len(), 5);
        let odd = &found[&path("sub/odd\nname \\ 'é")];
        assert_eq!(
            (odd.kind, odd.size_bytes, odd.mode),
            (FileKind::File, 3, 0o4750)
        );
        let hash = data_encoding::HEXLOWER.encode(&odd.sha256.unwrap());
        assert_eq!(
            hash,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let link = &found[&path("link")];
        assert_eq!((link.kind, link.size_bytes), (FileKind::Link, 0));
        assert_eq!(link.target.as_deref(), Some("../else where"));
        assert_eq!(found[&path("sub")].kind, FileKind::Directory);
        let large = &found[&path("large")];
        assert_eq!((large.size_bytes, large.sha256), (64 << 20, None));
    }

    #[test]
    fn the_programs_of_this_machine_are_understood() {
        let output = Command::new("bash")
            .args(["-c", PACKAGES])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let found = parse::packages(&String::from_utf8_lossy(&output.stdout));
        let debian = std::path::Path::new("/var/lib/dpkg/status").exists();
        assert_eq!(
            found
                .keys()
                .any(|(ecosystem, _)| *ecosystem == Ecosystem::Debian),
            debian
        );
    }
}
