//! What must hold of the workspace itself: the arrows of docs/ARCHITECTURE.md, who may use what from outside, and
//! where unsafe code is allowed. Read from `cargo metadata`, so it needs no tool and no network.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Who depends on whom, without tests. A new arrow is a decision: draw it in docs/ARCHITECTURE.md, too.
const ARROWS: [(&str, &[&str]); 34] = [
    // vocabulary: no I/O
    ("types", &[]),
    ("launch-plan", &[]),
    ("api-types", &[]),
    ("envd-proto", &[]),
    ("fault", &[]),
    ("keystore", &[]),
    ("dockerfile", &[]),
    // mechanism
    ("linux", &[]),
    ("telemetry", &[]),
    ("driver", &["types"]),
    ("net", &["fault", "linux", "types"]),
    ("artifacts", &["fault", "types"]),
    ("store", &["fault", "telemetry", "types"]),
    (
        "driver-linux",
        &[
            "artifacts",
            "driver",
            "envd-proto",
            "fault",
            "launch-plan",
            "linux",
            "net",
            "types",
        ],
    ),
    // services
    ("secrets", &["store", "types"]),
    ("client", &["api-types", "types"]),
    ("outbound", &["client", "types"]),
    ("acme", &["client", "outbound"]),
    (
        "webhooks",
        &[
            "fault",
            "outbound",
            "secrets",
            "store",
            "telemetry",
            "types",
        ],
    ),
    ("registry", &["client", "outbound", "types"]),
    (
        "orchestrator",
        &[
            "client",
            "driver",
            "envd-proto",
            "fault",
            "keystore",
            "store",
            "telemetry",
            "types",
        ],
    ),
    (
        "builder",
        &[
            "client",
            "dockerfile",
            "driver",
            "envd-proto",
            "fault",
            "registry",
            "store",
            "telemetry",
            "types",
        ],
    ),
    (
        "api",
        &[
            "api-types",
            "builder",
            "orchestrator",
            "outbound",
            "secrets",
            "store",
            "types",
            "webhooks",
        ],
    ),
    ("edge", &["driver", "types"]),
    (
        "egress",
        &["driver", "linux", "net", "outbound", "secrets", "types"],
    ),
    ("bench", &["api-types", "client", "linux"]),
    ("doctor", &["artifacts", "linux"]),
    ("helper", &["driver", "linux", "types"]),
    // programs
    ("jail", &["launch-plan", "linux"]),
    ("envd", &["envd-proto", "linux"]),
    ("tar", &[]),
    ("interpreter", &["linux"]),
    ("soulbox", ANY),
    // tests of other crates' parsers, in no program
    (
        "properties",
        &[
            "api-types",
            "driver-linux",
            "edge",
            "envd-proto",
            "keystore",
            "launch-plan",
            "types",
        ],
    ),
];

/// The one crate that knows all others.
const ANY: &[&str] = &["*"];

/// What from outside only some may use directly, tests not counted.
const WRAPPERS: [(&str, &[&str]); 16] = [
    ("ring", &["secrets"]),
    ("libc", &["linux", "driver-linux"]),
    ("netlink-packet-core", &["linux"]),
    ("netlink-packet-route", &["linux"]),
    ("sqlx", &["store"]),
    ("axum", &["api", "interpreter"]),
    (
        "hyper",
        &[
            "client",
            "edge",
            "egress",
            "envd",
            "interpreter",
            "outbound",
            "registry",
            "telemetry",
        ],
    ),
    (
        "hyper-util",
        &[
            "client",
            "edge",
            "egress",
            "envd",
            "interpreter",
            "outbound",
            "registry",
            "telemetry",
        ],
    ),
    ("rustls", &["acme", "client", "edge", "egress", "outbound"]),
    ("connectrpc", &["envd", "envd-proto", "properties"]),
    ("multer", &["envd", "properties"]),
    ("ruzstd", &["tar"]),
    ("zeromq", &["interpreter"]),
    ("toml", &["soulbox", "properties"]),
    ("clap", &["soulbox"]),
    ("anyhow", &["soulbox"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Normal and build dependencies of each crate of the workspace, ours without their prefix.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let used = dependencies
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| used_name(&dependency["name"]));
            (short(&package["name"]), used.collect())
        })
        .collect()
}

