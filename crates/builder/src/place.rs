//! Puts files into a sandbox for COPY, ADD and WORKDIR of a Dockerfile, whatever the image brings: `soulbox-tar` does it.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use soulbox_client::ClientError;
use soulbox_dockerfile::{BadDockerfile, select};
use soulbox_types::{BuildContext, ErrorKind};
use tempfile::NamedTempFile;

use crate::failure::Failure;
use crate::files::{Dress, Files, Wanted};
use crate::image::{ARCHIVE, with_tools};
use crate::stage::Stage;
use crate::state::State;
use crate::work::Work;

/// Where another stage's files are packed to, inside.
const PACKED: &str = "/run/e2b/packed";
/// Where archives of these kinds begin with these bytes.
const UNPACKED: [&[u8]; 2] = [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd]];
const REFUSED: [(&[u8], &str); 2] = [
    (b"BZh", "bzip2"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
];
const TAR_MAGIC: (usize, &[u8]) = (257, b"ustar");

/// Files on their way.
pub(crate) struct Placement<'a> {
    pub(crate) origin: Origin<'a>,
    /// Paths of the origin, expanded, and texts.
    pub(crate) sources: Vec<Piece>,
    pub(crate) target: Target,
    /// `user:group`, names or numbers; root when absent.
    pub(crate) owner: Option<String>,
    pub(crate) mode: Option<u32>,
    /// A single archive is unpacked.
    pub(crate) unpacks: bool,
    /// What holds afterwards.
    pub(crate) context: BuildContext,
}

/// Where files come from.
#[derive(Clone)]
pub(crate) enum Origin<'a> {
    /// The uploaded context; none was uploaded when absent.
    Context(Option<Arc<Files>>),
    /// Another stage or image.
    Other(&'a State),
}

/// One source.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Path(String),
    Inline { name: String, text: String },
}

/// Where files go: an absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) path: String,
    /// It says of itself that it is a directory.
    pub(crate) is_directory: bool,
}

impl Target {
    /// A path as an instruction has it, from a directory on.
    pub(crate) fn of(path: &str, workdir: &str) -> Self {
        let is_directory =
            path.ends_with('/') || matches!(path, "." | "..") || path.ends_with("/.");
        let whole = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("{workdir}/{path}"),
        };
        let mut parts: Vec<&str> = Vec::new();
        for part in whole.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                name => parts.push(name),
            }
        }
        Self {
            path: format!("/{}", parts.join("/")),
            is_directory,
        }
    }
}

/// The directory that holds everything a source can mean.
fn fixed_part(source: &str) -> String {
    let parts = source
        .split('/')
        .take_while(|part| !part.contains(['*', '?', '[']));
    let fixed = Target::of(&parts.collect::<Vec<_>>().join("/"), "/");
    fixed.path
}

/// What is meant by sources, of what there is.
pub(crate) fn wanted(
    files: Option<&Files>,
    sources: &[Piece],
) -> Result<Vec<Wanted>, BadDockerfile> {
    let mut all = Vec::new();
    for source in sources {
        match source {
            Piece::Inline { name, text } => all.push(Wanted::Inline {
                name: name.clone(),
                text: text.clone(),
            }),
            Piece::Path(path) => {
                let entries = files.map(Files::entries).unwrap_or_default();
                all.extend(select(&entries, path)?.into_iter().map(Wanted::Of));
            }
        }
    }
    Ok(all)
}

