//! What scripts print inside a sandbox when somebody looks into a build.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use data_encoding::HEXLOWER;

use crate::difference::{Ecosystem, FileFacts, FileKind};
use crate::taken::parse;

type Files = BTreeMap<String, FileFacts>;

/// Input: which output, then the output. What was read can be written and read again, and hashes add no file.
pub(crate) fn look(data: &[u8]) {
    let Some((kind, printed)) = data.split_first() else {
        return;
    };
    match kind % 3 {
        0 => {
            let files = parse::files(printed);
            assert_eq!(parse::files(&written(&files)), files);
        }
        1 => hashes(printed),
        _ => packages(&String::from_utf8_lossy(printed)),
    }
}

/// The output is both: its files, and its hashes of them.
fn hashes(printed: &[u8]) {
    let bare = parse::files(printed);
    let mut hashed = bare.clone();
    parse::hashes(printed, &mut hashed);
    assert!(hashed.keys().eq(bare.keys()));
    let mut text = Vec::new();
    for (path, facts) in &hashed {
        if let Some(hash) = &facts.sha256 {
            text.extend_from_slice(format!("{}  {path}\0", HEXLOWER.encode(hash)).as_bytes());
        }
    }
    let mut again = bare;
    parse::hashes(&text, &mut again);
    assert_eq!(again, hashed);
}

fn written(files: &Files) -> Vec<u8> {
    let mut text = String::new();
    for (path, facts) in files {
        let kind = match facts.kind {
            FileKind::File => 'f',
            FileKind::Directory => 'd',
            FileKind::Link => 'l',
            FileKind::Other => 'p',
        };
        let FileFacts {
            mode,
            uid,
            gid,
            size_bytes,
            ..
        } = facts;
        let target = facts.target.as_deref().unwrap_or_default();
        write!(
            text,
            "{kind} {mode:o} {uid} {gid} {size_bytes}\0{path}\0{target}\0"
        )
        .expect("a text takes everything");
    }
    text.into_bytes()
}

fn packages(printed: &str) {
    let found = parse::packages(printed);
    let mut text = String::new();
    for ((ecosystem, name), version) in &found {
        assert!(!name.is_empty() && !version.is_empty());
        match ecosystem {
            Ecosystem::Debian => writeln!(text, "debian\tinstalled\t{name}\t{version}\t"),
            Ecosystem::Python => writeln!(text, "python\t{name}\t{version}\t"),
            Ecosystem::Npm => writeln!(text, "npm\t:{name}@{version}:"),
        }
        .expect("a text takes everything");
    }
    assert_eq!(parse::packages(&text), found);
}
