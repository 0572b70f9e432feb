//! `soulbox template diff` and `export`: what is in the versions of a template.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use soulbox_api_types::difference::{
    ComparedBuild, ComparedFileType, Ecosystem, FileChange, FileCount, PackageChange,
    TemplateDifference,
};
use soulbox_client::versions::Export;
use soulbox_client::{Api, ClientError};

use crate::args::versions::{DiffArgs, ExportArgs};
use crate::commands::template::refused;
use crate::failure::Failure;
use crate::output::{self, Output, note};
use crate::progress::Display;
use crate::text::size;

/// Files that people are shown, and programs, where nothing else is asked for.
const SHOWN: u32 = 20;
const LISTED: u32 = 1000;
/// How long a server may send nothing in the middle of a file.
const STALL: Duration = Duration::from_mins(2);

/// `template diff`.
pub(crate) async fn diff(api: &Api, args: &DiffArgs, output: Output) -> Result<(), Failure> {
    let usual = if output == Output::Json {
        LISTED
    } else {
        SHOWN
    };
    let files = args.files.unwrap_or(usual);
    let mut display = Display::new();
    display.step(
        "comparing",
        None,
        "the server reads the files of both versions",
    );
    let found = api.compare_builds(&args.name, &args.from, args.to.as_deref(), files);
    let found = found.await;
    display.finish();
    let found = found.map_err(refused)?;
    output.show(&found, |found| summary(&args.name, found))
}

fn summary(name: &str, found: &TemplateDifference) -> String {
    let (from, to) = (title(&found.from), title(&found.to));
    if found.same_layers {
        return format!("{name}: {from} and {to} have the same layers; nothing differs");
    }
    let bytes = |build: &ComparedBuild| amount(build.size_bytes.unwrap_or(0));
    let mut lines = vec![format!(
        "{name} {from} to {to}: {} to {}",
        bytes(&found.from),
        bytes(&found.to)
    )];
    let mut numbers = [0_usize; 3];
    for change in &found.packages {
        numbers[sign(change.from.is_some(), change.to.is_some()).0] += 1;
    }
    let [added, removed, changed] = numbers;
    lines.push(format!(
        "packages: {added} added, {removed} removed, {changed} changed"
    ));
    lines.extend(found.packages.iter().map(package));
    let count = |count: &FileCount| format!("{} ({})", count.count, amount(count.size_bytes));
    lines.push(format!(
        "files: {} added, {} removed, {} changed",
        count(&found.added),
        count(&found.removed),
        count(&found.changed)
    ));
    lines.extend(found.files.iter().map(file));
    let all = found.added.count + found.removed.count + found.changed.count;
    let more = all.saturating_sub(found.files.len() as u64);
    if more > 0 {
        lines.push(format!("  and {more} more; --files shows more of them"));
    }
    lines.join("\n")
}

fn title(build: &ComparedBuild) -> &str {
    build.version.as_deref().unwrap_or(&build.build_id)
}

/// Which of added, removed and changed it is, and the sign for it.
fn sign(before: bool, after: bool) -> (usize, char) {
    match (before, after) {
        (false, _) => (0, '+'),
        (true, false) => (1, '-'),
        (true, true) => (2, '~'),
    }
}

fn package(change: &PackageChange) -> String {
    let (_, sign) = sign(change.from.is_some(), change.to.is_some());
    let ecosystem = match change.ecosystem {
        Ecosystem::Debian => "debian",
        Ecosystem::Python => "python",
        Ecosystem::Npm => "npm",
    };
    let versions = [&change.from, &change.to].into_iter().flatten();
    let versions: Vec<&str> = versions.map(String::as_str).collect();
    let line = format!(
        "  {sign} {ecosystem} {} {}",
        change.name,
        versions.join(" to ")
    );
    printable(&line)
}

fn file(change: &FileChange) -> String {
    let (_, sign) = sign(change.from.is_some(), change.to.is_some());
    let what = match (&change.from, &change.to) {
        (Some(before), Some(after))
            if before.r#type == after.r#type && before.size_bytes != after.size_bytes =>
        {
            format!(
                "{} to {}",
                amount(before.size_bytes),
                amount(after.size_bytes)
            )
        }
        (before, after) => after
            .as_ref()
            .or(before.as_ref())
            .map_or_else(String::new, |facts| match facts.r#type {
                ComparedFileType::File => amount(facts.size_bytes),
                ComparedFileType::Directory => "directory".to_owned(),
                ComparedFileType::Link => {
                    format!("to {}", facts.target.as_deref().unwrap_or_default())
                }
                ComparedFileType::Other => "special".to_owned(),
            }),
    };
    printable(&format!("  {sign} {}  {what}", change.path))
}

/// Names come out of a sandbox: what they hold must not reach the terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn amount(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{}.{} KiB", bytes / 1024, bytes % 1024 * 10 / 1024),
        _ => size(i64::try_from(bytes).unwrap_or(i64::MAX)),
    }
}

/// `template export`.
pub(crate) async fn export(api: &Api, args: &ExportArgs, output: Output) -> Result<(), Failure> {
    let (name, build) = match args.name.split_once(':') {
        Some((name, build)) => (name, build),
        None => (args.name.as_str(), "default"),
    };
    let to_stdout = args.file == Path::new("-");
    let mut target = if to_stdout {
        None
    } else {
        Some(Target::open(&args.file)?)
    };
    let mut display = Display::new();
    display.step("packing", None, "the server packs the files");
    let carried = carry(api, (name, build), target.as_mut(), &mut display).await;
    display.finish();
    let bytes = carried?;
    let Some(target) = target else {
        return Ok(());
    };
    target.finish()?;
    let answer = json!({ "template": args.name, "file": args.file, "sizeBytes": bytes });
    output.show(&answer, |_| {
        format!(
            "{} is in {}: {}",
            args.name,
            args.file.display(),
            amount(bytes)
        )
    })
}