impl Work {
    /// Puts files into a sandbox on a state, and returns it.
    pub(crate) async fn place(
        &self,
        state: &State,
        placement: &Placement<'_>,
        number: &str,
    ) -> Result<Stage, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(
                number,
                format!("failed to copy to '{}': {error}", placement.target.path),
            )
        };
        let files = match &placement.origin {
            Origin::Context(files) => files.clone(),
            Origin::Other(other) => Some(self.other(other, &placement.sources, number).await?),
        };
        let wanted =
            wanted(files.as_deref(), &placement.sources).map_err(|error| failed(&error))?;
        let is_directory = placement.target.is_directory
            || wanted
                .iter()
                .any(|one| matches!(one, Wanted::Of(selected) if selected.is_dir));
        if wanted.len() > 1 && !is_directory {
            return Err(failed(
                &"several files go to a directory\nFIX: let the target end with /",
            ));
        }
        let stage = self.tool_stage(state, number).await?;
        let owner = match &placement.owner {
            Some(owner) => Some(ids(&stage, owner).await.map_err(|error| failed(&error))?),
            None => Some((0, 0)),
        };
        let dress = Dress {
            owner,
            mode: placement.mode,
        };
        let packing = Packing {
            files,
            wanted,
            dress,
            is_directory,
            unpacks: placement.unpacks,
            scratch: self.uploads.scratch_directory(),
        };
        let packing = tokio::task::spawn_blocking(move || packing.pack());
        let packed = packing
            .await
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))?;
        for (archive, is_whole) in packed {
            let how = if is_directory || is_whole {
                "files"
            } else {
                "file"
            };
            let file = archive.reopen().map_err(|error| failed(&error))?;
            let arguments = [how, ARCHIVE, &placement.target.path];
            let placed = stage
                .unpack(
                    tokio::fs::File::from_std(file),
                    &arguments,
                    self.most_bytes(),
                )
                .await;
            placed.map_err(|error| failed(&error))?;
        }
        Ok(stage)
    }

    /// A sandbox on a state in which `soulbox-tar` is.
    pub(crate) async fn tool_stage(&self, state: &State, step: &str) -> Result<Stage, Failure> {
        let layers = with_tools(self.bare().await?, &state.layers);
        self.stage_on(&layers, &crate::image::root(), step).await
    }

    /// Files of another stage, out of a sandbox of it.
    async fn other(
        &self,
        other: &State,
        sources: &[Piece],
        number: &str,
    ) -> Result<Arc<Files>, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(
                number,
                format!("failed to read the files of the other stage: {error}"),
            )
        };
        let stage = self.tool_stage(other, number).await?;
        let mut all = NamedTempFile::new_in(self.uploads.scratch_directory())
            .map_err(|error| failed(&error))?;
        let mut prefixes: Vec<String> = sources
            .iter()
            .filter_map(|source| match source {
                Piece::Path(path) => Some(fixed_part(path)),
                Piece::Inline { .. } => None,
            })
            .collect();
        prefixes.sort();
        prefixes.dedup();
        // Archives one after the other are one archive for whoever does not stop at the first end.
        for prefix in &prefixes {
            stage
                .tar(&["pack", PACKED, prefix])
                .await
                .map_err(|error| failed(&error))?;
            let mut download = stage
                .envd()
                .download(PACKED, Some("root"))
                .await
                .map_err(|error| failed(&error))?;
            while let Some(piece) = download.next().await.map_err(|error| failed(&error))? {
                std::io::Write::write_all(&mut all, &piece).map_err(|error| failed(&error))?;
            }
            stage
                .tar(&["remove", PACKED])
                .await
                .map_err(|error| failed(&error))?;
        }
        let scratch = self.uploads.scratch_directory();
        let reading = tokio::task::spawn_blocking(move || Files::read(all.reopen()?, &scratch));
        let files = reading
            .await
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))?;
        Ok(Arc::new(files))
    }
}

/// Archives to unpack, in order, and whether each is whole as it is.
type Packed = Vec<(NamedTempFile, bool)>;

/// Files that are made archives of, on a thread that may wait.
struct Packing {
    files: Option<Arc<Files>>,
    wanted: Vec<Wanted>,
    dress: Dress,
    is_directory: bool,
    unpacks: bool,
    scratch: PathBuf,
}

impl Packing {
    fn pack(mut self) -> std::io::Result<Packed> {
        let mut packed = Packed::new();
        if let (true, Some(files)) = (self.unpacks, &self.files) {
            for one in std::mem::take(&mut self.wanted) {
                match archive(files, &one, &self.scratch)? {
                    Some(archive) => packed.push((archive, true)),
                    None => self.wanted.push(one),
                }
            }
        }
        if !self.wanted.is_empty() || packed.is_empty() {
            let nothing;
            let files: &Files = match &self.files {
                Some(files) => files,
                None => {
                    nothing = Files::read(std::io::empty(), &self.scratch)?;
                    &nothing
                }
            };
            let made = files.pack(&self.wanted, self.dress, self.is_directory, &self.scratch)?;
            packed.push((made, false));
        }
        Ok(packed)
    }
}

