//! Table and source agree: a point that nobody reaches would be a test that cannot fail.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read the source fails"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use soulbox_fault::POINTS;

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// How often each name stands behind `fault::point!(` in the crates' own source.
fn uses() -> BTreeMap<String, usize> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for entry in fs::read_dir(crates).unwrap() {
        let source = entry.unwrap().path().join("src");
        if source.is_dir() && !source.ends_with("fault/src") {
            rust_files(&source, &mut files);
        }
    }
    assert!(files.len() > 100, "only {} files were found", files.len());
    let mut uses = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        for behind in text.split("fault::point!(").skip(1) {
            let name = behind.split('"').nth(1).unwrap();
            *uses.entry(name.to_owned()).or_default() += 1;
        }
    }
    uses
}

#[test]
fn every_point_of_the_table_is_in_the_source_once() {
    let wanted: BTreeMap<String, usize> = POINTS
        .iter()
        .map(|point| (point.name.to_owned(), 1))
        .collect();
    assert_eq!(wanted.len(), POINTS.len(), "a name is in the table twice");
    assert_eq!(uses(), wanted);
}

#[test]
fn names_say_how_to_get_there() {
    for point in POINTS {
        let (operation, step) = point.name.split_once('.').unwrap();
        assert!(
            [
                "start",
                "create",
                "timeout",
                "network",
                "pause",
                "hibernate",
                "wake",
                "resume",
                "snapshot",
                "fork",
                "kill",
                "save",
                "volume",
                "build",
                "webhook",
                "acme",
                "stop"
            ]
            .contains(&operation),
            "{}",
            point.name
        );
        assert!(
            step.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
            "{}",
            point.name
        );
        assert!(!point.situation.is_empty());
    }
}
