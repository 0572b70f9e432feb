//! Every committed input, and every beginning of it, against its property. Quick, on the stable compiler.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use soulbox_properties::{ALL, named};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap_or_else(|error| unreachable!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn every_input_of_the_corpus() {
    let mut inputs = 0;
    for (name, property) in ALL {
        let files = files(&fuzz().join("corpus").join(name));
        assert!(files.len() >= 4, "{name} has {} inputs", files.len());
        for file in files {
            // A property that does not hold panics: the last line says which input it was.
            println!("{}", file.display());
            let bytes = fs::read(&file).unwrap();
            assert!(bytes.len() <= 4096, "a seed is small");
            for end in 0..=bytes.len() {
                property(&bytes[..end]);
                inputs += 1;
            }
        }
    }
    println!("{inputs} inputs");
}

#[test]
fn one_fuzz_target_per_property_and_nothing_else() {
    let names: BTreeSet<String> = ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    let stems = |directory: &str| -> BTreeSet<String> {
        files(&fuzz().join(directory))
            .iter()
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(stems("targets"), names);
    assert_eq!(stems("corpus"), names);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in names {
        assert!(named(&name).is_some());
        assert!(
            manifest.contains(&format!("path = \"targets/{name}.rs\"")),
            "{name}"
        );
    }
}