/// A file that is an archive by its first bytes.
fn archive(
    files: &Files,
    one: &Wanted,
    scratch: &std::path::Path,
) -> std::io::Result<Option<NamedTempFile>> {
    let Wanted::Of(selected) = one else {
        return Ok(None);
    };
    let Some(mut content) = files.single(selected)? else {
        return Ok(None);
    };
    let mut head = Vec::new();
    content.by_ref().take(512).read_to_end(&mut head)?;
    if let Some((_, name)) = REFUSED.iter().find(|(magic, _)| head.starts_with(magic)) {
        let text = format!(
            "{} is compressed with {name}\nFIX: COPY it and unpack it with RUN, or compress it with gzip",
            selected.path
        );
        return Err(std::io::Error::other(text));
    }
    let (at, magic) = TAR_MAGIC;
    let is_tar = head.get(at..at + magic.len()) == Some(magic);
    let is_compressed = UNPACKED.iter().any(|magic| head.starts_with(magic));
    let unpacks = is_tar || is_compressed && is_compressed_tar(&selected.path);
    if !unpacks {
        return Ok(None);
    }
    let mut archive = NamedTempFile::new_in(scratch)?;
    std::io::copy(
        &mut std::io::Cursor::new(head).chain(content),
        archive.as_file_mut(),
    )?;
    Ok(Some(archive))
}

/// What is inside shows only when it is read; names tell.
fn is_compressed_tar(path: &str) -> bool {
    [".tar.gz", ".tgz", ".tar.zst", ".tar.zstd"]
        .iter()
        .any(|end| path.ends_with(end))
}

/// The numbers of `user:group` in a sandbox. The group is the user's own when only a user is given.
async fn ids(stage: &Stage, owner: &str) -> Result<(u64, u64), String> {
    let (user, group) = match owner.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (owner, None),
    };
    let unknown = |kind: &str, name: &str| {
        format!(
            "there is no {kind} '{name}' in the image\nFIX: RUN {kind}add {name} before, or use a number"
        )
    };
    let users = match (user.parse::<u64>(), group) {
        (Ok(user), Some(group)) if group.parse::<u64>().is_ok() => {
            return Ok((user, group.parse().unwrap_or(0)));
        }
        (Ok(user), None) => return Ok((user, user)),
        _ => text(stage, "/etc/passwd").await?,
    };
    let (user, own) = match user.parse::<u64>() {
        Ok(user) => (user, user),
        Err(_) => named(&users, user).ok_or_else(|| unknown("user", user))?,
    };
    let group = match group {
        None => own,
        Some(group) => match group.parse::<u64>() {
            Ok(group) => group,
            Err(_) => {
                let groups = text(stage, "/etc/group").await?;
                named(&groups, group)
                    .ok_or_else(|| unknown("group", group))?
                    .0
            }
        },
    };
    Ok((user, group))
}

/// The third and fourth field of the line that begins with a name.
fn named(text: &str, name: &str) -> Option<(u64, u64)> {
    let line = text
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    let first = fields.next()?.parse().ok()?;
    // Of a group, members follow.
    Some((
        first,
        fields
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(first),
    ))
}

/// A small file of a sandbox, whole; empty when there is none.
pub(crate) async fn text(stage: &Stage, path: &str) -> Result<String, String> {
    const MOST: usize = 1 << 20;
    let failed = |error: ClientError| format!("cannot read {path}: {error}");
    let mut download = match stage.envd().download(path, Some("root")).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
        other => other.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    while let Some(piece) = download.next().await.map_err(failed)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MOST {
            return Err(format!("{path} is larger than {MOST} bytes"));
        }
    }
    String::from_utf8(bytes).map_err(|_| format!("{path} is no UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_absolute_and_say_whether_they_are_directories() {
        for (path, workdir, expected, is_directory) in [
            ("/a/b", "/w", "/a/b", false),
            ("a", "/w", "/w/a", false),
            ("a/", "/w", "/w/a", true),
            (".", "/w", "/w", true),
            ("./", "/", "/", true),
            ("../x", "/w/y", "/w/x", false),
            ("../../../x", "/w", "/x", false),
            ("/", "/w", "/", true),
        ] {
            let target = Target::of(path, workdir);
            assert_eq!(
                (target.path.as_str(), target.is_directory),
                (expected, is_directory),
                "{path}"
            );
        }
    }

    #[test]
    fn only_what_may_be_meant_is_packed() {
        for (source, fixed) in [
            ("/out/app", "/out/app"),
            ("/out/*.so", "/out"),
            ("out/a?/b", "/out"),
            ("*", "/"),
            ("/", "/"),
        ] {
            assert_eq!(fixed_part(source), fixed, "{source}");
        }
    }

    #[test]
    fn names_are_looked_up() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nme:x:1000:1001::/home/me:/bin/sh\n";
        assert_eq!(named(passwd, "me"), Some((1000, 1001)));
        assert_eq!(named("www:x:33:a,b\n", "www"), Some((33, 33)));
        assert_eq!(named(passwd, "you"), None);
    }
}
