//! The documents about isolation name tests. Every one of them must exist, and every claim must name one.

use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What stands in backquotes on a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// The file and the function that a name of a test stands for; `None` when it names no test.
fn place(name: &str) -> Option<(String, String)> {
    if name.contains(' ') || name == "module::test" {
        return None;
    }
    let (place, test) = name.rsplit_once("::")?;
    let file = if place.contains('/') {
        place.to_owned()
    } else if let Some(module) = place.strip_suffix("::tests") {
        format!("crates/driver-linux/src/{module}.rs")
    } else {
        format!("crates/driver-linux/tests/privileged/{place}.rs")
    };
    Some((file, test.to_owned()))
}

/// Whether a file defines a test with exactly this name.
fn defines(text: &str, test: &str) -> bool {
    let mut lines = text.lines().map(str::trim_start);
    lines.any(|line| {
        let name = ["fn ", "async fn ", "def ", "async def "]
            .iter()
            .find_map(|word| line.strip_prefix(word));
        name.and_then(|rest| rest.strip_prefix(test))
            .is_some_and(|rest| rest.starts_with('('))
    })
}

#[test]
fn every_test_that_the_documents_name_exists() {
    let mut named = 0;
    let mut missing = Vec::new();
    for document in ["docs/threat-model.md", "docs/sandbox-launch.md"] {
        let text = fs::read_to_string(workspace().join(document)).unwrap();
        for (file, test) in text.lines().flat_map(quoted).filter_map(place) {
            named += 1;
            let content = fs::read_to_string(workspace().join(&file)).unwrap_or_default();
            if !defines(&content, &test) {
                missing.push(format!("{document}: {file}::{test}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(named > 150, "only {named} names were recognised");
}

#[test]
fn every_claim_names_a_test() {
    let text = fs::read_to_string(workspace().join("docs/threat-model.md")).unwrap();
    let claims = text.split("## Claims").nth(1).unwrap();
    let claims = claims.split("\n## ").next().unwrap();
    let rows: Vec<&str> = claims
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| claim"))
        .collect();
    assert!(
        rows.len() > 50,
        "only {} claims were recognised",
        rows.len()
    );
    for row in rows {
        let tests = row.trim_end_matches('|').rsplit('|').next().unwrap();
        assert!(quoted(tests).any(|name| place(name).is_some()), "{row}");
    }
}

/// A test that no document needs is fine; a step that none explains is not.
#[test]
fn every_step_of_the_plans_is_explained() {
    let plan = fs::read_to_string(workspace().join("crates/launch-plan/src/lib.rs")).unwrap();
    let text = fs::read_to_string(workspace().join("docs/sandbox-launch.md")).unwrap();
    let headings: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .collect();
    let steps: Vec<&str> = plan
        .lines()
        .filter(|line| line.trim_start().starts_with("Self::") && line.contains("=> \""))
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    assert!(
        steps.len() > 25,
        "only {} steps were recognised",
        steps.len()
    );
    for step in steps {
        assert!(
            headings.iter().any(|heading| heading.starts_with(step)),
            "docs/sandbox-launch.md does not explain {step}"
        );
    }
}

#[test]
fn names_are_recognised() {
    let found: Vec<_> = quoted("see `files::x` and `a b::c`, `crates/a/src/b.rs::y`")
        .filter_map(place)
        .collect();
    let expected = [
        ("crates/driver-linux/tests/privileged/files.rs", "x"),
        ("crates/a/src/b.rs", "y"),
    ];
    assert_eq!(
        found,
        expected.map(|(file, test)| (file.to_owned(), test.to_owned()))
    );
    assert!(defines("    async fn x() {", "x") && !defines("fn xy()", "x"));
    assert!(defines("def test_a(sandbox):", "test_a"));
}