/// Writes the whole of it, to standard output where there is no target.
async fn carry(
    api: &Api,
    (name, build): (&str, &str),
    mut target: Option<&mut Target>,
    display: &mut Display,
) -> Result<u64, Failure> {
    let mut export = api.export_build(name, build).await.map_err(refused)?;
    let whole = export.size_bytes;
    let mut got = 0_u64;
    while let Some(piece) = next(&mut export).await? {
        match &mut target {
            Some(target) => target.write(&piece)?,
            None => output::bytes(&piece)?,
        }
        got += piece.len() as u64;
        let percent = got.saturating_mul(100) / whole.max(1);
        let line = format!("{} of {}", amount(got), amount(whole));
        display.step("writing", u8::try_from(percent).ok(), &line);
    }
    if got == whole {
        return Ok(got);
    }
    let what = format!("export template {name}: {got} bytes came of {whole}");
    Err(Failure::unavailable(what).fix("try again"))
}

async fn next(export: &mut Export) -> Result<Option<bytes::Bytes>, Failure> {
    let piece = tokio::time::timeout(STALL, export.next()).await;
    piece
        .unwrap_or_else(|_| {
            Err(ClientError::Timeout {
                operation: "export a template".to_owned(),
                after: STALL,
            })
        })
        .map_err(refused)
}

/// A file that gets its name when it is whole. Dropped before, nothing stays.
struct Target {
    file: File,
    part: PathBuf,
    path: PathBuf,
    named: bool,
}

impl Target {
    fn open(path: &Path) -> Result<Self, Failure> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).map_err(|error| cannot_write(&part, error))?;
        Ok(Self {
            file,
            part,
            path: path.to_owned(),
            named: false,
        })
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let written = self.file.write_all(piece);
        written.map_err(|error| cannot_write(&self.part, error))
    }

    fn finish(mut self) -> Result<(), Failure> {
        let named = self
            .file
            .sync_all()
            .and_then(|()| std::fs::rename(&self.part, &self.path));
        named.map_err(|error| cannot_write(&self.path, error))?;
        self.named = true;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.named && std::fs::remove_file(&self.part).is_err() {
            note(&format!("{} was left behind", self.part.display()));
        }
    }
}

fn cannot_write(path: &Path, error: std::io::Error) -> Failure {
    Failure::user(format!("cannot write {}", path.display()))
        .because(error)
        .fix("name a file in a directory that you may write to, on a disk with room")
}

#[cfg(test)]
mod tests {
    use soulbox_api_types::difference::ComparedFile;

    use super::*;

    fn side(version: &str, size_bytes: u64) -> ComparedBuild {
        ComparedBuild {
            build_id: "b".to_owned(),
            version: Some(version.to_owned()),
            size_bytes: Some(size_bytes),
        }
    }

    fn regular(size_bytes: u64) -> Option<ComparedFile> {
        Some(ComparedFile {
            r#type: ComparedFileType::File,
            size_bytes,
            mode: "0644".to_owned(),
            uid: 0,
            gid: 0,
            target: None,
            sha256: None,
        })
    }

    fn found() -> TemplateDifference {
        let package = |name: &str, from: Option<&str>, to: Option<&str>| PackageChange {
            ecosystem: Ecosystem::Python,
            name: name.to_owned(),
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        let file = |path: &str, from, to| FileChange {
            path: path.to_owned(),
            from,
            to,
        };
        TemplateDifference {
            template_id: "t".to_owned(),
            from: side("1.0.0", 3 << 20),
            to: side("1.1.0", 4 << 20),
            same_layers: false,
            packages: vec![
                package("numpy", Some("1"), Some("2")),
                package("rich", None, Some("9")),
            ],
            files: vec![
                file("/new\u{1b}[2J", None, regular(2048)),
                file("/old", regular(10), regular(20)),
            ],
            truncated: true,
            added: FileCount {
                count: 3,
                size_bytes: 2048,
            },
            removed: FileCount::default(),
            changed: FileCount {
                count: 1,
                size_bytes: 20,
            },
        }
    }

    #[test]
    fn a_difference_at_a_glance() {
        insta::assert_snapshot!(summary("mine", &found()), @"
        mine 1.0.0 to 1.1.0: 3.0 MiB to 4.0 MiB
        packages: 1 added, 0 removed, 1 changed
          ~ python numpy 1 to 2
          + python rich 9
        files: 3 (2.0 KiB) added, 0 (0 B) removed, 1 (20 B) changed
          + /new�[2J  2.0 KiB
          ~ /old  10 B to 20 B
          and 2 more; --files shows more of them
        ");
        let same = TemplateDifference {
            same_layers: true,
            ..found()
        };
        assert_eq!(
            summary("mine", &same),
            "mine: 1.0.0 and 1.1.0 have the same layers; nothing differs"
        );
    }

    #[test]
    fn half_a_file_stays_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        let mut target = Target::open(&path).unwrap();
        target.write(b"half").unwrap();
        drop(target);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut target = Target::open(&path).unwrap();
        target.write(b"whole").unwrap();
        target.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert!(Target::open(&dir.path().join("no/x")).is_err());
    }
}