fn short(name: &Value) -> String {
    let name = name.as_str().unwrap();
    name.strip_prefix("soulbox-").unwrap_or(name).to_owned()
}

/// What a crate that is used is called. One from outside may have the short name of one of ours.
fn used_name(name: &Value) -> String {
    let full = name.as_str().unwrap();
    let taken = ARROWS.iter().any(|(ours, _)| *ours == full) && full != "soulbox";
    match taken {
        true => format!("{full} from outside"),
        false => short(name),
    }
}

#[test]
fn arrows_point_down() {
    let all = dependencies();
    let ours: BTreeSet<&String> = all.keys().collect();
    let mut wrong = Vec::new();
    for (name, used) in &all {
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| known == name) else {
            wrong.push(format!(
                "{name} is new: give it a line here and in docs/ARCHITECTURE.md"
            ));
            continue;
        };
        if *allowed == ANY {
            continue;
        }
        let used: BTreeSet<&str> = used
            .iter()
            .filter(|name| ours.contains(name))
            .map(String::as_str)
            .collect();
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        for extra in used.difference(&allowed) {
            wrong.push(format!("{name} must not depend on {extra}"));
        }
        for gone in allowed.difference(&used) {
            wrong.push(format!(
                "{name} no longer depends on {gone}: take it out of this list"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn layers_have_no_cycle_and_vocabulary_no_arrow() {
    let place = |name: &str| ARROWS.iter().position(|(known, _)| *known == name).unwrap();
    for (name, used) in ARROWS {
        for other in used.iter().filter(|other| **other != "*") {
            assert!(place(other) < place(name), "{name} stands above {other}");
        }
    }
}

#[test]
fn what_is_dangerous_outside_has_few_users() {
    let all = dependencies();
    let mut wrong = Vec::new();
    for (outside, allowed) in WRAPPERS {
        for (name, _) in all.iter().filter(|(_, used)| used.contains(outside)) {
            if !allowed.contains(&name.as_str()) {
                wrong.push(format!("{name} must not use {outside}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn exactly_one_crate_may_be_unsafe() {
    let crates = root().join("crates");
    for entry in fs::read_dir(&crates).unwrap() {
        let manifest = fs::read_to_string(entry.unwrap().path().join("Cargo.toml")).unwrap();
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "every crate takes the workspace's lints: {manifest}"
        );
    }
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("\nunsafe_code = \"deny\"\n"));
    let mut files = Vec::new();
    sources(&crates, &mut files);
    assert!(files.len() > 200);
    // In two pieces, so that this file does not name it.
    let lint = concat!("unsafe", "_code");
    let lifting: Vec<PathBuf> = files
        .into_iter()
        .filter(|file| {
            fs::read_to_string(file)
                .unwrap()
                .contains(&format!("({lint}"))
        })
        .map(|file| file.strip_prefix(&crates).unwrap().to_owned())
        .collect();
    assert_eq!(lifting, [Path::new("linux/src/lib.rs")]);
}

#[test]
fn everything_is_locked() {
    for file in [
        "Cargo.lock",
        "fuzz/Cargo.lock",
        "conformance/requirements/js/package-lock.json",
    ] {
        assert!(root().join(file).is_file(), "{file}");
    }
    for list in ["py", "py-2.45", "schema"] {
        let path = root().join(format!("conformance/requirements/{list}.txt"));
        for line in fs::read_to_string(path).unwrap().lines() {
            let pinned = line.starts_with('#') || line.split("==").count() == 2;
            assert!(pinned, "{list}: {line}");
        }
    }
}
